"""Colours of the page: enough contrast, light and dark, by WCAG 2.2."""

import pytest
from wcag import contrast

from ninscope.report.page.theme import CONFIG, DARK, LIGHT, SERIES, resolved, with_config

TEXT, MARK = 4.5, 3.0  # the least contrast of text, and of lines and marks
PAIRS = [
    ("ink", "paper", TEXT), ("muted", "paper", TEXT), ("accent", "paper", TEXT), ("ink", "raised", TEXT),
    ("muted", "raised", TEXT), ("accent", "raised", TEXT), ("on-accent", "accent", TEXT), ("warn-ink", "warn", TEXT),
    ("edge", "paper", MARK), ("warn-rule", "warn", MARK),
    *((f"series-{number}", "paper", MARK) for number in range(1, len(SERIES) + 1)),
]  # fmt: skip


def test_the_formula_gives_what_is_known():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(("ink", "ground", "least"), PAIRS, ids=lambda value: str(value))
def test_there_is_enough_contrast(scheme, ink, ground, least):
    assert contrast(scheme[ink], scheme[ground]) >= least


def test_both_schemes_have_the_same_names():
    assert set(LIGHT) == set(DARK)
    assert len(set(LIGHT.values())) > len(SERIES)


def test_colours_of_charts_are_names_of_the_theme():
    assert "#" not in str(CONFIG)
    assert "var(" not in resolved(str(CONFIG), LIGHT)
    with pytest.raises(KeyError, match="puce"):
        resolved("var(--puce)", LIGHT)


def test_a_chart_s_own_configuration_comes_first():
    spec = with_config({"mark": "line", "config": {"axis": {"grid": False}, "background": "red"}})
    assert spec["config"]["axis"]["grid"] is False
    assert spec["config"]["axis"]["labelColor"] == "var(--muted)"
    assert spec["config"]["background"] == "red"
