"""Decide which rows meet in a batch and to what length they are padded: a function of lengths, seed and epoch."""
