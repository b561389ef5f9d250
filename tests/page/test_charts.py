"""What charts of the page share: numbers as they are written, axes, colours, lists, and what is left out of very much."""

import math

import numpy as np
import pandas as pd
import pytest
from wcag import contrast

from ninscope.report.page.chart_data import (
    domain_of,
    drawn_ends,
    entries_of,
    evenly,
    numbers_of,
    rounded,
    rows_of,
    within,
)
from ninscope.report.page.charts import (
    DIVERGING,
    GREY,
    and_more,
    colours,
    first_and_last,
    layer_words,
    number_words,
    ticks_of,
)
from ninscope.report.page.theme import DARK, LIGHT


@pytest.mark.parametrize("count", [1, 10, 11, 40])
def test_colours_differ_and_can_be_seen_on_light_and_on_dark(count):
    made = [*colours(count), GREY, *DIVERGING]
    assert len(set(made[:count])) == count
    for scheme in (LIGHT, DARK):
        for colour in made:
            assert contrast(colour, scheme["paper"]) >= 3, colour


def test_numbers_have_six_digits_and_nothing_that_json_lacks():
    values = [0.123456789, -1234567.89, 1e-30, 0, math.inf, -math.inf, math.nan, None]
    expected = [0.123457, -1234570.0, 1e-30, 0]
    assert rounded(values)[:4].tolist() == expected
    assert np.isnan(rounded(values)[4:]).all()
    assert repr(rounded([0.1 + 0.2]).tolist()) == "[0.3]"


def test_columns_that_a_table_lacks_are_missing():
    table = pd.DataFrame({"step": [4, None], "label": ["a", "b"], "value": ["x", 1]})
    data = rows_of(table, ["value", "other"], ["message"])
    assert data["step"].tolist() == [4]
    assert data[["value", "other"]].isna().all(axis=None)
    assert data["message"].tolist() == [""]


def test_ticks_are_few_and_hold_both_ends():
    steps = [0, *(2**power for power in range(10)), *range(1000, 144_000, 1000)]
    ticks = ticks_of(steps)
    assert ticks[0] == 0
    assert ticks[-1] == 143_000
    assert len(ticks) <= 12
    assert set(ticks) <= set(steps)
    assert ticks_of([7]) == [7]


def test_a_domain_holds_every_value_and_as_much_of_the_bands_as_is_legible():
    low, high = domain_of([0.0, 1.0], [[-0.1, -9.0], [0.1, 9.0]])
    assert -0.5 < low < -0.35
    assert 1.35 < high < 1.5
    assert domain_of([0.0, 1.0], [[0.2], [0.3]]) == pytest.approx([-0.06, 1.06])
    assert domain_of([math.nan]) is None
    low, high = domain_of([2.0])
    assert low < 2 < high


def test_what_is_drawn_of_an_interval_is_by_group():
    data = pd.DataFrame(
        {"group": [0, 0, 1, 1], "a": [0.0, 1, 0, 100], "a_low": [-9.0, 0.5] * 2, "a_high": [9.0, 1.5] * 2}
    )
    drawn = drawn_ends(data, ["a", "b"], ["group"])
    assert drawn["a_from"].tolist()[2] == -9
    assert -1 < drawn["a_from"].tolist()[0] < -0.3
    assert drawn["a_low"].tolist() == data["a_low"].tolist()


def test_lists_name_the_model_where_there_are_several():
    data = pd.DataFrame({"label": ["b", "b", "a"], "layer": ["x", "y", "x"]})
    numbers, names = entries_of(data, "label", "layer")
    assert (numbers.tolist(), names) == ([0, 1, 2], ["b: x", "b: y", "a: x"])
    assert entries_of(data[:2], "label", "layer")[1] == ["x", "y"]
    assert numbers_of(data["layer"])[0].tolist() == [0, 1, 0]


def test_rows_that_a_page_cannot_hold_are_left_out_evenly_and_told():
    data = pd.DataFrame({"step": np.repeat(np.arange(100), 10), "name": list("abcdefghij") * 100})
    assert within(data, "name", 1000) == (data, "")
    some, note = within(data, "name", 120)
    assert len(some) <= 120
    assert {0, 99} <= set(some["step"])
    assert {"a", "j"} <= set(some["name"])
    assert (
        note
        == f"Shown are 24 of 100 steps and {some['name'].nunique()} of 10 names, evenly spaced; the tables have all."
    )
    assert evenly(range(10), 3) == [0, 4, 9]


def test_descriptions_say_first_and_last_values():
    data = pd.DataFrame({"label": ["m"] * 3, "step": [0, 10, 2000], "value": [0.0, 5.0, 1.25]})
    assert first_and_last(data, "value", "E") == "E over training. m: 0 at step 0, 1.25 at step 2,000."
    assert first_and_last(data.assign(value=np.nan), "value", "E") == "E: no step has a value."
    many = pd.concat([data.assign(label=str(number)) for number in range(6)])
    assert first_and_last(many, "value", "E").endswith("; and 2 more lines.")
    assert first_and_last(many[many["label"] != "0"], "value", "E").endswith("; and 1 more line.")
    assert number_words(math.nan) == "not known"


def test_what_short_names_of_layers_mean_is_said_where_there_are_some():
    assert "m the neurons of the MLP" in layer_words(["conv_in", "block0.x"])[0]
    assert layer_words(["conv_in", "blocks.0", "gpt_neox.layers.0.mlp"]) == ()


def test_numbers_read_as_in_the_verdict():
    values = [0.56, -2.35e-5, 0.0, float("nan"), 9, 12345.6]
    assert [number_words(value) for value in values] == ["0.560", "-0.0000235", "0", "not known", "9.00", "12,300"]
    assert [and_more(count, "line") for count in (1, 1200)] == ["1 more line", "1,200 more lines"]
