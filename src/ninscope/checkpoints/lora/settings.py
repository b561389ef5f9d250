"""What an adapter_config.json says of an adapter (Hu et al. 2022, arXiv:2106.09685), as peft writes it.

It is a stranger's: what it says of the base's whereabouts is never followed, and its patterns never run as regular expressions
unless they are plain ones.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ninscope.checkpoints.file_names import ADAPTER_CONFIG
from ninscope.checkpoints.lora.storage import may_be_turned
from ninscope.errors import CheckpointError

# Options of peft under which lora_A and lora_B, with or without a magnitude, are not the whole update, or not of one matrix.
_OTHERWISE = (
    "lora_bias", "trainable_token_indices", "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config",
    "velora_config",
)  # fmt: skip
_UNMERGEABLE = ("alora_invocation_tokens", "layer_replication")
# Others (pissa, olora, corda, loftq, lora_ga, ...) take something off the base's own weights before training.
_KEEP_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
# Of these no number depends: which modules are adapted, and of what shape, is told by the tensors.
_NO_NUMBER = frozenset((
    "auto_mapping", "base_model_name_or_path", "bias", "eva_config", "exclude_modules", "inference_mode", "layers_pattern",
    "layers_to_transform", "lora_dropout", "megatron_config", "megatron_core", "modules_to_save", "peft_version",
    "qalora_group_size", "revision", "runtime_config", "target_modules", "task_type",
))  # fmt: skip
# Of a pattern: a plain part of a name, any one letter or a dot, a number, anything. The last two only twice: no backtracking
# takes long.
_PLAIN_PATTERN = re.compile(r"\^?(?:[\w-]|\\?\.(?![*+?{])|\\d\+|\.\*)*\$?")
_MAX_REPEATS, _MAX_NAME = 2, 500


@dataclass(frozen=True)
class AdapterSettings:
    """config: the object in adapter_config.json."""

    config: Mapping

    def check_readable(self) -> None:
        """Raises CheckpointError (unsupported): it is not LoRA, or more than matrices of it."""
        kind = self.config.get("peft_type")
        if kind != "LORA":
            raise CheckpointError("unsupported", f"{ADAPTER_CONFIG}: peft_type is {kind!r}; only LORA can be read")
        for option in _OTHERWISE:
            if self.config.get(option):
                raise CheckpointError(
                    "unsupported",
                    f"{ADAPTER_CONFIG}: {option} is set; only lora_A and lora_B of whole matrices can be read",
                )

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

    def scale(self, key: str, rank: int) -> float:
        """By what B A is multiplied: alpha / r, or alpha / sqrt(r) (use_rslora). Raises CheckpointError.

        key: the module's name, or of a parameter that is adapted by itself (an expert's) the parameter's.
        """
        patterns = self.config.get("alpha_pattern") or {}
        if not isinstance(patterns, Mapping):
            raise CheckpointError("corrupt", f"{ADAPTER_CONFIG}: alpha_pattern is {patterns!r}; a table was expected")
        # As peft: the first pattern that is the end of the name.
        matching = (alpha for pattern, alpha in patterns.items() if _fits(pattern, key))
        alpha = next(matching, self.config.get("lora_alpha"))
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < 1e30:
            raise CheckpointError("corrupt", f"{ADAPTER_CONFIG}: alpha of {key} is {alpha!r}, no number")
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    @cached_property
    def target_parameters(self) -> tuple[str, ...]:
        """Names, or ends of names, of parameters that are adapted by themselves. Raises CheckpointError (corrupt)."""
        targets = self.config.get("target_parameters") or []
        if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
            raise CheckpointError(
                "corrupt", f"{ADAPTER_CONFIG}: target_parameters is {targets!r}; a list of names was expected"
            )
        return tuple(dict.fromkeys(targets))

    def parameters_of(self, module: str) -> list[str]:
        """Of a module, the parameters that target_parameters names; `weight` is the one that every other module has."""
        parameters = []
        for target in self.target_parameters:
            parent, _, parameter = target.rpartition(".")
            if not parent or module == parent or module.endswith(f".{parent}"):
                parameters.append(parameter)
        return list(dict.fromkeys(parameters))

    def experts_are_turned(self, family_is: bool) -> bool:
        """Whether the update of a stack of square matrices [experts, n, n] is that of [in, out].

        family_is: the library says of the family that it stores [in, out]. peft has heeded that since 0.20, took every stack for
        [in, out] before 0.19, and had it the wrong way round in between. Raises CheckpointError (unsupported).
        """
        number = self._peft_version
        if number is not None and number >= (0, 20):
            return family_is
        if number is not None and not (family_is and number == (0, 19)):
            return True
        raise CheckpointError(
            "unsupported",
            f"{ADAPTER_CONFIG}: peft_version is {self.config.get('peft_version')!r}, and how square matrices of experts were "
            "adapted differs between versions; merge it with peft",
        )

    @property
    def _peft_version(self) -> tuple[int, int] | None:
        stated = self.config.get("peft_version")
        version = re.match(r"(\d{1,4})\.(\d{1,4})", stated) if isinstance(stated, str) else None
        return (int(version[1]), int(version[2])) if version is not None else None

    @property
    def effect_sha256(self) -> str:
        """sha256 of what numbers depend on: adapters of equal tensors that differ here are not the same.

        What peft merely notes, and an option that nobody gave, makes no difference.
        """
        given = self.config.items()
        effect = {name: value for name, value in given if name not in _NO_NUMBER and not _is_unset(value)}
        if isinstance(effect.get("target_parameters"), list):  # peft saves a set, in any order
            effect["target_parameters"] = [*sorted(map(str, effect["target_parameters"])), self._peft_version]
        return hashlib.sha256(json.dumps(sorted(effect.items())).encode()).hexdigest()

    @property
    def names_turned(self) -> bool:
        """Whether the modules that it names may be stored [in, out] in some family."""
        targets = self.config.get("target_modules") or []
        names = re.findall(r"\w+", targets) if isinstance(targets, str) else [*map(str, targets)]
        return "all-linear" in (targets, *names) or any(map(may_be_turned, names))

    @property
    def says_turned(self) -> bool:
        """fan_in_fan_out: the module that peft came to last stores [in, out]. Of the others it says nothing."""
        return bool(self.config.get("fan_in_fan_out"))


def _is_unset(value: object) -> bool:
    """What an option is that nobody gave. 0 is a number, such as an alpha of 0."""
    return value is None or value is False or value in ([], {})


def _fits(pattern: str, name: str) -> bool:
    """Whether a pattern is the name or its end, from a dot on, as peft has it. Raises CheckpointError (unsupported)."""
    plain = isinstance(pattern, str) and len(pattern) <= _MAX_NAME and _PLAIN_PATTERN.fullmatch(pattern)
    if not plain or pattern.count("*") + pattern.count("+") > _MAX_REPEATS or len(name) > _MAX_NAME:
        raise CheckpointError(
            "unsupported",
            f"{ADAPTER_CONFIG}: alpha_pattern {pattern!r} is no name, perhaps with \\d+ or .* in it; merge with peft",
        )
    return re.fullmatch(rf"(.*\.)?({pattern})", name) is not None
