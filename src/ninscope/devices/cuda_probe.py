"""Whether numba-cuda can compile and run a kernel here: it needs a driver, and parts of the CUDA toolkit."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba import cuda


@contextmanager
def quiet_launches() -> Iterator[None]:
    """Without numba's warning that a launch is small: matrices are as large as they are. No two threads at once."""
    config: Any = cuda.config  # type: ignore[attr-defined]
    before = config.CUDA_LOW_OCCUPANCY_WARNINGS
    config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
    try:
        yield
    finally:
        config.CUDA_LOW_OCCUPANCY_WARNINGS = before


@cuda.jit
def _set_to_one(numbers: Any) -> None:
    numbers[0] = 1


def failure() -> str:
    """The first line of what went wrong; empty where a kernel ran."""
    try:
        numbers = cuda.device_array(1, "int32")
        with quiet_launches():
            _set_to_one[1, 1](numbers)
        return "" if numbers.copy_to_host()[0] == 1 else "a kernel ran without effect"
    except Exception as error:  # whatever a driver, a compiler or a missing library raises
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[0].rstrip(".:") if lines else type(error).__name__
