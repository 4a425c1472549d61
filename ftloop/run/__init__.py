"""A `Run`: everything ready for the first update, with random numbers drawn only where Trainer draws them."""
