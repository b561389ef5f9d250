"""Fine-tunes that fail, bases that are bad, twice there, adapters or on a Hub: the others go on, and tables say what was."""

import contextlib
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from driving import artefacts, command, contents, made, write_dag

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from distributed import Client
from finetune_models import add_sections, finetune_section, language_task, neox_suite, write_words
from hub_client import _private_client, serve  # noqa: F401 (fixtures)
from models_here import (  # noqa: F401 (fixtures)
    _figures_not_rendered,
    _models_in_this_process,
    laid_out,
    only_names_of_figures,
)
from safetensors.numpy import load_file, save_file

from ninscope_pipeline.execution.graph import job_graph
from ninscope_pipeline.execution.here import ThreadsHere
from ninscope_pipeline.prepared_run import perform, prepare, start
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.stages import finetune
from ninscope_pipeline.stages.model_runs import doing as of_model
from ninscope_pipeline.stages.model_runs.planning import ChangedInputs

pytestmark = pytest.mark.usefixtures("only_names_of_figures")

WHOLE = {"exact": True, "nodes_per_layer": "all", "samples": None}
# A step of AdamW with such a rate and decay makes every weight a million times as large.
DIVERGING = {"learning_rates": [1.0], "weight_decay": 1e6, "warmup": 0.0, "steps": 12, "evaluate_every": 12}
SHORT = {"methods": ["none"], "seeds": [0], "steps": 1, "evaluate_every": 1}


@pytest.fixture
def options(tmp_path) -> tuple:
    return "--runs-dir", tmp_path / "runs", "--workers", 1


def table(tmp_path, name, run="some") -> pd.DataFrame:
    return pd.read_parquet(tmp_path / "runs" / run / "tables" / f"{name}.parquet")


