"""Runs of several models: each has its tables' rows and its own figures."""

from pathlib import Path

import pytest
from driving import write_dag
from suites import write_suite
from test_run import SHAPE, STEPS, dag, finished, place, run, store, table, would_run  # noqa: F401 (fixtures among them)


def test_two_models_are_compared_and_one_taken_out_leaves_no_figure(place, scheduler):
    write_suite(place / "wider", STEPS[:2], blocks=1, width=24, heads=2)
    both = write_dag(place / "tiny.toml", Path("weights"), Path("wider"))
    assert run(place, scheduler, both).code == 0
    pictures = {path.name for path in (place / "runs" / "tiny" / "figures").glob("*.png")}
    assert pictures == {
        "emergence.png", "weights-emergence.png", "weights-spectra.png",
        "wider-emergence.png", "wider-spectra.png",
    }  # fmt: skip
    rows = table(place, "emergence")
    assert rows["model"].tolist() == ["weights"] * 3 + ["wider"] * 2
    assert rows["emergence"][rows["step"] == 0].tolist() == [0, 0]
    alone = write_dag(place / "tiny.toml", Path("wider"))
    assert run(place, scheduler, alone).code == 0
    pictures = {path.name for path in (place / "runs" / "tiny" / "figures").glob("*.png")}
    assert pictures == {"wider-emergence.png", "wider-spectra.png"}


@pytest.mark.parametrize("other", [("a-b", "c"), ("z", "b-c"), ("a-b-c", "b")])
def test_figures_of_models_with_like_names_do_not_replace_each_other(place, scheduler, other):
    """Model b-c of suite a, and a model whose names could be run together to the same."""
    models = [{"suite": suite, "model": model, "source": "weights"} for suite, model in (("a", "b-c"), other)]
    assert run(place, scheduler, write_dag(place / "tiny.toml", models=models)).code == 0
    assert len(list((place / "runs" / "tiny" / "figures").glob("*.png"))) == 5
