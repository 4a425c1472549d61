"""Predict with a finished model, from its folder alone: `python -m ftloop.inference`."""