def changed(folder: Path, name: str, value: float) -> None:
    """The checkpoint with one weight of this tensor something else."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[name].flat[0] = value
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.usefixtures("laid_out")
@pytest.mark.parametrize("method", ["none", "reversed"])
def test_one_that_diverges_is_recorded_and_the_others_go_on(tmp_path, options, method):
    neox_suite(tmp_path / "tiny", (0,))
    task = language_task(tmp_path)
    sections = [
        finetune_section(task, **SHORT),
        finetune_section(task | {"name": "wild"}, **DIVERGING, methods=[method], seeds=[3]),
    ]
    dag = add_sections(write_dag(tmp_path / "some.toml", Path("tiny"), **WHOLE), finetune=sections)
    ended = command("run", dag, *options)
    assert ended.code == 1
    (line,) = ended.says
    assert line.startswith(f"tiny/tiny step0 wild {method} seed 3 rate 1: nonfinite: ")
    assert "update" in line
    rows = table(tmp_path, "finetunes")
    (failed,) = rows[rows["task"] == "wild"].to_dict("records")
    assert (failed["status"], failed["metric"], failed["method"], failed["seed"]) == ("nonfinite", "", method, 3)
    assert line.endswith(failed["message"])
    assert pd.isna(failed["value"])
    assert pd.isna(failed["finetune_step"])
    assert set(rows[rows["task"] == "prose"]["status"]) == {"ok"}
    assert set(table(tmp_path, "comparisons")["task"]) == {"prose"}
    assert (tmp_path / "runs" / "some" / "figures" / "tiny--wild-finetunes.png").is_file()
    assert not list((tmp_path / "runs" / "some" / "finetunes").iterdir())

    before = contents(tmp_path / "runs" / "some" / "tables")
    again = command("run", dag, *options)
    assert (again.code, again.says) == (1, [line])
    assert "nothing to run" in again.out
    assert contents(tmp_path / "runs" / "some" / "tables") == before


@pytest.mark.usefixtures("laid_out")
def test_bases_that_are_corrupt_or_not_finite_have_rows_that_say_so(tmp_path, options):
    suite = neox_suite(tmp_path / "tiny", (0, 4, 8))
    path = suite / "step4" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    changed(suite / "step8", "gpt_neox.layers.0.attention.dense.weight", np.nan)
    task = language_task(tmp_path)
    dag = write_dag(tmp_path / "some.toml", Path("tiny"), **WHOLE)
    add_sections(dag, finetune=finetune_section(task, **SHORT), activations={"task": task})
    ended = command("run", dag, *options)
    assert ended.code == 1
    assert [line.split(": ")[:2] for line in ended.says] == [
        ["tiny/tiny step4", "corrupt"],
        ["tiny/tiny step8", "nonfinite"],
    ]
    for name in ("finetunes", "activations"):
        found = table(tmp_path, name).groupby("revision")["status"].unique()
        assert {key: list(value) for key, value in found.items()} == {
            "step0": ["ok"],
            "step4": ["corrupt"],
            "step8": ["nonfinite"],
        }
    assert command("run", dag, *options, "--dry-run").would_run == []


def test_a_weight_that_only_the_model_reads_is_looked_at_too(tmp_path, options):
    """Embeddings are not part of the network, and the analysis does not see them."""
    suite = neox_suite(tmp_path / "tiny", (0,))
    changed(suite / "step0", "gpt_neox.embed_in.weight", np.inf)
    dag = write_dag(tmp_path / "some.toml", Path("tiny"), **WHOLE)
    add_sections(dag, finetune=finetune_section(language_task(tmp_path), **SHORT))
    ended = command("run", dag, *options)
    assert ended.code == 1
    assert ended.says == [
        "tiny/tiny step0 prose none seed 0 rate 0.003: nonfinite: tensor gpt_neox.embed_in.weight holds NaN or infinity; "
        "no model can be trained from it"
    ]
    assert list(table(tmp_path, "checkpoints")["status"]) == ["ok"]


@pytest.mark.usefixtures("laid_out")
def test_a_base_that_is_there_twice_has_rows_for_both_without_a_false_E(tmp_path, options):
    suite = neox_suite(tmp_path / "tiny", (0, 4, 8))
    shutil.copy(suite / "step4" / "model.safetensors", suite / "step8" / "model.safetensors")
    task = language_task(tmp_path)
    dag = write_dag(tmp_path / "some.toml", Path("tiny"), **WHOLE)
    add_sections(dag, finetune=finetune_section(task, **SHORT), activations={"task": task})
    command("run", dag, *options)
    assert len(artefacts(tmp_path / "runs" / "some")["finetune"]) == 2  # of equal weights one is made
    rows, analysed = table(tmp_path, "finetunes"), table(tmp_path, "emergence").set_index("revision")
    assert list(analysed["emergence"].isna()) == [False, True, True]
    for revision, part in rows.groupby("revision"):
        assert len(part) == 4
        assert set(part["emergence"].isna()) == {bool(pd.isna(analysed.loc[revision, "emergence"]))}
        assert part["emergence_from_base"].notna().all()  # of what the weights are, no step is needed
    same = rows.drop(columns=["revision", "step", "emergence"])
    pd.testing.assert_frame_equal(
        same[rows["revision"] == "step4"].reset_index(drop=True),
        same[rows["revision"] == "step8"].reset_index(drop=True),
    )
    assert set(table(tmp_path, "activations")["revision"]) == {"step0", "step4", "step8"}


def test_one_model_in_two_suites_has_rows_in_both(tmp_path, options):
    neox_suite(tmp_path / "tiny", (0,))
    models = [{"suite": name, "model": "tiny", "source": "tiny"} for name in ("one", "two")]
    dag = write_dag(tmp_path / "some.toml", models=models, **WHOLE)
    add_sections(dag, finetune=finetune_section(language_task(tmp_path), **SHORT))
    assert command("run", dag, *options).code == 0
    assert table(tmp_path, "finetunes")["suite"].value_counts().to_dict() == {"one": 4, "two": 4}
    assert len(artefacts(tmp_path / "runs" / "some")["finetune"]) == 1
    figures = {path.name for path in (tmp_path / "runs" / "some" / "figures").glob("*-finetunes.png")}
    assert figures == {"one--tiny--prose-finetunes.png", "two--tiny--prose-finetunes.png"}


@pytest.mark.usefixtures("laid_out")
def test_without_step_0_there_is_no_E_but_against_the_base(tmp_path, options):
    neox_suite(tmp_path / "tiny", (4,))
    dag = write_dag(tmp_path / "some.toml", Path("tiny"), **WHOLE)
    add_sections(dag, finetune=finetune_section(language_task(tmp_path), **SHORT))
    command("run", dag, *options)
    rows = table(tmp_path, "finetunes")
    assert rows["emergence"].isna().all()
    assert rows["emergence_from_base"].notna().all()


def test_adapters_are_bases(tmp_path, options):
    """A fine-tune from an adapter in its base is one from what peft merges of them, and has the base's tokenizer."""
    pytest.importorskip("peft")
    from lora_adapters import written

    adapter, base, merged = written(tmp_path / "made", "llama", "float32", r=2, target_modules="all-linear")
    shutil.copytree(adapter, tmp_path / "adapters" / "checkpoint-0")
    shutil.copytree(merged, tmp_path / "merged" / "checkpoint-0")
    task = write_words(tmp_path, base, tmp_path / "merged" / "checkpoint-0")
    models = [
        {"suite": "tiny", "model": "adapted", "source": "adapters", "base": "made/base"},
        {"suite": "tiny", "model": "merged", "source": "merged"},
    ]
    dag = write_dag(tmp_path / "some.toml", models=models, **WHOLE)
    sections = [finetune_section(task, model=name, **SHORT) for name in ("adapted", "merged")]
    add_sections(dag, finetune=sections)
    ended = command("run", dag, *options)
    assert ended.code == 0, ended.err
    rows = table(tmp_path, "finetunes")
    columns = ["finetune_step", "metric", "value", "phi_mean", "alpha0", "width"]
    ours, theirs = (rows[rows["model"] == name][columns].reset_index(drop=True) for name in ("adapted", "merged"))
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-4)
    assert command("run", dag, *options, "--dry-run").would_run == []


