"""Weights under parametrizations, as torch stores them: what is read is what the module multiplies by, or refused by its name."""

import copy
import warnings
from dataclasses import replace

import numpy as np
import pytest
from suites import neox_config, write_config

import ninscope
from ninscope.architectures import Reading
from ninscope.architectures.described import description_of
from ninscope.checkpoints import effective_weights
from ninscope.checkpoints.reparametrised import effective_tensors
from ninscope.checkpoints.source import open_source
from ninscope.checkpoints.tensors import as_float
from ninscope.errors import CheckpointError
from ninscope.measuring import measured_network
from ninscope.networks.neuron_network import neuron_network
from ninscope.parameters import parameters_of_call

pytest.importorskip("torch")
import torch
from own_parametrizations import LowRank, Symmetric

old = torch.nn.utils
new = torch.nn.utils.parametrizations
parametrize = torch.nn.utils.parametrize
prune = __import__("torch.nn.utils.prune", fromlist=["prune"])

LINEAR, CONVOLUTION = (torch.nn.Linear, 24, 20), (torch.nn.Conv2d, 20, 16, 3)
TURNED, LONG = (torch.nn.ConvTranspose1d, 12, 16, 5), (torch.nn.Conv1d, 12, 16, 5)


def pruned(module):
    return prune.l1_unstructured(module, "weight", amount=0.3)


# What is done to a module, and to which.
COMPUTED = {
    "weight_norm": (lambda module: new.weight_norm(module), LINEAR),
    "weight_norm of columns": (lambda module: new.weight_norm(module, dim=1), LINEAR),
    "weight_norm of all": (lambda module: new.weight_norm(module, dim=None), LINEAR),
    "weight_norm of a convolution": (lambda module: new.weight_norm(module), CONVOLUTION),
    "weight_norm of taps": (lambda module: new.weight_norm(module, dim=2), LONG),
    "old weight_norm": (lambda module: old.weight_norm(module), LINEAR),
    "old weight_norm of taps": (lambda module: old.weight_norm(module, dim=2), LONG),
    "old weight_norm of all": (lambda module: old.weight_norm(module, dim=None), CONVOLUTION),
    "spectral_norm": (lambda module: new.spectral_norm(module), LINEAR),
    "spectral_norm of a convolution": (lambda module: new.spectral_norm(module), CONVOLUTION),
    "spectral_norm of a transposed convolution": (lambda module: new.spectral_norm(module), TURNED),
    "spectral_norm of as many channels": (lambda module: new.spectral_norm(module), (torch.nn.Conv2d, 16, 16, 3)),
    "spectral_norm of as many turned channels": (
        lambda module: new.spectral_norm(module),
        (torch.nn.ConvTranspose1d, 16, 16, 5),
    ),
    "old spectral_norm": (lambda module: old.spectral_norm(module), LINEAR),
    "old spectral_norm of a transposed convolution": (lambda module: old.spectral_norm(module), TURNED),
    "prune": (pruned, LINEAR),
}


SQUARE = (torch.nn.Linear, 20, 20)
UNKNOWN = {
    "orthogonal": (lambda module: new.orthogonal(module), LINEAR),
    "one's own": (lambda module: parametrize.register_parametrization(module, "weight", Symmetric()), SQUARE),
    "of two tensors": (lambda module: parametrize.register_parametrization(module, "weight", LowRank()), SQUARE),
    "two of them": (lambda module: new.spectral_norm(new.weight_norm(module)), LINEAR),
}


def made(change, build, dtype=torch.float32, seed=0):
    """A module with normal weights and a parametrization whose own tensors are not those it began with, in eval mode."""
    kind, *sizes = build
    torch.manual_seed(seed)
    module = kind(*sizes).to(dtype)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        module.weight.copy_(torch.randn_like(module.weight) * 0.1)
        module = change(module)
        for name, parameter in module.named_parameters():
            if name.endswith(("_g", "original0")) and parameter.numel() < 100:
                parameter.mul_(torch.rand_like(parameter) * 3 + 0.2)
    return module.eval()


