"""From the files of one revision, wherever they are, to a Checkpoint: the part local folders and the Hub share."""

from collections.abc import Callable, Iterable

from ninscope.checkpoints.index_format import (
    INDEX_NAME,
    MAX_JSON_BYTES,
    SINGLE_NAME,
    read_json_object,
    shards_of_index,
)
from ninscope.checkpoints.safetensors_format import read_header
from ninscope.checkpoints.steps import step_of
from ninscope.checkpoints.tensors import Checkpoint, Tensor, WeightFile
from ninscope.errors import CheckpointError

MAX_CONFIG_BYTES = 10_000_000


def read_config(revision: str, present: Iterable[str], read: Callable[[str, int], bytes]) -> bytes:
    """The bytes of config.json, known to be a JSON object. Raises CheckpointError (missing, corrupt)."""
    if "config.json" not in set(present):
        raise CheckpointError("missing", f"{revision}: config.json is absent; it tells how the weights are joined")
    raw = read("config.json", MAX_CONFIG_BYTES)
    read_json_object(raw, f"{revision}/config.json")
    return raw


def weight_files(present: Iterable[str], read: Callable[[str, int], bytes], revision: str) -> dict[str, list[str]]:
    """The weight files of a revision and the tensors promised in each: model.safetensors (nothing is promised), or the
    shards its index names, in name order.

    present: names of the files there; read(name, limit) gives a small file's bytes.
    Raises CheckpointError (missing) when there are no weights, and what the index raises.
    """
    present = set(present)
    if SINGLE_NAME in present:
        return {SINGLE_NAME: []}
    if INDEX_NAME in present:
        return shards_of_index(read(INDEX_NAME, MAX_JSON_BYTES), present, f"{revision}/{INDEX_NAME}")
    raise CheckpointError(
        "missing",
        f"{revision}: no {SINGLE_NAME} and no {INDEX_NAME}; the weights are absent or in another format",
    )


def checkpoint_of_files(
    revision: str,
    present: Iterable[str],
    read: Callable[[str, int], bytes],
    open_file: Callable[[str], WeightFile],
) -> Checkpoint:
    """Read config.json and every weight file's header. Raises CheckpointError."""
    present = set(present)
    config = read_json_object(read_config(revision, present, read), f"{revision}/config.json")
    tensors: dict[str, Tensor] = {}
    for name, promised in weight_files(present, read, revision).items():
        file = open_file(name)
        entries = read_header(
            lambda start, stop, file=file: bytes(file.read_ranges([(start, stop)])[0]), file.size, file.name
        )
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