def test_bases_on_a_hub_are_those_of_a_folder(tmp_path, serve, options):
    """Weights and tokenizer of the commit that was looked at."""
    suite = neox_suite(tmp_path / "tiny", (0, 4))
    task = write_words(tmp_path, *suite.iterdir())
    hub = serve({"org/tiny": {folder.name: folder for folder in suite.iterdir()}})
    for name, source in (("some", "tiny"), ("hub", "org/tiny")):
        models = [{"suite": "tiny", "model": "tiny", "source": source, "revisions": ["step0", "step4"]}]
        dag = write_dag(tmp_path / f"{name}.toml", models=models, **WHOLE)
        add_sections(dag, finetune=finetune_section(task, **SHORT), activations={"task": task})
        ended = command("run", dag, *options)
        assert ended.code == 0, ended.err
    for name in ("finetunes", "activations", "comparisons"):
        pd.testing.assert_frame_equal(table(tmp_path, name, "hub"), table(tmp_path, name))
    asked = {request.path for request in hub.requests if "tokenizer.json" in request.path}
    assert asked
    assert not any("/main/" in path or "/step" in path for path in asked)  # but of a commit
    before = artefacts(tmp_path / "runs" / "hub")
    assert not (tmp_path / "runs" / "hub" / "bases").exists()
    command("run", dag, *options)
    assert set(made(before, artefacts(tmp_path / "runs" / "hub")).values()) == {0}


def test_weights_of_a_base_on_a_hub_are_fetched_once_for_all_that_starts_from_it(tmp_path, serve, options):
    """As --dry-run says: once by the exact analysis, and once, whole, for four fine-tunes one after the other."""
    suite = neox_suite(tmp_path / "tiny", (4,))
    task = write_words(tmp_path, *suite.iterdir())
    size = (suite / "step4" / "model.safetensors").stat().st_size
    hub = serve({"org/tiny": {folder.name: folder for folder in suite.iterdir()}})
    models = [{"suite": "tiny", "model": "tiny", "source": "org/tiny", "revisions": ["step4"]}]
    dag = write_dag(tmp_path / "hub.toml", models=models, **WHOLE)
    assert command("run", dag, *options).code == 0
    add_sections(dag, finetune=finetune_section(task, **SHORT | {"seeds": [0, 1, 2, 3]}))
    planned = command("run", dag, *options, "--dry-run")
    assert f"({size} bytes) of weights for tiny/tiny" in planned.out
    before = len(hub.requests)
    assert command("run", dag, *options).code == 0
    sent = sum(request.bytes_sent for request in hub.requests[before:] if "safetensors" in request.path)
    headers = 4 * min(size, 65_536)  # of each fine-tune's look at the file
    assert size <= sent < size + headers
    assert len(table(tmp_path, "finetunes", "hub")["seed"].unique()) == 4


