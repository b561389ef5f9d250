"""Runs of several models: each has its tables' rows and its own figures."""

from pathlib import Path

import pandas as pd
import pytest
from driving import write_dag
from suites import write_suite
from test_run import SHAPE, STEPS, dag, finished, place, run, store, table, would_run  # noqa: F401 (fixtures among them)

from ninscope_pipeline.figures import FigureTables


def test_two_models_are_compared_and_one_taken_out_leaves_no_figure(place):
    write_suite(place / "wider", STEPS[:2], blocks=1, width=24, heads=2)
    both = write_dag(place / "tiny.toml", Path("weights"), Path("wider"))
    assert run(place, both).code == 0
    pictures = {path.name for path in (place / "runs" / "tiny" / "figures").glob("*.png")}
    assert pictures == {
        "emergence.png", "weights-emergence.png", "weights-spectra.png",
        "wider-emergence.png", "wider-spectra.png",
    }  # fmt: skip
    rows = table(place, "emergence")
    assert rows["model"].tolist() == ["weights"] * 3 + ["wider"] * 2
    assert rows["emergence"][rows["step"] == 0].tolist() == [0, 0]
    alone = write_dag(place / "tiny.toml", Path("wider"))
    assert run(place, alone).code == 0
    pictures = {path.name for path in (place / "runs" / "tiny" / "figures").glob("*.png")}
    assert pictures == {"wider-emergence.png", "wider-spectra.png"}


@pytest.mark.parametrize("other", [("a-b", "c"), ("z", "b-c"), ("a-b-c", "b")])
def test_figures_of_models_with_like_names_do_not_replace_each_other(other):
    """Model b-c of suite a, and a model whose names could be run together to the same."""
    checkpoints = pd.DataFrame([("a", "b-c"), other], columns=["suite", "model"])
    assert len({model.stem for model in FigureTables({"checkpoints": checkpoints}).models}) == 2
