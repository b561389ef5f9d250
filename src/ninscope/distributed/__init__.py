"""A model whose weights several processes hold: what of it lies here, and counts that are added over all of them."""
