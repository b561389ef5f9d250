"""Random numbers of the experiments: each purpose has a stream of its own, keyed by what it is for. Needs no torch unless asked.

What was drawn before, and by whom, changes nothing; no global state is read or changed.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

from ninscope.checks import MAX_SEED, checked_integer

if TYPE_CHECKING:
    import torch


def generator(purpose: str, experiment: str, seed: int, *more: str | int | float) -> np.random.Generator:
    """A numpy generator (PCG64) for a purpose, such as "split", of an experiment, by name, at a seed.

    more: what else tells it from others, such as a learning rate. The key is the SHA-256 of all but the seed, so two keys never
    run together; the seed is from 0 to 2^63 - 1. Raises RequestError: a seed out of range.
    """
    seed = checked_integer("seed", seed, 0, MAX_SEED)
    key = hashlib.sha256(json.dumps([purpose, experiment, *more]).encode()).digest()
    words = np.frombuffer(key, dtype="<u4")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *map(int, words)])))


def torch_generator(purpose: str, experiment: str, seed: int, *more: str | int | float) -> torch.Generator:
    """A torch generator on the CPU, keyed as `generator` is."""
    import torch

    return torch.Generator().manual_seed(int(generator(purpose, experiment, seed, *more).integers(2**63)))
