"""What neurons, heads and representations do at every checkpoint: the stage `neurons` and what it keeps of single measures."""
