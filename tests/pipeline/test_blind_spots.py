"""Where an audit could be blind, and where one failure could take others along: each is seen, said, and costs its own rows."""

import json
import os
import shutil
from pathlib import Path

import dask
import pytest
from distributed import LocalCluster
from driving import command, process, write_dag
from forked import dask_workers
from hub_client import _private_client, serve  # noqa: F401 (fixtures)
from hub_server import Fault
from suites import write_suite

import ninscope
from ninscope_pipeline.stages.emergence import EmergenceStage

pytestmark = pytest.mark.usefixtures("undrawn")

SHAPE = {"blocks": 1, "width": 16, "heads": 2}
MODEL = "org/tiny"
LATER = Fault(status=503)


@pytest.fixture
def suite(tmp_path):
    return write_suite(tmp_path / "tiny", (0, 1, 4, 8), **SHAPE)


@pytest.fixture
def place(suite):
    return suite.parent


def branches(suite):
    return {folder.name: folder for folder in suite.iterdir()}


def run(place, *options, **changes):
    dag = write_dag(place / "x.toml", Path("tiny"), exact=True, nodes_per_layer="all", samples=None, **changes)
    return command("run", dag, "--runs-dir", place / "runs", *options)


def table(place, name):
    return ninscope.open_run(place / "runs" / "x").table(name)


def of_hub(**changes):
    return [{"suite": "s", "model": "m", "source": MODEL} | changes]


class TestAudit:
    @pytest.mark.parametrize("damage", ["config", "weights"])
    def test_a_duplicate_that_cannot_be_opened_falsifies_all_the_same(self, place, suite, damage):
        """step0 is step8, and step8 is of an unknown kind, or has a damaged shard beside the shared one."""
        if damage == "config":
            shutil.copy(suite / "step8" / "model.safetensors", suite / "step0")
            config = json.loads((suite / "step8" / "config.json").read_text())
            (suite / "step8" / "config.json").write_text(json.dumps(config | {"model_type": "bloom"}))
        else:
            shutil.rmtree(suite)
            write_suite(suite, (0, 1, 4, 8), shards=2, **SHAPE)
            first, second = sorted((suite / "step8").glob("*.safetensors"))
            shutil.copy(first, suite / "step0")
            second.write_bytes(second.read_bytes()[:-8])
        ended = run(place)
        assert ended.code == 1
        rows = table(place, "checkpoints").set_index("revision")
        assert rows["status"].to_dict() == {
            "step0": "duplicate", "step1": "ok", "step4": "ok",
            "step8": "unsupported" if damage == "config" else "corrupt",
        }  # fmt: skip
        assert "step0" in rows["message"]["step8"]
        assert table(place, "emergence")["emergence"].isna().all()

    def test_what_could_not_be_asked_for_is_said(self, place, suite, serve):
        hub = serve({MODEL: branches(suite)})
        hub.faults = [lambda request: LATER if request.path.endswith(("/step4", "/step8")) else None]
        ended = run(place, models=of_hub(revisions=["step0", "step1"]))
        assert ended.code == 0
        note = "whether step4, step8 hold the same weights is not known: they could not be asked for"
        assert f"s/m 2 checkpoints: {note}" in ended.says
        hub.faults = []
        again = run(place, models=of_hub(revisions=["step0", "step1"]))
        assert (again.code, again.says) == (0, [])

    def test_equal_revisions_of_one_step_are_duplicates(self, suite, serve):
        """As of two branches of a training that start over."""
        names = [f"stage2-ingredient{number}-step{step}-tokens1B" for number in (1, 2) for step in (1, 4)]
        folders = [suite / name for name in ("step1", "step4", "step1", "step8")]
        serve({MODEL: dict(zip(names, folders, strict=True))})
        rows = ninscope.audit(MODEL).set_index("revision")
        assert rows["status"][rows["status"] != "ok"].index.tolist() == [names[0], names[2]]
        assert rows["message"][names[0]] == f"the same weights as {names[2]}"

    def test_of_a_suite_that_is_known_every_absent_step_is_missing(self, suite, serve):
        serve({"EleutherAI/pythia-14m": {"main": suite / "step8"}})
        rows = ninscope.audit("EleutherAI/pythia-14m")
        assert (rows["status"] == "missing").sum() == 154

    def test_one_absent_source_does_not_cost_the_report_of_another(self, place, suite):
        ended = command("audit", suite, place / "absent")
        assert ended.code == 2
        assert "4 of 4 revisions ok" in ended.out
        assert "no such folder" in ended.says[-1]
        ended = command("audit", suite, place / "absent", "--json")
        assert [document["source"] for document in json.loads(ended.out)] == [str(suite)]

    def test_a_folder_may_be_called_anything(self, suite):
        """Names could be taken for markup."""
        for name in ("r{1}", "q[x]", "[red]"):
            suite = suite.rename(suite.parent / name)
            ended = command("audit", suite)
            assert (ended.code, f"{suite}: 4 of 4 revisions ok" in ended.out) == (0, True), ended.err

    @pytest.mark.slow
    def test_in_a_terminal_too(self, suite):
        suite = suite.rename(suite.parent / "[red]")
        with_terminal = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm"}
        ended = process("audit", suite, env=with_terminal)
        assert (ended.code, "4 of 4 revisions ok" in ended.out) == (0, True), ended.err


