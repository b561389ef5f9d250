"""GPT-NeoX (Pythia): seven node layers a block and the final residual, 7B+1 in all (METHOD: paper A, 4.1 and Table 3).

A block's node layers: residual input x, q, k, v, attention context c, attention output a, MLP hidden m. Its weight blocks:
x->q, x->k, x->v (fused query_key_value), c->a (attention.dense), a->m (dense_h_to_4h), m->x' (dense_4h_to_h). The chain
a->m is the paper's; Pythia's blocks are parallel, which does not matter to single-layer results: a and x of a block are
different node layers, and the edges' weights are the same.
"""

from collections.abc import Mapping
from dataclasses import replace

from ninscope.architectures.layout import (
    Architecture,
    Link,
    NodeLayer,
    RowLayout,
    StoredMatrix,
    WeightBlock,
    positive_integer,
)
from ninscope.errors import CheckpointError

MODEL_TYPE = "gpt_neox"
MAX_BLOCKS = 10_000
MAX_WIDTH = 10_000_000


def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt) for senseless sizes."""
    block_count = positive_integer(config, "num_hidden_layers", MAX_BLOCKS)
    width = positive_integer(config, "hidden_size", MAX_WIDTH)
    heads = positive_integer(config, "num_attention_heads", MAX_WIDTH)
    hidden = positive_integer(config, "intermediate_size", MAX_WIDTH)
    if width % heads:
        raise CheckpointError(
            "corrupt", f"config.json: hidden_size {width} is no multiple of num_attention_heads {heads}"
        )
    head_width = width // heads

    layers, blocks, links, shapes = [], [], [], {}
    for number in range(block_count):
        block = f"block{number}"
        of = f"{block}."
        after = f"block{number + 1}.x" if number + 1 < block_count else "output.x"
        name = f"layers.{number}."
        layers.append(NodeLayer(of + "x", width, of + "x", block, "attention"))
        layers += [NodeLayer(of + part, width, of + "attention", block, "attention") for part in "qkvc"]
        layers.append(NodeLayer(of + "a", width, of + "a", block, "mlp"))
        layers.append(NodeLayer(of + "m", hidden, of + "m", block, "mlp"))
        fused = name + "attention.query_key_value.weight"
        blocks += [
            WeightBlock(of + "x", of + kind, fused, RowLayout(part, 3, head_width)) for part, kind in enumerate("qkv")
        ]
        blocks += [
            WeightBlock(of + "c", of + "a", name + "attention.dense.weight"),
            WeightBlock(of + "a", of + "m", name + "mlp.dense_h_to_4h.weight"),
            WeightBlock(of + "m", after, name + "mlp.dense_4h_to_h.weight"),
        ]
        # The context is a mixture of the values of other tokens, head by head; what attention and MLP give is added to x.
        links += [Link(of + "v", of + "c"), Link(of + "x", after, skip=True), Link(of + "a", after, skip=True)]
        shapes |= {
            fused: (3 * width, width),
            name + "attention.dense.weight": (width, width),
            name + "mlp.dense_h_to_4h.weight": (hidden, width),
            name + "mlp.dense_4h_to_h.weight": (width, hidden),
        }
    layers.append(NodeLayer("output.x", width, "output.x", "output"))
    matrices = {name: StoredMatrix(shape) for name, shape in shapes.items()}
    return Architecture(
        MODEL_TYPE, tuple(layers), tuple(blocks), matrices, prefixes=("gpt_neox.", "", "model."), links=tuple(links)
    )


def parallel(config: Mapping) -> Architecture:
    """What Pythia's blocks do: attention and MLP both read x, so x has 7d edges. Raises CheckpointError (corrupt, unsupported)."""
    if config.get("use_parallel_residual", True) is not True:
        raise CheckpointError(
            "unsupported",
            "config.json: use_parallel_residual is not true, so its blocks are a chain; leave wiring out",
        )
    chain = architecture(config)
    blocks = tuple(
        replace(block, source=block.source[:-1] + "x") if block.source.endswith(".a") else block
        for block in chain.blocks
    )
    return replace(chain, blocks=blocks)
