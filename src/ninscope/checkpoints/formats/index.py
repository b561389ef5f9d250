"""The index of a sharded checkpoint (*.index.json): {"weight_map": {tensor name: shard file}}.

Shard names come from strangers, so only plain file names inside the checkpoint's own folder are followed.
"""

import json
import re
from collections.abc import Iterable

from ninscope.errors import CheckpointError

SINGLE_NAME, INDEX_NAME = "model.safetensors", "model.safetensors.index.json"
TORCH_SINGLE_NAME, TORCH_INDEX_NAME = "pytorch_model.bin", "pytorch_model.bin.index.json"
DIFFUSION_NAME = "diffusion_pytorch_model"
# The files that weights come in, the first that is there being taken: one file, or an index of shards.
WEIGHT_NAMES = (
    (SINGLE_NAME, INDEX_NAME),
    (f"{DIFFUSION_NAME}.safetensors", f"{DIFFUSION_NAME}.safetensors.index.json"),
    (TORCH_SINGLE_NAME, TORCH_INDEX_NAME),
    (f"{DIFFUSION_NAME}.bin", f"{DIFFUSION_NAME}.bin.index.json"),
)
# Where none of them is there: one that says what it is a variant of, such as model.fp16.safetensors, if it is the only one.
_VARIANT = re.compile(
    r"(model|pytorch_model|diffusion_pytorch_model)\.(?:(?P<single>\w+)\.(?:safetensors|bin)"
    r"|(?:safetensors|bin)\.index\.(?P<index>\w+)\.json)"
)
# A LoRA adapter as peft saves it: nothing of its base but what it says of it.
CONFIG_NAME, ADAPTER_CONFIG = "config.json", "adapter_config.json"
ADAPTER_NAMES = ("adapter_model.safetensors", "adapter_model.bin")
MAX_JSON_BYTES = 16_000_000


def weight_names(present: Iterable[str]) -> tuple[str, str]:
    """(the one weight file, or "", the index of shards, or "") of a checkpoint, from the names of the files there.

    Where there is none of a model, an adapter's. Raises CheckpointError: missing (there is neither), unsupported (there are
    only variants, and several of them).
    """
    present = set(present)
    if is_adapter(present):
        return next(name for name in ADAPTER_NAMES if name in present), ""
    for single, index in WEIGHT_NAMES:
        if single in present:
            return single, ""
        if index in present:
            return "", index
    variants = {name: found for name in sorted(present) if (found := _VARIANT.fullmatch(name))}
    # The same weights as safetensors and as a pickle are one variant.
    safe = {name: found for name, found in variants.items() if ".safetensors" in name}
    variants = safe or variants
    if len(variants) > 1:
        raise CheckpointError(
            "unsupported",
            f"weights only as variants, and several ({', '.join(variants)}); keep one, or name it {SINGLE_NAME}",
        )
    for name, found in variants.items():
        return (name, "") if found["single"] else ("", name)
    if ADAPTER_CONFIG in present:
        raise CheckpointError(
            "missing", f"{ADAPTER_CONFIG}, but no {ADAPTER_NAMES[0]}; the adapter's weights are absent"
        )
    raise CheckpointError(
        "missing",
        f"no {SINGLE_NAME} and no {INDEX_NAME}, nor {TORCH_SINGLE_NAME} or {DIFFUSION_NAME}.safetensors; "
        "the weights are absent or in another format",
    )


def is_adapter(present: Iterable[str]) -> bool:
    """Whether these files are an adapter's alone: with weights of a model beside them they are that model's."""
    present = set(present)
    of_model = any(name in present for names in WEIGHT_NAMES for name in names) or any(map(_VARIANT.fullmatch, present))
    return not of_model and ADAPTER_CONFIG in present and any(name in present for name in ADAPTER_NAMES)


def config_name(present: Iterable[str]) -> str:
    """The file that says what the weights are."""
    return ADAPTER_CONFIG if is_adapter(present) else CONFIG_NAME


def read_json_object(raw: bytes, where: str) -> dict:
    """The JSON object in `raw`. Raises CheckpointError (corrupt) when it is not one."""
    try:
        value = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise CheckpointError("corrupt", f"{where}: not JSON ({reason}); fetch the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError("corrupt", f"{where}: not a JSON object; fetch the file again")
    return value


def shards_of_index(raw: bytes, present: set[str], where: str) -> dict[str, list[str]]:
    """Shard file name -> names of its tensors, shards in name order.

    present: names of the files in the checkpoint's folder.
    Raises CheckpointError: corrupt (no weight_map, a shard path that leaves the folder), missing (a shard is absent).
    """
    weight_map = read_json_object(raw, where).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("corrupt", f"{where}: no weight_map in it; fetch the file again")
    shards: dict[str, list[str]] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not _plain_name(shard):
            raise CheckpointError(
                "corrupt", f"{where}: shard {shard!r} is not a file name inside the checkpoint; refused"
            )
        shards.setdefault(shard, []).append(tensor)
    absent = sorted(set(shards) - present)
    if absent:
        raise CheckpointError(
            "missing", f"{where}: shard {absent[0]} is absent ({len(absent)} of {len(shards)} are); fetch it"
        )
    return {shard: shards[shard] for shard in sorted(shards)}


def _plain_name(name: str) -> bool:
    return bool(name) and name not in (".", "..") and not any(mark in name for mark in ("/", "\\", "\0", ":"))
