"""The model to train: found, made, changed and saved."""