def begun(tmp_path) -> tuple:
    """(suite, task, DAG file, what was prepared) of a run that has written down its plan and done nothing yet."""
    suite = neox_suite(tmp_path / "tiny", (0,))
    task = language_task(tmp_path)
    dag = write_dag(tmp_path / "some.toml", Path("tiny"), **WHOLE)
    add_sections(dag, finetune=finetune_section(task, **SHORT), activations={"task": task})
    prepared = prepare(load_dag(dag), tmp_path / "runs")
    start(prepared)
    return suite, task, dag, prepared


@pytest.mark.parametrize("what", ["examples", "configuration"])
def test_files_that_change_after_the_plan_make_no_result(tmp_path, options, what):
    """What is stored under a key is made of what the key was made of."""
    suite, task, dag, prepared = begun(tmp_path)
    if what == "examples":
        changing = tmp_path / task["train"]
        changing.write_text(changing.read_text().upper())
    else:
        changing = suite / "step0" / "config.json"
        changing.write_text(changing.read_text() + "\n")
    with pytest.raises(ChangedInputs, match="have changed since the run began; run it again"):
        perform(prepared, ThreadsHere(1), lambda *_: None)
    run = tmp_path / "runs" / "some"
    assert not list(run.glob("store.zarr/finetune/*"))
    assert not list(run.glob("store.zarr/activations/*"))
    assert not list(run.glob("finetunes/*"))
    ended = command("run", dag, *options)
    assert (ended.code, ended.says) == (0, [])


def test_weights_that_are_damaged_for_a_while_are_not_damaged_for_ever(tmp_path, options):
    suite, _, dag, prepared = begun(tmp_path)
    weights = suite / "step0" / "model.safetensors"
    whole = weights.read_bytes()
    changed(suite / "step0", "gpt_neox.embed_in.weight", np.nan)
    perform(prepared, ThreadsHere(1), lambda *_: None)
    for name in ("finetunes", "activations"):
        (row,) = table(tmp_path, name).itertuples()
        assert row.status == "corrupt"
        assert "model.safetensors: changed while it was being read; run again" in row.message
    weights.write_bytes(whole)
    ended = command("run", dag, *options)
    assert (ended.code, ended.says) == (0, [])


def test_a_stored_failure_is_said_before_anything_is_run(tmp_path, options):
    neox_suite(tmp_path / "tiny", (0,))
    changed(tmp_path / "tiny" / "step0", "gpt_neox.embed_in.weight", np.inf)
    dag = write_dag(tmp_path / "some.toml", Path("tiny"), **WHOLE)
    add_sections(dag, finetune=finetune_section(language_task(tmp_path), **SHORT))
    assert command("run", dag, *options).code == 1
    said = command("run", dag, *options, "--dry-run").out
    assert "not ok:    tiny/tiny step0 prose none seed 0 rate 0.003: nonfinite: tensor gpt_neox.embed_in.weight" in said


def test_states_that_nobody_asks_for_any_more_are_cleared(tmp_path, options):
    neox_suite(tmp_path / "tiny", (0,))
    dag = write_dag(tmp_path / "some.toml", Path("tiny"), **WHOLE)
    add_sections(dag, finetune=finetune_section(language_task(tmp_path), **SHORT))
    left = tmp_path / "runs" / "some" / "finetunes" / "of-an-earlier-recipe"
    left.mkdir(parents=True)
    assert command("run", dag, *options).code == 0
    assert not left.exists()


def test_states_stay_while_it_is_not_known_whose_they_are(tmp_path, options):
    """A checkpoint that cannot be read for a while: what was reached from it is gone on from later."""
    neox_suite(tmp_path / "tiny", (0, 4))
    dag = write_dag(tmp_path / "some.toml", Path("tiny"), **WHOLE)
    add_sections(dag, finetune=finetune_section(language_task(tmp_path), **SHORT))
    (tmp_path / "tiny" / "step4" / "model.safetensors").rename(tmp_path / "kept")
    left = tmp_path / "runs" / "some" / "finetunes" / "of-step4"
    left.mkdir(parents=True)
    assert command("run", dag, *options).code == 1
    assert left.exists()


