"""The index of a sharded checkpoint (*.index.json): {"weight_map": {tensor name: shard file}}.

Shard names come from strangers, so only plain file names inside the checkpoint's own folder are followed.
"""

import json
from collections.abc import Collection

from ninscope.errors import CheckpointError

MAX_JSON_BYTES = 16_000_000


def read_json_object(raw: bytes, where: str) -> dict:
    """The JSON object in `raw`. Raises CheckpointError (corrupt) when it is not one."""
    try:
        value = json.loads(raw.decode("utf-8-sig"))  # some editors put a byte order mark first
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise CheckpointError("corrupt", f"{where}: not JSON ({reason}); fetch the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError("corrupt", f"{where}: not a JSON object; fetch the file again")
    return value


def shards_of_index(raw: bytes, present: Collection[str], where: str) -> dict[str, list[str]]:
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
    absent = sorted(set(shards).difference(present))
    if absent:
        raise CheckpointError(
            "missing", f"{where}: shard {absent[0]} is absent ({len(absent)} of {len(shards)} are); fetch it"
        )
    return {shard: shards[shard] for shard in sorted(shards)}


def _plain_name(name: str) -> bool:
    return bool(name) and name not in (".", "..") and not any(mark in name for mark in ("/", "\\", "\0", ":"))
