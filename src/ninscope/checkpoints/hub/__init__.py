"""Checkpoints in Hub repositories: the only part that talks to a network."""
