"""Whether neurons interact: what one matrix writes beside what another reads (docs/method.md, "Interaction").

Everything else of ninscope looks at one neuron's out-going weights at a time; what is here needs two matrices.
"""
