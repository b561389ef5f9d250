"""How families say what is known of their models' function: gains, heads and units of one block at a time (`gauge`)."""

from collections.abc import Mapping

from ninscope.architectures.builder import Builder
from ninscope.architectures.gauge import ADDED, READ, STREAM, Attention, Gain, HeadNorm, Rotary, Units

HOMOGENEOUS = ("relu", "leaky_relu", "linear")  # activations, by the library's names


def layer_norm(net: Builder, tensor: str, layer: str, place: str = READ) -> None:
    """A LayerNorm whose output, as the node layer `layer`, every matrix reads that leaves it. place: READ or STREAM."""
    net.declare(Gain(tensor, place, net.reading(layer), centred=True))


def rms_norm(net: Builder, tensor: str, layer: str, offset: float = 0.0) -> None:
    """An RMSNorm before a part: its output, as the node layer `layer`, every matrix reads that leaves it."""
    net.declare(Gain(tensor, READ, net.reading(layer), offset=offset))


def stream_norm(net: Builder, tensor: str, layer: str) -> None:
    """A LayerNorm of the residual stream itself, which is then the node layer `layer`."""
    layer_norm(net, tensor, layer, STREAM)


def added_norm(net: Builder, tensor: str, *writers: str, offset: float = 0.0, centred: bool = False) -> None:
    """A normalisation of what these matrices write, before it is added to the stream."""
    net.declare(Gain(tensor, ADDED, writers=writers, offset=offset, centred=centred))


def heads(
    net: Builder,
    block: str,
    head_dim: int,
    rotary: Rotary | None = None,
    norms: tuple[HeadNorm, HeadNorm] | None = None,
    parts: tuple[str, str, str, str] = ("q", "k", "v", "c"),
    clipped: bool = False,
) -> None:
    """The attention of a block that was added. norms: of q and of k. parts: of the block."""
    q, k, v, c = (f"{block}.{part}" for part in parts)
    shared = net.size(c) // net.size(v)
    q_norm, k_norm = norms or (None, None)
    (output,) = net.reading(c)
    net.declare(Attention(q, k, v, c, output, head_dim, shared, rotary, q_norm, k_norm, clipped))


def rotary_of(
    config: Mapping, head_dim: int, key: str = "", default: float = 1.0, interleaved: bool = False
) -> Rotary | None:
    """The rotary embedding that config.json says. key: how older files call the part of a head that is turned."""
    stated = config.get("rope_parameters")
    nested = stated.get("partial_rotary_factor") if isinstance(stated, Mapping) else None
    named = (nested, config.get(key), config.get("partial_rotary_factor"))
    part = next((float(value) for value in named if isinstance(value, int | float) and 0 <= value <= 1), default)
    turned = int(head_dim * part)
    return Rotary(turned + turned % 2, interleaved) if turned else None  # the library turns whole pairs


def gated_units(net: Builder, block: str, activation: object = None) -> None:
    """The units of every gated MLP of a block, experts among them: those of u, and of g where its activation is homogeneous.

    activation: as config.json names it.
    """
    for layer in net.layers_of(block):
        within, _, part = layer.rpartition(".")
        if part == "m":
            gate = (f"{within}.g",) if activation in HOMOGENEOUS else ()
            net.declare(Units((*gate, f"{within}.u"), layer))


def plain_units(net: Builder, block: str, activation: object) -> None:
    """The units of a block's MLP without a gate, where its activation is positively homogeneous."""
    if activation in HOMOGENEOUS:
        net.declare(Units((f"{block}.m",), f"{block}.m"))
