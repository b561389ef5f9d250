"""What the diffusion models of diffusers are built of: residual blocks of convolutions, attention, feed-forward, embeddings.

A node layer is called after the module whose output it is ("down_blocks.0.resnets.1"; "down_blocks.0.attentions.0.q" for a part).
Neurons of a convolution are channels, and so its edges join channels. A residual block has its input x, the hidden h behind the
first convolution, to which the time embedding's edges lead as well, and its output y: x->h, t->h, h->y, and x->y by the 1x1
shortcut where the numbers of channels differ, else x is added to y. Attention and feed-forward are those of a transformer's
block: x->q, x->k, x->v, c->a; a->m, m->x', or a->g, a->u, m->x' with a gated hidden m = u * act(g). In cross attention k and v
read the encoder's output. Normalisation, activation and resampling without weights join no two neurons.
"""

from collections.abc import Mapping, Sequence

from ninscope.architectures.layout import (
    Architecture,
    Link,
    NodeLayer,
    RowLayout,
    StoredMatrix,
    WeightBlock,
    positive_integer,
)
from ninscope.checkpoints.matrix import MatrixLayout
from ninscope.errors import CheckpointError

MAX_WIDTH = 10_000_000
MAX_LEVELS, MAX_DEPTH, MAX_LAYERS = 64, 1_000, 20_000
MODULATIONS = (
    "shift1",
    "scale1",
    "gate1",
    "shift2",
    "scale2",
    "gate2",
)  # of attention's input and output, then feed-forward's
FEED_FORWARD_MULTIPLE = 4
GATED = ("geglu", "swiglu")
ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
# UNet2DModel's, in files from before it had the names of all other attention.
OLDER_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "proj_attn"}
ACTIVATIONS = ("gelu", "gelu-approximate", "geglu-approximate", "linear-silu", *GATED)


class Wiring:
    """Node layers, weight blocks and links as they are found, walking through a model from its input to its output.

    attention: how its modules are called.
    """

    def __init__(self, family: str, attention: Mapping[str, str] = ATTENTION):
        self.family, self.attention = family, attention
        self.part = ""  # of the model that is being walked through
        self._layers: dict[str, NodeLayer] = {}
        self._left: set[str] = set()
        self._blocks: list[WeightBlock] = []
        self._links: list[Link] = []
        self._matrices: dict[str, StoredMatrix] = {}

    def layer(self, name: str, size: int, group: str = "", kind: str = "") -> str:
        """Declare a node layer; its name. The part it belongs to is settled by the first weights that leave it.

        Raises CheckpointError (corrupt) when there are more than any model has, or more neurons.
        """
        if len(self._layers) >= MAX_LAYERS or size > MAX_WIDTH:
            raise CheckpointError("corrupt", "config.json: its numbers of blocks, layers or channels make no sense")
        self._layers[name] = NodeLayer(name, size, group or name, self.part, kind)
        return name

    def size(self, name: str) -> int:
        return self._layers[name].size

    def linear(self, source: str, targets: str | Sequence[str], module: str, kind: str) -> None:
        """Edges by a linear module's weight, whose rows are the targets' neurons, one layer after the other."""
        targets = (targets,) if isinstance(targets, str) else targets
        self._matrix(module, StoredMatrix((sum(map(self.size, targets)), self.size(source))))
        first = 0
        for target in targets:
            self._join(source, target, module, kind, RowLayout(first=first))
            first += self.size(target)

    def convolve(self, source: str, target: str, module: str, kernel: int) -> None:
        """Edges by a convolution of kernel x kernel taps."""
        shape = (self.size(target), self.size(source), kernel, kernel)
        self._matrix(module, StoredMatrix(shape, MatrixLayout("convolution")))
        self._join(source, target, module, "convolution", RowLayout())

    def link(self, source: str, target: str, first: int = 0, skip: bool = False) -> None:
        self._links.append(Link(source, target, first, skip=skip))

    def concatenate(self, name: str, sources: Sequence[str]) -> str:
        """A node layer of all sources' neurons, one after the other; all but the first come by a skip connection."""
        self.layer(name, sum(map(self.size, sources)))
        first = 0
        for source in sources:
            self.link(source, name, first, skip=first > 0)
            first += self.size(source)
        return name

    def architecture(self) -> Architecture:
        return Architecture(
            self.family, tuple(self._layers.values()), tuple(self._blocks), self._matrices, links=tuple(self._links)
        )

    def _matrix(self, module: str, stored: StoredMatrix) -> None:
        self._matrices[f"{module}.weight"] = stored

    def _join(self, source: str, target: str, module: str, kind: str, rows: RowLayout) -> None:
        if source not in self._left:
            self._left.add(source)
            layer = self._layers[source]
            self._layers[source] = NodeLayer(source, layer.size, layer.sample_group, self.part, kind)
        self._blocks.append(WeightBlock(source, target, f"{module}.weight", rows))


