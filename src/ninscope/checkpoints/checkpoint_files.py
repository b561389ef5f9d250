"""From the files of one revision, wherever they are, to a Checkpoint: the part local folders and the Hub share."""

import hashlib
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ninscope.checkpoints.file_names import (
    ADAPTER_CONFIG,
    ADAPTER_NAMES,
    CONFIG_NAME,
    LITGPT_NAME,
    MODEL_FOLDERS,
    PIPELINE_NAME,
    is_adapter,
    weight_names,
)
from ninscope.checkpoints.formats import open_tensors
from ninscope.checkpoints.formats.index import MAX_JSON_BYTES, read_json_object, shards_of_index
from ninscope.checkpoints.formats.weight_file import TensorEntry, WeightFile
from ninscope.checkpoints.identity import Identity
from ninscope.checkpoints.revisions import step_of
from ninscope.checkpoints.tensors import Checkpoint, Tensor
from ninscope.errors import CheckpointError

MAX_CONFIG_BYTES = 10_000_000
PARALLEL_FILES = 8

ReadFile = Callable[[str, int], bytes]  # read(name, limit) gives a small file; it raises CheckpointError


def read_config(
    revision: str, present: Collection[str], read: ReadFile, expected: Callable[[], bool] = lambda: False
) -> dict:
    """The JSON object in config.json; of an adapter {"adapter_config.json": the object there}, so that neither is taken for
    the other; beside litgpt's file, to whose names it does not apply, {"lit_model.pth": {}}; {} where there is none.

    Raises CheckpointError (missing, corrupt; unsupported where it is many models').
    expected: whether there should be one, because the revision's siblings have one. It is asked only where there is none.
    """
    if is_adapter(present):
        raw = read(ADAPTER_CONFIG, MAX_CONFIG_BYTES)
        return {ADAPTER_CONFIG: read_json_object(raw, f"{revision}/{ADAPTER_CONFIG}")}
    if CONFIG_NAME not in present and any(name in present for name in ADAPTER_NAMES):
        raise CheckpointError("missing", f"{revision}: {ADAPTER_CONFIG} is absent; it tells what the adapter is")
    if CONFIG_NAME not in present and ADAPTER_CONFIG in present:
        weight_files(present, read, revision)  # says what is absent
    if CONFIG_NAME not in present and PIPELINE_NAME in present:
        raise CheckpointError(
            "unsupported",
            f"{revision}: a pipeline ({PIPELINE_NAME}) without {' or '.join(MODEL_FOLDERS)}; name the folder of one of its models",
        )
    if CONFIG_NAME not in present and (not _holds_weights(revision, present, read) or expected()):
        raise CheckpointError("missing", f"{revision}: config.json is absent; it tells how the weights are joined")
    if CONFIG_NAME not in present:
        return {}
    if _is_litgpts(present):
        return {LITGPT_NAME: {}}
    return read_json_object(read("config.json", MAX_CONFIG_BYTES), f"{revision}/config.json")


def _holds_weights(revision: str, present: Collection[str], read: ReadFile) -> bool:
    """Raises CheckpointError (unsupported, corrupt) where there are some in a form that is not read."""
    try:
        return bool(weight_files(present, read, revision))
    except CheckpointError as error:
        if error.status != "missing":
            raise
        return False


def _is_litgpts(present: Collection[str]) -> bool:
    """Whether the weights are litgpt's file, to whose tensors' names config.json does not apply."""
    try:
        return weight_names(present) == (LITGPT_NAME, "")
    except CheckpointError:
        return False


def with_settings(identity: Identity, present: Collection[str], read: ReadFile) -> Identity:
    """The identity, of an adapter with that of its adapter_config.json, which says how it is merged. Raises CheckpointError."""
    if not is_adapter(present):
        return identity
    from ninscope.checkpoints.lora.settings import AdapterSettings  # few checkpoints are adapters

    raw = read(ADAPTER_CONFIG, MAX_CONFIG_BYTES)
    settings = AdapterSettings(read_json_object(raw, f"{identity.revision}/{ADAPTER_CONFIG}"))
    return replace(
        identity,
        settings_sha256=hashlib.sha256(raw).hexdigest(),
        settings_effect=settings.effect_sha256,
        names_turned=not settings.says_turned and settings.names_turned,
    )


def weight_files(present: Collection[str], read: ReadFile, revision: str) -> dict[str, list[str]]:
    """The weight files of a revision and the tensors promised in each: one file (nothing is promised), or the shards its
    index names, in name order.

    present: names of the files there; read(name, limit) gives a small file's bytes.
    Raises CheckpointError: missing or unsupported (`weight_names`), and what the index raises.
    """
    try:
        single, index = weight_names(present)
    except CheckpointError as error:
        raise CheckpointError(error.status, f"{revision}: {error}") from None
    if single:
        return {single: []}
    return shards_of_index(read(index, MAX_JSON_BYTES), present, f"{revision}/{index}")


def _opened(files: list[WeightFile]) -> Iterable[tuple[dict[str, TensorEntry], WeightFile]]:
    """The entries of every file, in order; side by side where that is mostly waiting."""
    if len(files) == 1 or files[0].reads_are_free:
        return map(open_tensors, files)
    with ThreadPoolExecutor(min(PARALLEL_FILES, len(files))) as pool:
        return list(pool.map(open_tensors, files))


def checkpoint_of_files(
    revision: str,
    present: Collection[str],
    read: ReadFile,
    open_file: Callable[[str], WeightFile],
    expected: Callable[[], bool] = lambda: False,
) -> Checkpoint:
    """Read config.json and every weight file's header. expected: as in `read_config`. Raises CheckpointError."""
    config = read_config(revision, present, read, expected)
    tensors: dict[str, Tensor] = {}
    promises = weight_files(present, read, revision)
    for promised, (entries, file) in zip(promises.values(), _opened(list(map(open_file, promises))), strict=True):
        absent = [tensor for tensor in promised if tensor not in entries]
        if absent:
            raise CheckpointError(
                "corrupt", f"{file.name}: tensor {absent[0]} is absent, though the index names it here"
            )
        for entry in entries.values():
            if entry.name in tensors:
                raise CheckpointError(
                    "corrupt", f"{file.name}: tensor {entry.name} is also in {tensors[entry.name].file.name}"
                )
            tensors[entry.name] = Tensor(entry, file)
    return Checkpoint(revision, step_of(revision), config, tensors)