class TestRevisions:
    def test_a_pattern_says_by_itself_what_a_revision_is(self, place, suite, serve):
        serve({MODEL: {"ckpt_000": suite / "step0", "ckpt_001": suite / "step1", "ckpt_002": suite / "step0"}})
        ended = run(place, models=of_hub(revisions="ckpt_{step}"))
        rows = table(place, "checkpoints")
        assert rows["step"].tolist() == [0, 1, 2]
        assert (ended.code, rows["status"].tolist()) == (1, ["duplicate", "ok", "duplicate"])

    def test_what_else_a_name_states_need_not_have_a_name(self, suite, serve, place):
        serve({MODEL: {f"stage1-step{n}-tokens{n}B": suite / f"step{n}" for n in (0, 1)}})
        assert run(place, models=of_hub(revisions="stage1-step{step}-tokens{..}B")).code == 0
        assert table(place, "checkpoints")["step"].tolist() == [0, 1]

    def test_steps_of_which_none_is_there_are_missing(self, place, suite, serve):
        serve({MODEL: {"main": suite / "step0"}})
        ended = run(place, models=of_hub(revisions={"pattern": "step{step}", "steps": [0, 1]}))
        assert ended.code == 1
        assert table(place, "checkpoints")["status"].tolist() == ["missing", "missing"]


class TestOthersGoOn:
    def test_an_absent_repository_of_a_suite_is_missing_checkpoints(self, place, suite, serve):
        serve({"EleutherAI/pythia-14m": branches(suite)})
        preset = {"preset": "pythia", "models": ["pythia-14m", "pythia-31m"], "revisions": {"steps": [0, 1]}}
        ended = run(place, models=[], suites=[preset])
        assert ended.code == 1
        rows = table(place, "checkpoints")
        assert rows["revision"].tolist() == ["step0", "step1"] * 2
        assert rows["status"].tolist() == ["ok", "ok", "missing", "missing"]
        assert rows["message"][2].startswith("EleutherAI/pythia-31m: no such folder, and no such model repository")

    def test_an_absent_repository_that_a_user_names_is_a_wrong_request(self, place, suite, serve):
        serve({MODEL: branches(suite)})
        ended = run(place, models=[*of_hub(), {"suite": "s", "model": "n", "source": "org/typo"}])
        assert (ended.code, len(ended.says)) == (2, 1)
        assert ended.says[0].startswith("org/typo: no such folder, and no such model repository on the Hub")

    def test_an_e_that_cannot_be_computed_costs_its_own_rows(self, place, suite, monkeypatch):
        write_suite(place / "other", (0, 1), seed=9, **SHAPE)
        real = EmergenceStage.make

        def broken(stage, store, job):
            if len(job.work.history) == 2:
                raise KeyError("values")
            return real(stage, store, job)

        monkeypatch.setattr(EmergenceStage, "make", broken)
        models = [{"suite": "s", "model": name, "source": name} for name in ("tiny", "other")]
        ended = run(place, models=models)
        assert ended.code == 1
        assert any(line.startswith("emergence: KeyError: 'values' (see log/") for line in ended.says)
        rows = table(place, "emergence").set_index("model")
        assert rows["emergence"]["tiny"].notna().all()
        assert set(rows["status"]["other"]) == {"failed"}
        assert rows["message"]["other"].iloc[0].startswith("E could not be computed (see log/emergence-")
        monkeypatch.undo()
        again = run(place, models=models)
        assert (again.code, again.says) == (0, [])
        assert table(place, "emergence")["emergence"].notna().all()

    @pytest.mark.slow
    def test_a_checkpoint_that_kills_who_locates_it_is_a_row(self, place, suite):
        """Its worker is killed whenever it identifies step4. Dask takes it for the killer at once, not after three more deaths."""
        preload = place / "deadly.py"
        preload.write_text(
            "import os, signal\n"
            "from ninscope.checkpoints.local import LocalSource\n"
            "real = LocalSource.identify\n"
            "def identify(self, revision, *rest, real=real):\n"  # it may be loaded more than once
            "    if revision == 'step4':\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return real(self, revision, *rest)\n"
            "LocalSource.identify = identify\n"
        )
        with (
            dask_workers(),
            dask.config.set(
                {"distributed.worker.preload": [str(preload)], "distributed.scheduler.allowed-failures": 0}
            ),
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster,
        ):
            ended = run(place, "--scheduler", cluster.scheduler_address)
        rows = table(place, "checkpoints").set_index("revision")
        assert ended.code == 1
        assert rows["status"]["step4"] == "failed"
        assert "the worker died over it" in rows["message"]["step4"]
        assert rows["status"].drop("step4").tolist() == ["ok"] * 3, rows["message"].tolist()

    def test_deeply_nested_files_of_a_run_are_made_again(self, place):
        assert run(place).code == 0
        folder = place / "runs" / "x"
        for name in ("known.json", "plan.json", next(folder.glob("checksums/exact/*.json"))):
            (folder / name).write_text("[" * 100_000)
        again = run(place)
        assert (again.code, again.says) == (0, [])
