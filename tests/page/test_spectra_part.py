"""The page's part of spectra: means over samples, the slider, pale lines, peaks and warnings."""

import numpy as np
import pytest
from chart_checks import HOSTILE, bound, page_tables, rows_with, specs_of

from ninscope.report.page.spectra_part import spectra_parts

Q = (-1.0, 0.0, 1.0)


def spectrum(step, sample=-1, label="m", off=0.0):
    shared = {"variant": "default", "label": label, "step": step, "sample": sample}
    return [
        shared | {"q": q, "alpha": 1 - 0.1 * q + off, "f": -0.1 * q * q + off, "tau": q + off}
        for q in Q
    ]  # fmt: skip


def test_samples_are_shown_as_their_mean_with_one_standard_deviation():
    rows = [*spectrum(0), *spectrum(0, 0, off=0.1), *spectrum(0, 1, off=0.3)]
    spec = specs_of(spectra_parts(page_tables({"spectra": rows})))["spectra-f"]
    data = rows_with(spec, "f_low")
    whole, sampled = ([line for line in data if line["method"] == method] for method in (0, 1))
    assert [line["f"] for line in whole] == pytest.approx([-0.1, 0, -0.1])
    assert [line["f"] for line in sampled] == pytest.approx([0.1, 0.2, 0.1])
    assert sampled[1]["f_high"] == pytest.approx(0.2 + np.std([0.1, 0.3], ddof=1), rel=1e-5)
    assert bound(spec, "method")["labels"] == ["whole network", "samples (mean)"]
    assert [line["q"] for line in data if line["peak"]] == [0.0, 0.0]


def test_the_slider_goes_over_numbers_of_steps():
    rows = [row for step in (0, 10, 1000) for row in spectrum(step)]
    spec = specs_of(spectra_parts(page_tables({"spectra": rows})))["spectra-tau"]
    assert bound(spec, "at") | {"min": 0, "max": 2, "step": 1} == bound(spec, "at")
    assert spec["title"]["text"] == {"expr": "'step ' + format(atSteps[at], ',')"}
    assert sorted({(line["step"], line["place"]) for line in rows_with(spec, "place")}) == [(0, 0), (10, 1), (1000, 2)]


def test_of_many_steps_few_are_pale_and_all_can_be_chosen():
    rows = [row for step in range(100) for row in spectrum(step)]
    spec = specs_of(spectra_parts(page_tables({"spectra": rows})))["spectra-f"]
    pale = next(data for data in spec["datasets"].values() if "place" not in data[0])
    steps = {line["step"] for line in pale}
    assert len(steps) == 24
    assert {0, 99} <= steps
    assert len(rows_with(spec, "place")) == 300


def test_spectra_that_the_table_warns_of_are_marked():
    warnings = [
        {"step": step, "method": method, "warning": warning, "part": "all", "variant": "default"}
        for step, method, warning in ((0, "exact", ""), (4, "exact", "r2"), (0, "sampled", "r2"))
    ]
    rows = [*spectrum(0), *spectrum(4), *spectrum(0, 0)]
    spec = specs_of(spectra_parts(page_tables({"spectra": rows, "emergence": warnings})))["spectra-f"]
    marked = {(line["step"], line["method"]): line["warned"] for line in rows_with(spec, "warned")}
    assert marked == {(0, 0): 0, (4, 0): 1, (0, 1): 1}


def test_names_are_data():
    rows = [*spectrum(0, label=HOSTILE), *spectrum(0, label="b")]
    parts = list(spectra_parts(page_tables({"spectra": rows}, ["b", HOSTILE])))
    spec = specs_of(parts)["spectra-f"]
    assert [line["label"] for line in rows_with(spec, "place")] == ["b"] * 3 + [HOSTILE] * 3
    assert "peak at alpha 1.00, width 0.200" in parts[0].charts[0].description


def test_without_rows_there_is_no_part():
    assert list(spectra_parts(page_tables({}))) == []
    nothing = [row | {"alpha": np.nan, "f": np.nan} for row in spectrum(0)]
    assert list(spectra_parts(page_tables({"spectra": nothing}))) == []
