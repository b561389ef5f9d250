"""LoRA adapters as peft writes them: alone, and merged into the base that is named, as peft merges them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from family_models import CASES, built, saved
from hub_client import _private_client, serve  # noqa: F401 (fixtures)
from installed import needed
from lora_adapters import adapted, quietly, written
from safetensors.numpy import load_file, save_file

import ninscope
from ninscope.architectures import architecture_of
from ninscope.checkpoints.source import open_source
from ninscope.checkpoints.tensors import as_float
from ninscope.errors import CheckpointError, RequestError

needed("peft")
torch = pytest.importorskip("torch")

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CASE = {"r": 4, "target_modules": ["q_proj", "up_proj"]}
SAMPLED = {"nodes_per_layer": 8, "samples": 2, "min_degree": 2}


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> tuple[Path, Path, Path]:
    """(adapter, base, merged), not to be changed."""
    return written(tmp_path_factory.mktemp("llama"), "llama", "bfloat16", modules_to_save=["down_proj"], **CASE)


@pytest.fixture(scope="session")
def resnet(tmp_path_factory) -> tuple[Path, Path, Path]:
    """As `llama`, of convolutions."""
    return written(tmp_path_factory.mktemp("resnet"), "resnet-basic", "bfloat16", **MERGED["resnet-basic"])


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> tuple[Path, Path, Path]:
    """As `llama`, of float32 and without tensors that take the place of the base's."""
    return written(tmp_path_factory.mktemp("plain"), "llama", **CASE)


@pytest.fixture
def plain_adapter(plain, tmp_path) -> Path:
    """The adapter of `plain`, to be changed."""
    return Path(shutil.copytree(plain[0], tmp_path / "plain"))


@pytest.fixture
def adapter(llama, tmp_path) -> Path:
    """The adapter, to be changed."""
    return Path(shutil.copytree(llama[0], tmp_path / "mine"))


def opened(source, base=None):
    found = open_source(source, base)
    return found.open(found.revisions()[0])


def whole(tensor) -> np.ndarray:
    """Its numbers as floats, [rows, columns]."""
    return as_float(tensor.rows(np.arange(tensor.shape[0]))[0], tensor.dtype)


def settings(folder: Path, **changes) -> Path:
    """Change adapter_config.json."""
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def tensors(folder: Path, **changes) -> Path:
    """Change float32 tensors, by the end of their name; None leaves one out."""
    found = load_file(folder / WEIGHTS)
    for end, value in changes.items():
        (name,) = [name for name in found if name.endswith(end)]
        if value is None:
            del found[name]
        else:
            found[name] = value
    save_file(found, folder / WEIGHTS)
    return folder


