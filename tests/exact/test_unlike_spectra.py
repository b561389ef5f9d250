"""`ninscope.emergence` takes two spectra of one model that were made alike, and refuses others by name."""

import re

import numpy as np
import pytest
from suites import write_suite

import ninscope
from ninscope.errors import RequestError
from ninscope.multifractal.origin import Origin

SIZE = {"blocks": 2, "width": 24, "heads": 2}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_suite(tmp_path_factory.mktemp("alike") / "suite", [0, 8], **SIZE)


@pytest.fixture(scope="module")
def late(suite):
    return ninscope.measure(suite, "step8", parts=["block"])


@pytest.mark.parametrize(
    ("otherwise", "message"),
    [
        ({"q": [-1, 0, 1]}, "q is 61 values from -3 to 3 and 3 values from -1 to 1"),
        ({"q": np.linspace(-2, 2, 61)}, "q is 61 values from -3 to 3 and 61 values from -2 to 2"),
        ({"transfer": "coth"}, "transfer is reciprocal and coth"),
        ({"max_distance": 100}, "max_distance is 150.0 and 100.0"),
        ({"min_degree": 5}, "min_degree is 10 and 5"),
        ({"radii": {"log": 20}}, r"radii is integer and \{'log': 20\}"),
        ({"derivative": "forward"}, "derivative is exact and forward"),
        ({"nodes_per_layer": 16}, "method is exact and sampled; give two of one model, made alike"),
        ({"wiring": "parallel"}, "the networks are wired otherwise"),
    ],
)
def test_what_is_not_alike_is_refused_by_name(suite, late, otherwise, message):
    start = ninscope.measure(suite, "step0", **otherwise)
    for now, before in ((late, start), (late.samples[0], start.samples[0])):
        with pytest.raises(RequestError, match=f"these spectra cannot be compared: .*{message}"):
            ninscope.emergence(now, before)


@pytest.mark.parametrize(
    ("otherwise", "message"),
    [
        ({"seed": 1}, "seed is 0 and 1"),
        ({"samples": 3}, "samples is 2 and 3"),
        ({"nodes_per_layer": 12}, "is 16 and 12"),
    ],
)
def test_other_samples_are_refused(suite, otherwise, message):
    asked = {"nodes_per_layer": 16, "samples": 2, "seed": 0}
    now, start = ninscope.measure(suite, "step8", **asked), ninscope.measure(suite, "step0", **(asked | otherwise))
    with pytest.raises(RequestError, match=message):
        ninscope.emergence(now, start)


def test_parts_are_compared_with_the_same_part(suite, late):
    start = ninscope.measure(suite, "step0", parts=["block"])
    name, other = list(late.parts)[:2]
    assert np.isfinite(ninscope.emergence(late.part(name), start.part(name)))
    with pytest.raises(RequestError, match=re.escape(f"part is {name} and {other}")):
        ninscope.emergence(late.part(name), start.part(other))
    with pytest.raises(RequestError, match=re.escape(f"part is {name} and the whole network")):
        ninscope.emergence(late.part(name), start)


def test_another_model_of_the_same_wiring(suite, late, tmp_path):
    other = write_suite(tmp_path / "other", [0, 8], seed=5, **SIZE)
    start = ninscope.measure(other, "step0")
    with pytest.raises(RequestError, match=re.escape(f"the models are {suite} and {other} (same_training=True where")):
        ninscope.emergence(late, start)
    assert np.isfinite(ninscope.emergence(late, start, same_training=True))


def test_checkpoints_of_one_folder_however_they_are_named(suite, late):
    expected = ninscope.emergence(late, ninscope.measure(suite, "step0"))
    assert ninscope.emergence(ninscope.measure(suite / "step8"), ninscope.measure(suite / "step0")) == expected
    assert ninscope.emergence(late, ninscope.measure(suite / "step0")) == expected
    [start, now] = ninscope.measure_all(suite)
    assert ninscope.emergence(late, start.spectrum) == now.emergence == expected


def test_only_what_is_known_is_compared():
    rows = [np.arange(2.0, 30.0)] * 3
    found, coarse = ninscope.spectrum_from_distances(rows), ninscope.spectrum_from_distances(rows, max_distance=20)
    assert found.origin == Origin(radii="integer", max_distance=150, min_degree=10, derivative="exact")
    with pytest.raises(RequestError, match=r"max_distance is 150\.0 and 20\.0"):
        ninscope.emergence(found, coarse)
    ninscope.emergence(found, found)


def test_as_many_q_of_another_grid_are_other_q():
    distances = [np.linspace(2, 90 + node, 40) for node in range(30)]
    wide, narrow = (ninscope.spectrum_from_distances(distances, q=np.arange(-10, 11) * step) for step in (0.1, 0.1001))
    with pytest.raises(RequestError, match=r"q is 21 values from -1 to 1 and 21 values from -1\.001 to 1\.001"):
        ninscope.emergence(wide, narrow)
    rounded = ninscope.spectrum_from_distances(distances, q=np.arange(-10, 11) * 0.1 * (1 + 1e-12))
    assert ninscope.emergence(wide, rounded) == pytest.approx(0, abs=1e-9)


def test_two_places_are_two_models_unless_it_is_said():
    here, there = Origin(models=("a", "b")), Origin(models=("c",))
    assert here.differences(there) == ["the models are a and c (same_training=True where both are of one training)"]
    assert here.differences(there, same_training=True) == []
    assert here.differences(Origin(models=("b", "d"))) == []
