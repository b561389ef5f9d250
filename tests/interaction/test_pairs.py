"""Which pairs there are: told by hand for a model of each kind of wiring."""

import pytest
from family_configs import CONFIGS
from suites import neox_config

from ninscope.architectures import Reading, architecture_of
from ninscope.architectures.layout import Link, NodeLayer, WeightBlock
from ninscope.interaction.pairs import Wired, across_pairs, within_pairs


def wired(config: dict, reading: Reading | None = None) -> Wired:
    architecture = architecture_of(config, None, reading or Reading())
    return Wired(architecture.layers, architecture.blocks, architecture.links, architecture.gauge)


def ends(wired: Wired, pair) -> tuple[str, str]:
    return tuple(f"{block.source}>{block.target}" for block in (pair.writer, pair.reader))


def told(pairs: list[str]) -> set[tuple[str, str]]:
    """From lines "writer writer: reader reader"."""
    return {
        (writer, reader)
        for line in pairs
        for writer in line.split(": ")[0].split()
        for reader in line.split(": ")[1].split()
    }


@pytest.mark.parametrize("wiring", ["chain", "parallel"])
def test_parallel_blocks_do_not_read_their_own_attention(wiring):
    """The paper's chain is a fiction there: pairs are those of the model, whichever wiring is measured."""
    model = wired(neox_config(3, 12, 2), Reading(wiring=wiring))
    across = {ends(model, pair): pair.distance for pair in across_pairs(model)}
    to_1 = [f"block{n}.x>block{n}.{part}" for n in (1,) for part in "qkvm"]
    to_2 = [f"block2.x>block2.{part}" for part in "qkvm"]
    from_0, from_1 = "block0.c>block1.x block0.m>block1.x", "block1.c>block2.x block1.m>block2.x"
    assert across.keys() == told([f"{from_0}: {' '.join(to_1 + to_2)}", f"{from_1}: {' '.join(to_2)}"])
    assert {across["block0.c>block1.x", reader] for reader in to_2} == {2}
    assert {across["block0.c>block1.x", reader] for reader in to_1} == {1}
    within = {ends(model, pair): pair for pair in within_pairs(model)}
    after = ("block1", "block2", "output")
    assert within.keys() == {
        pair
        for n in range(3)
        for pair in (
            (f"block{n}.x>block{n}.k", f"block{n}.x>block{n}.q"),
            (f"block{n}.x>block{n}.v", f"block{n}.c>{after[n]}.x"),
            (f"block{n}.x>block{n}.m", f"block{n}.m>{after[n]}.x"),
        )
    }
    assert [pair.kind for pair in within.values()] == ["qk", "vo", "mlp"] * 3
    assert {pair.distance for pair in within.values()} == {0}
    first, second, *rest = (pair.heads for pair in within.values())
    assert first == second == ((slice(0, 6), slice(0, 6)), (slice(6, 12), slice(6, 12)))
    assert rest[0] == ((None, None),)


def test_blocks_one_after_the_other_read_their_own_attention():
    config = neox_config(2, 8, 2) | {"use_parallel_residual": False}
    model = wired(config)
    across = {ends(model, pair): pair.distance for pair in across_pairs(model)}
    readers = [f"block1.x>block1.{part}" for part in "qkv"] + ["block1.a>block1.m"]
    assert across.keys() == told(
        [
            f"block0.c>block0.a block0.m>block1.x: {' '.join(readers)}",
            "block0.c>block0.a: block0.a>block0.m",
            "block1.c>block1.a: block1.a>block1.m",
        ]
    )
    assert across["block1.c>block1.a", "block1.a>block1.m"] == 0


def test_tables_name_matrices_as_the_wiring_does():
    model = wired(neox_config(1, 8, 2))
    assert model.names["block0.x", "block0.m"] == "block0.a -> block0.m"
    assert model.names["block0.c", "output.x"] == "block0.c -> block0.a"
    assert set(model.names.values()) == {f"{block.source} -> {block.target}" for block in model.blocks}