def used(module):
    """The weight that the module multiplies by, as its old hooks set it when it is called."""
    channels = getattr(module, "in_channels", None)
    given = torch.zeros(1, 24) if channels is None else torch.zeros(1, channels, *[7] * (module.weight.dim() - 2))
    with torch.no_grad():
        module(given)
        return module.weight.detach().clone()


def stored(folder, modules, config=None):
    """A checkpoint of the modules' states, by their names."""
    from safetensors.torch import save_file

    state = {f"{at}.{name}": value for at, module in modules.items() for name, value in module.state_dict().items()}
    write_config(folder, config or {"model_type": "mine"})
    save_file({name: value.clone().contiguous() for name, value in state.items()}, folder / "model.safetensors")
    return folder


def opened(folder):
    return open_source(folder).open(folder.name)


def read(tensor) -> np.ndarray:
    values, _ = tensor.rows(np.arange(tensor.shape[0]))
    return as_float(values, tensor.dtype).reshape(tensor.shape)


@pytest.mark.parametrize("name", COMPUTED)
def test_the_weight_is_the_one_that_the_module_uses(tmp_path, name, monkeypatch):
    monkeypatch.setattr(effective_weights, "_BAND_BYTES", 500)
    module = made(*COMPUTED[name])
    tensors = effective_tensors(opened(stored(tmp_path / "step0", {"blocks.0.up": module})).tensors)
    assert set(tensors) == {"blocks.0.up.weight", "blocks.0.up.bias"}
    np.testing.assert_allclose(read(tensors["blocks.0.up.weight"]), used(module), rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("bfloat16", 2e-2), ("float64", 1e-12)])
def test_of_every_type(tmp_path, dtype, tolerance):
    module = made(*COMPUTED["weight_norm"], getattr(torch, dtype))
    tensors = effective_tensors(opened(stored(tmp_path / "step0", {"up": module})).tensors)
    assert tensors["up.weight"].dtype == {"float16": "F16", "bfloat16": "BF16", "float64": "F64"}[dtype]
    np.testing.assert_allclose(read(tensors["up.weight"]), module.weight.detach().double(), rtol=tolerance)


@pytest.mark.parametrize("sampling", [{}, {"nodes_per_layer": 100, "samples": 1}])
def test_measured_as_the_weights_are_that_the_model_uses(tmp_path, sampling):
    """Linear(32, 48) with gains from 0.1 to 10, and another layer behind it."""
    up = made(lambda module: module, (torch.nn.Linear, 32, 48))
    down = made(lambda module: module, (torch.nn.Linear, 48, 24), seed=1)
    normed = new.weight_norm(copy.deepcopy(up))
    with torch.no_grad():
        normed.parametrizations.weight.original0.mul_(torch.linspace(0.1, 10, 48)[:, None])
        up.weight.copy_(normed.weight)
    found = ninscope.measure(str(stored(tmp_path / "normed", {"0": normed, "1": down})), **sampling)
    expected = ninscope.measure(str(stored(tmp_path / "plain", {"0": up, "1": down})), **sampling)
    assert found.nodes == expected.nodes == 32 + 48 + 48 + 24
    assert found.edges == expected.edges
    assert found.alpha0 == pytest.approx(expected.alpha0, abs=1e-9)
    assert found.message == expected.message


class Elsewhere:
    """A file whose reads are not free, and what was asked of it."""

    reads_are_free = False

    def __init__(self, file, asked):
        self.file, self.asked, self.name, self.size = file, asked, file.name, file.size

    def read_ranges(self, ranges):
        self.asked.extend(ranges)
        return self.file.read_ranges(ranges)

    def start_ranges(self, ranges):
        return lambda: self.read_ranges(ranges)

    def spans(self, ranges):
        return list(ranges)


def elsewhere(checkpoint, asked):
    there = {name: replace(tensor, file=Elsewhere(tensor.file, asked)) for name, tensor in checkpoint.tensors.items()}
    return replace(checkpoint, tensors=there)


