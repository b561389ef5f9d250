"""Z-Image (ZImageTransformer2DModel of diffusers): one stream of image and text, each refined by blocks of its own before.

Node layers: t_embedder, which the time's sinusoids lead to; of every size of patches its values and all_x_embedder.<size>; the
text's features and cap_embedder. The image's refiner, noise_refiner.<n>, and the blocks behind, layers.<n>, have four modulations,
which scale and gate attention and feed-forward; the text's, context_refiner.<n>, has none. Both go on as one, `joined`. The
feed-forward is gated: g, u, m. all_final_layer.<size> has one modulation. Left out: tokens that fill up. A model that also takes
features of SigLIP is unsupported.
"""

from collections.abc import Mapping

from ninscope.architectures import sizes
from ninscope.architectures.builder import Builder
from ninscope.architectures.diffusion_blocks import LIMITS, MAX_DEPTH, attention, linear, modulate, modulations
from ninscope.architectures.layout import Architecture
from ninscope.architectures.registry import register
from ninscope.errors import CheckpointError

SINUSOIDS, TIME_HIDDEN, MOST_OF_TIME = 256, 1024, 256
PARTS = ("scale1", "gate1", "scale2", "gate2")


@register("ZImageTransformer2DModel")
def architecture(config: Mapping) -> Architecture:
    """The wiring that config.json implies. Raises CheckpointError (corrupt, unsupported)."""
    sizes.choice(config, "siglip_feat_dim", (None,), None)
    net = Builder("ZImageTransformer2DModel", limits=LIMITS)
    width = sizes.width(config, "dim", 3840)
    sizes.multiple(width, "dim", sizes.width(config, "n_heads", 30), "n_heads")
    channels, patches = sizes.width(config, "in_channels", 16), _patches(config)
    refined = sizes.positive_integer(config, "n_refiner_layers", MAX_DEPTH, 2)
    net.part = "time"
    time = net.named_layer("t_embedder", min(width, MOST_OF_TIME))
    hidden = net.named_layer("t_embedder.mlp.0", TIME_HIDDEN)
    linear(net, net.named_layer("t_embedder.sinusoids", SINUSOIDS), hidden, "t_embedder.mlp.0", "conditioning")
    linear(net, hidden, time, "t_embedder.mlp.2", "conditioning")
    net.part = "encoder"
    text = net.named_layer("cap_embedder", width)
    linear(
        net,
        net.named_layer("cap_feats", sizes.width(config, "cap_feat_dim", 2560)),
        text,
        "cap_embedder.1",
        "embedding",
    )
    for number in range(refined):
        text = _block(net, f"context_refiner.{number}", text, "")
    net.part = "input"
    image = net.named_layer("image", width)
    for size, values in patches.items():
        embedded = net.named_layer(f"all_x_embedder.{size}", width)
        linear(
            net, net.named_layer(f"patches.{size}", values * channels), embedded, f"all_x_embedder.{size}", "embedding"
        )
        net.link(embedded, image)
    for number in range(refined):
        image = _block(net, f"noise_refiner.{number}", image, time)
    net.part = "block0"
    now = net.named_layer("joined", width)
    net.link(image, now)
    net.link(text, now)
    for number in range(sizes.positive_integer(config, "n_layers", MAX_DEPTH, 30)):
        net.part = f"block{number}"
        now = _block(net, f"layers.{number}", now, time)
    net.part = "output"
    for size, values in patches.items():
        final = f"all_final_layer.{size}"
        modulate(net, modulations(net, final, time, width, ("scale",), f"{final}.adaLN_modulation.1"), now)
        linear(net, now, net.named_layer(final, values * channels), f"{final}.linear", "output")
    return net.architecture()


def _block(net: Builder, name: str, source: str, time: str) -> str:
    """time: what makes its modulations ("": it has none). Returns the node layer of what the block gives."""
    width = net.size(source)
    after, output = net.named_layer(f"{name}.attention", width), net.named_layer(name, width)
    attention(net, f"{name}.attention", source, after, width)
    hidden = int(width / 3 * 8)
    g, u, m = (net.named_layer(f"{name}.feed_forward.{part}", hidden, "", "mlp", f"{name}.hidden") for part in "gum")
    linear(net, after, g, f"{name}.feed_forward.w1", "mlp")
    linear(net, after, u, f"{name}.feed_forward.w3", "mlp")
    linear(net, m, output, f"{name}.feed_forward.w2", "mlp")
    net.link(g, m)
    net.link(u, m)
    net.link(after, output, skip=True)
    if time:
        layers = modulations(net, f"{name}.adaLN_modulation", time, width, PARTS, f"{name}.adaLN_modulation.0")
        modulate(net, layers, source, after, after, output)
    return output


def _patches(config: Mapping) -> dict[str, int]:
    """Positions of a patch of each size, by what the modules call it ("2-1": 2 x 2 of 1 frame).

    Raises CheckpointError (corrupt).
    """
    sides = sizes.integers(config, "all_patch_size", None, sizes.MAX_KERNEL, (2,))
    frames = sizes.integers(config, "all_f_patch_size", None, sizes.MAX_KERNEL, (1,))
    named = {f"{side}-{count}": side * side * count for side, count in zip(sides, frames, strict=False)}
    if len(sides) != len(frames) or len(named) != len(sides):
        raise CheckpointError(
            "corrupt", f"config.json: all_patch_size {sides} and all_f_patch_size {frames} are not pairs that differ"
        )
    return named
