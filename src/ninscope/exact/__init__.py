"""The exact analysis: every neuron and every weight of a checkpoint, streamed from where it lies; nothing is sampled or kept."""
