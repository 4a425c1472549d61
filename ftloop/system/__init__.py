"""The machine below: files, processes, signals, randomness, the model hub. Imports no other wing."""
