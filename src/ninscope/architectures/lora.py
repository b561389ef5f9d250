"""A LoRA adapter by itself: the network of its update, module by module.

Node layers of every adapted module: `<module>.in`, `<module>.r` and `<module>.out`, joined by lora_A[r, in] and lora_B[out, r] as
they are stored; alpha / r scales their product, and no weight of this network. The weights of the base have no part.
"""

import re
from collections.abc import Mapping

from ninscope.architectures.layout import Architecture, NodeLayer, StoredMatrix, WeightBlock
from ninscope.checkpoints.lora import adapter_of
from ninscope.checkpoints.matrix import MatrixLayout
from ninscope.checkpoints.tensors import Tensor
from ninscope.errors import CheckpointError

FAMILY = "lora"
_NUMBERED = re.compile(r"^(.*?\b\d+)\.")


def architecture(config: Mapping, tensors: Mapping[str, Tensor] | None) -> Architecture:
    """config: of adapter_config.json. Raises CheckpointError (unsupported, corrupt)."""
    if tensors is None:
        raise CheckpointError("unsupported", "an adapter's wiring follows from its tensors, and none are given")
    adapter = adapter_of(config, tensors)
    layers, blocks, matrices = [], [], {}
    for module, factors in adapter.factors.items():
        numbered = _NUMBERED.match(module)
        block = numbered[1] if numbered else module
        sizes = {"in": factors.a.shape[1], "r": factors.rank, "out": factors.b.shape[0]}
        kinds = {"in": "lora_A", "r": "lora_B", "out": "output"}
        layers += [
            NodeLayer(f"{module}.{part}", size, f"{module}.{part}", block, kinds[part]) for part, size in sizes.items()
        ]
        layout = MatrixLayout("convolution" if len(factors.a.shape) > 2 else "linear")
        for source, target, tensor in (("in", "r", factors.a), ("r", "out", factors.b)):
            blocks.append(WeightBlock(f"{module}.{source}", f"{module}.{target}", tensor.name))
            matrices[tensor.name] = StoredMatrix(tensor.shape, layout)
    notes = [f"an adapter alone: lora_A and lora_B as stored, of modules: {len(adapter.factors)}"]
    if adapter.whole:
        notes.append(f"left out: tensors that take the place of the base's ({len(adapter.whole)})")
    return Architecture(FAMILY, tuple(layers), tuple(blocks), matrices, note=", ".join(notes), complete=False)
