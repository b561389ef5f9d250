"""Whole checkpoints: against matrices cut out by hand, unchanged by what changes no function, 0 where nothing was learned."""

import json
import math
from pathlib import Path

import naive_interaction as naive
import numpy as np
import pytest
from installed import needed
from safetensors.numpy import load_file
from suites import NeoxTensors, neox_tensors, write_checkpoint, written

import ninscope
from ninscope.architectures import Reading
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError, RequestError
from ninscope.interaction.coupling import Exactness
from ninscope.interaction.of_checkpoint import checkpoint_interactions
from ninscope.interaction.whole import Interactions, Options

SHIPPED = Path(__file__).parents[2] / "data" / "stdlib-neox-500k"
BLOCKS, WIDTH, HEADS = 3, 16, 2
LAYER = "gpt_neox.layers.{}."
QKV, OUT = LAYER + "attention.query_key_value.weight", LAYER + "attention.dense.weight"
UP, DOWN = LAYER + "mlp.dense_h_to_4h.weight", LAYER + "mlp.dense_4h_to_h.weight"
NORMS = {"qkv": LAYER + "input_layernorm.weight", "up": LAYER + "post_attention_layernorm.weight"}


def found(folder: Path, **options) -> Interactions:
    source = open_source(folder)
    return checkpoint_interactions(source.open(source.revisions()[0]), Options(**options))


def of(tensors: NeoxTensors, folder: Path, dtype: str = "F64", **options):
    """Couplings by (writer, reader) of these weights in a file."""
    frame = found(written(folder, tensors, dtype)[0], **options).to_frame()
    return frame.set_index(["writer", "reader"])


@pytest.fixture
def model(rng) -> NeoxTensors:
    """Weights in float64 that are coupled, gains that differ."""
    tensors = neox_tensors(BLOCKS, WIDTH, HEADS, seed=1, dtype=np.float64)
    shared = rng.normal(size=(WIDTH, 2))
    for number in range(BLOCKS):
        for name in NORMS.values():
            tensors[name.format(number)] = rng.uniform(0.3, 2, WIDTH)
        for name in (QKV, UP):
            rows = len(tensors[name.format(number)])
            tensors[name.format(number)] += 0.3 * rng.normal(size=(rows, 2)) @ shared.T
        for name in (OUT, DOWN):
            columns = tensors[name.format(number)].shape[1]
            tensors[name.format(number)] += 0.3 * shared @ rng.normal(size=(2, columns))
    return tensors


def changed(tensors: NeoxTensors, **values) -> NeoxTensors:
    return NeoxTensors({**tensors, **values}, tensors.config)


def same(now, before, relative=1e-12):
    np.testing.assert_allclose(now["coupling"], before["coupling"], rtol=0, atol=relative)
    np.testing.assert_allclose(now["error"], before["error"], rtol=1e-9)


