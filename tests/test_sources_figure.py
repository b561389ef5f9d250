"""Figures of what `measure` found: of several sources, of revisions without steps, and panels that say why they are empty."""

import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure
from suites import write_suite

import ninscope
from ninscope.errors import RequestError
from ninscope.report.plots import rows_figure

MODEL = {"blocks": 1, "width": 16, "heads": 2}
LABELS = ["regularity", "heterogeneity", "degree of emergence"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """(name, rows) of two suites, of which the second has no step 0."""
    folder = tmp_path_factory.mktemp("two")
    suites = [
        write_suite(folder / "first", (0, 1, 8), **MODEL),
        write_suite(folder / "second", (1, 8), seed=5, **MODEL),
    ]
    return [(suite.name, ninscope.measure_all(suite).to_frame()) for suite in suites]


def test_several_sources_have_a_line_each_in_every_panel(tables):
    axes = rows_figure(tables).axes
    assert [panel.get_ylabel().partition(" $")[0] for panel in axes] == [*LABELS[:2], "degree of emergence E"]
    for panel, column in zip(axes, ("alpha0", "width", "emergence"), strict=True):
        lines = {line.get_label(): line.get_ydata() for line in panel.lines}
        for name, frame in tables:
            np.testing.assert_array_equal(lines[name], frame[column].to_numpy(float))


def test_revisions_without_steps_are_drawn_by_their_names(tables, tmp_path):
    frames = [(name, frame.assign(step=None).astype({"step": "Int64"})) for name, frame in tables]
    one, other = rows_figure(frames).axes[:2]
    names = [label.get_text() for label in one.get_yticklabels()]
    assert names == ["first step0", "first step1", "first step8", "second step1", "second step8"]
    values = [value for _, frame in tables for value in frame["alpha0"]]
    np.testing.assert_array_equal(one.lines[0].get_xdata(), values)
    assert one.lines[0].get_ydata().tolist() == [4, 3, 2, 1, 0]
    assert (one.get_xlabel()[:10], other.get_xlabel()[:13]) == ("regularity", "heterogeneity")


def test_what_states_no_step_beside_what_does_is_told(tables):
    name, frame = tables[1]
    without = frame.assign(step=None).astype({"step": "Int64"})
    assert rows_figure([tables[0], (name, without)]).axes[0].get_title() == "Over training; 2 without a step left out"


def test_nothing_measured_is_nothing_to_draw(tables):
    name, frame = tables[0]
    with pytest.raises(RequestError, match="no revision could be measured, so there is nothing to draw"):
        rows_figure([(name, frame.assign(alpha0=np.nan))])


def test_rows_without_an_e_draw_alpha0_and_say_why_where_e_is_asked(tmp_path):
    suite = write_suite(tmp_path / "late", (1, 8), **MODEL)
    rows = ninscope.measure_all(suite)
    drawn = rows.plot(Figure().add_subplot())
    np.testing.assert_array_equal(drawn.lines[0].get_ydata(), rows.to_frame()["alpha0"])
    assert (drawn.get_title(), drawn.get_ylabel()) == ("late", r"regularity $\alpha_0$")
    asked = rows.plot(Figure().add_subplot(), "emergence")
    assert asked.get_ylabel() == "degree of emergence E"
    assert "there is no usable step0" in asked.texts[0].get_text().replace("\n", " ")
    shutil.rmtree(suite)
