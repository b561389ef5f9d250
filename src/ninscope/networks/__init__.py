"""The neuron interaction network: neurons as nodes, |weight| as closeness."""
