"""What modules of families build with: layers, joins, links, and what cannot be put together."""

import pytest

from ninscope.architectures.builder import Builder, Stack
from ninscope.architectures.layout import Link, MatrixSpec, NodeLayer, RowLayout
from ninscope.checkpoints.matrix import MatrixLayout
from ninscope.errors import CheckpointError


@pytest.fixture
def net() -> Builder:
    return Builder("family", ("model.", ""))


def test_layers_are_called_after_their_block_and_share_samples_within_a_group(net):
    assert net.layer("block0", "q", 4, "attention", "heads") == "block0.q"
    net.part = "mid"
    assert net.named_layer("mid_block.0", 6) == "mid_block.0"
    assert net.size("mid_block.0") == 6
    wiring = net.architecture("a note", complete=False)
    assert wiring.layers == (
        NodeLayer("block0.q", 4, "block0.heads", "block0", "attention"),
        NodeLayer("mid_block.0", 6, "mid_block.0", "mid"),
    )
    assert (wiring.family, wiring.prefixes, wiring.note, wiring.complete) == ("family", ("model.", ""), "a note", False)


def test_rows_of_several_targets_stand_one_after_the_other_or_take_turns(net):
    x = net.named_layer("x", 3)
    targets = [net.named_layer(name, 4) for name in "qkv"]
    net.join(x, targets, "apart")
    other = net.named_layer("y", 5)
    net.join(other, targets, "in turn", interleaved=2)
    wiring = net.architecture()
    assert [block.rows for block in wiring.blocks[:3]] == [RowLayout(first=first) for first in (0, 4, 8)]
    assert [block.rows for block in wiring.blocks[3:]] == [RowLayout(part, 3, 2) for part in range(3)]
    assert wiring.matrices == {"apart": MatrixSpec((12, 3)), "in turn": MatrixSpec((12, 5))}


@pytest.mark.parametrize(
    ("order", "shape"),
    [
        ("linear", (5, 3)),
        ("transposed", (3, 5)),
        ("convolution", (5, 3, 2, 2)),
        ("transposed_convolution", (3, 5, 2, 2)),
    ],
)
def test_shapes_follow_from_the_layers_that_are_joined(net, order, shape):
    net.join("x", "y", "w", order, shape[2:])
    net.named_layer("x", 3)
    net.named_layer("y", 5)
    net.join("y", "x", "one of 7", order, shape[2:], stack=Stack("all", 6, 7))
    turned = (shape[1], shape[0], *shape[2:])
    assert net.architecture().matrices == {
        "w": MatrixSpec(shape, MatrixLayout(order)),
        "one of 7": MatrixSpec((7, *turned), MatrixLayout(order), "all", 6),
    }


def test_the_first_weights_that_leave_a_layer_say_its_kind_and_block(net):
    net.part = "down0"
    x, y = net.named_layer("x", 3, kind="declared"), net.named_layer("y", 3)
    net.part = "mid"
    net.join(x, y, "first", kind="convolution")
    net.part = "up0"
    net.join(x, net.named_layer("z", 2), "second", kind="attention")
    assert [(layer.block, layer.kind) for layer in net.architecture().layers] == [
        ("mid", "convolution"), ("down0", ""), ("up0", ""),
    ]  # fmt: skip


def test_links(net):
    v, c = net.named_layer("v", 4), net.named_layer("c", 8)
    net.link(v, c, part=1, parts=2, group=2)
    net.link(v, c, 4, skip=True)
    assert net.architecture().links == (Link("v", "c", 0, 1, 2, 2), Link("v", "c", 4, skip=True))


def test_a_layer_is_added_once(net):
    net.named_layer("x", 3)
    with pytest.raises(ValueError, match="node layer x was added before"):
        net.named_layer("x", 3)


@pytest.mark.parametrize("sizes", [(4, 2), (3, 3)])
def test_rows_that_cannot_take_turns(net, sizes):
    targets = [net.named_layer(name, size) for name, size in zip("qk", sizes, strict=True)]
    net.join(net.named_layer("x", 3), targets, "w", interleaved=2)
    with pytest.raises(ValueError, match=r"w: rows of \[\d, \d\] neurons cannot take turns by 2"):
        net.architecture()


def test_a_link_beyond_its_target(net):
    net.link(net.named_layer("x", 3), net.named_layer("y", 3), 1)
    with pytest.raises(ValueError, match="reaches beyond its target"):
        net.architecture()


@pytest.mark.parametrize(("sizes", "last"), [((1,), 11), ((1, 1), 1)])
def test_more_than_any_model_has_is_refused(sizes, last):
    """Before it takes memory: the third layer, or one too wide."""
    net = Builder("family", limits=(2, 10))
    for number, size in enumerate(sizes):
        net.named_layer(f"layer{number}", size)
    with pytest.raises(CheckpointError, match="sizes imply more than 2 node layers, or one of more than 10") as caught:
        net.named_layer("last", last)
    assert caught.value.status == "corrupt"
