"""Measures of checkpoints against accuracy over training: rank correlations, their intervals, what chance gives."""
