"""A transformer block's node layers, by analogy with GPT-NeoX's seven (METHOD 1), for blocks whose MLP follows attention.

Of a block, in order: residual input x; q, k, v; attention context c; a, which the MLP reads: what attention gives, added to x;
MLP hidden m. Its weight blocks: x->q, x->k, x->v, c->a, a->m, m->x'. A gated MLP has besides m its gate g and its up
projection u: a->g, a->u, m->x', where m = act(g) * u, neuron by neuron. Where normalisation stands, before a part (GPT-2, llama)
or behind it (BERT, OLMo 2), makes no difference: it joins no two neurons.

Layers whose neurons are the same ones share their sample: q, k, v, c as in the paper, and g, u, m. With grouped-query attention k
and v have fewer neurons than q and c; then k and v share a sample, and q and c do, and from each head of v links lead to the
heads of c that read it.
"""

from collections.abc import Mapping

from ninscope.architectures.builder import Builder

Names = Mapping[str, str]


def formatted(templates: Names, *place: int) -> dict[str, str]:
    """Names of one block's tensors: every template with the block's number(s) in it."""
    return {part: template.format(*place) for part, template in templates.items()}


def attention(
    net: Builder,
    block: str,
    width: int,
    names: Names,
    queries: int | None = None,
    values: int | None = None,
    head_dim: int = 1,
    order: str = "linear",
) -> None:
    """Node layers x, q, k, v, c and a of a block.

    names: tensors "q", "k", "v" and "o", or "qkv" (one after the other) and "o"; queries: neurons of q and c, width where
    they are not given; values: of k and v, as many where they are not given; head_dim: neurons of a head, needed where these
    differ; order: of the tensors (MatrixLayout).
    """
    queries = width if queries is None else queries
    values = queries if values is None else values
    shared = "attention" if values == queries else "values"
    x = net.layer(block, "x", width, "attention")
    q = net.layer(block, "q", queries, "attention", "attention")
    k = net.layer(block, "k", values, "attention", shared)
    v = net.layer(block, "v", values, "attention", shared)
    c = net.layer(block, "c", queries, "attention", "attention")
    a = net.layer(block, "a", width, "mlp")
    if "qkv" in names:
        net.join(x, (q, k, v), names["qkv"], order)
    else:
        for target, part in ((q, "q"), (k, "k"), (v, "v")):
            net.join(x, target, names[part], order)
    net.join(c, a, names["o"], order)
    for part in range(queries // values):  # as many heads of c read each head of v
        net.link(v, c, part=part, parts=queries // values, group=head_dim)
    net.link(x, a, skip=True)


def mlp(net: Builder, block: str, hidden: int, after: str, names: Names, order: str = "linear") -> None:
    """Node layer m, from a to the node layer `after` (the next block's x). names: tensors "up" and "down"."""
    a = f"{block}.a"
    m = net.layer(block, "m", hidden, "mlp")
    net.join(a, m, names["up"], order)
    net.join(m, after, names["down"], order)
    net.link(a, after, skip=True)


def gated_mlp(net: Builder, block: str, hidden: int, after: str, names: Names) -> None:
    """Node layers g, u and m, from a to `after`. names: tensors "gate", "up" and "down"."""
    a = f"{block}.a"
    g, u, m = (net.layer(block, part, hidden, "mlp", "mlp") for part in "gum")
    net.join(a, g, names["gate"])
    net.join(a, u, names["up"])
    net.join(m, after, names["down"])
    net.link(g, m)
    net.link(u, m)
    net.link(a, after, skip=True)


def following(number: int, count: int) -> str:
    """The node layer that block `number` of `count` adds to: the next block's x, after the last output.x."""
    return f"block{number + 1}.x" if number + 1 < count else "output.x"
