"""Which neurons a sampled network holds (NeuroMFA, Definition 4.2; docs/method.md#sampling).

The choice depends on (seed, sample number, sample group) alone, so it is the same neurons at every checkpoint of a model,
on every machine and whatever the scheduling. Only a bit generator's raw output is used, which numpy keeps stable over
versions (its distributions are not), and a smaller sample is part of a larger one with the same seed.
"""

from functools import lru_cache

import numpy as np

from ninscope.seeding import keyed_bits


@lru_cache(maxsize=1 << 14)  # every checkpoint of a model asks for the same samples
def sampled_neurons(seed: int, sample: int, group: str, size: int, count: int) -> np.ndarray:
    """Sorted numbers of `count` of `size` neurons, int64 [min(count, size)]; all of them where there are no more."""
    if count >= size:
        neurons = np.arange(size, dtype=np.int64)
        neurons.flags.writeable = False
        return neurons
    order = np.argsort(keyed_bits(group, seed, sample).random_raw(size), kind="stable")
    neurons = np.sort(order[:count]).astype(np.int64)
    neurons.flags.writeable = False  # shared by everyone who asks
    return neurons
