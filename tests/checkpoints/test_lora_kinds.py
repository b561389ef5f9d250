"""Adapters of every kind that peft writes, merged into their bases: tensor by tensor what peft's own merge_and_unload saves."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from family_models import CASES, built, saved
from lora_adapters import gpt2_classifier, quietly, written
from safetensors.numpy import load_file, save_file

import ninscope
from ninscope.architectures import FAMILIES, architecture_of
from ninscope.checkpoints.lora.storage import is_turned
from ninscope.checkpoints.source import open_source
from ninscope.checkpoints.tensors import STORED_TYPES, as_float
from ninscope.errors import CheckpointError

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LINEAR = {"r": 2, "target_modules": "all-linear"}


def opened(source, base=None):
    found = open_source(source, base)
    return found.open(found.revisions()[0])


def numbers(tensor) -> np.ndarray:
    """A tensor of floats, read in one piece; of others their bytes."""
    (piece,) = tensor.file.read_ranges([(tensor.entry.start, tensor.entry.stop)])
    if tensor.dtype not in STORED_TYPES:
        return np.frombuffer(piece, np.uint8)
    return as_float(np.frombuffer(piece, STORED_TYPES[tensor.dtype]), tensor.dtype).reshape(tensor.shape)


def changed_as_by_peft(adapter: Path, base: Path, merged: Path, of_itself: float = 1e-6) -> set[str]:
    """The names of what the adapter changes. Asserts that every tensor is peft's, within `of_itself` of its largest number."""
    ours, of_peft, before = opened(adapter, base), opened(merged), opened(base)
    assert set(ours.tensors) == set(of_peft.tensors)
    changed = set()
    for name, tensor in ours.tensors.items():
        found, expected = numbers(tensor), numbers(of_peft.tensors[name])
        assert found.shape == expected.shape, name
        np.testing.assert_allclose(found, expected, rtol=0, atol=of_itself * np.abs(expected).max(), err_msg=name)
        stored = before.tensors.get(name)
        if stored is None or stored.shape != tensor.shape or (numbers(stored) != found).any():
            changed.add(name)
    return changed


def settings(folder: Path, **changes) -> Path:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> tuple[Path, Path, Path]:
    return gpt2_classifier(tmp_path_factory.mktemp("classifier"))