class TestNumbers:
    def test_every_pair_is_that_of_its_matrices(self, model, tmp_path, rng):
        frame = of(model, tmp_path / "m")
        matrices = naive.neox_matrices(model, BLOCKS, HEADS)
        pairs = naive.neox_pairs(matrices, BLOCKS, HEADS)
        assert len(frame) == len(pairs)
        turned = 2  # a quarter of the eight dimensions of a head
        for (kind, writer, reader), heads in pairs.items():
            row = frame.loc[naive.table_name(writer, BLOCKS), naive.table_name(reader, BLOCKS)]
            several = [
                naive.coupling(a, b, naive.drawn_permutations(len(a), 250, rng, turned * (kind == "qk")))
                for a, b in heads
            ]
            coupling, error = np.mean([one[0] for one in several]), np.mean([one[1] for one in several])
            assert row["coupling"] == pytest.approx(coupling, abs=6 * error / math.sqrt(250)), (writer, reader)
            assert row["error"] == pytest.approx(error / math.sqrt(len(heads)), rel=0.5)
            assert (row["kind"], row["heads"]) == (kind, len(heads))
            assert row["distance"] == int(reader[0]) - int(writer[0])

    @pytest.mark.parametrize(
        ("step", "mlp", "vo", "qk", "across"),
        [(0, 0.000, -0.002, 0.000, -0.001), (256, 0.728, 0.526, 0.157, 0.244), (4000, 0.454, 0.435, 0.096, 0.157)],
    )
    def test_the_shipped_suite(self, step, mlp, vo, qk, across):
        """A lead of the pilot: couplings rise while the loss falls. It left gains out: .00, .72, .46 of MLPs, and so on."""
        means = ninscope.interactions(SHIPPED, f"step{step}").groupby("kind")["coupling"].mean()
        assert means.to_dict() == pytest.approx({"mlp": mlp, "vo": vo, "qk": qk, "across": across}, abs=6e-4)

    def test_spikes_are_those_of_the_stored_matrix(self, model, tmp_path):
        model[UP.format(1)] += np.outer(np.ones(4 * WIDTH), np.arange(WIDTH)) * 0.1
        spikes = found(written(tmp_path / "m", model, "F64")[0]).spikes
        matrices = naive.neox_matrices(model, BLOCKS, HEADS, gains=False)
        assert spikes.keys() == {naive.table_name(name, BLOCKS) for name in matrices}
        for name, weights in matrices.items():
            spiky = spikes[naive.table_name(name, BLOCKS)]
            assert (spiky.count, spiky.share) == pytest.approx(naive.spikes(weights, spiky.bound), abs=1e-12)
        assert spikes["block1.a -> block1.m"].count >= 1
        assert not found(tmp_path / "m", spikes=False).spikes

    def test_estimates_are_as_exact_as_they_say(self, model, tmp_path):
        exact = of(model, tmp_path / "m")
        estimated = of(model, tmp_path / "m", exactness=Exactness(neurons=4, vectors=400))
        through = exact["kind"] == "across"
        assert (estimated.loc[through, "vectors"] == 400).all()
        assert (exact["vectors"] == 0).all()
        off = (estimated["coupling"] - exact["coupling"])[through] / estimated.loc[through, "estimate_error"]
        assert 0.3 < np.sqrt((off**2).mean()) < 2
        same(estimated[~through], exact[~through].assign(error=estimated.loc[~through, "error"]))

    @pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
    def test_weights_of_every_type(self, model, tmp_path, dtype):
        frame = of(model, tmp_path / "m", dtype)
        _, stored = written(tmp_path / "n", model, dtype)
        same(frame, of(NeoxTensors(stored, model.config), tmp_path / "w", "F64"), 1e-12)