class TestAlone:
    def test_every_module_is_three_node_layers(self, tmp_path):
        place, *_ = written(tmp_path, "llama", modules_to_save=["down_proj"], **CASE)
        checkpoint = opened(place)
        wiring = architecture_of(checkpoint.config, checkpoint.tensors)
        modules = [f"model.layers.{n}.{of}" for n in (0, 1) for of in ("mlp.up_proj", "self_attn.q_proj")]
        sizes = {"up_proj": (24, 4, 40), "q_proj": (24, 4, 40)}  # four heads of ten
        expected = {
            f"{module}.{part}": size
            for module in modules
            for part, size in zip(("in", "r", "out"), sizes[module.split(".")[-1]], strict=True)
        }
        assert {layer.name: layer.size for layer in wiring.layers} == expected
        assert {layer.block for layer in wiring.layers} == {"model.layers.0", "model.layers.1"}
        stored = load_file(place / WEIGHTS)
        for name, matrix in wiring.tensors(checkpoint.tensors).items():
            assert (whole(matrix.tensor) == stored[name]).all()
        joins = {(block.source, block.target, block.tensor) for block in wiring.blocks}
        assert joins == {
            (f"{m}.{a}", f"{m}.{b}", f"base_model.model.{m}.lora_{which}.weight")
            for m in modules
            for a, b, which in (("in", "r", "A"), ("r", "out", "B"))
        }

    def test_it_is_measured_as_its_matrices_are(self, llama, tmp_path):
        """Beside a model of no family that holds nothing else: which node layers two matrices share changes no single one."""
        alone = ninscope.measure(llama[0], min_degree=2)
        factors = {name: whole(t) for name, t in opened(llama[0]).tensors.items() if ".lora_" in name}
        place = tmp_path / "generic"
        place.mkdir()
        save_file(factors, place / "model.safetensors")
        (place / "config.json").write_text('{"model_type": "nobody\'s"}')
        generic = ninscope.measure(place, min_degree=2)
        assert (alone.alpha0, alone.width, alone.edges) == (generic.alpha0, generic.width, generic.edges)
        assert "an adapter alone" in alone.message
        assert "take the place of the base's (2)" in alone.message

    def test_what_it_says_of_its_base_is_not_followed(self, llama, adapter):
        before = ninscope.measure(adapter, min_degree=2)
        settings(
            adapter, base_model_name_or_path="/nowhere/../at/all", revision="gone", auto_mapping={"x": "os.system"}
        )
        assert ninscope.measure(adapter, min_degree=2).alpha0 == before.alpha0

    def test_convolutions(self, resnet):
        place, *_ = resnet
        checkpoint = opened(place)
        wiring = architecture_of(checkpoint.config, checkpoint.tensors)
        sizes = {layer.name.rsplit(".", 3)[-1]: layer.size for layer in wiring.layers if "embedder" in layer.name}
        assert sizes == {"in": 3, "r": 4, "out": 12}
        assert ninscope.measure(place, min_degree=2).nodes == sum(layer.size for layer in wiring.layers)

    def test_a_pickle(self, adapter):
        expected = ninscope.measure(adapter, min_degree=2).alpha0
        from safetensors.torch import load_file as torch_tensors

        torch.save(torch_tensors(adapter / WEIGHTS), adapter / "adapter_model.bin")
        (adapter / WEIGHTS).unlink()
        assert ninscope.measure(adapter, min_degree=2).alpha0 == expected

    def test_revisions_of_a_training(self, llama, tmp_path):
        for step in (500, 1000):
            shutil.copytree(llama[0], tmp_path / f"checkpoint-{step}")
        found = open_source(tmp_path)
        assert [(name, found.step_of(name)) for name in found.revisions()] == [
            ("checkpoint-500", 500), ("checkpoint-1000", 1000),
        ]  # fmt: skip

    def test_a_model_with_an_adapter_beside_it_is_the_model(self, llama, tmp_path):
        place = shutil.copytree(llama[1], tmp_path / "both")
        shutil.copytree(llama[0], place, dirs_exist_ok=True)
        assert ninscope.measure(place).alpha0 == ninscope.measure(llama[1]).alpha0

    @pytest.mark.parametrize(("absent", "said"), [
        (CONFIG, r"adapter_config\.json is absent"),
        (WEIGHTS, r"no adapter_model\.safetensors; the adapter's weights are absent"),
    ])  # fmt: skip
    def test_half_an_adapter(self, adapter, absent, said):
        (adapter / absent).unlink()
        with pytest.raises((CheckpointError, RequestError), match=said):
            ninscope.measure(adapter.parent, adapter.name)


