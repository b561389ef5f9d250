"""Models of no known family: described by the user, or read as they are; and weights that are none."""

import naive
import naive_matrix
import numpy as np
import pytest
from suites import neox_config, neox_tensors, write_checkpoint, write_suite

import ninscope
from ninscope.architectures import architecture_of, described, generic, unlike
from ninscope.architectures.described import description_of
from ninscope.architectures.layout import Link
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError, RequestError

MIXER = {
    "name": "mixer",
    "blocks": [
        {"tensor": "layers.{n}.up.weight", "source": "block{n}.x", "target": "block{n}.m"},
        {"tensor": "layers.{n}.down.weight", "source": "block{n}.m", "target": "block{n+1}.x"},
    ],
    "layers": [{"name": "block{n}.x", "kind": "mlp", "block": "part{n}"}],
    "links": [{"source": "block{n}.x", "target": "block{n+1}.x"}],
}
WIDTH, HIDDEN, BLOCKS = 16, 40, 12
ORDERS = np.array([-3.0, -1.0, 0.0, 1.0, 3.0])


def mixer_tensors(seed=0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    found = {}
    for n in range(BLOCKS):
        found[f"layers.{n}.up.weight"] = rng.normal(0, 0.1, (HIDDEN, WIDTH)).astype(np.float32)
        found[f"layers.{n}.down.weight"] = rng.normal(0, 0.1, (WIDTH, HIDDEN)).astype(np.float32)
        found[f"layers.{n}.norm.weight"] = np.ones(WIDTH, np.float32)
    return found


def stored(folder, tensors, config=None) -> str:
    return str(write_checkpoint(folder, tensors, {"model_type": "mixer"} if config is None else config))


def opened(folder: str):
    source = open_source(folder)
    return source.open(source.revisions()[0])


def wiring_of(folder: str, **asked):
    checkpoint = opened(folder)
    return described.architecture(description_of(MIXER | asked), checkpoint.tensors)


class TestDescribed:
    @pytest.fixture
    def folder(self, tmp_path) -> str:
        return stored(tmp_path / "step0", mixer_tensors())

    def test_layers_follow_the_numbers_in_tensors_names(self, folder):
        wiring = wiring_of(folder)
        assert [layer.name for layer in wiring.layers][-3:] == ["block11.x", "block11.m", "block12.x"]
        assert [layer.size for layer in wiring.layers] == [WIDTH, HIDDEN] * BLOCKS + [WIDTH]
        assert [block.tensor for block in wiring.blocks] == [
            f"layers.{n}.{name}.weight" for n in range(BLOCKS) for name in ("up", "down")
        ]
        assert {(layer.block, layer.kind) for layer in wiring.layers[:4]} == {
            ("part0", "mlp"), ("block0", ""), ("part1", "mlp"), ("block1", ""),
        }  # fmt: skip
        assert wiring.links[:2] == (Link("block0.x", "block1.x"), Link("block1.x", "block2.x"))

    def test_measured_as_plain_loops_do(self, folder):
        tensors = mixer_tensors()
        nodes = [
            naive.distances_of([weight for _, weight in node])
            for name in tensors
            if tensors[name].ndim == 2
            for node in naive_matrix.edges(tensors[name], "linear")
        ]
        expected = naive.spectrum(nodes, ORDERS)
        for sampling in ({}, {"nodes_per_layer": 100, "samples": 1}):
            found = ninscope.measure(folder, architecture=MIXER, q=ORDERS, **sampling)
            assert found.samples[0].nodes == expected["nodes"] == (WIDTH + HIDDEN) * BLOCKS
            np.testing.assert_allclose(found.tau, expected["tau"], rtol=1e-9, atol=1e-9)
            assert found.width == pytest.approx(expected["width"], rel=1e-9)

    def test_a_part_of_fused_rows(self, tmp_path):
        fused = np.random.default_rng(1).normal(0, 0.1, (60, WIDTH)).astype(np.float32)
        folder = stored(tmp_path / "step0", {"qkv": fused})
        rows = [("q", 0, 40), ("k", 40, 10), ("v", 50, 10)]
        blocks = [
            {"tensor": "qkv", "source": "x", "target": name, "first": first, "rows": count}
            for name, first, count in rows
        ]
        wiring = described.architecture(description_of({"blocks": blocks}), opened(folder).tensors)
        assert {layer.name: layer.size for layer in wiring.layers} == {"x": WIDTH, "q": 40, "k": 10, "v": 10}
        one = ninscope.measure(folder, architecture={"blocks": blocks}, nodes_per_layer=8, samples=1)
        assert one.nodes == 8 * 4

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"blocks": []}, r"architecture\.blocks: list at least one tensor"),
            ({"block": []}, r"architecture\.block: no such key; known: name, blocks"),
            ({"blocks": {}}, r"architecture\.blocks is {}; a list of tables"),
            ({"blocks": [{"tensor": "w", "source": "x"}]}, r"architecture\.blocks\.1\.target is missing"),
            ({"blocks": [{**MIXER["blocks"][0], "order": "rows"}]}, r"blocks\.1\.order is 'rows'; one of linear"),
            (
                {"blocks": [{**MIXER["blocks"][0], "groups": 0}]},
                r"blocks\.1: groups, parts and group must be at least 1",
            ),
            (
                {"blocks": [{**MIXER["blocks"][0], "groups": 2, "rows": 4}]},
                r"blocks\.1: a convolution of groups has all its rows",
            ),
            ({"blocks": [{**MIXER["blocks"][0], "part": 1}]}, r"blocks\.1: .*part must be below parts"),
            ({"blocks": [{**MIXER["blocks"][0], "groups": "2"}]}, r"groups is '2'; a whole number"),
            ({"blocks": [{**MIXER["blocks"][0], "source": "b{k}"}]}, r"blocks\.1\.source: {k} does not stand in"),
            ({"blocks": [{**MIXER["blocks"][0], "shape": 3}]}, r"blocks\.1\.shape: no such key"),
            ({"blocks": ["w"]}, r"architecture\.blocks\.1 is 'w'; a table"),
            ({"blocks": [{**MIXER["blocks"][0], "group": 10**30}]}, r"blocks\.1: .* must be at most 2147483647"),
            (
                {"layers": [{"name": "block{n}.x", "block": "b{k}"}]},
                r"layers\.1\.block: {k} does not stand in its name",
            ),
            ({"layers": [{"name": "x", "sample_group": "{n}"}]}, r"layers\.1\.sample_group: {n} does not stand in"),
            ({"links": [{"source": "x", "target": "b{n}"}]}, r"links\.1\.target: {n} does not stand in its source"),
            ({"links": [{"source": "x", "target": "y", "first": -1}]}, r"links\.1\.first is -1; a number from 0"),
            ({"name": 3}, r"architecture\.name is 3; a text"),
        ],
        ids=str,
    )
    def test_a_description_that_makes_no_sense(self, folder, changes, match):
        with pytest.raises(RequestError, match=match):
            ninscope.measure(folder, architecture=MIXER | changes)

    @pytest.mark.parametrize(
        ("block", "match"),
        [
            ({"tensor": "blocks.{n}.up.weight"}, r"the pattern blocks\.{n}\.up\.weight matches no tensor .*layers\.0"),
            (
                {"tensor": "layers.{n}.norm.weight"},
                r"layers\.0\.norm\.weight has shape \[16\], which order linear cannot",
            ),
            ({"source": "block{n}.m", "target": "block{n}.x"}, r"layer block\d+\.. has \d+ neurons by .* and \d+ by"),
            (
                {"order": "convolution", "groups": 3},
                r"has shape \[40, 16\], whose first axis cannot be cut into 3 equal groups",
            ),
            ({"first": 10**9}, r"does not fit"),
            ({"parts": 10**9}, r"which leaves no neuron for block0\.m"),
        ],
        ids=str,
    )
    def test_a_description_that_the_checkpoint_does_not_fit(self, folder, block, match):
        blocks = [MIXER["blocks"][0] | block, MIXER["blocks"][1]]
        with pytest.raises(CheckpointError, match=match) as no:
            ninscope.measure(folder, architecture=MIXER | {"blocks": blocks})
        assert no.value.status == "unsupported"
        assert str(no.value).startswith("[architecture]: ")

    @pytest.mark.parametrize("more", [{}, {"rows": 20}, {"rows": 21, "first": 19}], ids=str)
    def test_a_row_leads_to_one_layer(self, folder, more):
        """Else its weights would count twice; halves that stand one after the other are fine."""
        first = MIXER["blocks"][0] | ({"rows": 20} if more else {})
        with pytest.raises(CheckpointError, match=r"rows of tensor .* lead from block0\.x to block0\.m and h0 at once"):
            ninscope.measure(folder, architecture={"blocks": [first, first | {"target": "h{n}"} | more]})
        halves = [first | {"rows": 20}, first | {"target": "h{n}", "rows": 20, "first": 20}]
        assert ninscope.measure(folder, architecture={"blocks": halves}).nodes == BLOCKS * (WIDTH + HIDDEN)

    def test_a_number_may_stand_in_a_layers_name_twice(self, folder):
        blocks = [MIXER["blocks"][0] | {"source": "block{n}.x{n+1}"}]
        layers = [
            {"name": "block{n}.x{n+1}", "kind": "twice", "block": "b{n}"},
            {"name": "block{n}.x{n}", "kind": "no"},
        ]
        wiring = described.architecture(description_of({"blocks": blocks, "layers": layers}), opened(folder).tensors)
        assert {(layer.name, layer.kind, layer.block) for layer in wiring.layers if layer.kind} == {
            (f"block{n}.x{n + 1}", "twice", f"b{n}") for n in range(BLOCKS)
        }

    def test_a_tensor_without_numbers(self, tmp_path):
        folder = stored(tmp_path / "step0", {"w": np.ones((0, 5), np.float32)})
        with pytest.raises(CheckpointError, match=r"tensor w has shape \[0, 5\], a placeholder without numbers") as no:
            ninscope.measure(folder, architecture={"blocks": [{"tensor": "w", "source": "a", "target": "b"}]})
        assert no.value.status == "corrupt"

    def test_patterns_are_no_regular_expressions(self, folder):
        blocks = [MIXER["blocks"][0] | {"tensor": "layers..*{n}.up.weight"}]
        with pytest.raises(CheckpointError, match="matches no tensor"):
            ninscope.measure(folder, architecture={"blocks": blocks})


