"""No E that a duplicate would falsify: `ninscope run`, its tables, figures, exit code and what it says."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from driving import artefacts, command, contents, write_dag
from hub_client import _private_client, serve  # noqa: F401 (fixtures)
from matplotlib.image import imread
from suites import copied_clause, copy_weights, neox_tensors, write_checkpoint, write_suite

import ninscope
from ninscope_pipeline.prepared_run import prepare
from ninscope_pipeline.request.dagfile import load_dag

SHAPE = {"blocks": 1, "width": 16, "heads": 2}
STEPS = (0, 1, 4, 8)
ALL = {"exact": True, "nulls": {"models": ["shuffled", "analytic"], "samples": 2}}
OVERRIDE = "--trust-duplicates overrides"
WITHHELD = (0xC1, 0x12, 0x1F)


IN_FILES_AND_SHARDS = pytest.mark.parametrize("suite", [1, 3], ids=["whole", "shards"], indirect=True)


@pytest.fixture
def suite(request, tmp_path):
    return write_suite(tmp_path / "tiny", STEPS, shards=getattr(request, "param", 1), **SHAPE)


@pytest.fixture
def place(suite):
    return suite.parent


def run(place, scheduler, *options, name="tiny", **changes):
    return command(
        "run", write_dag(place / f"{name}.toml", Path("tiny"), **ALL | changes),
        "--runs-dir", place / "runs", "--scheduler", scheduler, *options,
    )  # fmt: skip


def table(place, name, run="tiny") -> pd.DataFrame:
    return pd.read_parquet(place / "runs" / run / "tables" / f"{name}.parquet")


def e_of(place, run="tiny") -> dict:
    found = {(row.revision, row.method): row.emergence for row in table(place, "emergence", run).itertuples()}
    nulls = {(row.revision, row.null): row.emergence for row in table(place, "nulls", run).itertuples()}
    return found | nulls


def without(found: dict, *revisions) -> dict:
    """What must be left where E of these is withheld."""
    return {key: np.nan if key[0] in revisions else value for key, value in found.items()}


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[k], right[k], equal_nan=True) for k in left)


def test_an_undisturbed_suite_is_as_ever(place, suite, scheduler):
    assert run(place, scheduler).code == 0
    assert run(place, scheduler, "--trust-duplicates", name="trusting").code == 0
    assert not table(place, "emergence")["emergence"].isna().any()
    assert set(table(place, "emergence")["status"]) == {"ok"}
    assert set(table(place, "checkpoints")["message"]) == {""}
    for name in ("checkpoints", "emergence", "nulls", "samples"):
        assert table(place, name).equals(table(place, name, "trusting"))


@IN_FILES_AND_SHARDS
def test_two_later_steps_alike_have_no_e(place, suite, scheduler):
    copy_weights(suite, "step8", "step1")
    ended = run(place, scheduler)
    assert ended.code == 1
    clauses = {"step1": copied_clause(suite, "step8"), "step8": copied_clause(suite, "step1")}
    assert ended.says[:2] == [f"tiny/tiny {name}: duplicate: {text}" for name, text in clauses.items()]
    assert sum(f"no E: {text} ({OVERRIDE})" in line for line in ended.says for text in clauses.values()) >= 2
    rows = table(place, "checkpoints").set_index("revision")
    assert rows["status"].tolist() == ["ok", "duplicate", "ok", "duplicate"]
    assert {name: rows.loc[name, "message"] for name in clauses} == clauses
    assert rows["content_sha256"].notna().all()
    emergence = table(place, "emergence").set_index("revision")
    for name, text in clauses.items():
        withheld = emergence.loc[[name]]
        assert set(withheld["status"]) == {"duplicate"}
        assert set(withheld["message"]) == {f"no E: {text} ({OVERRIDE})"}
        assert withheld[["emergence", "emergence_low", "emergence_high"]].isna().all(axis=None)
        assert withheld[["alpha0", "width"]].notna().all(axis=None)
    assert set(emergence.loc[["step0", "step4"], "status"]) == {"ok"}
    nulls = table(place, "nulls").set_index("revision")
    assert nulls.loc[list(clauses), ["emergence", "emergence_std"]].isna().all(axis=None)
    assert nulls.loc[["step0", "step4"], "emergence"].notna().all()

    trusting = run(place, scheduler, "--trust-duplicates", name="trusting")
    assert (trusting.code, [line for line in trusting.says if "duplicate:" in line]) == (0, [])
    assert table(place, "checkpoints", "trusting")["message"].tolist() == [
        "", f"trusted: {clauses['step1']}", "", f"trusted: {clauses['step8']}",
    ]  # fmt: skip
    assert same(e_of(place), without(e_of(place, "trusting"), *clauses))
    assert not table(place, "emergence", "trusting")["emergence"].isna().any()
    for row in table(place, "emergence", "trusting").query("method == 'exact'").itertuples():
        given = {"min_degree": 3, "q": np.linspace(-2, 2, 9)}
        one, start = (ninscope.measure(str(suite), name, **given) for name in (row.revision, "step0"))
        assert row.emergence == pytest.approx(ninscope.emergence(one, start), rel=1e-12, abs=1e-15)


@IN_FILES_AND_SHARDS
def test_a_start_that_is_a_later_step_falsifies_all(place, suite, scheduler):
    copy_weights(suite, "step8", "step0")
    ended = run(place, scheduler)
    assert ended.code == 1
    rows = table(place, "emergence")
    message = f"no E: the baseline step0 is a duplicate ({copied_clause(suite, 'step8')}; {OVERRIDE})"
    assert set(rows["message"]) == {message}
    assert rows["emergence"].isna().all()
    assert set(rows["status"]) == {"duplicate"}
    assert table(place, "nulls")["emergence"].isna().all()
    assert table(place, "checkpoints")["status"].tolist() == ["duplicate", "ok", "ok", "duplicate"]
    assert any(line.endswith(message) for line in ended.says)
    assert run(place, scheduler, baseline_step=1).code == 1  # step0 and step8 are duplicates still
    rows = table(place, "emergence").set_index("revision")
    assert rows["emergence"].notna().to_dict() == {"step0": False, "step1": True, "step4": True, "step8": False}


@IN_FILES_AND_SHARDS
def test_a_duplicate_that_nobody_asked_for_is_found(place, suite, scheduler):
    copy_weights(suite, "step8", "step0")
    ended = run(place, scheduler, revisions=["step0", "step1"])
    assert ended.code == 1
    assert table(place, "checkpoints")["status"].tolist() == ["duplicate", "ok"]
    assert table(place, "checkpoints")["message"].tolist() == [copied_clause(suite, "step8"), ""]
    assert table(place, "emergence")["emergence"].isna().all()


@IN_FILES_AND_SHARDS
def test_on_a_hub_too_from_metadata_alone(place, suite, serve):
    copy_weights(suite, "step8", "step0")
    server = serve({"org/tiny": {folder.name: folder for folder in suite.iterdir()}})
    models = [{"suite": "tiny", "model": "tiny", "source": "org/tiny", "revisions": ["step0", "step1"]}]
    located = prepare(load_dag(write_dag(place / "tiny.toml", models=models)), place / "runs").located
    assert [one.finding.status for one in located] == ["duplicate", "ok"]
    assert all(one.falsified.startswith("no E: the baseline step0 is a duplicate") for one in located)
    read = [r.path for r in server.requests if r.is_file and r.path.endswith(".safetensors")]
    assert read  # headers of those that are asked for
    assert not [path for path in read if server.refs["org/tiny"]["heads"]["step4"] in path]


def test_runs_with_and_without_trust_do_not_take_each_others_e(place, suite, scheduler):
    copy_weights(suite, "step8", "step1")
    assert run(place, scheduler).code == 1
    guarded, keys = contents(place / "runs" / "tiny" / "tables"), artefacts(place / "runs" / "tiny")
    assert run(place, scheduler, "--trust-duplicates").code == 0
    assert not table(place, "emergence")["emergence"].isna().any()
    after = artefacts(place / "runs" / "tiny")
    assert len(after["emergence"] - keys["emergence"]) == 2  # of each method its own, and nothing else again
    assert {stage: after[stage] for stage in ("nin", "spectra", "exact", "nulls")} == {
        stage: keys[stage] for stage in ("nin", "spectra", "exact", "nulls")
    }
    assert run(place, scheduler).code == 1
    assert contents(place / "runs" / "tiny" / "tables") == guarded
    assert artefacts(place / "runs" / "tiny") == after


def test_trust_is_recorded_and_can_be_asked_for_in_the_file(place, suite, scheduler):
    copy_weights(suite, "step8", "step1")

    def recorded(name):
        return tomllib.loads((place / "runs" / name / "run.toml").read_text())["asked"]["emergence"]["trust_duplicates"]

    assert run(place, scheduler).code == 1
    assert run(place, scheduler, "--trust-duplicates", name="option").code == 0
    assert run(place, scheduler, name="file", trust_duplicates=True).code == 0
    assert [recorded(name) for name in ("tiny", "option", "file")] == [False, True, True]
    for name in ("checkpoints", "emergence", "nulls"):
        assert table(place, name, "option").equals(table(place, name, "file"))


def test_the_same_again_is_the_same_bytes(place, suite, scheduler):
    copy_weights(suite, "step8", "step0")
    assert run(place, scheduler).code == 1
    before = contents(place / "runs" / "tiny" / "tables"), contents(place / "runs" / "tiny" / "figures")
    again = run(place, scheduler)
    assert again.code == 1
    assert "everything is there already" in again.out
    shutil.rmtree(place / "runs")
    assert run(place, scheduler).code == 1
    assert (contents(place / "runs" / "tiny" / "tables"), contents(place / "runs" / "tiny" / "figures")) == before


def test_a_duplicate_that_is_mended_gets_its_e(place, suite, scheduler):
    whole = {path: path.read_bytes() for path in (suite / "step1").iterdir()}
    copy_weights(suite, "step8", "step1")
    assert run(place, scheduler).code == 1
    for path, content in whole.items():
        path.write_bytes(content)
    assert run(place, scheduler).code == 0
    mended = e_of(place)
    shutil.rmtree(place / "runs")
    assert run(place, scheduler).code == 0
    assert same(e_of(place), mended)


def test_the_dry_run_names_duplicates(place, suite, scheduler):
    copy_weights(suite, "step8", "step1")
    ended = command("run", write_dag(place / "tiny.toml", Path("tiny")), "--runs-dir", place / "runs", "--dry-run")
    assert ended.code == 0
    lines = [line for line in ended.out.splitlines() if line.startswith("not ok: ")]
    assert [line.split()[3:5] for line in lines] == [["step1:", "duplicate:"], ["step8:", "duplicate:"]]
    assert not (place / "runs").exists()


def test_one_of_another_shape_is_corrupt_and_one_of_another_size_is_not(tmp_path, scheduler):
    suite = write_suite(tmp_path / "tiny", (0, 1, 2, 4, 8), **SHAPE)
    write_checkpoint(suite / "step2", neox_tensors(1, 24, 3, seed=2))
    write_checkpoint(suite / "step4", neox_tensors(seed=4, dtype="float32", **SHAPE))
    ended = run(tmp_path, scheduler)
    assert ended.code == 1
    rows = table(tmp_path, "checkpoints").set_index("revision")
    assert rows["status"].to_dict() == {"step0": "ok", "step1": "ok", "step2": "corrupt", "step4": "ok", "step8": "ok"}
    assert "hidden_size 24, its siblings' 16: not a checkpoint of this model" in rows.loc["step2", "message"]
    assert "its siblings' have" in rows.loc["step4", "message"]
    assert ended.says[0].startswith("tiny/tiny step2: corrupt: ")
    assert any(line.startswith("tiny/tiny step4: model.safetensors has ") for line in ended.says)
    emergence = table(tmp_path, "emergence")
    assert set(emergence["revision"]) == {"step0", "step1", "step4", "step8"}
    assert emergence["emergence"].notna().all()
    audit = json.loads(command("audit", suite, "--json").out)["rows"]
    assert {row["revision"]: row["status"] for row in audit if row["status"] != "ok"} == {
        "step2": "corrupt", "step4": "corrupt",
    }  # fmt: skip


def test_the_figure_marks_what_is_withheld(place, suite, scheduler):
    copy_weights(suite, "step8", "step1")

    def marked(name):
        picture = np.rint(imread(place / "runs" / name / "figures" / "tiny-emergence.png")[:, :, :3] * 255)
        hit = (picture == WITHHELD).all(axis=2)
        return [int(third.sum()) for third in np.array_split(hit, 3)]

    run(place, scheduler)
    run(place, scheduler, "--trust-duplicates", name="trusting")
    assert min(marked("tiny")) > 20
    assert marked("trusting") == [0, 0, 0]
