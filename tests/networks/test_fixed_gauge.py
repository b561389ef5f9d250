"""Rescalings that leave the real models' function as it is change no number of the gauge-fixed reading."""

import json
import re
from pathlib import Path

import family_models as real
import numpy as np
import pytest
from family_models import GPT2, GROUPED, T5, TEXT, Case
from hub_client import _private_client, serve  # noqa: F401  fixtures
from rescalings import Rescaled
from safetensors.numpy import load_file, save_file
from suites import neox_tensors, write_checkpoint

import ninscope
from ninscope.architectures import Reading, architecture_of
from ninscope.architectures.registry import WITH_GAUGE
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError, RequestError
from ninscope.networks.neuron_network import neuron_network
from ninscope.networks.sampled import sampled_network

SUITE = Path(__file__).parents[2] / "data" / "stdlib-neox-500k"

MORE = {
    "gpt_neox": Case("GPTNeoXForCausalLM", "GPTNeoXConfig", TEXT | {"rotary_pct": 0.5}),
    "gpt_neox-chain": Case(
        "GPTNeoXForCausalLM", "GPTNeoXConfig", TEXT | {"use_parallel_residual": False, "hidden_act": "relu"}
    ),
    "gpt2-relu": Case("GPT2LMHeadModel", "GPT2Config", GPT2 | {"activation_function": "relu"}),
    "t5-gated": Case("T5ForConditionalGeneration", "T5Config", T5 | {"feed_forward_proj": "gated-gelu"}),
    "t5-relu": Case("T5ForConditionalGeneration", "T5Config", T5 | {"feed_forward_proj": "gated-relu"}),
    "phi3-partial": Case("Phi3ForCausalLM", "Phi3Config", GROUPED | {"partial_rotary_factor": 0.5}),
    "smollm3-turned": Case("SmolLM3ForCausalLM", "SmolLM3Config", GROUPED | {"no_rope_layers": [1, 0]}),
    "llama4_text-bare": Case(
        "Llama4ForCausalLM", "Llama4TextConfig", real.LLAMA4 | {"no_rope_layers": [1, 0], "use_qk_norm": False}
    ),
}
ALL = real.CASES | MORE
# One of each family, and of each way in which its function may differ.
NAMES = [name for name in real.CASES if name in WITH_GAUGE] + list(MORE)
NAMES += ["llama4_text-step", "mixtral-fused", "granitemoe-fused", "opt-350m", "vit-modules", "clip-classifier"]
ORDERS = np.array([-3.0, -1.0, 0.0, 1.0, 3.0])


def built(name):
    """The model in float64, with normalisations that divide by nothing but the norm; biases and gains are not 0."""
    import torch
    import transformers

    case = ALL[name]
    torch.manual_seed(len(name))
    model = getattr(transformers, case.model)(getattr(transformers, case.config)(**case.sizes)).eval().double()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            spread = 0.3 if parameter.ndim > 1 else 0.1
            parameter.copy_(torch.randn_like(parameter) * spread + (1 if _is_gain(key) else 0))
    return exact(model)


def _is_gain(key):
    return re.search(r"(norm|ln_)[\w.]*weight$", key, re.IGNORECASE) is not None