class TestInvariance:
    """What leaves the function of the network as it was, or is size alone, changes no coupling."""

    def test_rescaled_matrices(self, model, tmp_path):
        before = of(model, tmp_path / "m")
        scales = {
            name.format(n): model[name.format(n)] * (1.7**n * 0.3) for n in range(BLOCKS) for name in (QKV, OUT, UP)
        }
        same(of(changed(model, **scales), tmp_path / "n"), before)

    def test_permuted_hidden_neurons(self, model, tmp_path, rng):
        order = rng.permutation(4 * WIDTH)
        values = {UP.format(1): model[UP.format(1)][order], DOWN.format(1): model[DOWN.format(1)][:, order]}
        same(of(changed(model, **values), tmp_path / "n"), of(model, tmp_path / "m"))

    def test_permuted_neurons_of_the_stream(self, model, tmp_path, rng):
        order = rng.permutation(WIDTH)
        values = {}
        for n in range(BLOCKS):
            values |= {name.format(n): model[name.format(n)][:, order] for name in (QKV, UP)}
            values |= {name.format(n): model[name.format(n)][order] for name in (OUT, DOWN, *NORMS.values())}
        same(of(changed(model, **values), tmp_path / "n"), of(model, tmp_path / "m"))

    def test_factors_of_a_head_between_q_and_k_and_between_v_and_o(self, model, tmp_path):
        qkv = model[QKV.format(1)].reshape(HEADS, 3, -1, WIDTH).copy()
        o = model[OUT.format(1)].copy()
        for head, (c, d) in enumerate([(0.25, 3.0), (4.0, 0.5)]):
            qkv[head, 0] *= c
            qkv[head, 1] /= c
            qkv[head, 2] *= d
            o[:, head * WIDTH // HEADS : (head + 1) * WIDTH // HEADS] /= d
        now = of(changed(model, **{QKV.format(1): qkv.reshape(-1, WIDTH), OUT.format(1): o}), tmp_path / "n")
        before = of(model, tmp_path / "m")
        inside = before["kind"] != "across"
        same(now[inside], before[inside])
        # Heads of q, k, v are rows of readers of the stream, and heads of o columns of a writer: there their weights count.
        assert not np.allclose(now["coupling"], before["coupling"], atol=1e-6)

    def test_gains_moved_into_what_reads_them(self, model, tmp_path):
        values = {}
        for n in range(BLOCKS):
            for matrix, norm in ((QKV, NORMS["qkv"]), (UP, NORMS["up"])):
                values[matrix.format(n)] = model[matrix.format(n)] * model[norm.format(n)]
                values[norm.format(n)] = np.ones(WIDTH)
        before = of(model, tmp_path / "m")
        same(of(changed(model, **values), tmp_path / "n"), before)
        left_out = changed(model, **{name: value for name, value in values.items() if "norm" in name})
        assert not np.allclose(of(left_out, tmp_path / "o")["coupling"], before["coupling"], atol=1e-3)

    @pytest.mark.parametrize("reading", [Reading(), Reading(wiring="parallel")])
    def test_the_wiring_that_is_measured(self, model, tmp_path, reading):
        source = open_source(written(tmp_path / "m", model, "F64")[0])
        interactions = checkpoint_interactions(source.open(source.revisions()[0]), Options(), reading)
        np.testing.assert_array_equal(interactions.to_frame()["coupling"], of(model, tmp_path / "m")["coupling"])

    def test_what_is_written_to_all_neurons_alike(self, model, tmp_path, rng):
        """LayerNorm takes it off again, so no reader sees it."""
        moved = model[DOWN.format(0)] + rng.normal(size=4 * WIDTH)
        now, before = of(changed(model, **{DOWN.format(0): moved}), tmp_path / "n"), of(model, tmp_path / "m")
        through = before["kind"] == "across"
        same(now[through], before[through])
        assert (np.abs(now["coupling"] - before["coupling"])[~through] > 1e-3).any()  # of the block's own MLP


def at_initialisation(name: str, folder: Path) -> Path:
    """A model of a real library, as it comes before training."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from family_models import CASES, saved

    torch.manual_seed(0)
    case = CASES[name]
    model = getattr(transformers, case.model)(getattr(transformers, case.config)(**case.sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any() and parameter.ndim > 1:  # some libraries leave weights at zero
                parameter.normal_(0, 0.02)
    return saved(model, name, folder / "step0")


FAMILIES = (
    "gpt2",
    "qwen3",
    "gemma2",
    "phi3",
    "mixtral-fused",
    "opt",
    "bert",
    "t5",
    "deepseek_v3",
    "resnet-basic",
    "swin",
)
MORE = (
    "llama", "olmo", "olmo2", "smollm3", "apertus", "gemma3_text", "gemma4_text", "qwen2_moe", "gpt_oss", "llama4_text",
    "granitemoe", "olmoe", "opt-350m", "distilbert", "t5-gated", "whisper", "clip", "mamba", "mamba2", "falcon_h1", "rwkv",
    "vit", "resnet-bottleneck",
)  # fmt: skip


@pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_no_family_is_coupled_before_training(name, tmp_path):
    """Within its error; of hundreds of pairs the largest of which are some four errors off."""
    frame = found(at_initialisation(name, tmp_path), spikes=False).to_frame()
    off = frame["coupling"] / frame["error"]
    assert len(frame) > 3
    assert not frame["message"].any()
    assert np.abs(off).max() < 5
    assert abs(off.mean()) < 5 / math.sqrt(len(frame)) + 0.2
    assert np.sqrt((off**2).mean()) < 1.6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpm", "stable-diffusion"])
def test_convolutions_are_coupled_tap_by_tap(name, tmp_path):
    pytest.importorskip("torch")
    needed("diffusers")
    from diffusion_models import RealModel

    interactions = found(RealModel(name, tmp_path / "step0").folder, spikes=False)
    frame = interactions.to_frame()
    assert {"vo", "convolution", "across"} <= set(frame["kind"])
    assert np.abs(frame["coupling"] / frame["error"]).max() < 6
    assert "not known of this family" in interactions.note


class TestBadInput:
    def test_a_matrix_of_zeros(self, model, tmp_path):
        frame = of(changed(model, **{DOWN.format(0): model[DOWN.format(0)] * 0}), tmp_path / "m")
        writes = frame.index.get_level_values("writer") == "block0.m -> block1.x"
        reads = frame.index.get_level_values("reader") == "block0.m -> block1.x"
        assert writes.sum() == 2 * 4
        assert (frame["message"] == "a matrix is zero").to_numpy().tolist() == (writes | reads).tolist()
        assert frame["coupling"].isna().to_numpy().tolist() == (writes | reads).tolist()
        spikes = found(tmp_path / "m").spikes["block0.m -> block1.x"]
        assert (spikes.count, spikes.message) == (0, "a matrix of zeros has no spikes")

    def test_a_head_of_zeros(self, model, tmp_path):
        qkv = model[QKV.format(0)].reshape(HEADS, 3, -1, WIDTH).copy()
        qkv[0, 0] = 0
        frame = of(changed(model, **{QKV.format(0): qkv.reshape(-1, WIDTH)}), tmp_path / "m")
        row = frame[frame["kind"] == "qk"].iloc[0]
        assert row["heads"] == 1
        assert row["message"] == "1 of 2 heads are left out: a matrix is zero there"
        assert math.isfinite(row["coupling"])

    def test_one_block(self, tmp_path):
        interactions = found(written(tmp_path / "m", neox_tensors(1, 16, 2, seed=0), "F16")[0])
        assert sorted(interactions.to_frame()["kind"]) == ["mlp", "qk", "vo"]
        assert interactions.note == ""

    @pytest.mark.parametrize("name", [UP.format(1), NORMS["up"].format(1)])
    def test_nan_is_refused(self, model, tmp_path, name):
        broken = model[name].copy()
        broken.flat[3] = np.nan
        with pytest.raises(CheckpointError, match=f"{name} holds NaN or infinity") as error:
            found(written(tmp_path / "m", changed(model, **{name: broken}), "F32")[0])
        assert error.value.status == "nonfinite"

    def test_a_gain_that_is_absent(self, model, tmp_path):
        name = NORMS["qkv"].format(2)
        tensors = NeoxTensors({key: value for key, value in model.items() if key != name}, model.config)
        with pytest.raises(CheckpointError, match=f"tensor {name} is absent, though config.json") as error:
            found(write_checkpoint(tmp_path / "m", tensors))
        assert error.value.status == "corrupt"

    def test_a_gain_of_another_length(self, model, tmp_path):
        values = {NORMS["up"].format(0): np.ones(WIDTH + 1)}
        with pytest.raises(CheckpointError, match="a gain of 17 numbers belongs to it, where 16 were expected"):
            found(write_checkpoint(tmp_path / "m", changed(model, **values)))

    def test_a_gain_that_is_no_vector_of_floats(self, model, tmp_path):
        values = {NORMS["up"].format(0): np.ones(WIDTH, np.int64)}
        with pytest.raises(CheckpointError, match="a vector of floats was expected"):
            found(write_checkpoint(tmp_path / "m", changed(model, **values)))

    def test_of_an_unknown_model_no_pair_is_known(self, model, tmp_path):
        folder = write_checkpoint(tmp_path / "m", model, {"model_type": "mine"})
        frame = ninscope.interactions(folder)
        assert frame.empty
        for said in ("heads and gains of normalisations are not known of this family", "no pair of matrices is known"):
            assert said in frame.attrs["note"]
        assert found(folder).spikes

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"vectors": 3}, "vectors is 3; an integer from 4"),
            ({"exact": 0}, "exact is 0; an integer from 1"),
            ({"seed": True}, "seed is True"),
        ],
    )
    def test_options_that_make_no_sense(self, options, said):
        with pytest.raises(RequestError, match=said):
            ninscope.interactions(SHIPPED, "step0", **options)

    def test_a_revision_must_be_named(self):
        with pytest.raises(RequestError, match="has 14 revisions"):
            ninscope.interactions(SHIPPED)


@pytest.mark.slow
def test_an_adapter_is_merged_with_its_base(tmp_path):
    needed("peft")
    from lora_adapters import written as adapted

    adapter, base, merged = adapted(tmp_path, "llama", r=2, target_modules=["q_proj", "down_proj"])
    frames = [ninscope.interactions(adapter, base=str(base)), ninscope.interactions(merged)]
    np.testing.assert_allclose(frames[0]["coupling"], frames[1]["coupling"], atol=1e-6)
    assert not np.allclose(frames[1]["coupling"], ninscope.interactions(base)["coupling"], atol=1e-3)


def test_the_shipped_configuration_is_parallel():
    """Or the numbers above would be of another model."""
    assert json.loads((SHIPPED / "step0" / "config.json").read_text())["use_parallel_residual"] is True
    assert "gpt_neox.layers.0.input_layernorm.weight" in load_file(SHIPPED / "step0" / "model.safetensors")
