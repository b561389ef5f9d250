"""What a run remembers for the next one: hashes of local files, and what revisions are, under their fingerprints (known.json)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from types import NoneType
from typing import Any

from ninscope.architectures import DEFAULT_READING, Reading
from ninscope.checkpoints.hash_cache import cached_files, files_of_json, json_of_files, sealed, unsealed
from ninscope.checkpoints.identity import FileIdentity, Identity
from ninscope.locating import Wiring
from ninscope_pipeline.located import Located
from ninscope_pipeline.storing.runfolder import RunFolder

VERSION = 5  # of facts and identities; hashes of files are believed whatever the version
# What is remembered of a located revision beside its identity.
_FACTS = {"kind": str, "parameters": int}


@dataclass(frozen=True)
class Known:
    """files: identities of local files by path, those of all this user's commands. facts, beside: JSON values by fingerprint, of
    revisions that were asked for, and of those on a Hub that the audit looked at beside them.
    """

    files: Mapping[str, FileIdentity] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    beside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def known_of(folder: RunFolder) -> Known:
    """What earlier runs in this folder wrote down; nothing where that makes no sense."""
    stored = unsealed(folder.read_json(folder.known, {}))
    if not isinstance(stored, dict):
        return Known(cached_files())
    files = files_of_json(stored.get("files")) | cached_files()
    if stored.get("version") != VERSION:
        return Known(files)
    return Known(files, _object_in(stored, "facts"), _object_in(stored, "beside"))


def _object_in(stored: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A JSON object by its name in another; an empty one where it is none."""
    value = stored.get(name)
    return value if isinstance(value, dict) else {}


def remember(folder: RunFolder, located: Sequence[Located], beside: Mapping[str, Identity]) -> None:
    """Write down what was found out. beside: by fingerprint, what nobody asked for. Raises StoreError."""
    identified = [revision for revision in located if revision.identity is not None]
    files = {path: file for revision in identified for path, file in revision.stamps if file.stamp}
    known = {
        "version": VERSION,
        "files": json_of_files(files),
        "facts": {
            revision.fingerprint: facts_of(revision)
            for revision in identified
            if revision.fingerprint is not None and revision.outcome.ok
        },
        "beside": {fingerprint: asdict(identity) for fingerprint, identity in beside.items()},
    }
    folder.write_json(folder.known, sealed(known))


def facts_of(located: Located) -> dict[str, Any]:
    """What may be remembered of it, as JSON values. Raises ValueError where its files are not known."""
    if located.identity is None:
        raise ValueError(f"{located.revision}: its files are not known; nothing can be remembered of it")
    facts: dict[str, Any] = {
        "identity": asdict(located.identity),
        "paths": [path for path, _ in located.stamps],
        "wirings": [asdict(wiring) for wiring in located.wirings],
    }
    return facts | {name: getattr(located, name) for name in _FACTS}


def fields_of(
    facts: Mapping[str, Any] | None, readings: Sequence[Reading] = (DEFAULT_READING,)
) -> dict[str, Any] | None:
    """The fields of `Located` that `facts_of` stored; None where they make no sense, or say nothing of one of these readings."""
    if facts is None:
        return None
    try:
        identity = identity_of(facts["identity"])
        if identity is None or not all(type(facts[name]) is fact_type for name, fact_type in _FACTS.items()):
            return None
        wirings = tuple(Wiring(**stored) for stored in facts["wirings"])
        if not all(_is_sound(wiring) for wiring in wirings):
            return None
        if not {reading.key for reading in readings} <= {wiring.reading for wiring in wirings}:
            return None
        stamps = tuple(zip(facts["paths"], identity.all_files, strict=False))
        return {"identity": identity, "stamps": stamps, "wirings": wirings} | {name: facts[name] for name in _FACTS}
    except (TypeError, KeyError):
        return None


def _is_sound(wiring: Wiring) -> bool:
    return wiring.weight_bytes >= 0 and all(
        type(getattr(wiring, attribute.name)) is attribute.type for attribute in fields(Wiring)
    )


def identity_of(stored: Mapping[str, Any] | None) -> Identity | None:
    """The identity that `asdict` made this of; None where it makes no sense."""
    if stored is None:
        return None
    try:
        rest = dict(stored)
        files, beside = (tuple(FileIdentity.of_json(file) for file in rest.pop(name)) for name in ("files", "beside"))
        shape = tuple((str(name), int(size)) for name, size in rest.pop("shape"))
        base = rest.pop("base", None)
        if base is not None and (base := identity_of(base)) is None:
            return None
        identity = Identity(files=files, beside=beside, shape=shape, base=base, **rest)
        types = (
            type(identity.revision),
            type(identity.folder),
            type(identity.wiring),
            type(identity.step),
            type(identity.commit),
            type(identity.settings_sha256),
            type(identity.settings_effect),
        )
        sound = set(types[:3]) == {str} and types[3] in (int, NoneType) and set(types[4:]) <= {str, NoneType}
        # An adapter of which an earlier version noted less is identified anew.
        sound = sound and (identity.settings_sha256 is None) == (identity.settings_effect is None)
        sound = sound and (type(identity.names_turned), type(identity.merging)) == (bool, str)
        return identity if sound else None
    except (TypeError, KeyError, ValueError, OverflowError):
        return None
