"""The functions of scipy.signal that are convolutions."""
