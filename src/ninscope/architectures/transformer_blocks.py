"""A transformer block's node layers: GPT-NeoX's seven, as NeuroMFA counts them, and what other families have instead.

A block has, in order: residual input x; q, k, v; attention context c; a, which the MLP reads: what attention gives, added to x;
MLP hidden m. Its weight blocks are x->q, x->k, x->v, c->a, a->m and m->x of the next block. A gated MLP has a gate g and an up
projection u besides: a->g, a->u, m->x, where m = act(g) * u, neuron by neuron. It makes no difference whether normalisation
stands before a part (GPT-2, llama) or behind it (BERT, OLMo 2): it joins no two neurons.

Layers that hold the same neurons share their sample: q, k, v, c as in NeuroMFA, and g, u, m. With grouped-query attention k and
v have fewer neurons than q and c; then k and v share one sample, q and c share another, and each head of v is linked to the
heads of c that read it.
"""

from collections.abc import Mapping

from ninscope.architectures.builder import Builder

Names = Mapping[str, str]


def formatted(templates: Names, *numbers: int | str) -> dict[str, str]:
    """The names of one block's tensors: every template with the block's number, or numbers, in it. "{}": leaves a place open."""
    return {part: template.format(*numbers) for part, template in templates.items()}


def attention(
    net: Builder,
    block: str,
    width: int,
    names: Names,
    queries: int | None = None,
    values: int | None = None,
    head_dim: int = 1,
    order: str = "linear",
    interleaved: int = 0,
    added_to: str = "",
    leads_to: str = "mlp",
) -> None:
    """Add the node layers x, q, k, v, c and a of a block.

    names: the tensors "q", "k", "v" and "o", or "qkv" and "o". queries: neurons of q and c (default: `width`). values: neurons
    of k and v (default: as many as q has). head_dim: neurons of a head, needed where q and v differ. order: of the tensors, as
    in MatrixLayout. interleaved: rows of "qkv" that q, k and v take in turn (default: 0, all of q, then k, then v).
    added_to: the node layer that x is added to (default: a). leads_to: the kind of the weights that leave a.
    """
    queries = width if queries is None else queries
    values = queries if values is None else values
    shared = "attention" if values == queries else "values"
    x = net.layer(block, "x", width, "attention")
    q = net.layer(block, "q", queries, "attention", "attention")
    k = net.layer(block, "k", values, "attention", shared)
    v = net.layer(block, "v", values, "attention", shared)
    c = net.layer(block, "c", queries, "attention", "attention")
    a = net.layer(block, "a", width, leads_to)
    if "qkv" in names:
        net.join(x, (q, k, v), names["qkv"], order, interleaved=interleaved)
    else:
        for target, part in ((q, "q"), (k, "k"), (v, "v")):
            net.join(x, target, names[part], order)
    net.join(c, a, names["o"], order)
    readers = queries // values  # heads of c that read each head of v
    for reader in range(readers):
        net.link(v, c, part=reader, parts=readers, group=head_dim)
    net.link(x, added_to or a, skip=True)


def cross_attention(net: Builder, block: str, names: Names, encoder: str, queries: int | None = None) -> None:
    """Add the node layers xq, xk, xv, xc and b of a block behind its a: attention to the node layer `encoder`, added to a.

    names: the tensors "xq", "xk", "xv" and "xo". queries: neurons of each of the first four (default: a's).
    """
    a = f"{block}.a"
    queries = net.size(a) if queries is None else queries
    q, k, v, c = (net.layer(block, part, queries, "attention", "cross") for part in ("xq", "xk", "xv", "xc"))
    b = net.layer(block, "b", net.size(a), "mlp")
    for source, target, part in ((a, q, "xq"), (encoder, k, "xk"), (encoder, v, "xv"), (c, b, "xo")):
        net.join(source, target, names[part])
    net.link(v, c)
    net.link(a, b, skip=True)


def mlp(
    net: Builder,
    block: str,
    hidden: int,
    after: str,
    names: Names,
    order: str = "linear",
    reads: str = "a",
    added: str = "",
) -> None:
    """Add the node layer m, which leads to the node layer `after` (the next block's x).

    names: the tensors "up" and "down". reads: the part of the block that m reads. added: the part that is added to `after`
    (default: the one that is read).
    """
    m = net.layer(block, "m", hidden, "mlp")
    net.join(f"{block}.{reads}", m, names["up"], order)
    net.join(m, after, names["down"], order)
    net.link(f"{block}.{added or reads}", after, skip=True)


def plain_blocks(net: Builder, count: int, width: int, hidden: int, templates: Names, order: str = "linear") -> None:
    """Add blocks that are alike: attention, then an MLP of `hidden` neurons. templates: as of `formatted`, of both."""
    for number in range(count):
        block, names = f"block{number}", formatted(templates, number)
        attention(net, block, width, names, order=order)
        mlp(net, block, hidden, following(number, count), names, order)


def gated_mlp(net: Builder, block: str, hidden: int, after: str, names: Names, reads: str = "a") -> None:
    """Add the node layers g, u and m, which lead from the part `reads` of the block to `after`, to which that part is added.

    names: the tensors "gate", "up" and "down", or "gate_up", all of the gate and then all of up, and "down".
    """
    gated(net, block, hidden, after, names, reads=reads)
    net.link(f"{block}.{reads}", after, skip=True)


def gated(net: Builder, block: str, hidden: int, after: str, names: Names, expert: str = "", reads: str = "a") -> None:
    """The gated MLP by itself, without the residual that it is added to. expert: whose layers these are, of a block's several."""
    read, within = f"{block}.{reads}", f"{expert}." if expert else ""
    g, u, m = (net.layer(block, within + part, hidden, "mlp", expert or "mlp") for part in "gum")
    if "gate_up" in names:
        net.join(read, (g, u), names["gate_up"])
    else:
        net.join(read, g, names["gate"])
        net.join(read, u, names["up"])
    net.join(m, after, names["down"])
    net.link(g, m)
    net.link(u, m)


def following(number: int, count: int, tower: str = "") -> str:
    """The node layer that block `number` of `count` adds to: the next block's x, after the last block output.x.

    tower: what stands before both names, where a model has several stacks of blocks ("encoder.").
    """
    return tower + (f"block{number + 1}.x" if number + 1 < count else "output.x")
