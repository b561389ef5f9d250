"""What tests of models in memory share: every tensor of a source as its bytes, beside those of what a library saved."""

from __future__ import annotations

from pathlib import Path

import torch

import ninscope
from ninscope.checkpoints.in_memory import REVISION, in_memory_source
from ninscope.checkpoints.source import open_source
from ninscope.checkpoints.tensors import Checkpoint

Contents = dict[str, tuple[str, tuple[int, ...], bytes]]


def contents(checkpoint: Checkpoint) -> Contents:
    """(type, shape, bytes) of every tensor by name."""
    return {
        name: (tensor.dtype, tensor.shape, bytes(tensor.file.read_ranges([(tensor.entry.start, tensor.entry.stop)])[0]))
        for name, tensor in checkpoint.tensors.items()
    }


def in_memory(model) -> Contents:
    """Of a model, which must be the same afterwards: names, tensors, their objects, modes and random numbers."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    objects = [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    state = [(type(module), module.training, list(vars(module))) for module in model.modules()]
    random = torch.get_rng_state()
    found = contents(in_memory_source(model).open(REVISION))
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if tensor.device.type != "meta")
    assert objects == [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    assert state == [(type(module), module.training, list(vars(module))) for module in model.modules()]
    assert torch.equal(random, torch.get_rng_state())
    return found


def on_disk(folder: Path) -> Contents:
    source = open_source(folder)
    return contents(source.open(source.revisions()[0]))


def assert_equal(found: Contents, expected: Contents) -> None:
    """Tensor by tensor, so that what differs is named."""
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def assert_measured_alike(model, folder: Path, **options) -> None:
    """`measure` gives the same number, bit for bit."""
    found, expected = ninscope.measure(model, **options), ninscope.measure(folder, **options)
    assert (found.alpha0, found.width, found.edges) == (expected.alpha0, expected.width, expected.edges)
    assert found.f.tobytes() == expected.f.tobytes()
    assert found.edges > 0
