"""No E that a duplicate would falsify: `ninscope measure` and `ninscope bias`, of folders and of a Hub."""

import json
import math
import shutil

import pytest
from driving import command
from hub_client import _private_client, serve  # noqa: F401 (fixtures)
from suites import copied_clause, copy_weights, neox_tensors, write_checkpoint, write_suite

import ninscope
from ninscope.checkpoints.verification import without_unverified
from ninscope.errors import CheckpointError

SHAPE = {"blocks": 1, "width": 16, "heads": 2}
STEPS = (0, 1, 4, 8)
MODEL = "org/tiny"
SAMPLED = {"nodes_per_layer": 12, "samples": 3}
OPTIONS = {"exact": (), "sampled": ("--nodes-per-layer", "12", "--samples", "3")}
OVERRIDE = "--trust-duplicates overrides"


# Each value of each of these at least once; what they are does not depend on each other.
WAYS = {
    "a file a step, in a folder, exactly": (1, "folder", "exact"),
    "shards, on a Hub, by samples": (3, "hub", "sampled"),
}


@pytest.fixture(params=WAYS)
def way(request) -> tuple[int, str, str]:
    """(files a checkpoint, where it is, how it is measured)."""
    return WAYS[request.param]


@pytest.fixture
def suite(way, tmp_path):
    return write_suite(tmp_path / "tiny", STEPS, shards=way[0], **SHAPE)


@pytest.fixture
def source(way, suite, serve):
    """source() -> its name, once the suite is as it should be."""

    def named() -> str:
        if way[1] == "folder":
            return str(suite)
        serve({MODEL: {folder.name: folder for folder in suite.iterdir()} | {"main": suite / "step8"}})
        return MODEL

    return named


@pytest.fixture
def method(way):
    return way[2]


def unguarded(suite, method) -> dict[str, float]:
    """E of every step against step 0, one checkpoint at a time: nothing is compared."""
    given = SAMPLED if method == "sampled" else {}
    measured = {step: ninscope.measure(str(suite), f"step{step}", **given) for step in STEPS}
    return {f"step{step}": ninscope.emergence(one, measured[0]) for step, one in measured.items()}


def rows(ended) -> dict[str, dict]:
    found = json.loads(ended.out)["rows"]
    assert [row["step"] for row in found] == sorted(row["step"] for row in found)
    return {row["revision"]: row for row in found}


def measured(source, method, *options):
    return command("measure", source, *OPTIONS[method], *options, "--json")


def test_an_undisturbed_suite_is_as_ever(suite, source, method):
    ended = measured(source(), method)
    assert (ended.code, ended.says) == (0, [])
    assert {name: row["emergence"] for name, row in rows(ended).items()} == unguarded(suite, method)
    trusting = measured(source(), method, "--trust-duplicates")
    assert (trusting.code, trusting.out) == (0, ended.out)


def test_two_later_steps_alike_have_no_e(suite, source, method):
    copy_weights(suite, "step8", "step1")
    name, expected = source(), unguarded(suite, method)
    ended = measured(name, method)
    found = rows(ended)
    assert ended.code == 1
    assert [row["status"] for row in found.values()] == ["ok", "duplicate", "ok", "duplicate"]
    assert without_unverified(found["step1"]["message"]) == f"no E: {copied_clause(suite, 'step8')} ({OVERRIDE})"
    assert ended.says == [f"step{step}: duplicate: {found[f'step{step}']['message']}" for step in (1, 8)]
    for revision, row in found.items():
        assert row["emergence"] == (None if row["status"] == "duplicate" else expected[revision])
        assert row["alpha0"] is not None  # they are spectra of the weights that are there
    shown = command("measure", name, *OPTIONS[method])
    assert shown.code == 1
    assert any(line.endswith(f"] step1: {found['step1']['message']}") for line in shown.out.splitlines())


def test_a_start_that_is_a_later_step_falsifies_all(suite, source, method):
    copy_weights(suite, "step8", "step0")
    ended = measured(source(), method)
    found = rows(ended)
    assert ended.code == 1
    assert len(ended.says) == 4
    assert {row["status"] for row in found.values()} == {"duplicate"}
    assert {row["emergence"] for row in found.values()} == {None}
    message = f"no E: the baseline step0 is a duplicate ({copied_clause(suite, 'step8')}; {OVERRIDE})"
    assert {without_unverified(row["message"]) for row in found.values()} == {message}


@pytest.mark.parametrize(("of", "to"), [("step8", "step1"), ("step8", "step0")])
def test_trusted_duplicates_have_the_e_of_what_is_there(suite, source, method, of, to):
    copy_weights(suite, of, to)
    ended = measured(source(), method, "--trust-duplicates")
    assert (ended.code, ended.says) == (0, [])
    assert {name: row["emergence"] for name, row in rows(ended).items()} == unguarded(suite, method)