def test_a_fine_tune_that_is_cancelled_stops(tmp_path, threads):
    """A thread cannot be stopped: the next run would wait for the hours that it still has."""
    neox_suite(tmp_path / "tiny", (0,))
    dag = write_dag(tmp_path / "some.toml", Path("tiny"), **WHOLE)
    lasting = SHORT | {"steps": 100_000, "evaluate_every": 100_000}
    add_sections(dag, finetune=finetune_section(language_task(tmp_path), **lasting | {"seeds": [0, 1]}))
    prepared = prepare(load_dag(dag), tmp_path / "runs")
    start(prepared)
    graph = job_graph(prepared.plan.first_jobs(), str(prepared.folder.root))
    with Client(threads, set_as_default=False) as client:
        futures = client.compute([task for (stage, _), task in graph.items() if stage == "finetune"])
        wait_until(lambda: any(client.processing().values()))
        time.sleep(2)  # they are training
        client.cancel(futures, force=True)
        assert client.submit(int, "7", pure=False).result(timeout=30) == 7


def wait_until(true) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Gpus:
    """torch.cuda of a machine with so many GPUs, as far as it is asked here. busy: which are current devices."""

    def __init__(self, count: int):
        self.count, self.busy, self.emptied = count, [], 0

    def device_count(self) -> int:
        return self.count

    def get_device_properties(self, index: int):
        return SimpleNamespace(uuid=f"test-{os.getpid()}-{index}")

    def empty_cache(self) -> None:
        assert self.busy
        self.emptied += 1

    @contextlib.contextmanager
    def device(self, index: int):
        assert index not in self.busy
        self.busy.append(index)
        try:
            yield
        finally:
            self.busy.remove(index)


def test_no_two_studies_have_one_gpu(monkeypatch):
    gpus, most = Gpus(2), []
    monkeypatch.setattr("torch.cuda", gpus)
    monkeypatch.setattr(of_model, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(of_model, "gc", SimpleNamespace(collect=lambda: None))  # of all that the tests have imported

    def work(number: int) -> None:
        with of_model.a_gpu():
            most.append(len(gpus.busy))
            time.sleep(0.05)
            if number == 3:
                raise RuntimeError("of the work")

    with ThreadPoolExecutor(6) as pool:
        failed = [future.exception() for future in [pool.submit(work, number) for number in range(12)]]
    assert [str(error) for error in failed if error is not None] == ["of the work"]
    assert max(most) == 2
    assert (gpus.busy, gpus.emptied) == ([], 12)


def test_without_a_gpu_whoever_wants_it_says_so(monkeypatch):
    monkeypatch.setattr("torch.cuda", Gpus(0))
    with of_model.a_gpu():
        pass


@pytest.mark.parametrize("trusted", [False, True])
def test_no_E_where_the_base_itself_counts_unlike_step_0(trusted):
    def of(revision, layers):
        located = SimpleNamespace(
            revision=revision, is_baseline=revision == "step0", no_emergence="", suite="a", model="b"
        )
        outcomes, jobs = {"exact": SimpleNamespace(ok=True)}, {"exact": SimpleNamespace(id=revision)}
        measured[revision] = SimpleNamespace(nodes_counted=100.0, layers_counted=layers)
        return SimpleNamespace(located=located, outcomes=outcomes, jobs=jobs)

    measured = {}
    siblings = [of("step0", 4), of("step8", 3)]
    section = SimpleNamespace(emergence=SimpleNamespace(trust_unlike_counts=trusted))
    results = SimpleNamespace(
        of_model=lambda *_: siblings, measurement=measured.get, request=SimpleNamespace(dag=section)
    )
    base, start, reason = finetune._networks(SimpleNamespace(located=siblings[1].located), results)
    assert (base, start) == (measured["step8"], measured["step0"])
    assert bool(reason) == (not trusted)
