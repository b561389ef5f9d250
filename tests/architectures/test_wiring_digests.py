"""Digests of wirings are part of content keys: those that commit e49790d gave every family are still given."""

import json
from pathlib import Path

import numpy as np
import pytest
from suites import write_checkpoint

from ninscope.architectures import Reading, architecture_of
from ninscope.architectures.described import description_of
from ninscope.checkpoints.file_names import ADAPTER_CONFIG, ADAPTER_NAMES
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError

KNOWN = json.loads((Path(__file__).parents[1] / "data" / "wiring-digests.json").read_text())


def stored(folder: Path, shapes: dict[str, list[int]], config: dict):
    """A checkpoint, or an adapter, of tensors that have these shapes."""
    write_checkpoint(folder, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, config)
    if ADAPTER_CONFIG in config:
        (folder / "model.safetensors").rename(folder / ADAPTER_NAMES[0])
        (folder / "config.json").unlink()
        (folder / ADAPTER_CONFIG).write_text(json.dumps(config[ADAPTER_CONFIG]))
    source = open_source(folder)
    return source.open(source.revisions()[0])


@pytest.mark.parametrize("name", KNOWN)
def test_a_wiring_keeps_its_digest(name, tmp_path):
    known = KNOWN[name]
    config, tensors = known["config"], dict.fromkeys(known.get("names", ())) or None
    if "shapes" in known:
        checkpoint = stored(tmp_path / "step0", known["shapes"], config)
        config, tensors = checkpoint.config, checkpoint.tensors
    description = description_of(known["description"]) if "description" in known else None
    for how, digest in known["digests"].items():
        reading = Reading(*how.split(" "), description)
        if digest == "refused: CheckpointError":
            with pytest.raises(CheckpointError):
                architecture_of(config, tensors, reading)
        else:
            assert architecture_of(config, tensors, reading).digest == digest, how
