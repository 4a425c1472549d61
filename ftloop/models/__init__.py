"""Load a model that is what was asked for, freeze parts of it, speed it up."""
