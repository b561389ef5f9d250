"""What a LoRA adapter holds (Hu et al. 2022, arXiv:2106.09685), as peft saves it: beside a weight W[out, in] the matrices
A[r, in] and B[out, r] of the update W + scale * B A.

adapter_config.json is a stranger's: what it says of the base's whereabouts is never followed, and its patterns never run as
regular expressions unless they are plain ones.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ninscope.checkpoints.file_names import ADAPTER_CONFIG
from ninscope.checkpoints.tensors import STORED_TYPES, Tensor
from ninscope.errors import CheckpointError

MAX_RANK = 65_536
PREFIX = "base_model.model."  # what peft puts before the names of the model that it wraps
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<which>[AB])\.weight")
# Options of peft under which lora_A and lora_B are not the whole update, or not of one matrix.
_OTHERWISE = (
    "use_dora", "lora_bias", "target_parameters", "trainable_token_indices", "use_qalora", "use_bdlora", "arrow_config",
    "kasa_config", "monteclora_config", "velora_config",
)  # fmt: skip
_UNMERGEABLE = ("alora_invocation_tokens", "layer_replication")
# Others (pissa, olora, corda, loftq, lora_ga, ...) take something off the base's own weights before training.
_KEEP_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
# Of a pattern: a plain part of a name, any one letter or a dot, a number, anything. The last two only twice: no backtracking
# takes long.
_PLAIN_PATTERN = re.compile(r"\^?(?:[\w-]|\\?\.(?![*+?{])|\\d\+|\.\*)*\$?")
_MAX_REPEATS, _MAX_NAME = 2, 500
MAX_DIMENSIONS = 5  # of a 3-D convolution


@dataclass(frozen=True)
class Factors:
    """The update of one module's weight. module: its name in the base; a: [r, in] or, of a convolution, [r, in, *kernel];
    b: [out, r], or [out, r, 1, ...].
    """

    module: str
    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        return self.a.shape[0]


@dataclass(frozen=True)
class Adapter:
    """factors: by module, in the file's order; whole: tensors that take the place of the base's (modules_to_save), by name."""

    config: Mapping
    factors: Mapping[str, Factors]
    whole: Mapping[str, Tensor]

    def scale(self, factors: Factors) -> float:
        """By what B A is multiplied: alpha / r, or alpha / sqrt(r) (use_rslora). Raises CheckpointError."""
        patterns = self.config.get("alpha_pattern") or {}
        if not isinstance(patterns, Mapping):
            raise CheckpointError("corrupt", f"{ADAPTER_CONFIG}: alpha_pattern is {patterns!r}; a table was expected")
        # As peft: the first pattern that is the end of the module's name.
        matching = (alpha for pattern, alpha in patterns.items() if _fits(pattern, factors.module))
        alpha = next(matching, self.config.get("lora_alpha"))
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < 1e30:
            raise CheckpointError("corrupt", f"{ADAPTER_CONFIG}: alpha of {factors.module} is {alpha!r}, no number")
        return alpha / (math.sqrt(factors.rank) if self.config.get("use_rslora") else factors.rank)

    def check_mergeable(self) -> None:
        """Raises CheckpointError (unsupported) where the base's weights + scale * B A are not what the adapter stands for."""
        for option in _UNMERGEABLE:
            if self.config.get(option):
                raise CheckpointError(
                    "unsupported", f"{ADAPTER_CONFIG}: {option} is set; such an adapter is not merged, only read alone"
                )
        start = self.config.get("init_lora_weights")
        if not any(start is known or (isinstance(start, str) and start == known) for known in _KEEP_BASE):
            raise CheckpointError(
                "unsupported",
                f"{ADAPTER_CONFIG}: init_lora_weights is {start!r}, which changes the base's own weights; have peft convert it "
                "(save_pretrained with path_initial_model_for_weight_conversion), or merge it",
            )


def adapter_of(config: Mapping, tensors: Mapping[str, Tensor]) -> Adapter:
    """The factors of an adapter. config: of adapter_config.json.

    Raises CheckpointError: unsupported (not LORA, or with more than lora_A and lora_B), corrupt (shapes that do not go together).
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError("unsupported", f"{ADAPTER_CONFIG}: peft_type is {kind!r}; only LORA can be read")
    for option in _OTHERWISE:
        if config.get(option):
            raise CheckpointError(
                "unsupported",
                f"{ADAPTER_CONFIG}: {option} is set; only lora_A and lora_B of whole matrices can be read",
            )
    pairs: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        factor = _FACTOR.fullmatch(name)
        if factor is not None and ".base_layer" not in name:
            pairs.setdefault(factor["module"].removeprefix(PREFIX), {})[factor["which"]] = tensor
        elif "lora_" in name or ".base_layer" in name:
            raise CheckpointError("unsupported", f"tensor {name}: only lora_A.weight and lora_B.weight can be read")
        else:
            whole[name.removeprefix(PREFIX)] = tensor
    if not pairs:
        raise CheckpointError("unsupported", f"{ADAPTER_CONFIG}: LORA, but no tensor is a lora_A.weight")
    return Adapter(config, {module: _checked(module, pair) for module, pair in pairs.items()}, whole)


def _checked(module: str, pair: Mapping[str, Tensor]) -> Factors:
    if len(pair) < 2:
        (factor,) = pair
        raise CheckpointError("corrupt", f"{module} has lora_{factor}, but not the other of lora_A and lora_B")
    a, b = pair["A"], pair["B"]
    for tensor in (a, b):
        if tensor.dtype not in STORED_TYPES:
            raise CheckpointError(
                "unsupported",
                f"tensor {tensor.name} is of type {tensor.dtype}; only F16, BF16, F32 and F64 can be read",
            )
    fits = MAX_DIMENSIONS >= len(a.shape) == len(b.shape) >= 2 and b.shape[1] == a.shape[0] and set(b.shape[2:]) <= {1}
    if not fits or 0 in (*a.shape, *b.shape):
        raise CheckpointError(
            "corrupt", f"tensor {b.name} of shape {list(b.shape)} does not go with lora_A of shape {list(a.shape)}"
        )
    if a.shape[0] > MAX_RANK:
        raise CheckpointError("unsupported", f"tensor {a.name} is of rank {a.shape[0]}; at most {MAX_RANK} can be read")
    return Factors(module, a, b)


def _fits(pattern: str, module: str) -> bool:
    """Whether a pattern is the module's name or its end, from a dot on, as peft has it. Raises CheckpointError (unsupported)."""
    plain = isinstance(pattern, str) and len(pattern) <= _MAX_NAME and _PLAIN_PATTERN.fullmatch(pattern)
    if not plain or pattern.count("*") + pattern.count("+") > _MAX_REPEATS or len(module) > _MAX_NAME:
        raise CheckpointError(
            "unsupported",
            f"{ADAPTER_CONFIG}: alpha_pattern {pattern!r} is no name, perhaps with \\d+ or .* in it; merge with peft",
        )
    return re.fullmatch(rf"(.*\.)?({pattern})", module) is not None