def exact(model):
    """Without what is added to a variance, and with experts one by one."""
    model.config._experts_implementation = "eager"
    for module in model.modules():
        for name in ("eps", "variance_epsilon"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def outputs(model):
    """The logits, or what the model gives instead, for inputs that are the same every time."""
    import torch

    config = model.config
    torch.manual_seed(0)
    tokens = torch.tensor([[3, 9, 14, 5, 27, 8], [11, 4, 4, 30, 6, 7]])
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", 8)
    given = {
        "input_ids": {"input_ids": tokens},
        "pixel_values": {"pixel_values": torch.randn(2, 3, size, size, dtype=torch.float64)},
        "input_features": {
            "input_features": torch.randn(2, getattr(config, "num_mel_bins", 1), 32, dtype=torch.float64)
        },
    }[model.main_input_name]
    if config.model_type == "clip" and hasattr(config, "text_config") and "input_ids" in given:
        given["pixel_values"] = torch.randn(2, 3, size, size, dtype=torch.float64)
    if getattr(config, "is_encoder_decoder", False) and "Sequence" not in type(model).__name__:
        given["decoder_input_ids"] = tokens[:, :3]
    single = torch.float32, torch.float
    torch.float32 = torch.float = (
        torch.float64
    )  # in which the library's modules compute some things whatever their weights are
    try:
        with torch.no_grad():
            found = model(**given)
    finally:
        torch.float32, torch.float = single
    first = found.logits_per_image if "logits_per_image" in found else found[0]
    return first.double().numpy()


def saved(model, name, folder):
    model.save_pretrained(folder, save_original_format=ALL[name].hub_names)
    return folder


def rescaled(folder, other, **drawn):
    """A copy of a model's folder, rescaled."""
    source = open_source(folder)
    checkpoint = source.open(source.revisions()[0])
    tensors = load_file(folder / "model.safetensors")
    changed = Rescaled(architecture_of(checkpoint.config, checkpoint.tensors), tensors, **drawn).all()
    other.mkdir()
    save_file({key: value.copy("C") for key, value in changed.items()}, other / "model.safetensors", {"format": "pt"})
    (other / "config.json").write_bytes((folder / "config.json").read_bytes())
    return other


@pytest.mark.parametrize("name", NAMES)
def test_rescalings_of_the_same_function(name, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import torch

    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    model = built(name)
    plain = saved(model, name, tmp_path / "step0")
    other = rescaled(plain, tmp_path / "step1", seed=1)
    again = exact(type(model).from_pretrained(other, dtype=torch.float64).eval())
    buffers = dict(model.named_buffers())
    for key, buffer in again.named_buffers():
        buffer.copy_(buffers[key])  # what is made anew, not loaded, may have been rounded otherwise
    expected = outputs(model)
    np.testing.assert_allclose(outputs(again), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    measured = [ninscope.measure(str(folder), gauge="fixed", q=ORDERS) for folder in (plain, other)]
    np.testing.assert_allclose(measured[1].tau, measured[0].tau, rtol=0, atol=1e-6)
    np.testing.assert_allclose(measured[1].alpha, measured[0].alpha, rtol=0, atol=1e-6)
    assert measured[1].nodes_counted == measured[0].nodes_counted
    stored = [ninscope.measure(str(folder), q=ORDERS) for folder in (plain, other)]
    assert abs(stored[1].alpha0 - stored[0].alpha0) > 1e-3


MODULES = {part: f"self_attn.{part}_proj" for part in "qkvo"} | {
    part: f"mlp.{part}_proj" for part in ("gate", "up", "down")
}
TARGETS = dict(
    zip(MODULES, ("block0.q", "block0.k", "block0.v", "block0.a", "block0.g", "block0.u", "output.x"), strict=True)
)


class TestOfAPlainLlama:
    """What the page on the method says, of one small llama with grouped heads, by plain loops."""

    WIDTH, HEADS, GROUPS, DIM, HIDDEN = 12, 4, 2, 6, 14

    @classmethod
    def tensors(cls, dtype=np.float64, seed=0):
        random = np.random.default_rng(seed)
        shapes = {"q": (cls.HEADS * cls.DIM, cls.WIDTH), "k": (cls.GROUPS * cls.DIM, cls.WIDTH)}
        shapes |= {
            "v": shapes["k"],
            "o": shapes["q"][::-1],
            "gate": (cls.HIDDEN, cls.WIDTH),
            "up": (cls.HIDDEN, cls.WIDTH),
        }
        shapes |= {"down": (cls.WIDTH, cls.HIDDEN)}
        made = {
            f"model.layers.0.{MODULES[part]}.weight": random.normal(0, 0.3, shape) for part, shape in shapes.items()
        }
        for norm in ("input_layernorm", "post_attention_layernorm"):
            made[f"model.layers.0.{norm}.weight"] = random.normal(1, 0.3, cls.WIDTH)
        return {name: value.astype(dtype) for name, value in made.items()}

    @classmethod
    def written(cls, folder, tensors, **config):
        folder.mkdir(parents=True)
        save_file(tensors, folder / "model.safetensors")
        sizes = {
            "hidden_size": cls.WIDTH,
            "num_hidden_layers": 1,
            "num_attention_heads": cls.HEADS,
            "head_dim": cls.DIM,
        }
        sizes |= {"num_key_value_heads": cls.GROUPS, "intermediate_size": cls.HIDDEN, "model_type": "llama"}
        (folder / "config.json").write_text(json.dumps(sizes | config))
        return folder

    @staticmethod
    def blocks(folder):
        """W[out, in] of every block as it is read, by the layer that it leads to."""
        source = open_source(folder)
        network = neuron_network(source.open(source.revisions()[0]), Reading(gauge="fixed"))
        sampled = sampled_network(network, 1000, 1, 0, 1e30)
        ends = np.cumsum(sampled.layer_sizes)
        rows = {n: slice(e - s, e) for n, s, e in zip(sampled.layer_names, sampled.layer_sizes, ends, strict=True)}
        return {b.target: sampled.matrix[rows[b.source], rows[b.target]].toarray().T for b in network.blocks}

    def expected(self, tensors):
        """By loops over heads, pairs and units."""
        w = {part: tensors[f"model.layers.0.{name}.weight"].astype(np.float64) for part, name in MODULES.items()}
        for norm, parts in (("input_layernorm", "qkv"), ("post_attention_layernorm", ("gate", "up"))):
            for part in parts:
                w[part] = w[part] * tensors[f"model.layers.0.{norm}.weight"].astype(np.float64)
        norm = np.linalg.norm
        for group in range(self.GROUPS):
            readers = [group * 2, group * 2 + 1]
            for one in range(self.DIM):
                of_v, of_o = group * self.DIM + one, [head * self.DIM + one for head in readers]
                factor = np.sqrt(norm(w["o"][:, of_o]) / norm(w["v"][of_v]))
                w["v"][of_v] *= factor
                w["o"][:, of_o] /= factor
            for one in range(self.DIM // 2):
                pair = [one, one + self.DIM // 2]
                of_k = [group * self.DIM + dimension for dimension in pair]
                of_q = [head * self.DIM + dimension for head in readers for dimension in pair]
                factor = np.sqrt(norm(w["q"][of_q]) / norm(w["k"][of_k]))
                w["k"][of_k] *= factor
                w["q"][of_q] /= factor
        for unit in range(self.HIDDEN):
            factor = np.sqrt(norm(w["down"][:, unit]) / norm(w["up"][unit]))
            w["up"][unit] *= factor
            w["down"][:, unit] /= factor
        return {part: matrix * 0.1 / np.sqrt((matrix**2).mean()) for part, matrix in w.items()}

    @pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-7), (np.float16, 1e-7)])
    def test_every_weight(self, tmp_path, dtype, tolerance):
        tensors = self.tensors(dtype)
        found = self.blocks(self.written(tmp_path / "step0", tensors))
        for part, expected in self.expected(tensors).items():
            np.testing.assert_allclose(found[TARGETS[part]], expected, rtol=tolerance, err_msg=part)
            assert found[TARGETS[part]].dtype == (np.float64 if dtype is np.float64 else np.float32)

    def test_what_is_zero_stays_as_it_is(self, tmp_path):
        """A gain of 0 folds to columns of 0; a head that leads nowhere, and a unit that nothing enters, are not balanced."""
        tensors = self.tensors()
        tensors["model.layers.0.input_layernorm.weight"][3] = 0
        tensors["model.layers.0.self_attn.o_proj.weight"][:, : 2 * self.DIM] = 0
        tensors["model.layers.0.mlp.up_proj.weight"][5] = 0
        found = self.blocks(self.written(tmp_path / "step0", tensors))
        assert all(np.isfinite(matrix).all() for matrix in found.values())
        assert not found["block0.q"][:, 3].any()
        assert not found["block0.u"][5].any()
        gained = tensors["model.layers.0.self_attn.v_proj.weight"] * tensors["model.layers.0.input_layernorm.weight"]
        ratio = found["block0.v"][: self.DIM, :2] / gained[: self.DIM, :2]
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-12)
        down = tensors["model.layers.0.mlp.down_proj.weight"]
        assert np.ptp(found["output.x"][:, 5] / down[:, 5]) < 1e-12

    def test_a_matrix_of_zeros_is_one_without_edges(self, tmp_path):
        tensors = self.tensors() | {"model.layers.0.mlp.up_proj.weight": np.zeros((self.HIDDEN, self.WIDTH))}
        assert not self.blocks(self.written(tmp_path / "step0", tensors))["block0.u"].any()

    @pytest.mark.parametrize(
        ("change", "status", "told"),
        [
            (
                {"input_layernorm": None},
                "corrupt",
                r"tensor model\.layers\.0\.input_layernorm\.weight is absent, the gain",
            ),
            ({"input_layernorm": np.ones(11)}, "corrupt", r"has shape \[11\], but \[12\] neurons"),
            ({"input_layernorm": np.ones(12, np.int32)}, "unsupported", "is of type I32; only"),
            ({"input_layernorm": np.array([1.0] * 11 + [np.nan])}, "nonfinite", "NaN or infinity, first at 11"),
            ({"self_attn.v_proj": np.full((12, 12), np.inf)}, "nonfinite", "v_proj.* first at row 0, column 0"),
            ({"self_attn.v_proj": np.full((12, 12), 1e200)}, "unsupported", "so large that their squares"),
        ],
    )
    def test_what_cannot_be_read(self, tmp_path, change, status, told):
        tensors = self.tensors()
        for name, value in change.items():
            del tensors[f"model.layers.0.{name}.weight"]
            if value is not None:
                tensors[f"model.layers.0.{name}.weight"] = value
        with pytest.raises(CheckpointError, match=told) as raised:
            self.blocks(self.written(tmp_path / "step0", tensors))
        assert raised.value.status == status

    def test_samples_are_of_the_same_weights(self, tmp_path):
        folder = self.written(tmp_path / "step0", self.tensors(np.float16))
        exact = ninscope.measure(folder, gauge="fixed", min_degree=4, q=ORDERS)
        sampled = ninscope.measure(folder, gauge="fixed", min_degree=4, q=ORDERS, nodes_per_layer=100, samples=1)
        np.testing.assert_allclose(sampled.tau, exact.tau, rtol=1e-9)
        with pytest.raises(RequestError, match="gauge is fixed and stored"):
            ninscope.emergence(exact, ninscope.measure(folder, min_degree=4, q=ORDERS))

    def test_a_gain_of_an_older_file(self, tmp_path):
        tensors = self.tensors()
        expected = self.blocks(self.written(tmp_path / "a" / "step0", tensors))
        tensors["model.layers.0.input_layernorm.gamma"] = tensors.pop("model.layers.0.input_layernorm.weight")
        found = self.blocks(self.written(tmp_path / "b" / "step0", tensors))
        assert all((found[target] == expected[target]).all() for target in expected)

    def test_a_merged_adapter(self, tmp_path):
        """Factors are those of the merged weights."""
        tensors = self.tensors(np.float32)
        base = self.written(tmp_path / "base", tensors)
        random, module = np.random.default_rng(5), "base_model.model.model.layers.0.self_attn.q_proj"
        a, b = (random.normal(0, 0.3, shape).astype(np.float32) for shape in ((2, self.WIDTH), (24, 2)))
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        save_file({f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}, adapter / "adapter_model.safetensors")
        settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
        (adapter / "adapter_config.json").write_text(json.dumps(settings))
        tensors["model.layers.0.self_attn.q_proj.weight"] = (
            tensors["model.layers.0.self_attn.q_proj.weight"] + b.astype(np.float64) @ a
        ).astype(np.float32)
        merged = self.written(tmp_path / "merged", tensors)
        given = {"gauge": "fixed", "min_degree": 4, "q": ORDERS}
        found = ninscope.measure(adapter, base=base, **given)
        np.testing.assert_allclose(found.tau, ninscope.measure(merged, **given).tau, rtol=0, atol=1e-6)
        with pytest.raises(CheckpointError, match=r"gauge 'fixed' needs to know .* of lora that is not known"):
            ninscope.measure(adapter, **given)


def test_a_gain_of_what_is_written_scales_rows(tmp_path):
    """LayerScale of a timm ViT, on a matrix whose rows and columns differ in number."""
    random, width, hidden = np.random.default_rng(0), 8, 12
    shapes = {
        "attn.qkv.weight": (3 * width, width),
        "attn.proj.weight": (width, width),
        "mlp.fc1.weight": (hidden, width),
        "mlp.fc2.weight": (width, hidden),
    }
    tensors = {f"blocks.0.{name}": random.normal(0, 0.3, shape) for name, shape in shapes.items()}
    gains = {f"blocks.0.{name}": random.normal(1, 0.3, width) for name in ("norm1.weight", "norm2.weight", "ls1.gamma")}
    scale = random.normal(1, 0.3, width)
    tensors |= gains | {"blocks.0.ls2.gamma": scale, "patch_embed.proj.weight": random.normal(0, 0.3, (width, 3, 2, 2))}
    folder = write_checkpoint(tmp_path / "step0", tensors, {"architecture": "vit_tiny_patch16_224"})
    found = TestOfAPlainLlama.blocks(folder)["output.x"]
    assert np.sqrt((found**2).mean()) == pytest.approx(0.1, rel=1e-12)
    columns = found / (tensors["blocks.0.mlp.fc2.weight"] * scale[:, None])  # what balances units is of columns alone
    np.testing.assert_allclose(columns, np.broadcast_to(columns[0], columns.shape), rtol=1e-12)


class TestRefusals:
    def test_families_that_are_not_known(self):
        mamba = {"model_type": "mamba", "hidden_size": 24, "num_hidden_layers": 1, "state_size": 4}
        with pytest.raises(
            CheckpointError, match=r"of mamba that is not known \(but of apertus, .*whisper\); leave gauge out"
        ):
            architecture_of(mamba, reading=Reading(gauge="fixed"))

    def test_a_model_with_a_further_part(self):
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        bert = {"model_type": "bert", "position_embedding_type": "relative_key"} | sizes
        with pytest.raises(CheckpointError, match="this bert has a part beside those that are known"):
            architecture_of(bert, reading=Reading(gauge="fixed"))

    def test_a_value_that_is_none(self):
        with pytest.raises(RequestError, match="gauge is 'free'; one of stored, fixed was expected"):
            Reading(gauge="free")

    def test_unknown_and_described_models(self, tmp_path):
        (tmp_path / "step0").mkdir()
        save_file({"up.weight": np.ones((8, 8)), "down.weight": np.eye(8)}, tmp_path / "step0" / "model.safetensors")
        block = {"tensor": "up.weight", "source": "x", "target": "m"}
        for architecture, name in ((None, "generic"), ({"blocks": [block]}, "described")):
            with pytest.raises(CheckpointError, match=f"of {name} that is not known"):
                ninscope.measure(tmp_path / "step0", gauge="fixed", architecture=architecture)

    def test_keys_of_what_is_stored_stay(self):
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        config = {"model_type": "gpt_neox"} | sizes
        plain, fixed = architecture_of(config), architecture_of(config, reading=Reading(gauge="fixed"))
        assert plain.digest == architecture_of(config, reading=Reading(gauge="stored")).digest != fixed.digest
        assert "gauge" not in Reading().key
        assert "gauge" in Reading(gauge="fixed").key


def test_of_a_hub_every_matrix_is_fetched_twice(serve, tmp_path):
    folder = write_checkpoint(tmp_path / "main", neox_tensors(blocks=3, width=96, heads=2, seed=3, vocabulary=1))
    server = serve({"org/model": {"main": folder}})
    found, local = (ninscope.measure(source, gauge="fixed", q=ORDERS) for source in ("org/model", folder))
    assert (found.alpha0, found.width) == (local.alpha0, local.width)
    assert "unverified" not in found.message  # both passes fetched the same bytes, whose hash is known
    fetched = sum(r.range[1] - r.range[0] for r in server.requests if r.range and r.path.endswith(".safetensors"))
    source = open_source("org/model")
    network = neuron_network(source.open("main"), Reading(gauge="fixed"))
    assert network.preparation_bytes == network.weight_bytes == 3 * 12 * 96 * 96 * 2
    assert 0 <= fetched - 2 * network.weight_bytes < 20_000  # the header, gains and biases beside


class TestTheDemoSuite:
    """The figures of docs/method.md: what the rescalings make of E, in steps of 2, which round nothing."""

    @pytest.fixture
    def start(self):
        return {gauge: ninscope.measure(SUITE / "step0", gauge=gauge) for gauge in ("stored", "fixed")}

    @pytest.mark.parametrize(("factor", "parts", "stored"), [(0.5, "all", 1.975), (4.0, "gains", 0.465)])
    def test_rescalings(self, start, tmp_path, factor, parts, stored):
        checkpoint = open_source(SUITE / "step4000").open("step4000")
        tensors = load_file(SUITE / "step4000" / "model.safetensors")
        change = Rescaled(architecture_of(checkpoint.config, checkpoint.tensors), tensors, 0)
        change.factors = lambda count: np.full(count, factor)
        for gain in change.architecture.gauge.gains:
            change.gain(gain)
        for attention in change.architecture.gauge.attentions if parts == "all" else ():
            change.attention(attention)
        save_file(change.tensors, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_bytes((SUITE / "step4000" / "config.json").read_bytes())
        found = {gauge: ninscope.measure(tmp_path, gauge=gauge) for gauge in start}
        e = {gauge: ninscope.emergence(found[gauge], start[gauge], same_training=True) for gauge in start}
        assert round(e["stored"], 3) == stored
        assert round(e["fixed"], 3) == -0.391
