"""ConvGRU: the encoder-forecaster of Shi et al., "Deep Learning for Precipitation Nowcasting: A Benchmark and A New Model"
(NIPS 2017), which the MEmeL paper fine-tunes on HKO-7.

Every level of the encoder is a strided convolution and a recurrent layer; its last hidden state is where the recurrent layer of
the same level of the forecaster starts. The forecaster runs from the coarsest level, which reads nothing but its state, to the
finest; a transposed convolution leads from each level to the next. Two convolutions make frames of what the finest level gives.

The defaults are those authors' ConvGRU (their published settings convgru_55_55_33_1_64_1_192_1_192): recurrent kernels of
5, 5 and 3 and 64, 192 and 192 hidden channels, behind convolutions with strides 5, 3 and 2. Their frames are of 480x480
pixels; here they are of 120x120, as in MEmeL (appendix F.1). Unlike theirs, there is no mask among the inputs.

Weights are initialised as PyTorch does it for every layer.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ninscope.errors import RequestError

MODEL_TYPE = "convgru"
CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"
MAX_CONFIG_BYTES = 1_000_000
MAX_LEVELS, MAX_CHANNELS, MAX_KERNEL, MAX_FRAMES, MAX_SIDE = 8, 65_536, 63, 1_000, 8_192
MAX_STRIDE = MAX_KERNEL
FINAL_KERNEL = 3


@dataclass(frozen=True, kw_only=True)
class ConvGRUConfig:
    """Sizes of a ConvGRU. Tuples have an entry a level, the finest first.

    height, width: of a frame, in pixels; input_frames, output_frames: of a sequence. convolution_channels, convolution_kernels,
    strides, paddings: of the convolution that leads down to a level. hidden_channels: of its recurrent layers; input_kernels,
    recurrent_kernels: of their convolutions of the input and of the hidden state, odd. upsampling_kernels: of the transposed
    convolution that leads up from a level, which has the stride and padding of the one down and must undo what that does to the
    size. negative_slope: of the leaky rectifier.

    Raises RequestError: a number out of range, tuples of different lengths, levels that do not come back to the frame's size.
    """

    height: int = 120
    width: int = 120
    input_frames: int = 5
    output_frames: int = 20
    convolution_channels: tuple[int, ...] = (8, 192, 192)
    convolution_kernels: tuple[int, ...] = (7, 5, 3)
    strides: tuple[int, ...] = (5, 3, 2)
    paddings: tuple[int, ...] = (1, 1, 1)
    hidden_channels: tuple[int, ...] = (64, 192, 192)
    input_kernels: tuple[int, ...] = (3, 3, 3)
    recurrent_kernels: tuple[int, ...] = (5, 5, 3)
    upsampling_kernels: tuple[int, ...] = (7, 5, 4)
    negative_slope: float = 0.2

    def __post_init__(self) -> None:
        for name, limit in (("height", MAX_SIDE), ("width", MAX_SIDE), ("input_frames", MAX_FRAMES)):
            _check_integer(name, getattr(self, name), 1, limit)
        _check_integer("output_frames", self.output_frames, 1, MAX_FRAMES)
        for name, (least, limit) in _LEVEL_LIMITS.items():
            self._check_levels(name, least, limit)
        for name in ("input_kernels", "recurrent_kernels"):
            if not all(kernel % 2 for kernel in getattr(self, name)):
                raise RequestError(f"ConvGRU: {name} {list(getattr(self, name))}; kernels that keep the size are odd")
        slope = self.negative_slope
        if type(slope) not in (int, float) or not 0 <= slope <= 1:
            raise RequestError(f"ConvGRU: negative_slope is {slope!r}; a number from 0 to 1 was expected")
        for side in (self.height, self.width):
            self._check_side(side)

    def _check_levels(self, name: str, least: int, limit: int) -> None:
        values = getattr(self, name)
        if not isinstance(values, list | tuple) or not 1 <= len(values) <= MAX_LEVELS:
            raise RequestError(f"ConvGRU: {name} is {values!r}; 1 to {MAX_LEVELS} integers were expected, one a level")
        for value in values:
            _check_integer(name, value, least, limit)
        object.__setattr__(self, name, tuple(values))
        if len(values) != len(self.convolution_channels):
            raise RequestError(
                f"ConvGRU: {name} has {len(values)} entries and convolution_channels {len(self.convolution_channels)}; "
                "one a level was expected of each"
            )

    def _check_side(self, side: int) -> None:
        """Raises RequestError: a level that does not come back to its size on the way down and up."""
        for level in range(self.levels):
            stride, padding = self.strides[level], self.paddings[level]
            down = (side + 2 * padding - self.convolution_kernels[level]) // stride + 1
            up = (down - 1) * stride - 2 * padding + self.upsampling_kernels[level]
            if down < 1 or up != side:
                raise RequestError(
                    f"ConvGRU: level {level} turns {side} pixels into {down} and those into {up}; choose kernels, strides and "
                    "paddings that come back to the same size"
                )
            side = down

    @property
    def levels(self) -> int:
        return len(self.convolution_channels)

    def to_dict(self) -> dict:
        """As config.json holds it."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {"model_type": MODEL_TYPE} | plain

    @classmethod
    def from_dict(cls, config: Mapping, name: str = CONFIG_NAME) -> "ConvGRUConfig":
        """name: for messages. Raises RequestError: another model_type, a key that is unknown or absent, a number out of range."""
        if config.get("model_type") != MODEL_TYPE:
            raise RequestError(f"{name}: model_type is {config.get('model_type')!r}; {MODEL_TYPE} was expected")
        known = {field.name for field in fields(cls)}
        given = set(config) - {"model_type"}
        if given != known:
            unknown, absent = sorted(given - known), sorted(known - given)
            problem = f"unknown key {unknown[0]!r}" if unknown else f"key {absent[0]!r} is absent"
            raise RequestError(f"{name}: {problem}; a ConvGRU's keys are {', '.join(sorted(known))}")
        return cls(**{key: config[key] for key in known})