class TestGeneric:
    def test_every_matrix_is_a_block_of_its_own(self, tmp_path):
        tensors = mixer_tensors() | {
            "stem.conv.weight": np.random.default_rng(0).normal(0, 0.1, (8, 3, 3, 3)).astype(np.float32),
            "depth.conv.weight": np.ones((8, 1, 3, 3), np.float32),
            "position": np.ones((1, 7, 16), np.float32),
        }
        folder = stored(tmp_path / "step0", tensors)
        found = ninscope.measure(folder, min_degree=0)
        wiring = architecture_of(opened(folder).config, opened(folder).tensors)
        assert wiring.family == "generic"
        assert len(wiring.blocks) == 2 * BLOCKS + 1
        assert {layer.block for layer in wiring.layers} == {"stem.conv", *(f"layers.{n}" for n in range(BLOCKS))}
        assert found.nodes == 2 * BLOCKS * (WIDTH + HIDDEN) + 3 + 8
        assert found.message == (
            "model_type 'mixer' is not a known family; read as generic, each of 25 matrices by itself "
            "(embedding and head too, until [architecture] joins them), "
            "1 of them convolutions taken for [out, in, ...] of one group, "
            "left out: depth.conv.weight, position (0.5 % of the weights)"
        )
        alone = ninscope.measure(folder, min_degree=0, architecture={"blocks": [
            {"tensor": block.tensor, "source": block.source, "target": block.target,
             "order": "convolution" if "conv" in block.tensor else "linear"} for block in wiring.blocks]})  # fmt: skip
        assert alone.alpha0 == found.alpha0

    def test_tied_weights_are_counted_once(self, tmp_path):
        """Two names of one storage, as a pytorch_model.bin may have."""
        torch = pytest.importorskip("torch")
        weight = torch.randn(30, 20) / 10
        folder = tmp_path / "step0"
        stored(folder, {"w": np.ones((2, 2), np.float32)})
        (folder / "model.safetensors").unlink()
        torch.save({"embed.weight": weight, "head.weight": weight}, folder / "pytorch_model.bin")
        found = ninscope.measure(str(folder))
        assert found.nodes == 50
        assert "tied and counted once: head.weight" in found.message

    def test_nothing_to_read(self, tmp_path):
        folder = stored(tmp_path / "step0", {"norm.weight": np.ones(7, np.float32)})
        with pytest.raises(CheckpointError, match="no tensor is a matrix or a convolution") as no:
            ninscope.measure(folder)
        assert no.value.status == "unsupported"

    def test_integers_are_no_weights(self, tmp_path):
        folder = stored(tmp_path / "step0", {"a.weight": np.ones((7, 7), np.int8)})
        with pytest.raises(CheckpointError, match=r"tensor a\.weight is of type I8; only F16"):
            ninscope.measure(folder)

    def test_tables_of_positions_and_masks_are_left_out(self, tmp_path):
        tensors = {"a.weight": np.eye(7, dtype=np.float32), "position_ids": np.arange(7)[None], "mask": np.eye(7) > 0}
        found = ninscope.measure(stored(tmp_path / "step0", tensors), min_degree=0)
        assert found.nodes == 14
        assert "left out: mask, position_ids" in found.message

    def test_a_tensor_and_one_of_its_name_and_weight(self, tmp_path):
        tensors = {"a": np.ones((5, 3), np.float32), "a.weight": np.ones((4, 2), np.float32)}
        checkpoint = opened(stored(tmp_path / "step0", tensors))
        wiring = architecture_of(checkpoint.config, checkpoint.tensors)
        assert [(layer.name, layer.size) for layer in wiring.layers] == [
            ("a.in", 3), ("a.out", 5), ("a.weight.in", 2), ("a.weight.out", 4),
        ]  # fmt: skip

    def test_it_has_no_wiring_to_choose(self, tmp_path):
        folder = stored(tmp_path / "step0", mixer_tensors())
        with pytest.raises(CheckpointError, match="mixer has no wiring 'parallel', only gpt_neox") as no:
            ninscope.measure(folder, wiring="parallel")
        assert no.value.status == "unsupported"

    def test_beside_a_known_family_it_is_no_sibling(self, tmp_path):
        suite = write_suite(tmp_path / "tiny", [0, 1, 2], blocks=2, width=16, heads=2)
        stored(suite / "step1", neox_tensors(2, 16, 2, seed=5), neox_config(2, 16, 2) | {"model_type": "bloom"})
        rows = ninscope.measure_all(str(suite), nodes_per_layer=12, samples=2)
        assert [row.status for row in rows] == ["ok", "unsupported", "ok"]
        assert "model_type 'bloom' is not a known family, but its siblings are gpt_neox" in rows[1].message
        assert np.isfinite(rows[2].emergence)
        wirings = {name: architecture_of(opened(str(suite / name)).config, opened(str(suite / name)).tensors)
                   for name in ("step0", "step1")}  # fmt: skip
        families = {name: {wiring.family: wiring.note} for name, wiring in wirings.items()}
        assert list(unlike(families)) == ["step1"]
        assert not unlike({"step1": families["step1"]})

    def test_no_e_between_networks_that_are_wired_otherwise(self, tmp_path):
        tensors = mixer_tensors()
        stored(tmp_path / "m" / "step0", tensors)
        stored(tmp_path / "m" / "step1", tensors | {"more.weight": np.ones((20, 20), np.float32) / 20})
        rows = ninscope.measure_all(str(tmp_path / "m"))
        assert [row.status for row in rows] == ["ok", "ok"]
        assert np.isnan(rows[1].emergence)
        assert "its tensors are wired otherwise than those of step0: no E" in rows[1].message

    def test_block_ten_comes_after_block_nine(self, tmp_path):
        folder = stored(tmp_path / "step0", mixer_tensors())
        wiring = generic.architecture(opened(folder).tensors, "so")
        assert [block.tensor for block in wiring.blocks[-4:]] == [
            f"layers.{n}.{name}.weight" for n in (10, 11) for name in ("down", "up")
        ]


