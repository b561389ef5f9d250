"""No E that a duplicate would falsify: `ninscope run`, its tables, figures, exit code and what it says."""

import io
import json
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
from ninscope_pipeline.figures import draw
from ninscope_pipeline.prepared_run import prepare, start
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.tables import all_tables

pytestmark = pytest.mark.usefixtures("undrawn")

SHAPE = {"blocks": 1, "width": 16, "heads": 2}
STEPS = (0, 1, 4, 8)
ALL = {"exact": True, "nulls": {"models": ["shuffled", "analytic"], "samples": 2}}
OVERRIDE = "--trust-duplicates overrides"
WITHHELD = (0xC1, 0x12, 0x1F)


@pytest.fixture
def suite(tmp_path) -> Path:
    return write_suite(tmp_path / "tiny", STEPS, **SHAPE)


@pytest.fixture
def place(suite) -> Path:
    return suite.parent


def run(place, *options, name="tiny", **changes):
    return command("run", asking(place, name, **changes), "--runs-dir", place / "runs", *options)


def asking(place, name="tiny", **changes) -> Path:
    return write_dag(place / f"{name}.toml", Path("tiny"), **ALL | changes)


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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A folder with a suite in which nothing is wrong, and its runs without and with trust."""
    place = tmp_path_factory.mktemp("undisturbed")
    write_suite(place / "tiny", STEPS, **SHAPE)
    assert run(place).code == 0
    assert run(place, "--trust-duplicates", name="trusting").code == 0
    return place


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A suite in shards whose step1 is a copy of step8, and its runs; (folder, how they ended, without and with trust)."""
    place = tmp_path_factory.mktemp("copied")
    copy_weights(write_suite(place / "tiny", STEPS, shards=3, **SHAPE), "step8", "step1")
    return place, run(place), run(place, "--trust-duplicates", name="trusting")


def test_an_undisturbed_suite_is_as_ever(undisturbed):
    assert not table(undisturbed, "emergence")["emergence"].isna().any()
    assert set(table(undisturbed, "emergence")["status"]) == {"ok"}
    assert set(table(undisturbed, "checkpoints")["message"]) == {""}
    for name in ("checkpoints", "emergence", "nulls", "samples"):
        assert table(undisturbed, name).equals(table(undisturbed, name, "trusting"))


def test_two_later_steps_alike_have_no_e(copied):
    place, ended, trusting = copied
    suite = place / "tiny"
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


def test_a_start_that_is_a_later_step_falsifies_all(place, suite):
    copy_weights(suite, "step8", "step0")
    ended = run(place)
    assert ended.code == 1
    rows = table(place, "emergence")
    message = f"no E: the baseline step0 is a duplicate ({copied_clause(suite, 'step8')}; {OVERRIDE})"
    assert set(rows["message"]) == {message}
    assert rows["emergence"].isna().all()
    assert set(rows["status"]) == {"duplicate"}
    assert table(place, "nulls")["emergence"].isna().all()
    assert table(place, "checkpoints")["status"].tolist() == ["duplicate", "ok", "ok", "duplicate"]
    assert any(line.endswith(message) for line in ended.says)
    assert run(place, baseline_step=1).code == 1  # step0 and step8 are duplicates still
    rows = table(place, "emergence").set_index("revision")
    assert rows["emergence"].notna().to_dict() == {"step0": False, "step1": True, "step4": True, "step8": False}


@pytest.mark.parametrize("place_of_suite", ["folder", "hub"])
def test_a_duplicate_that_nobody_asked_for_is_found(place, suite, serve, place_of_suite):
    """On a Hub from metadata alone, in shards."""
    changes = {"revisions": ["step0", "step1"]}
    if place_of_suite == "hub":
        suite = write_suite(place / "shards", STEPS, shards=3, **SHAPE)
    copy_weights(suite, "step8", "step0")
    if place_of_suite == "hub":
        server = serve({"org/tiny": {folder.name: folder for folder in suite.iterdir()}})
        changes = {"models": [{"suite": "tiny", "model": "tiny", "source": "org/tiny"} | changes]}
    located = prepare(load_dag(asking(place, **changes)), place / "runs").located
    assert [(one.finding.status, one.finding.message) for one in located] == [
        ("duplicate", copied_clause(suite, "step8")), ("ok", ""),
    ]  # fmt: skip
    assert all(one.falsified.startswith("no E: the baseline step0 is a duplicate") for one in located)
    if place_of_suite == "hub":
        read = [r.path for r in server.requests if r.is_file and r.path.endswith(".safetensors")]
        assert read  # headers of those that are asked for
        assert not [path for path in read if server.refs["org/tiny"]["heads"]["step4"] in path]


