"""Save, choose and resume checkpoints. A checkpoint is whole, or it is not there."""
