"""What a run remembers for the next one: hashes of local files, and what revisions are, under their fingerprints (known.json)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from types import NoneType

from ninscope.architectures import DEFAULT_READING, Reading
from ninscope.checkpoints.hash_cache import cached_files, files_of_json, json_of_files, sealed, unsealed
from ninscope.checkpoints.identity import FileIdentity, Identity
from ninscope.locating import Wiring
from ninscope_pipeline.located import Located
from ninscope_pipeline.storing.runfolder import RunFolder

VERSION = 4
# What is remembered of a located revision beside its identity.
_FACTS = {"kind": str, "parameters": int}


@dataclass(frozen=True)
class Known:
    """files: identities of local files by path, those of all this user's commands. facts, beside: JSON values by fingerprint, of
    revisions that were asked for, and of those on a Hub that the audit looked at beside them.
    """

    files: Mapping[str, FileIdentity] = field(default_factory=dict)
    facts: Mapping[str, Mapping] = field(default_factory=dict)
    beside: Mapping[str, Mapping] = field(default_factory=dict)


def known_of(folder: RunFolder) -> Known:
    """What earlier runs in this folder wrote down; nothing where that makes no sense."""
    stored = unsealed(folder.read_json(folder.known, {}))
    if not isinstance(stored, dict) or stored.get("version") != VERSION:
        return Known(cached_files())
    facts, beside = (stored.get(name) if isinstance(stored.get(name), dict) else {} for name in ("facts", "beside"))
    return Known(files_of_json(stored.get("files")) | cached_files(), facts, beside)


def remember(folder: RunFolder, located: Sequence[Located], beside: Mapping[str, Identity]) -> None:
    """Write down what was found out. beside: by fingerprint, what nobody asked for. Raises StoreError."""
    whole = [one for one in located if one.identity is not None]
    known = {
        "version": VERSION,
        "files": json_of_files({path: file for one in whole for path, file in one.stamps if file.stamp}),
        "facts": {one.fingerprint: facts_of(one) for one in whole if one.fingerprint is not None and one.outcome.ok},
        "beside": {fingerprint: asdict(identity) for fingerprint, identity in beside.items()},
    }
    folder.write_json(folder.known, sealed(known))


def facts_of(located: Located) -> dict:
    """What may be remembered of it, as JSON values."""
    paths = [path for path, _ in located.stamps]
    facts = {"identity": asdict(located.identity), "paths": paths, "wirings": [asdict(one) for one in located.wirings]}
    return facts | {name: getattr(located, name) for name in _FACTS}


def fields_of(facts: Mapping | None, readings: Sequence[Reading] = (DEFAULT_READING,)) -> dict | None:
    """The fields of `Located` that `facts_of` stored; None where they make no sense, or say nothing of one of these readings."""
    try:
        identity = identity_of(facts["identity"])
        if identity is None or not all(type(facts[name]) is wanted for name, wanted in _FACTS.items()):
            return None
        wirings = tuple(Wiring(**wired) for wired in facts["wirings"])
        if not all(_is_sound(wired) for wired in wirings):
            return None
        if not {reading.key for reading in readings} <= {wired.reading for wired in wirings}:
            return None
        stamps = tuple(zip(facts["paths"], identity.all_files, strict=False))
        return {"identity": identity, "stamps": stamps, "wirings": wirings} | {name: facts[name] for name in _FACTS}
    except (TypeError, KeyError):
        return None


def _is_sound(wired: Wiring) -> bool:
    return wired.weight_bytes >= 0 and all(type(getattr(wired, one.name)) is one.type for one in fields(Wiring))


def identity_of(stored: Mapping | None) -> Identity | None:
    """The identity that `asdict` made this of; None where it makes no sense."""
    try:
        rest = dict(stored)
        files, beside = (tuple(FileIdentity.of_json(file) for file in rest.pop(name)) for name in ("files", "beside"))
        shape = tuple((str(name), int(size)) for name, size in rest.pop("shape"))
        base = rest.pop("base", None)
        if base is not None and (base := identity_of(base)) is None:
            return None
        found = Identity(files=files, beside=beside, shape=shape, base=base, **rest)
        types = (
            type(found.revision),
            type(found.folder),
            type(found.step),
            type(found.commit),
            type(found.settings_sha256),
        )
        sound = types[:2] == (str, str) and types[2] in (int, NoneType) and set(types[3:]) <= {str, NoneType}
        return found if sound else None
    except (TypeError, KeyError, ValueError, OverflowError):
        return None
