"""The experts of a block, side by side, and the router that asks them: what mixtures of experts have instead of an MLP.

Node layers: the router's r with a neuron for each expert, and for expert n its gate e<n>.g, up projection e<n>.u and hidden
e<n>.m = act(g) * u. a has edges to the router and to all experts, as if a token asked all of them; weights alone do not say which
it asks. Biases of experts ([experts, neurons]) join no two neurons.

Files store each expert by itself, or all experts of a block in one tensor, along its first axis: [experts, out, in], or
[experts, in, out] (order "transposed": Llama 4, GPT-OSS). Gate and up projection are two tensors, or one of both: all of the
gate's neurons and then the up projection's, or one of each in turn (interleaved 1: GPT-OSS).
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder, Stack
from ninscope.architectures.transformer_blocks import Names
from ninscope.errors import CheckpointError

MAX_EXPERTS = 30_000  # of all blocks


def expert_count(config: Mapping, key: str, blocks: int) -> int:
    """The experts of each of `blocks` blocks, which config.json says as `key`. Raises CheckpointError (corrupt)."""
    count = sizes.width(config, key)
    if blocks * count > MAX_EXPERTS:
        raise CheckpointError(
            "corrupt",
            f"config.json: {blocks} blocks of {count} experts ({key}); at most {MAX_EXPERTS} in all were expected",
        )
    return count


def experts(
    net: Builder,
    block: str,
    count: int,
    hidden: int,
    after: str,
    names: Names,
    order: str = "linear",
    interleaved: int = 0,
) -> None:
    """Add the router and `count` experts of `hidden` neurons, which lead from the block's a to the node layer `after`.

    names: the tensors "router", "down", and "gate" and "up", or "gate_up". One that holds a single expert's matrix has {} where
    the expert's number stands; one without {} holds all of them. order: of an expert's matrix, as in MatrixLayout (the router's
    is linear). interleaved: rows of "gate_up" that g and u take in turn (default: 0, all of g, then u).
    """
    a = f"{block}.a"
    net.join(a, net.layer(block, "r", count, "router"), names["router"])
    for expert in range(count):
        g, u, m = (net.layer(block, f"e{expert}.{part}", hidden, "mlp", f"e{expert}") for part in "gum")
        joins = (
            [(a, (g, u), "gate_up", interleaved)] if "gate_up" in names else [(a, (g,), "gate", 0), (a, (u,), "up", 0)]
        )
        for source, targets, part, in_turn in (*joins, (m, (after,), "down", 0)):
            matrix, stack = names[part].format(expert), None
            if "{}" not in names[part]:
                matrix, stack = f"{names[part]}[{expert}]", Stack(names[part], expert, count)
            net.join(source, targets, matrix, order, interleaved=in_turn, stack=stack)
        net.link(g, m)
        net.link(u, m)