def test_of_one_revision_all_others_are_looked_at(suite, source, method):
    copy_weights(suite, "step8", "step1")
    name, expected = source(), unguarded(suite, method)
    for revision, status in (("step0", "ok"), ("step1", "duplicate"), ("step4", "ok"), ("step8", "duplicate")):
        ended = measured(name, method, "--revision", revision)
        (row,) = rows(ended).values()
        assert (row["revision"], row["status"]) == (revision, status)
        assert row["emergence"] == (None if status == "duplicate" else expected[revision])
        assert ended.code == (status == "duplicate")


def test_of_one_revision_a_false_start_is_seen(suite, source, method):
    copy_weights(suite, "step8", "step0")
    name, expected = source(), unguarded(suite, method)
    ended = measured(name, method, "--revision", "step4")
    assert (ended.code, rows(ended)["step4"]["emergence"]) == (1, None)
    assert "the baseline step0 is a duplicate" in ended.says[0]
    ended = measured(name, method, "--revision", "step4", "--trust-duplicates")
    assert (ended.code, rows(ended)["step4"]["emergence"]) == (0, expected["step4"])


def test_a_false_start_is_seen_by_main_as_well(suite, serve):
    copy_weights(suite, "step8", "step0")
    serve({MODEL: {folder.name: folder for folder in suite.iterdir()} | {"main": suite / "step4"}})
    (row,) = ninscope.measure_all(MODEL, "main")
    assert row.status == "duplicate"
    assert math.isnan(row.emergence)
    (row,) = ninscope.measure_all(MODEL, "main", trust_duplicates=True)
    assert row.emergence == unguarded(suite, "exact")["step4"]


def test_main_may_be_the_last_step(suite, serve):
    serve({MODEL: {folder.name: folder for folder in suite.iterdir()} | {"main": suite / "step8"}})
    (row,) = ninscope.measure_all(MODEL, "main")
    assert (row.status, without_unverified(row.message)) == ("ok", "")
    assert row.emergence == unguarded(suite, "exact")["step8"]


def test_one_of_another_shape_is_corrupt_and_the_others_go_on(suite, source, method):
    name_of_shards = len(list((suite / "step1").glob("*.safetensors")))
    shutil.rmtree(suite / "step4")
    write_checkpoint(suite / "step4", neox_tensors(1, 24, 3, seed=4), shards=name_of_shards)
    ended = measured(source(), method)
    found = rows(ended)
    assert ended.code == 1
    assert [row["status"] for row in found.values()] == ["ok", "ok", "corrupt", "ok"]
    assert ended.says == [
        "step4: corrupt: step4: its config.json has hidden_size 24, its siblings' 16: not a checkpoint of this model"
    ]
    assert found["step4"]["alpha0"] is None
    assert found["step8"]["emergence"] is not None


def test_one_of_another_size_that_can_be_read_is_measured_with_a_note(tmp_path):
    suite = write_suite(tmp_path / "tiny", STEPS, **SHAPE)
    write_checkpoint(suite / "step4", neox_tensors(seed=4, dtype="float32", **SHAPE))
    ended = command("measure", suite, "--json")
    row = rows(ended)["step4"]
    assert (ended.code, row["status"]) == (0, "ok")
    assert "model.safetensors has " in row["message"]
    assert row["emergence"] is not None
    assert command("audit", suite).code == 1


class TestBias:
    FEW = ("--nodes-per-layer", "8", "--samples", "2")

    def of(self, source, *options):
        ended = command("bias", source, *self.FEW, *options, "--json")
        return ended, json.loads(ended.out)["rows"]

    def test_an_undisturbed_suite_is_as_ever(self, suite, source):
        ended, found = self.of(source())
        assert (ended.code, ended.says) == (0, [])
        assert found[-1]["emergence"] == unguarded(suite, "exact")["step8"]

    @pytest.mark.parametrize(("of", "to"), [("step8", "step1"), ("step8", "step0")])
    def test_a_duplicate_has_no_e_unless_it_is_trusted(self, suite, source, of, to):
        copy_weights(suite, of, to)
        name = source()
        ended, found = self.of(name)
        assert ended.code == 1
        assert [row["emergence"] for row in found] == [row["emergence_std"] for row in found] == [None] * 2
        assert all(row["alpha0"] is not None and OVERRIDE in row["message"] for row in found)
        assert ended.says == [f"step8: duplicate: {found[0]['message']}"]
        ended, found = self.of(name, "--trust-duplicates")
        assert (ended.code, ended.says) == (0, [])
        assert found[-1]["emergence"] == unguarded(suite, "exact")["step8"]

    def test_other_duplicates_do_not_matter(self, suite, source):
        copy_weights(suite, "step4", "step1")
        ended, found = self.of(source())
        assert ended.code == 0
        assert found[-1]["emergence"] == unguarded(suite, "exact")["step8"]

    def test_another_shape_is_no_checkpoint_of_this_model(self, suite):
        write_checkpoint(suite / "step9", neox_tensors(1, 24, 3, seed=4))
        with pytest.raises(
            CheckpointError, match=r"step9: its config\.json has hidden_size 24, its siblings' 16: not a"
        ):
            ninscope.sampling_bias(str(suite), samples=2)
