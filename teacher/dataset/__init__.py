"""Datasets of a teacher: what goes into one, how it is written, and its rows for training."""