def test_heads_that_share_keys_and_values():
    """Four heads of q, two of k and v, of six neurons: q's heads 0 and 1 read k's head 0."""
    model = wired(CONFIGS["llama"])
    within = {(pair.kind, pair.writer.target): pair for pair in within_pairs(model) if pair.distance == 0}

    def head(n):
        return slice(6 * n, 6 * n + 6)

    assert within["qk", "block0.k"].heads == tuple((head(n // 2), head(n)) for n in range(4))
    assert set(map(str, within["vo", "block0.v"].heads)) == {str((head(n // 2), head(n))) for n in range(4)}
    assert within["qk", "block0.k"].rotary.dimensions == 6
    assert {writer for kind, writer in within if kind == "mlp"} == {f"block{n}.{part}" for n in (0, 1) for part in "gu"}
    own = [pair for pair in across_pairs(model) if pair.distance == 0]
    assert {pair.reader.target for pair in own} == {f"block{n}.{part}" for n in (0, 1) for part in "gu"}
    assert len(list(across_pairs(model))) == 2 * 2 + 2 * 5


def test_experts_read_the_stream_and_write_to_it():
    model = wired(CONFIGS["mixtral"])
    across = list(across_pairs(model))
    one = [pair for pair in across if pair.writer.source == "block0.e1.m"]
    assert {pair.reader.target for pair in one} == {
        *(f"block1.{part}" for part in ("q", "k", "v", "r")),
        *(f"block1.e{n}.{part}" for n in range(3) for part in "gu"),
    }
    assert {pair.writer.target for pair in within_pairs(model) if pair.reader.source == "block0.e1.m"} == {
        "block0.e1.g",
        "block0.e1.u",
    }


def test_what_passes_normalisations_of_the_stream():
    model = wired(CONFIGS["bert"])
    pair = next(pair for pair in across_pairs(model) if ends(model, pair) == ("block0.c>block0.a", "block1.x>block1.q"))
    assert pair.layers == ("block0.a", "block1.x")
    assert pair.places is None


def test_decoders_read_what_the_encoder_has_written():
    model = wired(CONFIGS["t5"])
    across = {ends(model, pair) for pair in across_pairs(model)}
    assert ("encoder.block1.m>encoder.output.x", "encoder.output.x>decoder.block2.xk") in across
    assert ("encoder.block0.c>encoder.block0.a", "encoder.output.x>decoder.block0.xv") in across
    assert not any(
        writer.startswith("decoder") and reader.split(">")[0] == "encoder.output.x" for writer, reader in across
    )


def test_a_stream_that_becomes_part_of_a_wider_one():
    """What is concatenated of two streams reads each at a place of its own."""
    layers = [NodeLayer(name, size, name, "b") for name, size in (("i", 3), ("s", 4), ("t", 4), ("wide", 8), ("o", 2))]
    blocks = [WeightBlock("i", "s", "w0"), WeightBlock("i", "t", "w1"), WeightBlock("wide", "o", "w2")]
    links = [Link("s", "t", skip=True), Link("t", "wide"), Link("s", "wide", first=4, skip=True)]
    pairs = list(across_pairs(Wired(layers, blocks, links)))
    assert [(pair.writer.target, pair.layers) for pair in pairs] == [
        ("s", ("s", "wide")),
        ("s", ("s", "t", "wide")),
        ("t", ("t", "wide")),
    ]
    assert [pair.places.tolist() for pair in pairs] == [[4, 5, 6, 7], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert not list(within_pairs(Wired(layers, blocks, links)))


def test_what_a_stream_modulates_does_not_read_it():
    """A link that leaves the stream for a layer beside it is no part of the stream."""
    layers = [NodeLayer(name, 3, name, "b") for name in ("i", "s", "t", "gate", "o")]
    blocks = [WeightBlock("i", "s", "w0"), WeightBlock("gate", "o", "w1"), WeightBlock("t", "o", "w2")]
    model = Wired(layers, blocks, [Link("s", "t", skip=True), Link("s", "gate")])
    assert [ends(model, pair) for pair in across_pairs(model)] == [("i>s", "t>o")]
    assert not list(within_pairs(model))


def test_of_layers_without_links_nothing_is_known():
    layers = [NodeLayer(name, 3, name) for name in ("w.in", "w.out", "v.in", "v.out")]
    blocks = [WeightBlock("w.in", "w.out", "w"), WeightBlock("v.in", "v.out", "v")]
    model = Wired(layers, blocks, ())
    assert not [*within_pairs(model), *across_pairs(model)]
    chain = Wired([*layers[:2], layers[3]], [blocks[0], WeightBlock("w.out", "v.out", "v")], ())
    (pair,) = within_pairs(chain)
    assert (pair.kind, pair.heads) == ("other", ((None, None),))
    assert pair.distance == 0
