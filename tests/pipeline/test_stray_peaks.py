"""A largest f that is not at q = 0 is told of a stored measurement too, of its samples and of its parts."""

import numpy as np
import pytest

import ninscope
from ninscope.measurement import Measurement
from ninscope_pipeline.stages.measurements import artefact_of_measurement, stored_measurement


@pytest.fixture(scope="module")
def spectra():
    """(of nodes alike, of the same and a nearly dead one)"""
    generator = np.random.default_rng(0)
    alike = [1 / np.abs(generator.normal(0, 0.1, 400)) for _ in range(300)]
    dying = 1 / generator.uniform(1 / 150, 1 / 140, 400)
    return ninscope.spectrum_from_distances(alike), ninscope.spectrum_from_distances([*alike, dying])


def test_samples_and_parts(spectra):
    healthy, sick = spectra
    parts = {"layer/a": (healthy, healthy), "layer/b": (healthy, sick)}
    artefact = artefact_of_measurement(Measurement((healthy, sick), 301, (1, 1), parts=parts))
    found = stored_measurement(artefact)
    assert f"in 1 of 2 samples the largest f is at q = {sick.peak_q:g}, not at 0" in found.warning
    told = f"alpha0 is {(healthy.alpha0 + sick.alpha0) / 2:.4g}, alpha(0) is {(healthy.alpha0 + sick.alpha_at_zero) / 2:.4g}"
    assert told in found.warning
    assert "largest f" not in found.samples[0].warning
    assert f"the largest f is at q = {sick.peak_q:g}" in found.samples[1].warning
    assert "largest f" not in found.part("layer/a").warning
    assert "in 1 of 2 samples the largest f" in found.part("layer/b").warning


def test_what_is_right_is_stored_as_ever(spectra):
    artefact = artefact_of_measurement(Measurement((spectra[0],), 300, (1,), parts={"layer/a": (spectra[0],)}))
    assert "part_peaks" not in artefact.arrays
    assert stored_measurement(artefact).part("layer/a").samples[0].peak_q == 0