class TestEveryKind:
    @pytest.mark.parametrize("dora", [False, True])
    @pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "bert-classifier", "vit", "swin", "swin-modules"])
    def test_all_linear(self, tmp_path, name, dora):
        """Conv1D of GPT-2 too; ViT and Swin are adapted under names that their files do not have."""
        changed = changed_as_by_peft(*written(tmp_path, name, use_dora=dora, **LINEAR))
        assert len(changed) >= 8

    @pytest.mark.parametrize("name", ["mixtral", "mixtral-fused", "olmoe", "olmoe-fused"])
    def test_all_linear_of_experts(self, tmp_path, name):
        """peft adapts the parameters of all experts together, whether or not the base stores them so."""
        changed = changed_as_by_peft(*written(tmp_path, name, **LINEAR))
        assert len(changed) == {"mixtral": 2 * (4 + 1 + 9), "olmoe": 2 * (4 + 1 + 12)}.get(name, 2 * (4 + 1 + 2))

    @pytest.mark.parametrize(("name", "options", "expected"), [
        ("mixtral", {"target_modules": ["w1", "w3"]}, 12),
        ("mixtral", {"target_modules": ["w2"]}, 6),
        ("mixtral", {"target_modules": ["q_proj"], "target_parameters": ["gate_up_proj"], "use_rslora": True}, 14),
        ("mixtral-fused", {"target_modules": [], "target_parameters": ["experts.gate_up_proj", "down_proj", "gate.weight"],
                           "rank_pattern": {"gate_up_proj": 3}, "alpha_pattern": {"down_proj": 5}}, 6),
    ])  # fmt: skip
    def test_parameters(self, tmp_path, name, options, expected):
        assert len(changed_as_by_peft(*written(tmp_path, name, r=2, **options))) == expected

    @pytest.mark.parametrize("dora", [False, True])
    @pytest.mark.parametrize(("name", "targets"), [
        ("llama", ["q_proj", "lm_head"]),
        ("llama", ["q_proj", "embed_tokens"]),
        ("llama-tied", ["q_proj", "lm_head"]),
        ("llama-tied", ["q_proj", "embed_tokens"]),
        ("gpt2", ["c_proj", "lm_head"]),
        ("gpt2", ["c_proj", "wte"]),
    ])  # fmt: skip
    def test_heads_and_embeddings(self, tmp_path, name, targets, dora):
        """A tied head is stored as the embedding alone."""
        adapter, base, merged = written(tmp_path, name, r=2, target_modules=targets, use_dora=dora)
        changed = changed_as_by_peft(adapter, base, merged)
        assert any(end in entry for entry in changed for end in ("lm_head", "embed_tokens", "wte"))
        assert ninscope.measure(adapter, base=base).alpha0 == pytest.approx(ninscope.measure(merged).alpha0, abs=1e-12)

    @pytest.mark.parametrize(
        "options", [{"modules_to_save": ["embed_tokens", "lm_head"]}, {"modules_to_save": ["lm_head"]}]
    )
    @pytest.mark.parametrize("name", ["llama", "llama-tied"])
    def test_modules_to_save(self, tmp_path, name, options):
        assert len(changed_as_by_peft(*written(tmp_path, name, r=2, target_modules=["q_proj"], **options))) >= 2

    def test_biases(self, tmp_path):
        changed_as_by_peft(*written(tmp_path, "gpt2", r=2, target_modules=["c_proj"], bias="lora_only"))

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_magnitudes_of_narrow_types(self, tmp_path, dtype):
        """peft rounds to the type in between; a few units in its last place."""
        bound = {"bfloat16": 2**-7, "float16": 2**-9}[dtype]
        changed_as_by_peft(*written(tmp_path, "gpt2", dtype, use_dora=True, **LINEAR), of_itself=bound)

    def test_magnitudes_of_convolutions(self, tmp_path):
        changed = changed_as_by_peft(
            *written(tmp_path, "resnet-basic", r=2, target_modules=["convolution"], use_dora=True)
        )
        assert len(changed) == 10

    @pytest.mark.parametrize("part", ["attn.c_attn", "mlp.c_proj"])
    def test_magnitudes_are_the_same_in_any_pieces(self, tmp_path, part):
        adapter, base, _ = written(tmp_path, "gpt2", use_dora=True, **LINEAR)
        tensor = opened(adapter, base).tensors[f"transformer.h.0.{part}.weight"]
        rows = [
            tensor.bits_in(tensor.file.read_ranges(tensor.ranges_of_span(row, row + 1).ranges))
            for row in range(tensor.shape[0])
        ]
        assert (np.concatenate(rows).view(np.float32) == numbers(opened(adapter, base).tensors[tensor.name])).all()


class TestStoredTheOtherWay:
    """How a weight is stored is known from its family: fan_in_fan_out is that of the module that peft came to last."""

    def test_square_weights(self, classifier):
        adapter, base, merged = classifier
        assert json.loads((adapter / CONFIG).read_text())["fan_in_fan_out"] is False
        assert load_file(base / "model.safetensors")["transformer.h.0.attn.c_proj.weight"].shape == (24, 24)
        assert len(changed_as_by_peft(adapter, base, merged)) == 7
        found, expected = ninscope.measure(adapter, base=base), ninscope.measure(merged)
        assert (found.alpha0, found.width, found.edges) == (expected.alpha0, expected.width, expected.edges)

    def test_a_square_weight_of_nobodys_family(self, classifier, tmp_path):
        adapter, base, _ = classifier
        other = Path(shutil.copytree(base, tmp_path / "other"))
        config = json.loads((other / "config.json").read_text())
        (other / "config.json").write_text(json.dumps(config | {"model_type": "nobody's"}))
        with pytest.raises(CheckpointError, match=r"weight of the base is square, and whether .* merge it with peft"):
            ninscope.measure(adapter, base=other)

    @pytest.mark.parametrize("name", sorted(CASES))
    def test_what_families_say_is_what_their_networks_say(self, name):
        """Of every family that is tested, each matrix of its network; experts in one tensor have a rule of their own."""
        case = CASES[name]
        config = getattr(transformers, case.config)(**case.sizes).to_dict()
        assert config["model_type"] in FAMILIES
        for matrix, spec in architecture_of(config).matrices.items():
            if spec.index is None:
                turned = is_turned(config["model_type"], matrix.removesuffix(".weight"))
                assert bool(turned) == (spec.layout.order == "transposed")


