"""ConvGRU: shapes, the gated unit against plain loops, what is saved and read back, and what is refused."""

import json
import math

import numpy as np
import pytest

from ninscope.errors import RequestError

torch = pytest.importorskip("torch", reason="torch is not installed")
from safetensors.torch import load_file, save_file  # noqa: E402

from ninscope.neurons.convgru import ConvGRU, ConvGRUConfig, ConvGRULayer, parameter_count  # noqa: E402

SMALL = {
    "height": 12,
    "width": 8,
    "input_frames": 3,
    "output_frames": 4,
    "convolution_channels": (4, 6),
    "convolution_kernels": (3, 3),
    "strides": (1, 2),
    "paddings": (1, 1),
    "hidden_channels": (5, 7),
    "input_kernels": (3, 1),
    "recurrent_kernels": (5, 3),
    "upsampling_kernels": (3, 4),
}


@pytest.fixture
def model() -> ConvGRU:
    torch.manual_seed(3)
    return ConvGRU(ConvGRUConfig(**SMALL))


# --- forward ------------------------------------------------------------------------------------------------
def test_forecast_has_the_configured_shape(model):
    assert model(torch.rand(2, 3, 12, 8)).shape == (2, 4, 12, 8)


def test_the_defaults_are_the_published_sizes():
    """Levels of 24x24, 8x8 and 4x4 of a 120x120 frame; weights and biases counted by hand from the published settings."""
    torch.manual_seed(0)
    model, seen = ConvGRU(ConvGRUConfig(output_frames=1)), {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda module, given, output, name=name: seen.update({name: tuple(output.shape)}))
    with torch.no_grad():
        assert model(torch.rand(1, 5, 120, 120)).shape == (1, 1, 120, 120)
    assert seen["recurrent.0"] == (1, 64, 5, 24, 24)
    assert seen["recurrent.1"] == (1, 192, 5, 8, 8)
    assert seen["recurrent.2"] == (1, 192, 5, 4, 4)
    assert seen["recurrent.3"] == (1, 192, 1, 4, 4)
    assert seen["recurrent.5"] == (1, 64, 1, 24, 24)
    assert seen["up.0"] == (1, 8, 120, 120)
    down = (8 * 49 + 8) + (192 * 64 * 25 + 192) + (192 * 192 * 9 + 192)
    up = (64 * 8 * 49 + 8) + (192 * 192 * 25 + 192) + (192 * 192 * 16 + 192)
    state = (3 * 64 * 64 * 25 + 192) + (3 * 192 * 192 * 25 + 576) + (3 * 192 * 192 * 9 + 576)
    inputs = (192 * 8 * 9 + 192) + 2 * (576 * 192 * 9 + 576) + (192 * 192 * 9 + 192) + (576 * 192 * 9 + 576)
    assert parameter_count(ConvGRUConfig()) == down + up + 2 * state + inputs + (8 * 8 * 9 + 8) + (8 + 1)


def test_a_gradient_reaches_every_weight(model):
    (model(torch.rand(2, 3, 12, 8)) ** 2).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_later_inputs_do_not_change_earlier_hidden_states(model):
    inputs = torch.rand(1, 4, 3, 12, 8)
    changed = inputs.clone()
    changed[:, :, 2] += 1
    states = [model.recurrent[0](of, None, 3) for of in (inputs, changed)]
    assert torch.equal(states[0][:, :, :2], states[1][:, :, :2])
    assert not torch.equal(states[0][:, :, 2], states[1][:, :, 2])


def test_forecasts_of_a_batch_are_those_of_its_examples(model):
    frames = torch.rand(3, 3, 12, 8)
    alone = torch.cat([model(frames[number : number + 1]) for number in range(3)])
    torch.testing.assert_close(model(frames), alone)


def test_what_is_read_of_a_layer_is_its_output_alone(model):
    """A hook that changes what a layer returns changes the forecast, of every recurrent layer."""
    frames = torch.rand(1, 3, 12, 8)
    plain = model(frames)
    assert len(model.recurrent) == 4
    for layer in model.recurrent:
        handle = layer.register_forward_hook(lambda module, given, output: output * 0.5)
        assert not torch.allclose(model(frames), plain)
        handle.remove()
    assert torch.equal(model(frames), plain)


def test_frames_of_another_shape_are_refused(model):
    with pytest.raises(RequestError, match=r"frames have shape \[2, 3, 8, 12\]; \[batch, 3, 12, 8\] was expected"):
        model(torch.rand(2, 3, 8, 12))