def test_rows_from_elsewhere_are_those_of_the_whole(tmp_path):
    """Of a weight_norm of rows no more is read than these rows and g."""
    checkpoint, asked = opened(stored(tmp_path / "step0", {"up": made(*COMPUTED["weight_norm"])})), []
    rows = np.array([0, 3, 19])
    values, place = effective_tensors(elsewhere(checkpoint, asked).tensors)["up.weight"].rows(rows)
    here, _ = effective_tensors(checkpoint.tensors)["up.weight"].rows(np.arange(20))
    np.testing.assert_array_equal(values[place], here[rows])
    assert sum(stop - start for start, stop in asked) <= 20 * 24 * 4 + 20 * 4


@pytest.mark.parametrize("name", ["weight_norm", "weight_norm of columns", "spectral_norm", "prune"])
@pytest.mark.parametrize("sampling", [{}, {"nodes_per_layer": 12, "samples": 2}])
def test_measured_from_elsewhere_as_here(tmp_path, name, sampling):
    checkpoint = opened(stored(tmp_path / "step0", {"up": made(*COMPUTED[name])}))
    parameters = parameters_of_call({"min_degree": 0} | sampling, None)
    there, here = (measured_network(neuron_network(one), parameters) for one in (elsewhere(checkpoint, []), checkpoint))
    assert there.edges == here.edges > 80
    assert there.alpha0 == here.alpha0


def test_one_tensor_of_two_gains_is_two_weights(tmp_path):
    """A .bin may hold v once for two modules."""
    g, v = torch.rand(2, 20, 1), torch.randn(20, 24)
    state = {"a.weight_g": g[0], "b.weight_g": g[1], "a.weight_v": v, "b.weight_v": v}
    write_config(tmp_path / "step0", {"model_type": "mine"})
    torch.save(state, tmp_path / "step0" / "pytorch_model.bin")
    tensors = effective_tensors(opened(tmp_path / "step0").tensors)
    for gains, name in zip(g, ("a.weight", "b.weight"), strict=True):
        np.testing.assert_allclose(read(tensors[name]), gains * v / v.norm(dim=1, keepdim=True), rtol=2e-6)