class TestQuantised:
    @pytest.mark.parametrize(
        ("asked", "match"),
        [
            (
                {"quant_method": "gptq", "bits": 4},
                r"quantised \(gptq\), and tensor packed shows it; packed numbers cannot be measured",
            ),
            ({"quant_method": "awq"}, r"\(awq\)"),
            ({"load_in_8bit": True}, "its weights are quantised, and tensor packed"),
            ("int8", "its weights are quantised, and tensor packed"),
        ],
    )
    def test_by_its_configuration_and_a_tensor(self, tmp_path, asked, match):
        config = neox_config(1, 16, 2) | {"quantization_config": asked}
        folder = stored(
            tmp_path / "step0", neox_tensors(1, 16, 2, seed=0) | {"packed": np.ones((4, 4), np.int8)}, config
        )
        for given in ({}, {"architecture": MIXER}):
            with pytest.raises(CheckpointError, match=match) as no:
                ninscope.measure(folder, **given)
            assert no.value.status == "unsupported"

    def test_a_configuration_that_was_left_over(self, tmp_path):
        """As transformers writes it of a model that was dequantised, or trained in a form of which nothing is stored."""
        tensors = neox_tensors(1, 16, 2, seed=0)
        plain = ninscope.measure(stored(tmp_path / "plain", tensors, tensors.config))
        config = tensors.config | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
        left_over = ninscope.measure(stored(tmp_path / "left", tensors | {"ids": np.ones((2, 2), np.int64)}, config))
        assert (left_over.alpha0, left_over.width, left_over.edges) == (plain.alpha0, plain.width, plain.edges)
        assert "states a quantisation (bitsandbytes), but every tensor holds plain floats" in left_over.message
        with pytest.raises(CheckpointError, match=r"quantised \(bitsandbytes\); packed"):
            architecture_of(config)  # whose tensors nobody has seen

    @pytest.mark.parametrize("mark", ["qweight", "weight_scale_inv", "SCB", "weight_packed"])
    def test_by_its_tensors(self, tmp_path, mark):
        name = f"layers.0.up.{mark}"
        folder = stored(tmp_path / "step0", mixer_tensors() | {name: np.ones((4, 4), np.float32)})
        with pytest.raises(CheckpointError, match=f"tensor {name} shows that the weights are quantised") as no:
            ninscope.measure(folder)
        assert no.value.status == "unsupported"