# --- the gated unit -----------------------------------------------------------------------------------------
def convolved(image: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Same-size correlation with zeros around, by its definition: [in, h, w], [out, in, k, k] -> [out, h, w]."""
    reach = weight.shape[2] // 2
    _, height, width = image.shape
    found = np.zeros((len(weight), height, width))
    for out, row, column in np.ndindex(found.shape):
        total = bias[out]
        for source, down, right in np.ndindex(weight.shape[1:]):
            y, x = row + down - reach, column + right - reach
            if 0 <= y < height and 0 <= x < width:
                total += weight[out, source, down, right] * image[source, y, x]
        found[out, row, column] = total
    return found


def sigmoid(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-value))


def naive_states(layer: ConvGRULayer, inputs: np.ndarray | None, state: np.ndarray, steps: int) -> np.ndarray:
    """Equation 3 of Shi et al. (2017), gate by gate, in float64, of one example."""
    n = layer.hidden
    weights = {key: tensor.double().numpy() for key, tensor in layer.state_dict().items()}
    states = []
    for step in range(steps):
        of_state, of_input = {}, {}
        for number, gate in enumerate("ruc"):
            rows = slice(number * n, (number + 1) * n)
            of_state[gate] = convolved(
                state, weights["hidden_to_hidden.weight"][rows], weights["hidden_to_hidden.bias"][rows]
            )
            of_input[gate] = (
                np.zeros_like(state)
                if inputs is None
                else convolved(
                    inputs[:, step], weights["input_to_hidden.weight"][rows], weights["input_to_hidden.bias"][rows]
                )
            )
        reset, update = (sigmoid(of_input[gate] + of_state[gate]) for gate in "ru")
        candidate = of_input["c"] + reset * of_state["c"]
        candidate = np.where(candidate > 0, candidate, 0.2 * candidate)
        state = (1 - update) * candidate + update * state
        states.append(state)
    return np.stack(states)


@pytest.mark.parametrize(("channels", "given_state"), [(2, False), (2, True), (None, True)])
def test_the_gated_unit_is_its_equation(rng, channels, given_state):
    torch.manual_seed(1)
    layer = ConvGRULayer(channels, 3, 3, 5, 0.2)
    inputs = None if channels is None else rng.standard_normal((2, channels, 3, 4, 5))
    state = rng.standard_normal((2, 3, 4, 5)) if given_state else np.zeros((2, 3, 4, 5))
    with torch.no_grad():
        found = layer.double()(
            None if inputs is None else torch.from_numpy(inputs),
            torch.from_numpy(state) if given_state else None,
            3,
        )
    for example in range(2):
        expected = naive_states(layer, None if inputs is None else inputs[example], state[example], 3)
        np.testing.assert_allclose(found[example].transpose(0, 1).numpy(), expected, rtol=1e-12, atol=1e-14)


# --- files --------------------------------------------------------------------------------------------------
class TestFiles:
    @pytest.fixture
    def folder(self, model, tmp_path):
        model.save_pretrained(tmp_path / "step0")
        return tmp_path / "step0"

    def test_read_back_bit_for_bit(self, model, folder):
        again = ConvGRU.from_pretrained(folder)
        assert again.config == model.config
        assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
        for (name, old), (other, new) in zip(model.named_parameters(), again.named_parameters(), strict=True):
            assert name == other
            assert new.requires_grad
            assert torch.equal(old, new)
        frames = torch.rand(1, 3, 12, 8)
        assert torch.equal(model(frames), again(frames))

    def test_written_again_the_bytes_are_the_same(self, folder, tmp_path):
        ConvGRU.from_pretrained(folder).save_pretrained(tmp_path / "again")
        for name in ("config.json", "model.safetensors"):
            assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()

    def test_a_given_state_is_written_instead_of_the_models_own(self, model, tmp_path):
        state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
        model.save_pretrained(tmp_path, state_dict=state)
        again = ConvGRU.from_pretrained(tmp_path).state_dict()
        assert again.keys() == state.keys()
        assert all(torch.equal(again[name], state[name]) for name in state)

    def test_half_precision_is_read_as_float32(self, model, tmp_path):
        model.half().save_pretrained(tmp_path)
        again = ConvGRU.from_pretrained(tmp_path)
        for old, new in zip(model.parameters(), again.parameters(), strict=True):
            assert new.dtype == torch.float32
            assert torch.equal(old.float(), new)

    def test_from_tensors_copies(self, model, folder):
        tensors = load_file(folder / "model.safetensors")
        made = ConvGRU.from_tensors(json.loads((folder / "config.json").read_text()), tensors, "base")
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.zero_()
        assert all(tensor.abs().max() > 0 for tensor in tensors.values())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.pop("output.bias"), "step0/model.safetensors: tensor output.bias is absent"),
            (lambda t: t.update({"output.bias": torch.zeros(2)}), r"output.bias has shape \[2\], the .* implies \[1\]"),
            (lambda t: t.update({"up.2.x": torch.zeros(2)}), r"tensor up.2.x is there, though"),
            (lambda t: t["final.weight"].fill_(math.nan), "tensor final.weight holds numbers that are not finite"),
        ],
    )
    def test_wrong_tensors_are_named(self, folder, change, message):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(RequestError, match=message):
            ConvGRU.from_pretrained(folder)

    @pytest.mark.parametrize("size", [0, 5, 200, -1])
    def test_a_file_that_is_cut_short(self, folder, size):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(RequestError, match=r"step0/model.safetensors: cannot be read"):
            ConvGRU.from_pretrained(folder)

    def test_files_that_are_absent(self, folder):
        (folder / "model.safetensors").unlink()
        with pytest.raises(RequestError, match=r"step0/model.safetensors: cannot be read"):
            ConvGRU.from_pretrained(folder)
        (folder / "config.json").unlink()
        with pytest.raises(RequestError, match=r"step0/config.json: cannot be read"):
            ConvGRU.from_pretrained(folder)

    @pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, " " * 1_000_001])
    def test_a_config_that_is_none(self, folder, text):
        (folder / "config.json").write_text(text)
        with pytest.raises(RequestError, match=r"step0/config.json: (is not JSON|a JSON object)"):
            ConvGRU.from_pretrained(folder)

    def test_a_large_model_is_refused_before_it_is_allocated(self, folder):
        """65,536 channels would take more than 3 TB."""
        config = json.loads((folder / "config.json").read_text()) | {"hidden_channels": [65_536, 65_536]}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(
            RequestError, match=r"tensor down.1.weight has shape \[6, 5, 3, 3\], .* implies \[6, 65536, 3, 3\]"
        ):
            ConvGRU.from_pretrained(folder)


# --- configurations -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "height is 0; an integer from 1 to 8192 was expected"),
        ({"output_frames": 2.0}, r"output_frames is 2.0; an integer"),
        ({"input_frames": True}, "input_frames is True; an integer"),
        ({"hidden_channels": (5,)}, "hidden_channels has 1 entries and convolution_channels 2"),
        ({"hidden_channels": (5, 10**9)}, "hidden_channels is 1000000000; an integer from 1 to 65536"),
        ({"strides": ()}, r"strides is \(\); 1 to 8 integers were expected"),
        ({"strides": "ab"}, "strides is 'ab'; 1 to 8 integers"),
        ({"recurrent_kernels": (5, 4)}, r"recurrent_kernels \[5, 4\]; kernels that keep the size are odd"),
        ({"upsampling_kernels": (3, 3)}, "level 1 turns 12 pixels into 6 and those into 11"),
        ({"strides": (2, 2)}, "level 0 turns 12 pixels into 6 and those into 11"),
        ({"negative_slope": math.nan}, "negative_slope is nan; a number from 0 to 1"),
    ],
)
def test_sizes_that_make_no_sense(change, message):
    with pytest.raises(RequestError, match=message):
        ConvGRUConfig(**SMALL | change)


def test_a_config_comes_back_from_its_dict():
    config = ConvGRUConfig(**SMALL)
    stored = json.loads(json.dumps(config.to_dict()))
    assert stored["model_type"] == "convgru"
    assert ConvGRUConfig.from_dict(stored) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "swin"}, "base: model_type is 'swin'; convgru was expected"),
        ({"groups": 2}, "base: unknown key 'groups'; a ConvGRU's keys are convolution_channels"),
        ({"strides": None}, "strides is None"),
    ],
)
def test_a_dict_that_is_none_of_a_convgru(change, message):
    with pytest.raises(RequestError, match=message):
        ConvGRUConfig.from_dict(ConvGRUConfig(**SMALL).to_dict() | change, "base")


def test_a_dict_without_a_key():
    config = ConvGRUConfig(**SMALL).to_dict()
    del config["width"]
    with pytest.raises(RequestError, match="base: key 'width' is absent"):
        ConvGRUConfig.from_dict(config, "base")
