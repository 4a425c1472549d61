"""Settings, flags and recipes: a `TrainConfig` that is valid, or every problem with it at once."""
