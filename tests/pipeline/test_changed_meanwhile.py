"""Files beside the weights decide numbers too: where one changes while a run is at work, its checkpoint fails."""

import pytest
import tomli_w
from driving import ANALYSIS, EMERGENCE
from suites import write_suite

import ninscope
from ninscope.checkpoints.hash_cache import sealed, unsealed
from ninscope.errors import CheckpointError
from ninscope_pipeline.execution.job import run_job
from ninscope_pipeline.prepared_run import prepare, start
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.stages.measurements import stored_measurement
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import ArtefactStore
from ninscope_pipeline.survey_memory import VERSION, known_of


@pytest.fixture
def asked(tmp_path):
    """A DAG file over a suite of two steps, in shards."""
    write_suite(tmp_path / "tiny", [0, 8], blocks=1, width=16, heads=2, shards=2)
    dag = {
        "models": [{"suite": "tiny", "model": "tiny", "source": "tiny", "revisions": "all"}],
        "analysis": {**ANALYSIS, "exact": True},
        "emergence": EMERGENCE,
    }
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(dag))
    return tmp_path / "tiny.toml"


def test_other_heads_are_stored_nowhere(asked):
    config = asked.parent / "tiny" / "step8" / "config.json"
    text, runs = config.read_text(), asked.parent / "runs"
    prepared = prepare(load_dag(asked), runs)
    start(prepared)
    config.write_text(text.replace('"num_attention_heads": 2', '"num_attention_heads": 8'))
    assert config.read_text() != text
    jobs = [job for job in prepared.plan.to_run if job.stage in ("nin", "exact") and "step8" in job.label]
    assert len(jobs) == 2
    store = ArtefactStore(prepared.folder)
    for job in jobs:
        outcome = run_job(prepared.folder.root, job, ())
        assert (outcome.status, outcome.message) == (
            "corrupt", "step8: its configuration or its tensors changed since they were located; run again",
        )  # fmt: skip
        assert not store.has(*job.id)
    config.write_text(text)
    again = [job for job in prepare(load_dag(asked), runs).plan.to_run if job.id in {job.id for job in jobs}]
    assert [run_job(prepared.folder.root, job, ()).ok for job in again] == [True, True]
    (exact,) = (job for job in again if job.stage == "exact")
    found = stored_measurement(store.read(*exact.id))
    expected = ninscope.measure(asked.parent / "tiny", "step8", min_degree=3, q=found.q)
    assert found.alpha0 == expected.alpha0


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_file_that_was_written_again(asked, name):
    """Though it may say the same: what was read of it meanwhile is not known. It holds of what a run remembers, too."""
    for _ in range(2):
        prepared = prepare(load_dag(asked), asked.parent / "runs")
        start(prepared)
    located = prepared.located[1]
    located.opened().check_unchanged(located.identity)
    file = asked.parent / "tiny" / "step8" / name
    file.write_text(file.read_text() + "\n")
    with pytest.raises(CheckpointError, match=f"step8/{name}: changed while it was being read; run again"):
        located.opened().check_unchanged(located.identity)


def test_of_an_older_memory_only_hashes_are_believed(asked):
    """Its identities say nothing of the configuration."""
    start(prepare(load_dag(asked), asked.parent / "runs"))
    folder = RunFolder(asked.parent / "runs" / "tiny")
    memory = unsealed(folder.read_json(folder.known, {}))
    folder.write_json(folder.known, sealed(memory | {"version": VERSION - 1}))
    known = known_of(folder)
    assert (known.facts, known.beside) == ({}, {})
    assert set(memory["files"]) <= set(known.files)
