"""When E may be called emerged: each of four bounds alone forbids it, and so does each that is not known."""

import math
from dataclasses import replace

import pytest

from ninscope.multifractal.verdict import Bounds, Verdict, null_band, verdict, verdicts

BEYOND = Bounds(interval_low=0.4, null_high=0.6, growth_high=0.7, control_spread=0.1)
NAMES = {
    "interval_low": "its interval", "null_high": "the null models", "growth_high": "growth of norms",
    "control_spread": "control trainings",
}  # fmt: skip


def test_an_e_beyond_all_four_stands():
    told = verdict(0.9, BEYOND)
    assert told.stands
    assert str(told) == "stands"


@pytest.mark.parametrize(
    ("bound", "value"), [("interval_low", -0.01), ("null_high", 0.9), ("growth_high", 1.2), ("control_spread", 0.95)]
)
def test_each_bound_alone_forbids_it(bound, value):
    told = verdict(0.9, replace(BEYOND, **{bound: value}))
    assert not told.stands
    assert told.fails == (NAMES[bound],)
    assert str(told) == f"fails: {NAMES[bound]}"


@pytest.mark.parametrize("bound", list(NAMES))
def test_what_is_not_known_forbids_it_too(bound):
    told = verdict(0.9, replace(BEYOND, **{bound: math.nan}))
    assert not told.stands
    assert (told.fails, told.unknown) == ((), (NAMES[bound],))


def test_a_fall_of_e_is_no_emergence():
    told = verdict(-0.9, replace(BEYOND, interval_low=-1.0))
    assert set(told.fails) == set(NAMES.values())
    assert verdict(math.nan, BEYOND).fails == ()
    assert not verdict(math.nan, BEYOND).stands


def test_the_band_of_null_models_is_that_of_the_highest():
    assert null_band([0.2, 0.5, 0.1], [0.01, math.nan, 0.3]) == pytest.approx(0.7)
    assert null_band([0.2, math.nan], [0.01, 0.5]) == pytest.approx(0.22)
    assert math.isnan(null_band([], []))


def test_rows_of_tables_are_joined_by_revision():
    emergence = [
        {"revision": "step0", "emergence": 0.0, "emergence_low": 0.0},
        {"revision": "step8", "emergence": 0.9, "emergence_low": 0.4},
        {"revision": "step9", "emergence": math.nan, "emergence_low": math.nan},
    ]
    controls = [{"revision": "step8", "emergence_growth_high": 0.7}, {"revision": "step0"}]
    nulls = [
        {"revision": "step8", "emergence": 0.5, "emergence_std": 0.05},
        {"revision": "step8", "emergence": 0.55, "emergence_std": math.nan},
        {"revision": "step0", "emergence": 0.0, "emergence_std": 0.0},
    ]
    told = verdicts(emergence, controls, nulls, 0.1)
    assert list(told) == ["step0", "step8"]
    assert told["step8"].stands
    assert told["step0"].unknown == ("growth of norms",)
    assert verdicts(emergence, controls, nulls)["step8"].unknown == ("control trainings",)
    assert verdicts(emergence, controls, [], 0.1)["step8"].unknown == ("the null models",)


@pytest.mark.parametrize("fails", [(), ("its interval",), ("its interval", "growth of norms")])
@pytest.mark.parametrize("unknown", [(), ("the null models", "control trainings")])
def test_a_verdict_is_read_from_its_text(fails, unknown):
    told = Verdict(fails, unknown)
    assert Verdict.parse(str(told)) == told