class TestRefused:
    @pytest.mark.parametrize(("options", "said"), [
        ({"lora_bias": True}, "lora_bias is set"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices is set"),
        (
            {"target_parameters": ["attn.c_attn.weight"], "target_modules": [], "fan_in_fan_out": False},
            "target_parameters is set, .*; give its base",
        ),
    ])  # fmt: skip
    def test_more_than_two_matrices(self, tmp_path, options, said):
        model = adapted("gpt2", **({"r": 4, "target_modules": ["c_attn"], "fan_in_fan_out": True} | options))
        quietly(model.save_pretrained, tmp_path / "x")
        with pytest.raises(CheckpointError, match=said) as caught:
            ninscope.measure(tmp_path / "x")
        assert caught.value.status == "unsupported"

    def test_another_method(self, tmp_path):
        import peft

        model = peft.get_peft_model(built("llama"), peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[]))
        quietly(model.save_pretrained, tmp_path / "x")
        with pytest.raises(CheckpointError, match="peft_type is 'IA3'; only LORA can be read") as caught:
            ninscope.measure(tmp_path / "x")
        assert caught.value.status == "unsupported"

    @pytest.mark.parametrize(("changes", "status", "said"), [
        ({"init_lora_weights": "pissa"}, "unsupported", "'pissa', which changes the base's own weights"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "unsupported", "layer_replication is set; such an adapter is not merged"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "unsupported", r"alpha_pattern '\(a\+\)\+\$' is no name"),
        ({"alpha_pattern": {".*.*.*q": 3}}, "unsupported", "is no name"),
        ({"alpha_pattern": [1]}, "corrupt", r"alpha_pattern is \[1\]; a table was expected"),
        ({"lora_alpha": "8"}, "corrupt", "alpha of model.layers.0.mlp.up_proj is '8', no number"),
        ({"lora_alpha": float("nan")}, "corrupt", "is nan, no number"),
        ({"peft_type": ["LORA"]}, "unsupported", r"peft_type is \['LORA'\]"),
    ])  # fmt: skip
    def test_settings_that_are_not_merged(self, adapter, llama, changes, status, said):
        with pytest.raises(CheckpointError, match=said) as caught:
            ninscope.measure(settings(adapter, **changes), base=llama[1])
        assert caught.value.status == status

    @pytest.mark.parametrize(("changes", "said"), [
        ({"0.self_attn.q_proj.lora_B.weight": None}, "model.layers.0.self_attn.q_proj has lora_A, but not the other"),
        (
            {"0.self_attn.q_proj.lora_B.weight": np.ones((40, 5), np.float32)},
            r"q_proj.lora_B.weight of shape \[40, 5\] does not go with lora_A of shape \[4, 24\]",
        ),
    ])  # fmt: skip
    def test_factors_that_do_not_go_together(self, plain_adapter, changes, said):
        with pytest.raises(CheckpointError, match=said) as caught:
            ninscope.measure(tensors(plain_adapter, **changes))
        assert caught.value.status == "corrupt"


MERGED = {
    "gpt2": {"r": 4, "target_modules": ["c_attn", "c_proj"], "use_rslora": True},
    "llama": {
        "r": 4, "target_modules": "all-linear", "rank_pattern": {"q_proj": 8},
        "alpha_pattern": {r".*\.0\.self_attn\.q_proj": 3, "up_proj": 32},
    },
    "resnet-basic": {"r": 4, "target_modules": ["convolution"]},
    "bert-classifier": {"r": 4, "target_modules": ["query"], "modules_to_save": ["classifier", "value"]},
}  # fmt: skip


