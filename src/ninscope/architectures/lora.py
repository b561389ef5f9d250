"""A LoRA adapter by itself: the network of its update, module by module.

Node layers of every adapted module: `<module>.in`, `<module>.r` and `<module>.out`, joined by lora_A[r, in] and lora_B[out, r] as
they are stored. alpha / r scales their product, not the weights of this network. The base's weights have no part in it.
"""

import re
from collections.abc import Mapping

from ninscope.architectures.builder import Builder
from ninscope.architectures.layout import Architecture
from ninscope.checkpoints.file_names import ADAPTER_CONFIG
from ninscope.checkpoints.lora.adapter import adapter_of
from ninscope.checkpoints.tensors import Tensor
from ninscope.errors import CheckpointError

FAMILY = "lora"
_NUMBERED = re.compile(r"^(.*?\b\d+)\.")


def architecture(config: Mapping, tensors: Mapping[str, Tensor] | None) -> Architecture:
    """config: of adapter_config.json. Raises CheckpointError (unsupported, corrupt)."""
    if tensors is None:
        raise CheckpointError("unsupported", "an adapter's wiring follows from its tensors, which are not known here")
    adapter = adapter_of(config, tensors)
    if adapter.settings.target_parameters:
        raise CheckpointError(
            "unsupported",
            f"{ADAPTER_CONFIG}: target_parameters is set, and which of its tensors hold several experts only the base tells; give "
            "its base",
        )
    net = Builder(FAMILY)
    matrices = [factors for factors in adapter.factors if not factors.table]
    for factors in matrices:
        module = factors.module
        numbered = _NUMBERED.match(module)
        block = numbered[1] if numbered else module
        entering = net.named_layer(f"{module}.in", factors.a.shape[1], block, "lora_A")
        rank = net.named_layer(f"{module}.r", factors.rank, block, "lora_B")
        leaving = net.named_layer(f"{module}.out", factors.b.shape[0], block, "output")
        order = "convolution" if len(factors.a.shape) > 2 else "linear"
        net.join(entering, rank, factors.a.name, order, factors.a.shape[2:])
        net.join(rank, leaving, factors.b.name, order, factors.b.shape[2:])
    if not matrices:
        raise CheckpointError("unsupported", "an adapter of embeddings alone, which are in no network")
    notes = [f"an adapter alone: lora_A and lora_B as stored, of {len(matrices)} modules"]
    if len(matrices) < len(adapter.factors):
        notes.append(f"left out: updates of embeddings ({len(adapter.factors) - len(matrices)})")
    if any(factors.magnitude for factors in matrices):
        notes.append(f"left out: magnitudes ({sum(factors.magnitude is not None for factors in matrices)})")
    if adapter.whole:
        notes.append(f"left out: tensors that take the place of the base's ({len(adapter.whole)})")
    return net.architecture(", ".join(notes), complete=False)
