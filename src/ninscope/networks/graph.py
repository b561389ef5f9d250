"""One sample of a network, or a whole small one, as a graph for other people's tools: scipy, networkx, igraph, pandas."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from ninscope.errors import RequestError
from ninscope.networks.radii import IntegerRadii
from ninscope.shown import Shown, without_empty

if TYPE_CHECKING:
    import igraph
    import networkx

VALUES = ("weight", "distance")


@dataclass(frozen=True)
class Network(Shown):
    """A directed, weighted graph of neurons. Nodes are numbered 0, 1, ..., layer after layer.

    weights: CSR [nodes, nodes], float32 (float64 for F64 checkpoints), W of source row and target column, signed, of the edges
    that count: 1 < 1/|w| <= radii.max_distance. Where taps of kernels are kept apart, rows hold several entries for one target.
    layer_names: node layers in order; layer_sizes: int64 [layers]; neurons: int64 [nodes], each node's number in its layer of
    the model; dimensions: float64 [nodes], node fractal dimension; links: int64 [links, 2], pairs (source, target) of nodes
    that a weightless connection joins (skip connections, v -> c of an attention), which are no edges; label: what it is of.
    """

    weights: csr_matrix
    layer_names: tuple[str, ...]
    layer_sizes: np.ndarray
    neurons: np.ndarray
    dimensions: np.ndarray
    radii: IntegerRadii
    links: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    label: str = ""

    def facts(self) -> dict[str, object]:
        """What a notebook shows of it."""
        told = {"nodes": self.node_count, "edges": self.edge_count, "layers": len(self.layer_names)}
        return without_empty(label=self.label) | told

    def __repr__(self) -> str:
        size = f"{self.node_count} nodes in {len(self.layer_names)} layers, {self.edge_count} edges"
        return f"<Network {self.label}: {size}>" if self.label else f"<Network: {size}>"

    @property
    def node_count(self) -> int:
        """Number of nodes."""
        return self.neurons.size

    @property
    def edge_count(self) -> int:
        """Number of edges; parallel ones count each."""
        return self.weights.nnz

    @cached_property
    def sources(self) -> np.ndarray:
        """The node that each edge leaves, int64 [edges], in the order of weights.data; weights.indices are the targets."""
        return np.repeat(np.arange(self.node_count), np.diff(self.weights.indptr))

    @cached_property
    def distances(self) -> np.ndarray:
        """f(|w|) of each edge, float64 [edges], in the order of weights.data."""
        return self.radii.distances(np.abs(self.weights.data.astype(np.float64)))

    @cached_property
    def parallel(self) -> bool:
        """Whether several edges join the same two nodes, as the taps of a kernel do."""
        pairs = self.sources * self.node_count + self.weights.indices
        return np.unique(pairs).size < pairs.size

    @property
    def nodes(self) -> pd.DataFrame:
        """One row a node, its number as index.

        layer; neuron: its number in the layer; edges: those that leave it (int64); strength: sum of their |w| (float64);
        average_weighted_degree: mean of their distances (NeuroMFA, 5.1), NaN without any; dimension: node fractal dimension
        (Eq. 26) over the radii of this network, 0 for nodes of min_degree edges or fewer, NaN where all edges share one radius.
        """
        degree = np.diff(self.weights.indptr).astype(np.int64)
        magnitudes = np.abs(self.weights.data.astype(np.float64))
        strength = np.bincount(self.sources, magnitudes, self.node_count)
        length = np.bincount(self.sources, self.distances, self.node_count)
        average = np.divide(length, degree, out=np.full(self.node_count, np.nan), where=degree > 0)
        columns = {
            "layer": self.node_layers,
            "neuron": self.neurons,
            "edges": degree,
            "strength": strength,
            "average_weighted_degree": average,
            "dimension": self.dimensions,
        }
        return pd.DataFrame(columns, index=pd.RangeIndex(self.node_count, name="node"))

    @property
    def edges(self) -> pd.DataFrame:
        """One row an edge: source, target (nodes), weight, signed, and distance (float64)."""
        return pd.DataFrame(
            {
                "source": self.sources,
                "target": self.weights.indices.astype(np.int64),
                "weight": self.weights.data.astype(np.float64),
                "distance": self.distances,
            }
        )

    @property
    def node_layers(self) -> np.ndarray:
        """The layer of each node, object [nodes]."""
        return np.repeat(np.array(self.layer_names, dtype=object), self.layer_sizes)

    def to_scipy(self, values: str = "weight") -> csr_matrix:
        """The adjacency matrix, CSR [nodes, nodes], float64: of weights, or of distances. Parallel edges stay apart.

        Raises RequestError: values is neither "weight" nor "distance".
        """
        if values not in VALUES:
            raise RequestError(f"values is {values!r}; one of {', '.join(VALUES)}")
        data = self.weights.data.astype(np.float64) if values == "weight" else self.distances.copy()
        return csr_matrix((data, self.weights.indices.copy(), self.weights.indptr.copy()), shape=self.weights.shape)

    def to_networkx(self) -> "networkx.DiGraph[int]":
        """A networkx.DiGraph, or MultiDiGraph where edges are parallel: nodes 0, 1, ... with `layer` and `neuron`, edges with
        `weight` and `distance`.
        """
        import networkx

        graph: networkx.DiGraph[int] = networkx.MultiDiGraph() if self.parallel else networkx.DiGraph()
        graph.add_nodes_from(
            (node, {"layer": layer, "neuron": neuron})
            for node, (layer, neuron) in enumerate(zip(self.node_layers.tolist(), self.neurons.tolist(), strict=True))
        )
        columns = (self.sources, self.weights.indices, self.weights.data.astype(np.float64), self.distances)
        graph.add_edges_from(
            (source, target, {"weight": weight, "distance": distance})
            for source, target, weight, distance in zip(*(column.tolist() for column in columns), strict=True)
        )
        return graph

    def to_igraph(self) -> "igraph.Graph":
        """A directed igraph.Graph, parallel edges kept: vertices with `layer` and `neuron`, edges with `weight` and `distance`."""
        import igraph

        # Of pairs in a list igraph makes a graph ten times as fast as of an array.
        pairs = list(zip(self.sources.tolist(), self.weights.indices.tolist(), strict=True))
        graph = igraph.Graph(self.node_count, pairs, directed=True)
        graph.vs["layer"] = self.node_layers.tolist()
        graph.vs["neuron"] = self.neurons.tolist()
        graph.es["weight"] = self.weights.data.astype(np.float64).tolist()
        graph.es["distance"] = self.distances.tolist()
        return graph
