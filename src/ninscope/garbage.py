"""When the interpreter does not look for garbage: while much is made that lives on, looking takes up to half as long as making."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def not_looked_for() -> Iterator[None]:
    """No garbage is looked for meanwhile, unless another thread has it looked for."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def looked_for_seldom() -> Iterator[None]:
    """For a command, of which nearly all that it makes is imported modules: looking through them takes a tenth of their import."""
    usual = gc.get_threshold()
    gc.set_threshold(20_000, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
