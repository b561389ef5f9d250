"""How many threads torch computes with, for the while of one computation."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_ALONE = threading.RLock()


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Run torch with so many threads: they split sums, so bits may depend on their number.

    Only one such block runs in a process at a time: a worker may run several tasks at once, and they would share the number of
    threads and the generator that dropout draws from.
    """
    with _ALONE:
        before = torch.get_num_threads()
        torch.set_num_threads(number)
        try:
            yield
        finally:
            torch.set_num_threads(before)
