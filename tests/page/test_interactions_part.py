"""The page's part of coupling: means and quartiles over pairs, and the map of blocks."""

import math

import pytest
from chart_checks import HOSTILE, bound, page_tables, rows_with, specs_of

from ninscope.report.page.interactions_part import interactions_parts


def row(step, coupling, kind="mlp", blocks=("block0", "block0"), label="m"):
    writer, reader = (f"{block}.x -> {block}.y" for block in blocks)
    return {"label": label, "step": step, "writer": writer, "reader": reader, "kind": kind, "coupling": coupling}


def test_a_kind_is_its_mean_and_quartiles_over_pairs():
    rows = [row(0, value) for value in (0.0, 0.1, 0.2, 0.7)] + [row(0, 0.5, "across"), row(0, 0.3, "own_kind")]
    spec = specs_of(interactions_parts(page_tables({"interactions": rows})))["interactions-kinds"]
    lines = {line["pair"]: (line["mean"], line["low"], line["high"], line["pairs"]) for line in rows_with(spec, "pair")}
    assert lines["MLP: in to out"] == pytest.approx((0.25, 0.075, 0.325, 4))
    assert list(lines) == ["MLP: in to out", "across blocks", "own kind"]


def test_the_map_has_means_by_block_in_the_order_of_the_model():
    blocks = ("block0", "block1"), ("block1", "block10"), ("block0", "block1")
    rows = [row(step, 0.25 * step + n, "across", pair) for step in (0, 4) for n, pair in enumerate(blocks)]
    spec = specs_of(interactions_parts(page_tables({"interactions": rows})))["interactions-map"]
    cells = {
        (line["writes"], line["reads"]): line["coupling"] for line in rows_with(spec, "writes") if line["place"] == 1
    }
    assert cells == {("block0", "block1"): 2.0, ("block1", "block10"): 2.0}
    places = {line["writes"]: line["row"] for line in rows_with(spec, "writes")}
    assert places["block0"] < places["block1"]


def test_models_are_compared_by_kind():
    rows = [row(step, 0.5, kind, label=label) for label in ("b", HOSTILE) for kind in ("qk", "vo") for step in (0, 4)]
    specs = specs_of(interactions_parts(page_tables({"interactions": rows}, [HOSTILE, "b"])))
    assert bound(specs["interactions-models"], "kind")["labels"] == ["v to o, heads", "k to q, heads"]
    assert bound(specs["interactions-kinds"], "model")["labels"] == [HOSTILE, "b"]


def test_without_a_coupling_there_is_no_part():
    for rows in ([], [row(0, math.nan)], [row(None, 0.5)]):
        assert list(interactions_parts(page_tables({"interactions": rows}))) == []
