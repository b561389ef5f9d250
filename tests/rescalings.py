"""Rescalings that leave a real model's function as it is, drawn at random and made in its file's tensors.

Which ones there are is what a family says of itself; whether it is true, the model's outputs tell.
"""

from __future__ import annotations

import numpy as np

from ninscope.architectures.gauge import ADDED, READ, STREAM, WRITTEN
from ninscope.architectures.layout import Architecture


class Rescaled:
    """The tensors of a file, float64 arrays by name, which each method changes.

    by: the logarithm of a factor is drawn from a normal distribution of this deviation; with powers of two factors are those of 2
    alone, so that nothing is rounded.
    """

    def __init__(self, architecture: Architecture, tensors: dict, seed: int, by: float = 0.7, powers: bool = False):
        self.architecture, self.tensors = architecture, tensors
        self.prefix = architecture.prefix_in(tensors)
        self.sizes = {layer.name: layer.size for layer in architecture.layers}
        self.random, self.by, self.powers = np.random.default_rng(seed), by, powers

    def factors(self, count: int) -> np.ndarray:
        drawn = self.random.normal(0, self.by, count)
        return 2.0 ** np.rint(drawn / np.log(2)) if self.powers else np.exp(drawn)

    def matrix(self, name: str) -> np.ndarray:
        """[targets, nodes, further axes], a view."""
        spec = self.architecture.matrices[name]
        tensor = self.tensors[self.prefix + (spec.tensor or name)]
        tensor = tensor if spec.index is None else tensor[spec.index]
        return tensor.swapaxes(0, 1) if spec.layout.nodes_first else tensor

    def bias(self, name: str) -> np.ndarray | None:
        return self.tensors.get(self.prefix + name.removesuffix("weight") + "bias") if name.endswith("weight") else None

    def rows(self, layer: str, factors: np.ndarray) -> None:
        """Everything that leads to a layer, with the biases that are added to it."""
        for block in self.architecture.blocks:
            if block.target == layer:
                rows = block.rows.rows(np.arange(self.sizes[layer]))
                self._times_rows(block.tensor, rows, factors)

    def _times_rows(self, name: str, rows: np.ndarray, factors: np.ndarray) -> None:
        matrix = self.matrix(name)
        matrix[rows] *= factors.reshape(-1, *[1] * (matrix.ndim - 1))
        if (bias := self.bias(name)) is not None:
            bias[rows] *= factors

    def columns(self, names, factors: np.ndarray) -> None:
        for name in names:
            matrix = self.matrix(name)
            matrix *= factors.reshape(1, -1, *[1] * (matrix.ndim - 2))

    def leaving(self, layer: str, factors: np.ndarray) -> None:
        names = dict.fromkeys(block.tensor for block in self.architecture.blocks if block.source == layer)
        self.columns(names, factors)

    def gain(self, gain) -> None:
        vector = self.tensors[self.prefix + gain.tensor]
        if gain.place == READ:
            factors = self.factors(vector.size)
            self.columns(gain.readers, 1 / factors)
        elif gain.place == WRITTEN:
            factors = self.factors(vector.size)
            for name in gain.writers:
                self._times_rows(name, np.arange(vector.size), 1 / factors)
        elif gain.place == ADDED:  # normalised behind the matrix, whose scale is then without effect
            (factor,) = self.factors(1)
            for name in gain.writers:
                self._times_rows(name, np.arange(vector.size), np.full(vector.size, factor))
            return
        else:
            assert gain.place == STREAM  # with what is added to it before the next normalisation
            factors = self._stream(gain, vector.size)
        vector[:] = (gain.offset + vector) * factors - gain.offset
        bias = self.tensors.get(self.prefix + gain.tensor.removesuffix("weight") + "bias")
        if bias is not None:
            bias *= factors

    def _stream(self, gain, size: int) -> np.ndarray:
        layers = {block.source for block in self.architecture.blocks if block.tensor in gain.readers}
        ends = [link.target for link in self.architecture.links if link.skip and link.source in layers]
        factors = np.full(size, self.factors(1)[0]) if ends else np.ones(size)
        self.columns(gain.readers, 1 / factors)
        for end in ends:
            self.rows(end, factors)
        return factors

    def attention(self, one) -> None:
        of_v = self.factors(self.sizes[one.v])
        heads = np.arange(self.sizes[one.q])
        if one.shared > 1:
            heads = heads // one.head_dim // one.shared * one.head_dim + heads % one.head_dim
        if one.clipped:
            return
        self.rows(one.v, of_v)
        self.leaving(one.c, 1 / of_v[heads])
        if one.q_norm is None:
            of_k = self.factors(self.sizes[one.k])
            if one.rotary is not None:
                for neuron in range(of_k.size):
                    head, dimension = divmod(neuron, one.head_dim)
                    of_k[neuron] = of_k[head * one.head_dim + one.rotary.pair_of(dimension)]
            self.rows(one.k, of_k)
            self.rows(one.q, 1 / of_k[heads])
            return
        for layer, norm in ((one.q, one.q_norm), (one.k, one.k_norm)):
            size = self.sizes[layer]
            factors = self.factors(size // one.head_dim if norm.per_head else 1)
            self.rows(layer, np.repeat(factors, size // factors.size))

    def units(self, units) -> None:
        inverse = np.ones(self.sizes[units.left])
        for layer in units.entered:
            factors = self.factors(self.sizes[layer])
            self.rows(layer, factors)
            inverse /= factors
        self.leaving(units.left, inverse)

    def all(self) -> dict:
        """Every rescaling that the family declares."""
        gauge = self.architecture.gauge
        for gain in gauge.gains:
            self.gain(gain)
        for one in gauge.attentions:
            self.attention(one)
        for units in gauge.units:
            self.units(units)
        return self.tensors
