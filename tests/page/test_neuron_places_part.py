"""The page's part of neurons' places: correlations over training, by measure, model and text, beside the control."""

import math

import pytest
from chart_checks import HOSTILE, bound, rows_with, specs_of
from neurons_tables import STEPS, correlation_of, places_table

from ninscope.report import neurons_rows
from ninscope.report.page import neuron_places_part
from ninscope.report.page.neuron_places_part import neuron_places_parts
from ninscope.report.page.parts import PageTables

TITLES = {"exponent alpha": "alpha", "mean distance": "mean_distance", "degree": "degree"}


@pytest.fixture(autouse=True)
def names_as_titles(monkeypatch):
    """Measures are called by their names, whatever titles the registry has."""
    monkeypatch.setattr(neurons_rows, "measures", dict)


def parts_of(rows, labels=("small",)):
    return list(neuron_places_parts(PageTables({"neuron_places": rows.assign(run="r", label=rows["model"])}, labels)))


def test_lines_are_places_and_bands_are_of_the_text_alone():
    (part,) = parts_of(places_table(("phi", "universal_rho/seed")))
    spec = specs_of([part])["neuron-places"]
    assert bound(spec, "placed")["labels"] == ["phi", "universal rho, beside another seed"]
    shown = [row for row in rows_with(spec, "measure") if row["measure"] == 0]
    assert len(shown) == 3 * 2 * len(STEPS)
    for row in shown:
        shuffled = row["curve"] == "shuffled"
        expected = correlation_of(TITLES[row["place"]], "phi", row["step"], shuffled)
        assert row["correlation"] == pytest.approx(expected, rel=1e-5)
        ends = [row["low"], row["high"]]
        assert all(end is None or math.isnan(end) for end in ends) if shuffled else ends == [-0.1, 0.1]
    assert "exponent alpha: 0 at step 0, 0.598 at step 4,000" in part.charts[0].description
    assert part.tables == ("neuron_places",)


def test_what_is_missing_is_a_gap_and_what_readers_ask_for_comes_first():
    """Whether the table says that there is no correlation, or has no such row."""
    rows = places_table(("m0", "phi"), steps=(0, 1, 2, 4), gaps=[("degree", "phi", 2)])
    rows = rows[(rows["measure"] != "phi") | (rows["place"] != "alpha") | (rows["step"] != 1)]
    spec = specs_of(parts_of(rows))["neuron-places"]
    assert bound(spec, "placed")["labels"] == ["phi", "m0"]
    shown = [row for row in rows_with(spec, "measure") if row["measure"] == 0 and row["curve"] == "the text"]
    assert len(shown) == 3 * 4
    missing = [row for row in shown if row["correlation"] is None or math.isnan(row["correlation"])]
    assert sorted((row["place"], row["step"]) for row in missing) == [("degree", 2), ("exponent alpha", 1)]


def test_models_and_texts_are_chosen_by_number_and_names_are_data():
    rows = places_table((HOSTILE,), ("b", HOSTILE), steps=(0, 8), text=HOSTILE)
    spec = specs_of(parts_of(rows, ["b", HOSTILE]))["neuron-places"]
    assert bound(spec, "entry")["labels"] == [f"b: {HOSTILE}", f"{HOSTILE}: {HOSTILE}"]
    assert {row["entry"] for row in rows_with(spec, "measure")} == {0, 1}


def test_of_many_rows_some_are_shown_and_the_text_says_so(monkeypatch):
    monkeypatch.setattr(neuron_places_part, "_MOST_ROWS", 100)
    (part,) = parts_of(places_table([f"m{number}" for number in range(12)]))
    assert len(rows_with(specs_of([part])["neuron-places"], "measure")) <= 100
    assert "of 12 measures, evenly spaced; the tables have all." in part.text[-1]


def test_without_correlations_there_is_no_part():
    rows = places_table(("phi",), steps=(8,))
    for nothing in (rows.head(0), rows.assign(correlation=math.nan), rows.assign(step=None)):
        assert parts_of(nothing) == []
