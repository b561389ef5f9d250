"""Content keys: an artefact is named by what it was made from, so a stage whose key exists need not run."""

import hashlib
import json

import numpy as np

from ninscope.parameters import Parameters


def content_key(stage: str, version: int, **parts: object) -> str:
    """32 hex digits from a stage's name and version and the inputs and parameters that its result depends on."""
    described = json.dumps([stage, version, parts], sort_keys=True, default=_plain, allow_nan=False)
    return hashlib.sha256(described.encode()).hexdigest()[:32]


def beyond_defaults(parameters: Parameters, *names: str) -> dict[str, object]:
    """Those of these parameters that are not their defaults.

    As parts of a content key they leave the keys of what was made before there were such parameters as they are.
    """
    return {name: value for name in names if (value := getattr(parameters, name)) != getattr(Parameters, name)}


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be part of a content key")
