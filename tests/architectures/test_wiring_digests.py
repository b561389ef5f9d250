"""Digests of wirings are part of content keys: those that commit e49790d gave every family are still given."""

import json
from pathlib import Path

import pytest

from ninscope.architectures import Reading, architecture_of
from ninscope.errors import CheckpointError

KNOWN = json.loads((Path(__file__).parents[1] / "data" / "wiring-digests.json").read_text())


@pytest.mark.parametrize("name", KNOWN)
def test_a_wiring_keeps_its_digest(name):
    for how, digest in KNOWN[name]["digests"].items():
        reading = Reading(*how.split(" "))
        if digest == "refused: CheckpointError":
            with pytest.raises(CheckpointError):
                architecture_of(KNOWN[name]["config"], None, reading)
        else:
            assert architecture_of(KNOWN[name]["config"], None, reading).digest == digest, how
