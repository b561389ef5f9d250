"""A network read from the side of its targets: every neuron with the edges that lead to it (docs/method.md#direction)."""

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np

from ninscope.architectures.layout import WeightBlock
from ninscope.checkpoints.turned import turned
from ninscope.networks.neuron_network import NeuronNetwork

DIRECTIONS = ("out", "in")  # the first is the default


def directed(network: NeuronNetwork, direction: str) -> NeuronNetwork:
    """The network in one of DIRECTIONS. "in": every edge turned round, so that a neuron's edges are those that lead to it, from
    all layers together; matrices are the transposed ones, and no other weight is read.
    """
    if direction == DIRECTIONS[0]:
        return network
    matrices, blocks = {}, []
    seen: set[tuple[str, str]] = set()
    taken: Counter[str] = Counter()  # rows of each matrix
    for number, block in enumerate(network.blocks):
        rows = block.rows.rows(np.arange(network.sizes[block.target]))
        matrix = network.matrices[block.tensor]
        name = f"{block.source} <- {block.target} {number}"
        part = turned(matrix, rows, f"{matrix.name} (rows of {block.target})", taken[block.tensor])
        if (
            block.target,
            block.tensor,
        ) in seen:  # one tensor that two layers are joined to it by: names tell reads apart
            entry = replace(part.tensor.entry, name=f"{part.name} (from {block.source})")
            part = replace(part, tensor=replace(part.tensor, entry=entry))
        seen.add((block.target, block.tensor))
        matrices[name] = part
        taken[block.tensor] += rows.size
        blocks.append(WeightBlock(block.target, block.source, name))
    digest = hashlib.sha256(f"incoming {network.digest}".encode()).hexdigest()
    return replace(network, blocks=tuple(blocks), matrices=matrices, digest=digest, incoming=True)
