"""Qwen's mixtures of experts (families/moe.py): (7 + 3E)B + 1 node layers, of qwen2_moe (11 + 3E)B + 1.

qwen2_moe has a shared expert in each block, and a gate of one neuron for it. decoder_sparse_step and mlp_only_layers say which
blocks have a plain gated MLP instead of experts, of intermediate_size. Left out: token embedding and LM head.
"""

from collections.abc import Collection, Mapping

from ninscope.architectures import sizes
from ninscope.architectures.decoder_blocks import LLAMA, Function
from ninscope.architectures.experts import expert_count
from ninscope.architectures.families.moe import Mixture, mixture_decoder
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.errors import CheckpointError

MODEL_TYPES = ("qwen2_moe", "qwen3_moe")
SHARED = {part: f"layers.{{}}.mlp.shared_expert.{part}_proj.weight" for part in ("gate", "up", "down")}
SHARED |= {"router": "layers.{}.mlp.shared_expert_gate.weight"}


@register(*MODEL_TYPES, needs_names=True, gauge=True)
def architecture(config: Mapping, names: Collection[str]) -> Architecture:
    """The wiring that config.json implies, for a file with tensors of these names. Raises CheckpointError (corrupt)."""
    family = sizes.model_type(config, MODEL_TYPES)
    count = sizes.block_count(config)
    # transformers 5 writes what older files call num_experts as num_local_experts.
    key = "num_local_experts" if "num_local_experts" in config else "num_experts"
    shared = sizes.width(config, "shared_expert_intermediate_size") if family == "qwen2_moe" else 0
    mixture = Mixture(
        expert_count(config, key, count),
        sizes.width(config, "moe_intermediate_size"),
        shared=shared,
        shared_names=SHARED if shared else None,
    )
    function = Function(head_norms="head") if family == "qwen3_moe" else LLAMA
    return mixture_decoder(family, config, names, mixture, _sparse(config, count), function=function)


def _sparse(config: Mapping, count: int) -> set[int]:
    """Numbers of the blocks that have experts. Raises CheckpointError (corrupt)."""
    step = sizes.positive_integer(config, "decoder_sparse_step", sizes.MAX_BLOCKS, 1)
    dense = config.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(type(number) is int for number in dense):
        raise CheckpointError(
            "corrupt", f"config.json: mlp_only_layers is {dense!r}; a list of blocks' numbers was expected"
        )
    return {number for number in range(count) if (number + 1) % step == 0} - set(dense)
