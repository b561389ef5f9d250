"""The neuron observatory: what single neurons, heads and representations of a model do (`look`)."""
