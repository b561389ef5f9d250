"""Garbage is looked for again as before, however what was done meanwhile has ended."""

import gc
from contextlib import suppress

import pytest

from ninscope import garbage


@pytest.mark.parametrize("enabled", [True, False])
def test_no_garbage_is_looked_for_meanwhile(enabled):
    before, meanwhile = gc.isenabled(), []
    (gc.enable if enabled else gc.disable)()
    try:
        with suppress(KeyError), garbage.not_looked_for():
            meanwhile.append(gc.isenabled())
            raise KeyError
        assert (meanwhile, gc.isenabled()) == ([False], enabled)
    finally:
        (gc.enable if before else gc.disable)()


def test_garbage_is_looked_for_seldom_and_then_as_often_as_before():
    usual, meanwhile = gc.get_threshold(), []
    with suppress(KeyError), garbage.looked_for_seldom():
        meanwhile += [gc.isenabled(), gc.get_threshold()[0]]
        raise KeyError
    assert meanwhile == [True, 20_000]
    assert gc.get_threshold() == usual