class TestMerged:
    @pytest.mark.parametrize(
        ("name", "dtype"),
        [
            ("gpt2", "float32"),
            ("llama", "bfloat16"),
            ("llama", "float16"),
            ("resnet-basic", "bfloat16"),
            ("bert-classifier", "float16"),
        ],
    )
    def test_every_weight_is_that_of_peft(self, tmp_path, request, name, dtype):
        """Every kind of module and every type, in pairs: neither knows of the other."""
        if name == "resnet-basic":
            place, base, merged = request.getfixturevalue("resnet")
        else:
            place, base, merged = written(tmp_path, name, dtype, **MERGED[name])
        of_peft, of_base, ours = opened(merged), opened(base), opened(place, base)
        assert set(ours.tensors) == set(of_peft.tensors)
        scaled = 0
        for key, tensor in ours.tensors.items():
            assert (tensor.shape, tensor.dtype) == (of_peft.tensors[key].shape, of_peft.tensors[key].dtype)
            if len(tensor.shape) < 2:
                continue
            values, expected, before = (whole(found) for found in (tensor, of_peft.tensors[key], of_base.tensors[key]))
            scaled += bool((values != before).any())
            # A unit in the last place of W and of the terms that both add to it.
            terms = np.abs(before) + self.terms(opened(place), key, before.shape)
            assert (np.abs(values.astype(float) - expected) <= np.spacing(terms.astype(values.dtype))).all(), key
            if dtype == "bfloat16":  # float32 sums of both, far closer to each other than bfloat16's next number
                assert (values == expected).mean() > 0.999
        assert scaled >= 2

    @staticmethod
    def terms(adapter, key: str, shape) -> np.ndarray:
        """Sum of |scale B A| term by term, by names and numbers of this test's own."""
        stem = f"base_model.model.{key.removesuffix('.weight')}.lora_"
        if f"{stem}A.weight" not in adapter.tensors:
            return np.zeros(shape)
        a, b = (np.abs(whole(adapter.tensors[f"{stem}{which}.weight"])).astype(float) for which in "AB")
        product = 10 * (b @ a)  # no scale of these is larger
        return product if product.shape == shape else product.T

    def test_the_network_is_that_of_the_merged_model(self, llama):
        adapter, base, merged = llama
        expected = ninscope.measure(merged)
        found = ninscope.measure(adapter, base=base)
        assert (found.alpha0, found.width, found.edges) == (expected.alpha0, expected.width, expected.edges)
        assert found.alpha0 != ninscope.measure(base).alpha0
        assert (ninscope.measure(adapter, base=base, **SAMPLED).tau == ninscope.measure(merged, **SAMPLED).tau).all()

    def test_rows_are_the_same_in_any_pieces(self, llama):
        tensor = opened(llama[0], llama[1]).tensors["model.layers.1.mlp.up_proj.weight"]
        all_rows = tensor.bits_in(tensor.file.read_ranges(tensor.ranges_of_span(0, 40).ranges))
        for first in (0, 7, 39):
            some = tensor.bits_in(tensor.file.read_ranges(tensor.ranges_of_span(first, first + 1).ranges))
            assert (some == all_rows[first : first + 1]).all()

    @pytest.mark.parametrize(("trained", "base"), [(True, False), (False, True)])
    def test_with_and_without_the_prefix_of_a_head(self, tmp_path, trained, base):
        """An adapter of the model under a head, or of the model with its head, in a base saved the other way."""
        import peft

        def part(model, with_head):
            return model if with_head else getattr(model, CASES["gpt2"].alone)

        model = quietly(
            peft.get_peft_model, part(built("gpt2"), trained),
            peft.LoraConfig(r=4, target_modules=["c_attn"], init_lora_weights=False),
        )  # fmt: skip
        quietly(model.save_pretrained, tmp_path / "adapter")
        saved(part(built("gpt2"), base), "gpt2", tmp_path / "base")
        saved(quietly(model.merge_and_unload), "gpt2", tmp_path / "merged")
        found, expected = (
            ninscope.measure(tmp_path / "adapter", base=tmp_path / "base"), ninscope.measure(tmp_path / "merged"),
        )  # fmt: skip
        assert found.alpha0 == pytest.approx(expected.alpha0, abs=1e-12)

    def test_a_head_that_the_base_has_not(self, tmp_path):
        place, *_ = written(
            tmp_path / "a", "bert-classifier", r=4, target_modules=["query"], modules_to_save=["classifier"]
        )
        saved(built("bert-classifier").bert, "bert-classifier", tmp_path / "base")
        merged = opened(place, tmp_path / "base")
        assert merged.tensors["classifier.weight"].shape == (2, 24)
        assert ninscope.measure(place, base=tmp_path / "base").alpha0 > 0

    @pytest.mark.parametrize("changed", ["lora_alpha", "adapter", "base", "base's revision"])
    def test_another_identity_for_another_network(self, llama, adapter, tmp_path, changed):
        base = Path(shutil.copytree(llama[1], tmp_path / "base"))
        before = open_source(adapter, base).identify(adapter.name)
        again = open_source(adapter, base).identify(adapter.name)
        assert again == before
        assert before.content_sha256 not in {
            open_source(place).identify(place.name).content_sha256 for place in (adapter, base)
        }
        if changed == "lora_alpha":
            settings(adapter, lora_alpha=77)
        elif changed == "adapter":
            flipped = bytearray((adapter / WEIGHTS).read_bytes())
            flipped[-1] ^= 1
            (adapter / WEIGHTS).write_bytes(flipped)
        elif changed == "base":
            flipped = bytearray((base / "model.safetensors").read_bytes())
            flipped[-1] ^= 1
            (base / "model.safetensors").write_bytes(flipped)
        else:
            base = llama[2]
        source = open_source(adapter, base)
        assert source.identify(adapter.name).content_sha256 != before.content_sha256
        if changed != "lora_alpha" and changed != "base's revision":
            with pytest.raises(CheckpointError, match="changed while it was being read"):
                source.check_unchanged(before)

    def test_from_a_hub(self, llama, serve):
        hub = serve({"org/adapter": {"main": llama[0]}, "org/base": {"main": llama[1], "step1": llama[2]}})
        here = ninscope.measure(llama[0], base=llama[1], **SAMPLED)
        there = ninscope.measure("org/adapter", base="org/base", **SAMPLED)
        assert (there.tau == here.tau).all()
        mixed = ninscope.measure(llama[0], base="org/base", base_revision="step1", **SAMPLED)
        assert (mixed.tau != here.tau).any()
        assert hub.endpoint
        local = open_source(llama[0], llama[1])
        remote = open_source("org/adapter", "org/base")
        identity = remote.identify("main")
        assert identity.settings_sha256 == local.identify("adapter").settings_sha256
        pinned = remote.open("main", identity).tensors["model.layers.0.self_attn.q_proj.weight"]
        assert (whole(pinned) == whole(opened(*llama[:2]).tensors[pinned.name])).all()