class TestRefused:
    @pytest.mark.parametrize("name", UNKNOWN)
    def test_by_name(self, tmp_path, name):
        module = made(*UNKNOWN[name])
        folder = stored(tmp_path / "step0", {"blocks.0.up": module, "blocks.0.down": torch.nn.Linear(20, 24)})
        match = r"^tensor blocks\.0\.up\.weight is reparametrised in a way that its file does not tell \(blocks\.0\.up\.param"
        described = {"blocks": [{"tensor": "blocks.{n}.up.weight", "source": "a{n}", "target": "b{n}"}]}
        for asked in ({}, {"architecture": described}):
            with pytest.raises(CheckpointError, match=match) as no:
                ninscope.measure(str(folder), **asked)
            assert no.value.status == "unsupported"
            assert str(no.value).endswith("remove_parametrizations) and save again")

    def test_of_a_module_in_memory_it_is_said_of_the_module(self):
        module = torch.nn.Sequential(made(*UNKNOWN["orthogonal"]))
        match = r"reparametrised in a way that the model's tensors do not tell \(.*\); remove .*, or measure a copy without it$"
        with pytest.raises(CheckpointError, match=match):
            ninscope.measure(module.state_dict())  # the module itself would be asked for its weight

    def test_where_it_is_not_used_it_is_no_fault(self, tmp_path):
        folder = stored(tmp_path / "step0", {"up": made(*UNKNOWN["orthogonal"]), "down": torch.nn.Linear(20, 24)})
        reading = Reading(
            description=description_of({"blocks": [{"tensor": "down.weight", "source": "a", "target": "b"}]})
        )
        assert list(neuron_network(opened(folder), reading).matrices) == ["down.weight"]

    def test_in_a_known_family(self, tmp_path):
        transformers = pytest.importorskip("transformers")
        config = neox_config(1, 16, 2)
        model = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**config))
        plain = stored(tmp_path / "plain", {"gpt_neox": model.gpt_neox}, config)
        mlp = model.gpt_neox.layers[0].mlp
        new.weight_norm(mlp.dense_h_to_4h)
        normed = stored(tmp_path / "normed", {"gpt_neox": model.gpt_neox}, config)
        kept = {"min_degree": 0, "max_distance": 1e4}
        assert ninscope.measure(str(normed), **kept).alpha0 == pytest.approx(
            ninscope.measure(str(plain), **kept).alpha0, abs=1e-6
        )
        new.orthogonal(mlp.dense_4h_to_h)
        refused = stored(tmp_path / "refused", {"gpt_neox": model.gpt_neox}, config)
        with pytest.raises(CheckpointError, match=r"dense_4h_to_h\.weight is reparametrised") as no:
            ninscope.measure(str(refused))
        assert no.value.status == "unsupported"

    def test_a_placeholder_is_named_in_a_known_family_too(self, tmp_path):
        """ZeRO-3 leaves large tensors empty and small ones whole."""
        from suites import neox_tensors, write_checkpoint

        tensors = neox_tensors(1, 16, 2, seed=1)
        name = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
        weight = tensors.pop(name)
        tensors |= {f"{name}_g": np.ones((len(weight), 1), weight.dtype), f"{name}_v": np.empty(0, weight.dtype)}
        with pytest.raises(CheckpointError, match=r"dense_h_to_4h\.weight_v has shape \[0\], a placeholder") as no:
            ninscope.measure(write_checkpoint(tmp_path / "step0", tensors, neox_config(1, 16, 2)))
        assert no.value.status == "corrupt"

    def test_an_axis_that_vectors_do_not_tell(self, tmp_path):
        """As old spectral_norm draws them, before the first forward pass in training."""
        module = made(lambda module: old.spectral_norm(module), (torch.nn.Conv2d, 16, 16, 3))
        folder = stored(tmp_path / "step0", {"up": module})
        match = r"tensor up\.weight_orig is under spectral_norm along an axis that its file does not tell"
        with pytest.raises(CheckpointError, match=match) as no:
            ninscope.measure(str(folder))
        assert no.value.status == "unsupported"


class TestNames:
    """What is called alike and is none."""

    def names(self, tmp_path, **shapes):
        from suites import write_checkpoint

        rng = np.random.default_rng(0)
        tensors = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
        return sorted(effective_tensors(opened(write_checkpoint(tmp_path / "step0", tensors, {})).tensors))

    @pytest.mark.parametrize(
        "shapes",
        [
            {"w_g": (8, 1), "w_v": (8, 6)},
            {"weight": (8, 6), "weight_g": (8, 1), "weight_v": (8, 6)},
            {"weight_g": (8,), "weight_v": (8,)},
            {"weight_u": (8, 6), "weight_v": (8, 6)},
        ],
        ids=str,
    )
    def test_stay_as_they_are(self, tmp_path, shapes):
        assert self.names(tmp_path, **shapes) == sorted(shapes)

    def test_a_weight_beside_what_it_is_computed_from_is_itself(self, tmp_path):
        """As spectral_norm stored it once."""
        assert self.names(tmp_path, weight=(8, 6), weight_orig=(8, 6), weight_u=(8,)) == ["weight"]

    @pytest.mark.parametrize(
        "shapes",
        [
            {"weight_g": (6, 1), "weight_v": (8, 6)},
            {"weight_orig": (8, 6), "weight_u": (8,)},
            {"weight_orig": (8, 6), "weight_u": (7,), "weight_v": (6,)},
            {"weight_orig": (8, 6), "weight_mask": (8, 1)},
            {"weight_orig": (8, 6)},
        ],
        ids=str,
    )
    def test_shapes_that_do_not_fit_are_refused(self, tmp_path, shapes):
        assert self.names(tmp_path, **shapes) == ["weight"]
        with pytest.raises(CheckpointError, match="tensor weight is reparametrised"):
            effective_tensors(opened(tmp_path / "step0").tensors)["weight"].check_readable()
