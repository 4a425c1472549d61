"""Predict with a finished model, from its folder alone: `ftloop predict`."""