def test_runs_with_and_without_trust_do_not_take_each_others_e(place, suite):
    copy_weights(suite, "step8", "step1")
    assert run(place).code == 1
    guarded, keys = contents(place / "runs" / "tiny" / "tables"), artefacts(place / "runs" / "tiny")
    assert run(place, "--trust-duplicates").code == 0
    assert not table(place, "emergence")["emergence"].isna().any()
    after = artefacts(place / "runs" / "tiny")
    assert len(after["emergence"] - keys["emergence"]) == 2  # of each method its own, and nothing else again
    assert {stage: after[stage] for stage in ("nin", "spectra", "exact", "nulls")} == {
        stage: keys[stage] for stage in ("nin", "spectra", "exact", "nulls")
    }
    assert run(place).code == 1
    assert contents(place / "runs" / "tiny" / "tables") == guarded
    assert artefacts(place / "runs" / "tiny") == after
    again = run(place)
    assert again.code == 1
    assert "all results are stored already" in again.out


def test_trust_is_recorded_and_can_be_asked_for_in_the_file(place, suite):
    copy_weights(suite, "step8", "step1")
    guarded, in_file = load_dag(asking(place)), load_dag(asking(place, "file", trust_duplicates=True))
    option = guarded.trusting(duplicates=True, unlike_counts=False)
    keys = []
    for runs, dag, trusted in (("guarded", guarded, False), ("option", option, True), ("file", in_file, True)):
        prepared = prepare(dag, place / runs)
        start(prepared)
        asked = tomllib.loads((prepared.folder.root / "run.toml").read_text())["asked"]
        assert asked["emergence"]["trust_duplicates"] is trusted
        keys.append([job.key for job in prepared.plan.request.jobs()])
    assert keys[1] == keys[2] != keys[0]


def test_a_duplicate_that_is_mended_gets_its_e(place, suite, undisturbed):
    whole = {path: path.read_bytes() for path in (suite / "step1").iterdir()}
    copy_weights(suite, "step8", "step1")
    assert run(place).code == 1
    for path, content in whole.items():
        path.write_bytes(content)
    assert run(place).code == 0
    assert same(e_of(place), e_of(undisturbed))


def test_the_dry_run_names_duplicates(place, suite):
    copy_weights(suite, "step8", "step1")
    ended = command("run", asking(place), "--runs-dir", place / "runs", "--dry-run")
    assert ended.code == 0
    lines = [line for line in ended.out.splitlines() if line.startswith("not ok: ")]
    assert [line.split()[3:5] for line in lines] == [["step1:", "duplicate:"], ["step8:", "duplicate:"]]
    assert not (place / "runs").exists()


def test_one_of_another_shape_is_corrupt_and_one_of_another_size_is_not(tmp_path):
    suite = write_suite(tmp_path / "tiny", (0, 1, 2, 4, 8), **SHAPE)
    write_checkpoint(suite / "step2", neox_tensors(1, 24, 3, seed=2))
    write_checkpoint(suite / "step4", neox_tensors(seed=4, dtype="float32", **SHAPE))
    ended = run(tmp_path)
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


def test_what_is_wired_alike_is_one_model_however_its_configuration_is_written(tmp_path):
    """An older library left the head's width out; another vocabulary is in no network."""
    for step in range(5):
        tensors, config = llama(vocabulary=50 if step == 4 else 32, seed=step)
        if step == 3:
            del config["head_dim"]
        write_checkpoint(tmp_path / "tiny" / f"step{step}", tensors, config)
    assert run(tmp_path).code == 0
    rows = table(tmp_path, "emergence").set_index("revision")
    assert set(rows["status"]) == {"ok"}
    assert rows["emergence"].notna().all()
    assert command("audit", tmp_path / "tiny").code == 0
    tensors, config = llama(vocabulary=32, seed=5)
    config["num_key_value_heads"] = 4
    write_checkpoint(tmp_path / "tiny" / "step5", tensors, config)
    assert command("audit", tmp_path / "tiny").says == [
        "step5: corrupt: its config.json has num_key_value_heads 4, its siblings' 2"
    ]


def llama(vocabulary, seed):
    """Tensors and configuration of a small model of the real library, in the library's own names."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(seed)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(vocab_size=vocabulary, intermediate_size=40, **sizes)
    tensors = {name: tensor.numpy() for name, tensor in transformers.LlamaForCausalLM(config).state_dict().items()}
    return tensors, json.loads(config.to_json_string())


def test_the_figure_marks_what_is_withheld(copied):
    place, *_ = copied

    def marked(name):
        pictures = draw({kind: table(place, kind, name) for kind in all_tables()})
        picture = np.rint(imread(io.BytesIO(pictures["tiny-emergence.png"]))[:, :, :3] * 255)
        hit = (picture == WITHHELD).all(axis=2)
        return [int(third.sum()) for third in np.array_split(hit, 3)]

    assert min(marked("tiny")) > 20
    assert marked("trusting") == [0, 0, 0]
