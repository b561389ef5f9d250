"""A run's figures in other formats than PNG."""

from driving import command, write_dag
from suites import write_suite

import ninscope


def test_figures_of_a_run_in_every_format(tmp_path):
    suite = write_suite(tmp_path / "tiny", (0, 1), blocks=1, width=16, heads=2)
    dag = write_dag(tmp_path / "mine.toml", suite)
    assert command("run", dag, "--runs-dir", tmp_path).code == 0
    dag.write_text(dag.read_text() + '\n[figures]\nformats = ["svg", "png", "pdf"]\n')
    planned = command("run", dag, "--runs-dir", tmp_path, "--dry-run")
    assert planned.would_run == [("figures", "all")]
    assert command("run", dag, "--runs-dir", tmp_path).code == 0
    names = [path.name for path in ninscope.open_run(tmp_path / "mine").figures]
    assert {name.rpartition(".")[2] for name in names} == {"png", "svg", "pdf"}
    assert len(names) % 3 == 0
