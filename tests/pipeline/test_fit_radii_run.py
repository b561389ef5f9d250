"""fit_radii in a DAG file: of [analysis] and of variants, followed by null models and controls."""

import pytest
from driving import command, write_dag
from suites import write_suite

import ninscope

pytestmark = pytest.mark.usefixtures("undrawn")

SHAPE = {"blocks": 2, "width": 24, "heads": 3}


def test_a_run_knows_the_key_and_its_variants(tmp_path):
    """Nulls and controls follow [analysis]; a variant has keys of its own."""
    source = write_suite(tmp_path / "tiny", (0, 1), **SHAPE)
    changes = {"nodes_per_layer": 12, "samples": 2, "exact": True, "q": None, "min_degree": None}
    bounded = {"fit_radii": [5, 60], "controls": {}, "nulls": {"models": ["gaussian"], "samples": 1}}
    dag = write_dag(
        tmp_path / "mine.toml", source, **changes, **bounded, variants=[{"name": "wide", "fit_radii": [2, 150]}]
    )
    ended = command("run", dag, "--runs-dir", tmp_path)
    assert ended.code == 0, ended.err
    run = ninscope.open_run(tmp_path / "mine")
    rows = run.table("emergence").set_index(["variant", "method", "step"])["alpha0"]
    for variant, bounds in (("default", [5, 60]), ("wide", [2, 150])):
        for method, how in (("exact", {"exact": True}), ("sampled", {"nodes_per_layer": 12, "samples": 2})):
            assert rows[variant, method, 1] == ninscope.measure(source, 1, **how, fit_radii=bounds).alpha0
    plain = write_dag(tmp_path / "plain.toml", source, **changes, controls={}, nulls=bounded["nulls"])
    assert command("run", plain, "--runs-dir", tmp_path).code == 0
    other = ninscope.open_run(tmp_path / "plain")
    for table, column in (("controls", "alpha0_unit"), ("controls", "width_shuffled"), ("nulls", "alpha0")):
        assert (run.table(table)[column] != other.table(table)[column]).all(), (table, column)
    code = command("run", write_dag(tmp_path / "bad.toml", source, fit_radii=[9, 3]), "--runs-dir", tmp_path)
    assert code.code == 2
    assert "fit_radii is [9.0, 3.0]; two distances" in code.err