_LEVEL_LIMITS = {
    "convolution_channels": (1, MAX_CHANNELS),
    "convolution_kernels": (1, MAX_KERNEL),
    "strides": (1, MAX_STRIDE),
    "paddings": (0, MAX_KERNEL),
    "hidden_channels": (1, MAX_CHANNELS),
    "input_kernels": (1, MAX_KERNEL),
    "recurrent_kernels": (1, MAX_KERNEL),
    "upsampling_kernels": (1, MAX_KERNEL),
}


def _check_integer(name: str, value: object, least: int, limit: int) -> None:
    if type(value) is not int or not least <= value <= limit:
        raise RequestError(f"ConvGRU: {name} is {value!r}; an integer from {least} to {limit} was expected")


class ConvGRULayer(nn.Module):
    """Gated recurrent units whose matrices are convolutions (Shi et al., 2017, equation 3, f a leaky rectifier):

        r_t = sigmoid(W_r * x_t + R_r * h_{t-1} + b),    u_t = sigmoid(W_u * x_t + R_u * h_{t-1} + b)
        c_t = f(W_c * x_t + b + r_t (R_c * h_{t-1} + b)),    h_t = u_t h_{t-1} + (1 - u_t) c_t

    input_to_hidden holds W_r, W_u and W_c one after the other along its output channels, hidden_to_hidden R_r, R_u and R_c.
    channels: of x; None for a layer without an input, whose W are then absent.
    """

    def __init__(
        self, channels: int | None, hidden: int, input_kernel: int, recurrent_kernel: int, negative_slope: float
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.input_to_hidden = (
            None if channels is None else nn.Conv2d(channels, 3 * hidden, input_kernel, padding=input_kernel // 2)
        )
        self.hidden_to_hidden = nn.Conv2d(hidden, 3 * hidden, recurrent_kernel, padding=recurrent_kernel // 2)
        self.activation = nn.LeakyReLU(negative_slope)

    def forward(self, inputs: torch.Tensor | None, state: torch.Tensor | None, steps: int) -> torch.Tensor:
        """Hidden states of all steps, [batch, hidden, steps, height, width]; the last of them is the layer's final state.

        inputs: [batch, channels, steps, height, width], or None for a layer without an input. state: [batch, hidden, height,
        width], or None for zeros. Raises ValueError: neither is given.
        """
        from_inputs = None
        if inputs is not None and self.input_to_hidden is not None:
            from_inputs = _on_every_frame(self.input_to_hidden, inputs)
            if state is None:
                state = from_inputs.new_zeros(len(inputs), self.hidden, *inputs.shape[-2:])
        if state is None:
            raise ValueError("a ConvGRU layer without an input needs a state to start from")
        states = []
        for step in range(steps):
            state = self._next(None if from_inputs is None else from_inputs[:, :, step], state)
            states.append(state)
        return torch.stack(states, dim=2)

    def _next(self, from_input: torch.Tensor | None, state: torch.Tensor) -> torch.Tensor:
        reset, update, candidate = self.hidden_to_hidden(state).chunk(3, dim=1)
        if from_input is None:
            candidate = torch.sigmoid(reset) * candidate
        else:
            input_reset, input_update, input_candidate = from_input.chunk(3, dim=1)
            update = input_update + update
            candidate = input_candidate + torch.sigmoid(input_reset + reset) * candidate
        update = torch.sigmoid(update)
        return update * state + (1 - update) * self.activation(candidate)


class ConvGRU(nn.Module):
    """The encoder-forecaster. down and up hold one convolution per level, the finest first. recurrent holds all recurrent layers
    in the order in which they run: those of the encoder from the finest level to the coarsest, then those of the forecaster back.

    A recurrent layer returns its hidden states of all steps; nothing else of it is read.
    """

    def __init__(self, config: ConvGRUConfig) -> None:
        super().__init__()
        self.config = config
        channels, hidden, levels = config.convolution_channels, config.hidden_channels, range(config.levels)
        shapes = list(zip(config.strides, config.paddings, strict=True))
        self.down = nn.ModuleList(
            nn.Conv2d(
                hidden[level - 1] if level else 1, channels[level], config.convolution_kernels[level], *shapes[level]
            )
            for level in levels
        )
        forecaster = [_recurrent(config, level, (*channels[1:], None)[level]) for level in levels]
        self.recurrent = nn.ModuleList(_recurrent(config, level, channels[level]) for level in levels)
        self.recurrent.extend(reversed(forecaster))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(hidden[level], channels[level], config.upsampling_kernels[level], *shapes[level])
            for level in levels
        )
        self.final = nn.Conv2d(channels[0], channels[0], FINAL_KERNEL, padding=FINAL_KERNEL // 2)
        self.output = nn.Conv2d(channels[0], 1, 1)
        self.activation = nn.LeakyReLU(config.negative_slope)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames that are forecast, [batch, output_frames, height, width], from frames seen, [batch, input_frames, height, width].

        Both are in units of the full scale: a pixel of 255 is 1. Nothing keeps the forecast within 0 and 1.
        Raises RequestError: frames of another shape than the configuration's.
        """
        expected = (self.config.input_frames, self.config.height, self.config.width)
        if frames.ndim != 4 or tuple(frames.shape[1:]) != expected:
            sizes = ", ".join(map(str, expected))
            raise RequestError(f"ConvGRU: frames have shape {list(frames.shape)}; [batch, {sizes}] was expected")
        encoder, forecaster = self.recurrent[: self.config.levels], self.recurrent[self.config.levels :]
        hidden, states = frames.unsqueeze(1), []
        for convolution, layer in zip(self.down, encoder, strict=True):
            hidden = layer(self.activation(_on_every_frame(convolution, hidden)), None, self.config.input_frames)
            states.append(hidden[:, :, -1])
        inputs: torch.Tensor | None = None  # the coarsest level has none
        for convolution, layer in zip(reversed(self.up), forecaster, strict=True):
            hidden = layer(inputs, states.pop(), self.config.output_frames)
            hidden = inputs = self.activation(_on_every_frame(convolution, hidden))
        hidden = self.activation(_on_every_frame(self.final, hidden))
        return _on_every_frame(self.output, hidden).squeeze(1)

    def save_pretrained(self, folder: Path | str, state_dict: Mapping[str, torch.Tensor] | None = None) -> None:
        """Write config.json and model.safetensors, weights in the type they have. state_dict: weights (default: the model's)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = self.state_dict() if state_dict is None else state_dict
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})
        text = json.dumps(self.config.to_dict(), indent=2) + "\n"
        (folder / CONFIG_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "ConvGRU":
        """The model that `save_pretrained` wrote, its weights in float32.

        Raises RequestError: a file that is absent or broken, a tensor that is absent, unknown or of another shape than config.json
        implies; shapes are compared before a weight is read.
        """
        folder = Path(folder)
        config = ConvGRUConfig.from_dict(_read_config(folder), f"{folder.name}/{CONFIG_NAME}")
        name = f"{folder.name}/{WEIGHTS_NAME}"
        try:
            with safe_open(folder / WEIGHTS_NAME, "pt") as file:
                shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
                return _filled(config, shapes, file.get_tensor, name)
        except (OSError, SafetensorError) as error:
            raise RequestError(f"{name}: cannot be read ({str(error) or type(error).__name__})") from None

    @classmethod
    def from_tensors(cls, config: Mapping, tensors: Mapping[str, torch.Tensor], name: str = MODEL_TYPE) -> "ConvGRU":
        """The model of a config.json's content and of tensors by name, copied, in float32. name: for messages.

        Raises RequestError: as `from_pretrained`.
        """
        shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        return _filled(ConvGRUConfig.from_dict(config, name), shapes, tensors.__getitem__, name)


def _recurrent(config: ConvGRUConfig, level: int, channels: int | None) -> ConvGRULayer:
    kernels = config.input_kernels[level], config.recurrent_kernels[level]
    return ConvGRULayer(channels, config.hidden_channels[level], *kernels, config.negative_slope)


def _on_every_frame(module: nn.Module, frames: torch.Tensor) -> torch.Tensor:
    """A module of images, run on every frame of sequences [batch, channels, steps, height, width]."""
    batch, _, steps = frames.shape[:3]
    images: torch.Tensor = module(frames.transpose(1, 2).flatten(0, 1))
    return images.unflatten(0, (batch, steps)).transpose(1, 2)


def _read_config(folder: Path) -> Mapping:
    name = f"{folder.name}/{CONFIG_NAME}"
    try:
        with open(folder / CONFIG_NAME, "rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
        config = json.loads(raw) if len(raw) <= MAX_CONFIG_BYTES else None
    except OSError as error:
        raise RequestError(f"{name}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise RequestError(f"{name}: is not JSON; write it again") from None
    if not isinstance(config, dict):
        raise RequestError(f"{name}: a JSON object of at most {MAX_CONFIG_BYTES} bytes was expected")
    return config


def _filled(
    config: ConvGRUConfig, shapes: Mapping[str, tuple[int, ...]], get: Callable[[str], torch.Tensor], name: str
) -> ConvGRU:
    """The model with the tensors that `get` returns, whose shapes are compared with the configuration's first."""
    with torch.device("meta"):  # no weight is allocated before all shapes are known to be right
        model = ConvGRU(config)
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    for key, shape in expected.items():
        if key not in shapes:
            raise RequestError(f"{name}: tensor {key} is absent, though the configuration implies it")
        if shapes[key] != shape:
            raise RequestError(
                f"{name}: tensor {key} has shape {list(shapes[key])}, the configuration implies {list(shape)}"
            )
    if extra := sorted(shapes.keys() - expected.keys()):
        raise RequestError(f"{name}: tensor {extra[0]} is there, though the configuration implies none of that name")
    model.load_state_dict({key: get(key).float().clone() for key in expected}, assign=True)
    if bad := next((key for key, tensor in model.state_dict().items() if not tensor.isfinite().all()), None):
        raise RequestError(f"{name}: tensor {bad} holds numbers that are not finite; choose another checkpoint")
    return model.requires_grad_()


def parameter_count(config: ConvGRUConfig) -> int:
    """How many weights and biases a model of these sizes has."""
    with torch.device("meta"):
        return sum(math.prod(parameter.shape) for parameter in ConvGRU(config).parameters())
