"""Random numbers of the experiments: each purpose has a stream of its own, keyed by what it is for. Needs no torch.

What was drawn before, and by whom, changes nothing; no global state is read or changed.
"""

import json

import numpy as np

from ninscope.checks import MAX_SEED, checked_integer
from ninscope.seeding import keyed_bits


def generator(purpose: str, experiment: str, seed: int, *more: str | int | float) -> np.random.Generator:
    """A numpy generator (PCG64) for a purpose, such as "split", of an experiment, by name, at a seed.

    more: what else tells it from others, such as a learning rate. The key is the SHA-256 of all but the seed, so two keys never
    run together; the seed is from 0 to 2^63 - 1. Raises RequestError: a seed out of range.
    """
    seed = checked_integer("seed", seed, 0, MAX_SEED)
    return np.random.Generator(keyed_bits(json.dumps([purpose, experiment, *more]), seed))
