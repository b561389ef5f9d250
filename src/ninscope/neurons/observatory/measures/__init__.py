"""The measures of neurons, one a file; `registry.py` finds them here."""