class TestExperts:
    def fused(
        self, folder: Path, family: str, way: str, experts=2, middle=6, last=6, rank=2
    ) -> tuple[Path, Path, np.ndarray]:
        """A base whose experts are one tensor, an adapter of it as peft writes one, and the sum by einsum as in peft's source."""
        rng = np.random.default_rng(5)
        weight = rng.normal(size=(experts, middle, last)).astype(np.float32)
        outputs, inputs = (middle, last) if way == "e o i" else (last, middle)
        a = rng.normal(size=(experts * rank, inputs)).astype(np.float32)
        b = rng.normal(size=(outputs, rank * experts)).astype(np.float32)
        base, adapter = folder / "base", folder / "adapter"
        base.mkdir(parents=True)
        adapter.mkdir()
        save_file({"model.layers.0.mlp.experts.down_proj": weight}, base / "model.safetensors")
        (base / "config.json").write_text(json.dumps({"model_type": family}))
        stem = "base_model.model.model.layers.0.mlp.experts.lora_"
        save_file({f"{stem}A.weight": a, f"{stem}B.weight": b}, adapter / WEIGHTS)
        stated = {
            "peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_parameters": ["mlp.experts.down_proj"],
            "peft_version": "0.21.2",
        }  # fmt: skip
        (adapter / CONFIG).write_text(json.dumps(stated))
        by_expert = a.reshape(experts, rank, inputs), b.reshape(outputs, rank, experts)
        return adapter, base, weight + 4 * np.einsum(f"e r i, o r e -> {way}", *by_expert)

    @pytest.mark.parametrize(("family", "way", "sizes"), [
        ("gpt_oss", "e i o", {}), ("llama4_text", "e o i", {}),
        ("gpt_oss", "e i o", {"last": 5}), ("llama4_text", "e o i", {"last": 5}),
    ])  # fmt: skip
    def test_both_ways_of_storing(self, tmp_path, family, way, sizes):
        """GPT-OSS says that its experts are [in, out], and peft heeds it; of Llama 4's, stored so too, it does not know."""
        adapter, base, expected = self.fused(tmp_path, family, way, **sizes)
        (tensor,) = opened(adapter, base).tensors.values()
        np.testing.assert_allclose(numbers(tensor), expected, rtol=0, atol=1e-5)
        assert (numbers(tensor.slice(1)) == numbers(tensor)[1]).all()

    @pytest.mark.parametrize(("family", "version", "way"), [
        ("gpt_oss", "0.18.1", "e i o"), ("mixtral", "0.18.1", "e i o"),
        ("mixtral", "0.19.0", "e i o"), ("mixtral", "0.20.0", "e o i"),
    ])  # fmt: skip
    def test_earlier_versions_of_peft(self, tmp_path, family, version, way):
        """As their sources have it: before 0.20 all were taken for [in, out], which of square matrices no shape tells."""
        adapter, base, expected = self.fused(tmp_path, family, way)
        (tensor,) = opened(settings(adapter, peft_version=version), base).tensors.values()
        np.testing.assert_allclose(numbers(tensor), expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(("family", "version"), [("gpt_oss", "0.19.0"), ("mixtral", None), ("mixtral", "new")])
    def test_versions_that_do_not_tell(self, tmp_path, family, version):
        adapter, base, _ = self.fused(tmp_path, family, "e o i")
        with pytest.raises(
            CheckpointError, match=r"peft_version is .* square matrices of experts .* merge it with peft"
        ):
            opened(settings(adapter, peft_version=version), base)

    @pytest.mark.parametrize("middle", [6, 4])
    @pytest.mark.parametrize("way", ["e o i", "e i o"])
    def test_gates_of_experts_that_are_stored_one_by_one(self, tmp_path, way, middle):
        """Of an earlier peft too, which took them for [in, out]; where they are square, its version tells."""
        adapter, base, expected = self.fused(tmp_path, "olmoe", way, middle=middle, last=4)
        together = load_file(base / "model.safetensors").popitem()[1]
        stem = "model.layers.0.mlp.experts"
        half = middle // 2
        apart = {f"{stem}.{number}.{name}.weight": np.ascontiguousarray(of[part * half : (part + 1) * half])
                 for number, of in enumerate(together) for part, name in enumerate(("gate_proj", "up_proj"))}  # fmt: skip
        save_file(apart, base / "model.safetensors")
        version = "0.21.2" if way == "e o i" else "0.18.0"
        found = opened(settings(adapter, target_parameters=["gate_up_proj"], peft_version=version), base).tensors
        for number, of in enumerate(expected):
            for part, name in enumerate(("gate_proj", "up_proj")):
                np.testing.assert_allclose(
                    numbers(found[f"{stem}.{number}.{name}.weight"]),
                    of[part * half : (part + 1) * half],
                    rtol=0,
                    atol=1e-5,
                )

    def test_peft_does_so(self, tmp_path):
        """The two orientations, of peft's own wrapper."""

        class Experts(torch.nn.Module):
            def __init__(self, turned):
                super().__init__()
                self.down_proj = torch.nn.Parameter(torch.randn(2, 6, 5))
                if turned:
                    self.is_transposed = True

        for turned, way in ((True, "e i o"), (False, "e o i")):
            torch.manual_seed(0)
            model = torch.nn.ModuleDict({"experts": Experts(turned)})
            before = model["experts"].down_proj.detach().clone()
            options = peft.LoraConfig(
                r=2, target_parameters=["experts.down_proj"], target_modules=[], init_lora_weights=False
            )
            model = quietly(peft.get_peft_model, model, options)
            a, b = (model.base_model.model["experts"].__getattr__(f"lora_{of}")["default"].weight for of in "AB")
            by_expert = a.reshape(2, 2, -1), b.reshape(len(b), 2, 2)
            expected = before + 4 * torch.einsum(f"eri,ore->{way.replace(' ', '')}", *by_expert)
            assert torch.allclose(quietly(model.merge_and_unload)["experts"].down_proj, expected, atol=1e-5)

    def test_an_adapter_of_single_experts(self, tmp_path):
        """As an earlier transformers had them, in a base that stores all in one tensor."""
        adapter, base, _ = written(tmp_path, "mixtral-fused", r=2, target_modules=["q_proj"])
        tensors, rng = {}, np.random.default_rng(1)
        for part, (outputs, inputs) in {"w1": (40, 24), "w2": (24, 40), "w3": (40, 24)}.items():
            stem = f"base_model.model.model.layers.1.block_sparse_moe.experts.2.{part}.lora_"
            tensors[f"{stem}A.weight"] = rng.normal(size=(2, inputs)).astype(np.float32)
            tensors[f"{stem}B.weight"] = rng.normal(size=(outputs, 2)).astype(np.float32)
        save_file(tensors, adapter / WEIGHTS)
        found = opened(adapter, base).tensors
        delta = {part: 4 * tensors[name] @ tensors[name.replace("_B", "_A")] for name in tensors
                 for part in ("w1", "w2", "w3") if f".{part}.lora_B" in name}  # fmt: skip
        for name, added in (("gate_up_proj", np.concatenate([delta["w1"], delta["w3"]])), ("down_proj", delta["w2"])):
            before = numbers(opened(base).tensors[f"model.layers.1.mlp.experts.{name}"])
            before[2] += added
            np.testing.assert_allclose(numbers(found[f"model.layers.1.mlp.experts.{name}"]), before, rtol=0, atol=1e-5)

    def test_of_another_shape(self, tmp_path):
        adapter, base, _ = self.fused(tmp_path, "mixtral", "e o i")
        other = tmp_path / "other"
        other.mkdir()
        shutil.copy(base / "config.json", other)
        save_file({"model.layers.0.mlp.experts.down_proj": np.ones((2, 6, 7), np.float32)}, other / "model.safetensors")
        with pytest.raises(
            CheckpointError, match=r"no parameter of the base \(down_proj\) goes with .* of shape \[4, 6\]"
        ):
            ninscope.measure(adapter, base=other)

    @pytest.mark.parametrize(("targets", "status", "said"), [
        ("down_proj", "corrupt", "target_parameters is 'down_proj'; a list of names was expected"),
        (["down_proj", "mlp.experts.down_proj_2"], "unsupported", "which of its parameters .* belongs to is not clear"),
    ])  # fmt: skip
    def test_which_parameter(self, tmp_path, targets, status, said):
        adapter, base, _ = self.fused(tmp_path, "mixtral", "e o i")
        twice = load_file(base / "model.safetensors")
        twice["model.layers.0.mlp.experts.down_proj_2"] = twice["model.layers.0.mlp.experts.down_proj"]
        save_file(twice, base / "model.safetensors")
        with pytest.raises(CheckpointError, match=said) as caught:
            ninscope.measure(settings(adapter, target_parameters=targets), base=base)
        assert caught.value.status == status


class TestAddedTokens:
    def test_vocabularies(self, tmp_path):
        """Trained with three tokens more than the base has."""
        adapter, base, merged = (tmp_path / part for part in ("adapter", "base", "merged"))
        saved(built("llama"), "llama", base)
        model = built("llama")
        model.resize_token_embeddings(34)
        options = peft.LoraConfig(
            r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], init_lora_weights=False
        )
        model = quietly(peft.get_peft_model, model, options)
        quietly(model.save_pretrained, adapter)
        saved(quietly(model.merge_and_unload), "llama", merged)
        ours = opened(adapter, base)
        assert ours.tensors["model.embed_tokens.weight"].shape == (34, 24)
        assert ours.config["vocab_size"] == 34
        assert changed_as_by_peft(adapter, base, merged) >= {"lm_head.weight", "model.embed_tokens.weight"}
        assert ninscope.measure(adapter, base=base).alpha0 == ninscope.measure(merged).alpha0

    @pytest.mark.parametrize(("module", "shape"), [("lm_head", (31, 20)), ("model.layers.0.mlp.up_proj", (41, 24))])
    def test_another_width_is_another_base(self, tmp_path, module, shape):
        """In a block other rows are too: only tokens and classes are added."""
        saving = ["lm_head", "up_proj"]
        adapter, base, _ = written(tmp_path, "llama", r=2, target_modules=["q_proj"], modules_to_save=saving)
        changed = load_file(adapter / WEIGHTS)
        save_file(changed | {f"base_model.model.{module}.weight": np.ones(shape, np.float32)}, adapter / WEIGHTS)
        said = rf"{re.escape(module)}\.weight of the base has shape .*, the adapter .* {re.escape(str(list(shape)))}"
        with pytest.raises(CheckpointError, match=said):
            ninscope.measure(adapter, base=base)


