"""Several runs of the same job together: how they spread, and whether one set is better than another."""