class TestWrongBases:
    def test_a_module_that_the_base_lacks(self, llama, tmp_path):
        other = saved(built("opt"), "opt", tmp_path / "other")
        with pytest.raises(
            CheckpointError, match=r"tensor model\.layers\.0\.mlp\.up_proj\.weight, .* is not in the base"
        ) as e:
            ninscope.measure(llama[0], base=other)
        assert e.value.status == "corrupt"

    def test_another_shape(self, llama, tmp_path):
        other = saved(built("llama-tied"), "llama-tied", tmp_path / "other")  # heads of six
        with pytest.raises(
            CheckpointError,
            match=r"layers\.0\.self_attn\.q_proj\.weight of the base has shape \[24, 24\], .* \[40, 24\]",
        ):
            ninscope.measure(llama[0], base=other)

    def test_an_adapter_is_no_base_and_a_model_no_adapter(self, llama):
        with pytest.raises(CheckpointError, match="the base is an adapter itself"):
            ninscope.measure(llama[0], base=llama[0])
        with pytest.raises(CheckpointError, match="holds a model's own weights, no adapter; leave the base out"):
            ninscope.measure(llama[2], base=llama[1])
        with pytest.raises(CheckpointError, match="no adapter; leave the base out"):
            open_source(llama[2], llama[1]).identify("merged")

    def test_which_revision(self, llama):
        with pytest.raises(RequestError, match=r"the base .* has 3 revisions .*; say which with base_revision"):
            ninscope.measure(llama[0], base=llama[0].parent)
        named = ninscope.measure(llama[0], base=llama[0].parent, base_revision="base")
        assert named.alpha0 == ninscope.measure(llama[0], base=llama[1]).alpha0
        with pytest.raises(RequestError, match="base_revision is of a base"):
            ninscope.measure(llama[0], base_revision="base")

    @pytest.mark.parametrize("which", ["A", "B"])
    def test_no_number_in_a_factor(self, plain, plain_adapter, which):
        place, base = plain_adapter, plain[1]
        end = f"1.mlp.up_proj.lora_{which}.weight"
        shape = {"A": (4, 24), "B": (40, 4)}[which]
        tensors(place, **{end: np.full(shape, np.nan, np.float32)})
        with pytest.raises(CheckpointError, match=rf"1\.mlp\.up_proj\.lora_{which}\.weight holds NaN") as caught:
            ninscope.measure(place, base=base)
        assert caught.value.status == "nonfinite"

    def test_a_sum_too_large_for_its_type(self, tmp_path):
        place, base, _ = written(tmp_path, "llama", "float16", **CASE)
        with pytest.raises(CheckpointError, match=r"layers\.0\.\S+\.weight holds NaN or infinity") as caught:
            ninscope.measure(settings(place, lora_alpha=1e9), base=base)
        assert caught.value.status == "nonfinite"


def test_several_matrices_in_one_tensor_are_refused(llama):
    """A slice of a tensor that an update is of: as stored experts would be read."""
    tensor = opened(llama[0], llama[1]).tensors["model.layers.0.self_attn.q_proj.weight"]
    entry = replace(tensor.entry, start=tensor.entry.start + 2)
    with pytest.raises(CheckpointError, match="holds several matrices"):
        replace(tensor, entry=entry).rows(np.array([0]))
