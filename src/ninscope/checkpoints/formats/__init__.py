"""Formats of weight files: each reads where its tensors lie in a file; which names a checkpoint's files have."""