class TestAlone:
    def test_magnitudes_and_embeddings_are_left_out(self, tmp_path):
        adapter, *_ = written(
            tmp_path, "llama", r=4, target_modules=["q_proj", "up_proj", "embed_tokens"], use_dora=True
        )
        plain, *_ = written(tmp_path / "plain", "llama", r=4, target_modules=["q_proj", "up_proj"])
        found, expected = ninscope.measure(adapter, min_degree=2), ninscope.measure(plain, min_degree=2)
        assert found.nodes == expected.nodes
        assert "left out: updates of embeddings (1), left out: magnitudes (4)" in found.message

    def test_embeddings_alone(self, tmp_path):
        adapter, *_ = written(tmp_path, "llama", r=4, target_modules=["embed_tokens"])
        with pytest.raises(CheckpointError, match="an adapter of embeddings alone, which are in no network"):
            ninscope.measure(adapter)


@pytest.mark.parametrize(("changes", "status", "said"), [
    ({"0.self_attn.q_proj.lora_magnitude_vector": np.ones(39, np.float32)}, "corrupt", r"shape \[39\]; 40 numbers were expected"),
    ({"0.self_attn.q_proj.lora_magnitude_vector": np.full(40, np.nan, np.float32)}, "nonfinite", "magnitude_vector holds NaN"),
    ({"0.self_attn.q_proj.lora_C.weight": np.ones((4, 4), np.float32)}, "unsupported", "lora_C.weight: only lora_A, lora_B"),
    ({"0.self_attn.q_proj.lora_magnitude_vector": np.ones(40, np.int32)}, "unsupported", "is of type I32; only F16"),
])  # fmt: skip
def test_damaged(tmp_path, changes, status, said):
    adapter, base, _ = written(tmp_path, "llama", r=2, target_modules=["q_proj"], use_dora=True)
    tensors = load_file(adapter / WEIGHTS)
    save_file(
        tensors | {f"base_model.model.model.layers.{name}": of for name, of in changes.items()}, adapter / WEIGHTS
    )
    with pytest.raises(CheckpointError, match=said) as caught:
        ninscope.measure(adapter, base=base)
    assert caught.value.status == status


