"""The neuron interaction network of one checkpoint: its wiring, and the matrices that hold its weights.

Everything that analyses a checkpoint takes this object: the exact analysis streams its matrices, a sampled network is drawn
from them, null models are made of its blocks. Whether a matrix is stored as it is, merged from an adapter and its base, or
fetched from a Hub is known to the matrix alone. Weights are read only when a matrix is asked for them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ninscope.architectures import DEFAULT_READING, Reading, architecture_of
from ninscope.architectures.layout import Link, NodeLayer, WeightBlock
from ninscope.checkpoints.matrix import WeightMatrix
from ninscope.checkpoints.reparametrised import effective_tensors
from ninscope.checkpoints.rescaled import RescaledTensor
from ninscope.checkpoints.tensors import Checkpoint, Tensor
from ninscope.networks.fixed_gauge import with_fixed_gauge


@dataclass(frozen=True)
class NeuronNetwork:
    """The network of one checkpoint, whose wiring and tensors fit each other; `neuron_network` makes it.

    revision, step: which checkpoint it is. family: how the model was read. layers, blocks, links: as in Architecture, in its
    order. matrices: the weights, by the name that blocks give a matrix. note: what a user should know of how the model was
    read, one clause, or empty. digest: sha256 of the wiring; checkpoints with the same weights and digest have the same network.
    warning: why not to trust what is measured, one clause, or empty. incoming: whether it is read from its targets
    (`incoming.py`): then edges, but not links, are turned round.
    """

    revision: str
    step: int | None
    family: str
    layers: tuple[NodeLayer, ...]
    blocks: tuple[WeightBlock, ...]
    links: tuple[Link, ...]
    matrices: Mapping[str, WeightMatrix]
    note: str
    digest: str
    warning: str = ""
    incoming: bool = False

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Neurons of each node layer, by its name."""
        return {layer.name: layer.size for layer in self.layers}

    @cached_property
    def source_layers(self) -> tuple[NodeLayer, ...]:
        """The layers that edges leave, in order."""
        sources = {block.source for block in self.blocks}
        return tuple(layer for layer in self.layers if layer.name in sources)

    @property
    def tensors(self) -> list[Tensor]:
        """What the weights are read from, each once."""
        return [matrix.tensor for matrix in self.matrices.values()]

    @property
    def weight_bytes(self) -> int:
        """Bytes of the tensors that an exact analysis reads."""
        return sum(matrix.stored_bytes for matrix in self.matrices.values())

    @property
    def preparation_bytes(self) -> int:
        """Bytes that are read besides before the first weight is known: of a gauge-fixed network all of them, for norms."""
        return sum(
            matrix.stored_bytes for matrix in self.matrices.values() if isinstance(matrix.tensor, RescaledTensor)
        )

    def edges_of(self, block: WeightBlock) -> tuple[int, int]:
        """(edges that each source neuron of a block has, source neurons) if no weight is out of bounds."""
        matrix = self.matrices[block.tensor]
        return self.sizes[block.target] * matrix.taps // matrix.layout.groups, self.sizes[block.source]

    def taps_of_norms(self, block: WeightBlock) -> int:
        """The number of taps of which each weight of a block is the norm; 1 where weights are no norms."""
        layout = self.matrices[block.tensor].layout
        return layout.kernel_size(self.matrices[block.tensor].tensor.shape) if layout.kernels == "norm" else 1


def neuron_network(checkpoint: Checkpoint, reading: Reading = DEFAULT_READING) -> NeuronNetwork:
    """The network of a checkpoint, read in this way; no weight is read yet, but for what is compared of a generic one (`tied`).

    Raises CheckpointError: unsupported (no known family, quantised weights, an unknown gauge), corrupt (a tensor is absent,
    left over, or of another shape than the configuration implies).
    """
    tensors = effective_tensors(checkpoint.tensors)
    architecture = architecture_of(checkpoint.config, tensors, reading)
    matrices: Mapping[str, WeightMatrix] = architecture.tensors(tensors)
    if architecture.gauge_fixed:
        matrices = with_fixed_gauge(architecture, matrices, tensors)
    return NeuronNetwork(
        checkpoint.revision,
        checkpoint.step,
        architecture.family,
        architecture.layers,
        architecture.blocks,
        architecture.links,
        matrices,
        architecture.note,
        architecture.digest,
        architecture.warning,
    )