def residual_block(net: Wiring, name: str, source: str, channels: int, time: str, scale_shift: bool) -> str:
    """ResnetBlock2D; its output's node layer."""
    hidden = net.layer(f"{name}.hidden", channels, kind="convolution")
    output = net.layer(name, channels)
    net.convolve(source, hidden, f"{name}.conv1", 3)
    if scale_shift:
        parts = [net.layer(f"{name}.{part}", channels, f"{name}.modulation") for part in ("scale", "shift")]
        net.linear(time, parts, f"{name}.time_emb_proj", "conditioning")
        for part in parts:
            net.link(part, hidden)
    else:
        net.linear(time, hidden, f"{name}.time_emb_proj", "conditioning")
    net.convolve(hidden, output, f"{name}.conv2", 3)
    if net.size(source) == channels:
        net.link(source, output, skip=True)
    else:
        net.convolve(source, output, f"{name}.conv_shortcut", 1)
    return output


def attention(net: Wiring, name: str, source: str, output: str, width: int, read: str = "") -> None:
    """Attention of `width` neurons in all heads together, added to its source. read: what k and v read, if not the source."""
    q, k, v, c = (net.layer(f"{name}.{part}", width, f"{name}.heads", "attention") for part in "qkvc")
    joined = {"q": (source, q), "k": (read or source, k), "v": (read or source, v), "o": (c, output)}
    for part, (one, other) in joined.items():
        net.linear(one, other, f"{name}.{net.attention[part]}", "attention")
    net.link(v, c)
    net.link(source, output, skip=True)


def feed_forward(net: Wiring, name: str, source: str, output: str, activation: str) -> None:
    """FeedForward, added to its source."""
    width = FEED_FORWARD_MULTIPLE * net.size(source)
    if activation in GATED:
        u, g, m = (net.layer(f"{name}.{part}", width, f"{name}.hidden", "mlp") for part in "ugm")
        net.linear(source, (u, g), f"{name}.net.0.proj", "mlp")
        net.link(u, m)
        net.link(g, m)
    else:
        m = net.layer(f"{name}.m", width, kind="mlp")
        net.linear(source, m, f"{name}.net.0.proj", "mlp")
    net.linear(m, output, f"{name}.net.2", "mlp")
    net.link(source, output, skip=True)


def transformer_block(
    net: Wiring, name: str, source: str, activation: str, encoder: str = "", only_cross: bool = False
) -> str:
    """BasicTransformerBlock; its output's node layer.

    encoder: what the second attention reads; without it there is none. only_cross: the first reads that as well.
    """
    width = net.size(source)
    after = net.layer(f"{name}.attn1", width)
    attention(net, f"{name}.attn1", source, after, width, encoder if only_cross else "")
    if encoder:
        before, after = after, net.layer(f"{name}.attn2", width)
        attention(net, f"{name}.attn2", before, after, width, encoder)
    output = net.layer(name, width)
    feed_forward(net, f"{name}.ff", after, output, activation)
    return output


def two_layers(net: Wiring, name: str, source: str, output: str, hidden: int) -> None:
    """TimestepEmbedding, and PixArt's projection of captions: two linear layers."""
    between = net.layer(f"{name}.hidden", hidden)
    net.linear(source, between, f"{name}.linear_1", "conditioning")
    net.linear(between, output, f"{name}.linear_2", "conditioning")


# --- what config.json says ----------------------------------------------------------------------------------
def width_of(config: Mapping, key: str, default: int | None = None) -> int:
    return positive_integer(config, key, MAX_WIDTH, default)


def choice(config: Mapping, key: str, known: Sequence, default: object) -> object:
    """config[key], which must be among `known`. Raises CheckpointError (unsupported)."""
    value = config.get(key, default)
    if not any(value is one or (type(value) is type(one) and value == one) for one in known):
        raise CheckpointError(
            "unsupported", f"config.json: {key} {value!r} is not supported; supported: {', '.join(map(repr, known))}"
        )
    return value


def flag(config: Mapping, key: str, default: bool = False) -> bool:
    """config[key], true or false. Raises CheckpointError (corrupt)."""
    value = config.get(key, default)
    if type(value) is not bool:
        raise CheckpointError("corrupt", f"config.json: {key} is {value!r}; true or false was expected")
    return value


def integers(config: Mapping, key: str, count: int | None, limit: int, default: object = None) -> list[int]:
    """`count` positive integers (as many as there are for None): config[key] is a list of them, or one for all.

    Raises CheckpointError (corrupt).
    """
    value = config.get(key)
    value = default if value is None else value
    values = value if isinstance(value, list | tuple) else [value] * (count or 1)
    if not 1 <= len(values) <= MAX_DEPTH or (count is not None and len(values) != count):
        expected = f"{count} of them" if count else f"1 to {MAX_DEPTH} of them"
        raise CheckpointError("corrupt", f"config.json: {key} has {len(values)} entries; {expected} were expected")
    return [positive_integer({key: one}, key, limit) for one in values]