def test_an_attention_of_torch(tmp_path):
    """Of its last module peft 0.21.2 adds the update twice, in the model that it trains too."""
    model = torch.nn.ModuleDict({"att": torch.nn.MultiheadAttention(8, 2, bias=False)})
    base = tmp_path / "base"
    base.mkdir()
    save_file({name: of.numpy().copy() for name, of in model.state_dict().items()}, base / "model.safetensors")
    (base / "config.json").write_text('{"model_type": "of my own"}')
    model = quietly(peft.get_peft_model, model, peft.LoraConfig(r=2, target_modules=["att"]))
    quietly(model.save_pretrained, tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=r"att is torch's MultiheadAttention, .*; merge it with peft"):
        ninscope.measure(tmp_path / "adapter", base=base)


def test_a_convolution_in_groups(tmp_path):
    model = torch.nn.ModuleDict({"c": torch.nn.Conv2d(4, 8, 3, groups=2)})
    model = quietly(peft.get_peft_model, model, peft.LoraConfig(r=2, target_modules=["c"], init_lora_weights=False))
    quietly(model.save_pretrained, tmp_path / "x")
    with pytest.raises(CheckpointError, match="c is a convolution in 2 groups, whose update peft does not merge"):
        ninscope.measure(tmp_path / "x")


