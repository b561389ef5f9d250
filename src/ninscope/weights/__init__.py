"""Statistics of a network's weights, matrix by matrix: from counts of bit patterns, between checkpoints, from singular values."""
