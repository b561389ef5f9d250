"""Kernels that release the interpreter, split over threads."""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

WORTH_THREADS = 1 << 17  # values, for which waking a thread costs little beside the work


def in_threads(work: Callable[[int, int, int], None], size: int, threads: int) -> None:
    """work(number, first, last) for so many parts of 0..size-1, the first part in this thread."""
    bounds = [size * number // threads for number in range(threads + 1)]
    parts = [(number, *pair) for number, pair in enumerate(itertools.pairwise(bounds))]
    futures: list[Future] = [_pool(os.getpid(), threads).submit(work, *part) for part in parts[1:]]
    work(*parts[0])
    for future in futures:
        future.result()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The pool of this process: threads do not survive a fork."""
    return ThreadPoolExecutor(max(threads - 1, 1), thread_name_prefix="kernel")
