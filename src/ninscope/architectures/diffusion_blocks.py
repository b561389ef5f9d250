"""The parts that diffusers builds its models of: residual blocks of convolutions, attention, feed-forward, embeddings.

A node layer is called after the module whose output it is ("down_blocks.0.resnets.1"; "down_blocks.0.attentions.0.q" for a part).
The neurons of a convolution are channels, so its edges join channels. A residual block has its input x, the hidden h behind the
first convolution, to which the time embedding leads as well, and its output y: x->h, t->h, h->y, and x->y by the 1x1 shortcut
where the numbers of channels differ, else x is added to y. Attention and feed-forward are those of a transformer's block: x->q,
x->k, x->v, c->a; a->m, m->x', or a->g, a->u, m->x' with a gated hidden m = u * act(g). In cross attention k and v read the
encoder's output. Normalisation, activation and resampling without weights join no two neurons.
"""

from collections.abc import Mapping, Sequence

from ninscope.architectures.builder import Builder

LIMITS = (20_000, 10_000_000)  # node layers of a model, neurons of one
MAX_LEVELS, MAX_DEPTH = 64, 1_000
# Those of attention's input and output, then those of feed-forward's.
MODULATIONS = ("shift1", "scale1", "gate1", "shift2", "scale2", "gate2")
FEED_FORWARD_MULTIPLE = 4
GATED = ("geglu", "swiglu")
ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
# UNet2DModel's, in files from before it took the names of all other attention.
OLDER_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "proj_attn"}
ACTIVATIONS = ("gelu", "gelu-approximate", "geglu-approximate", "linear-silu", *GATED)


def linear(net: Builder, source: str, target: str | Sequence[str], module: str, kind: str) -> None:
    """Edges by a linear module's weight, whose rows are the targets' neurons, one layer after the other."""
    net.join(source, target, f"{module}.weight", kind=kind)


def convolve(net: Builder, source: str, target: str, module: str, kernel: int) -> None:
    """Edges by a convolution of kernel x kernel taps."""
    net.join(source, target, f"{module}.weight", "convolution", (kernel, kernel), kind="convolution")


def concatenate(net: Builder, name: str, sources: Sequence[str], skip: bool = True) -> str:
    """A node layer of all sources' neurons, one after the other. skip: all but the first come by a skip connection."""
    net.named_layer(name, sum(map(net.size, sources)))
    first = 0
    for source in sources:
        net.link(source, name, first, skip=skip and first > 0)
        first += net.size(source)
    return name


def residual_block(net: Builder, name: str, source: str, channels: int, time: str, scale_shift: bool) -> str:
    """ResnetBlock2D. Returns its output's node layer."""
    hidden = net.named_layer(f"{name}.hidden", channels, kind="convolution")
    output = net.named_layer(name, channels)
    convolve(net, source, hidden, f"{name}.conv1", 3)
    if scale_shift:
        parts = [net.named_layer(f"{name}.{part}", channels, group=f"{name}.modulation") for part in ("scale", "shift")]
        linear(net, time, parts, f"{name}.time_emb_proj", "conditioning")
        for part in parts:
            net.link(part, hidden)
    else:
        linear(net, time, hidden, f"{name}.time_emb_proj", "conditioning")
    convolve(net, hidden, output, f"{name}.conv2", 3)
    if net.size(source) == channels:
        net.link(source, output, skip=True)
    else:
        convolve(net, source, output, f"{name}.conv_shortcut", 1)
    return output


def attention(
    net: Builder,
    name: str,
    source: str,
    output: str,
    width: int,
    encoder: str = "",
    modules: Mapping[str, str] = ATTENTION,
    added: str = "",
) -> None:
    """Attention of `width` neurons in all heads together, added to its source.

    encoder: the node layer that k and v read (default: the source). modules: the names of its four modules. added: what it is
    added to instead.
    """
    q, k, v, c = (net.named_layer(f"{name}.{part}", width, "", "attention", f"{name}.heads") for part in "qkvc")
    read = encoder or source
    for part, start, end in (("q", source, q), ("k", read, k), ("v", read, v), ("o", c, output)):
        linear(net, start, end, f"{name}.{modules[part]}", "attention")
    net.link(v, c)
    net.link(added or source, output, skip=True)


def feed_forward(net: Builder, name: str, source: str, output: str, activation: str, width: int | None = None) -> None:
    """FeedForward, added to its source. width: of the hidden layer (default: four times the source's)."""
    width = FEED_FORWARD_MULTIPLE * net.size(source) if width is None else width
    if activation in GATED:
        u, g, m = (net.named_layer(f"{name}.{part}", width, "", "mlp", f"{name}.hidden") for part in "ugm")
        linear(net, source, (u, g), f"{name}.net.0.proj", "mlp")
        net.link(u, m)
        net.link(g, m)
    else:
        m = net.named_layer(f"{name}.m", width, kind="mlp")
        linear(net, source, m, f"{name}.net.0.proj", "mlp")
    linear(net, m, output, f"{name}.net.2", "mlp")
    net.link(source, output, skip=True)


def transformer_block(
    net: Builder, name: str, source: str, activation: str, encoder: str = "", only_cross: bool = False
) -> str:
    """BasicTransformerBlock. Returns its output's node layer.

    encoder: what the second attention reads (default: there is no second attention). only_cross: the first attention reads
    the encoder as well.
    """
    width = net.size(source)
    after = net.named_layer(f"{name}.attn1", width)
    attention(net, f"{name}.attn1", source, after, width, encoder if only_cross else "")
    if encoder:
        before, after = after, net.named_layer(f"{name}.attn2", width)
        attention(net, f"{name}.attn2", before, after, width, encoder)
    output = net.named_layer(name, width)
    feed_forward(net, f"{name}.ff", after, output, activation)
    return output


def two_layers(net: Builder, name: str, source: str, output: str, hidden: int) -> None:
    """TimestepEmbedding, and PixArt's projection of captions: two linear layers."""
    between = net.named_layer(f"{name}.hidden", hidden)
    linear(net, source, between, f"{name}.linear_1", "conditioning")
    linear(net, between, output, f"{name}.linear_2", "conditioning")


def modulations(net: Builder, name: str, time: str, width: int, parts: Sequence[str], module: str) -> list[str]:
    """Node layers `name`.<part> that shift, scale and gate others, which the time embedding leads to by a linear module."""
    layers = [net.named_layer(f"{name}.{part}", width, group=name) for part in parts]
    linear(net, time, layers, module, "conditioning")
    return layers


def modulate(net: Builder, layers: Sequence[str], *targets: str) -> None:
    """Each of the modulations shifts, scales or gates its target, neuron by neuron."""
    for layer, target in zip(layers, targets, strict=True):
        net.link(layer, target)