def rewritten(base: Path, folder: Path, change) -> Path:
    """The base with the tensors that `change` makes of its own."""
    folder.mkdir()
    shutil.copy(base / "config.json", folder)
    save_file(change(load_file(base / "model.safetensors")), folder / "model.safetensors")
    return folder


def compiled_blocks(tensors: dict) -> dict:
    return {re.sub(r"(layers\.\d+\.)", r"module.\1_orig_mod.", name): values for name, values in tensors.items()}


def weight_normed(tensors: dict) -> dict:
    """The same weights, square ones as g and v of other lengths."""
    split = dict(tensors)
    for name in [name for name, values in tensors.items() if values.ndim == 2 and name.endswith("proj.weight")]:
        values = split.pop(name)
        norms = np.linalg.norm(values, axis=1, keepdims=True)
        stem = f"{name.removesuffix('weight')}parametrizations.weight.original"
        split |= {f"{stem}0": norms, f"{stem}1": 3 * values / norms}
    return split


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("change", [compiled_blocks, weight_normed])
def test_a_base_that_is_wrapped_or_reparametrised(tmp_path, change, dora):
    """An update is added to the weight that the model uses, under whatever name it lies."""
    adapter, base, merged = written(tmp_path, "llama", use_dora=dora, **LINEAR)
    other = rewritten(base, tmp_path / "other", change)
    found, expected = ninscope.measure(adapter, base=other), ninscope.measure(merged)
    assert (found.alpha0, found.width) == pytest.approx((expected.alpha0, expected.width), abs=1e-5)
    assert found.network_nodes == expected.network_nodes


def test_a_base_that_is_reparametrised_in_an_unknown_way(tmp_path):
    adapter, base, _ = written(tmp_path, "llama", **LINEAR)
    stem = "model.layers.0.self_attn.q_proj."

    def change(tensors):
        tensors[f"{stem}parametrizations.weight.original"] = tensors.pop(f"{stem}weight")
        return tensors

    with pytest.raises(CheckpointError, match=rf"{re.escape(stem)}weight is reparametrised in a way"):
        ninscope.measure(adapter, base=rewritten(base, tmp_path / "other", change))