def test_more_matches_than_any_model_has_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("ninscope.architectures.described._MOST_MATRICES", 5)
    tensors = {f"l.{number}.weight": np.ones((4, 4), np.float32) for number in range(6)}
    folder = write_checkpoint(tmp_path / "step0", tensors, {"model_type": "mine"})
    described = {"blocks": [{"tensor": "l.{n}.weight", "source": "a{n}", "target": "b{n}"}]}
    match = r"\[architecture\]: its patterns match 6 matrices by l\.\{n\}\.weight, and at most 5 can be read; describe fewer"
    with pytest.raises(CheckpointError, match=match):
        ninscope.measure(folder, architecture=described)
    monkeypatch.setattr("ninscope.architectures.described._MOST_MATRICES", 6)
    assert ninscope.measure(folder, architecture=described).nodes == 48


@pytest.mark.parametrize("named", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "resnet18"])
def test_a_name_of_timms_over_other_tensors_is_read_as_generic(tmp_path, named):
    rng = np.random.default_rng(0)
    tensors = {f"encoder.{n}.weight": rng.normal(0, 0.1, (24, 24)).astype(np.float32) for n in range(3)}
    folder = write_checkpoint(tmp_path / "step0", tensors, {"architecture": named})
    message = ninscope.measure(folder).message
    assert f"config.json names timm's '{named}', and no tensor is named as timm names them; read as generic" in message


@pytest.mark.parametrize("before", ["", "net.backbone."])
def test_a_file_of_timms_that_lacks_a_tensor_stays_corrupt(tmp_path, before):
    tensors = {f"{before}blocks.1.attn.qkv.weight": np.ones((72, 24), np.float32)}
    folder = write_checkpoint(tmp_path / "step0", tensors, {"architecture": "vit_tiny_patch16_224"})
    with pytest.raises(CheckpointError, match=r"tensor patch_embed\.proj\.weight is absent"):
        ninscope.measure(folder)


def test_letters_that_stand_side_by_side_are_refused():
    """Which digits are whose is not told, and the ways to cut a long number are without end."""
    with pytest.raises(RequestError, match=r"blocks\.1\.tensor: two letters in braces stand side by side"):
        described.Description((described.DescribedBlock("layers.{a}{b}.w", "{a}.x", "{b}.y"),))
