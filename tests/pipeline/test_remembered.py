"""What a run found out of its checkpoints is remembered by their fingerprints: a repeat asks next to nothing, and sees change."""

import json
import os
import shutil
from dataclasses import replace

import pytest
from driving import write_dag
from hub_client import _private_client, serve  # noqa: F401 (fixtures)
from hypothesis import given
from hypothesis import strategies as st
from suites import write_suite

from ninscope.architectures import DEFAULT_READING
from ninscope.checkpoints.hash_cache import sealed, unsealed
from ninscope_pipeline.located import Located
from ninscope_pipeline.prepared_run import prepare, start
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.survey_memory import facts_of, fields_of

SHAPE = {"blocks": 1, "width": 16, "heads": 2}
STEPS = (0, 1, 4, 8)
MODEL = "org/tiny"
REFS = ("GET", "/api/models/org/tiny/refs")


@pytest.fixture
def suite(request, tmp_path):
    return write_suite(tmp_path / "tiny", STEPS, shards=getattr(request, "param", 2), **SHAPE)


@pytest.fixture
def place(suite):
    return suite.parent


def started(place, source, **changes):
    """What is located at the start of a run, which writes down what it remembers."""
    models = [{"suite": "s", "model": "m", "source": str(source)} | changes]
    prepared = prepare(load_dag(write_dag(place / "x.toml", models=models)), place / "runs")
    start(prepared)
    return prepared.located


def known(place):
    return place / "runs" / "x" / "known.json"


def told(server):
    return [(request.method, request.path) for request in server.requests]


@pytest.fixture
def hub(suite, serve):
    return serve({MODEL: {folder.name: folder for folder in suite.iterdir()} | {"main": suite / "step8"}})


@pytest.mark.parametrize("revisions", ["all", "step{step}", {"from": 0}, [f"step{step}" for step in STEPS]], ids=str)
def test_a_repeat_asks_the_hub_for_its_branches_alone(place, hub, revisions):
    first = started(place, MODEL, revisions=revisions)
    assert {one.outcome.status for one in first} == {"ok"}
    hub.requests.clear()
    assert started(place, MODEL, revisions=revisions) == first
    assert told(hub) == [REFS]


def test_siblings_that_nobody_asked_for_are_remembered_too(place, suite, hub):
    first = started(place, MODEL, revisions=["step0", "step1"])
    hub.requests.clear()
    assert started(place, MODEL, revisions=["step0", "step1"]) == first
    assert told(hub) == [REFS]
    hub.push(MODEL, "step4", suite / "step0")
    hub.requests.clear()
    second = started(place, MODEL, revisions=["step0", "step1"])
    assert [one.finding.status for one in second] == ["duplicate", "ok"]
    assert [path for _, path in told(hub)] == [REFS[1], f"/api/models/{MODEL}/revision/step4"]


def test_a_branch_that_moved_is_located_anew_and_no_other(place, suite, hub):
    first = started(place, MODEL)
    newer = write_suite(place / "newer", (1,), seed=77, **SHAPE)
    commit = hub.push(MODEL, "step1", newer / "step1")
    hub.requests.clear()
    second = started(place, MODEL)
    assert [one for one in second if one.revision != "step1"] == [one for one in first if one.revision != "step1"]
    assert second[1].identity.commit == commit
    assert second[1].content_sha256 != first[1].content_sha256
    others = {one.identity.commit for one in first} | {"step0", "step4", "step8"}
    assert not [path for _, path in told(hub) if any(f"/{name}" in path for name in others)]
    hub.requests.clear()
    assert started(place, MODEL) == second
    assert told(hub) == [REFS]


def test_a_duplicate_is_seen_among_what_is_remembered(place, suite, hub):
    started(place, MODEL)
    hub.push(MODEL, "step1", suite / "step8")
    assert [one.finding.status for one in started(place, MODEL)] == ["ok", "duplicate", "ok", "duplicate"]


def test_what_failed_is_asked_again(place, suite, hub):
    files = {path.name: path.read_bytes() for path in (suite / "step1").iterdir()}
    hub.push(MODEL, "step1", {"config.json": files["config.json"]})
    assert [one.outcome.status for one in started(place, MODEL)] == ["ok", "missing", "ok", "ok"]
    hub.requests.clear()
    started(place, MODEL)
    assert [path for _, path in told(hub) if path.endswith("/revision/step1")]
    hub.push(MODEL, "step1", files)
    assert {one.outcome.status for one in started(place, MODEL)} == {"ok"}


def resealed(value):
    return json.dumps(sealed(value)).encode()


DAMAGES = (
    lambda known: b"",
    lambda known: b"\xff\xfe",
    lambda known: b"[]",
    lambda known: json.dumps(known).encode(),  # without its checksum
    lambda known: json.dumps(sealed(known) | {"value": known | {"files": {}}}).encode(),
    lambda known: resealed(known | {"version": -1}),
    lambda known: resealed(known | {"facts": [1]}),
    lambda known: resealed(known | {"facts": dict.fromkeys(known["facts"], None)}),
    lambda known: resealed(known | {"facts": {key: {"identity": {}} for key in known["facts"]}}),
    lambda known: resealed(known | {"files": {"a": 3}, "facts": {}}),
    lambda known: resealed(known)[:-20],
)


@pytest.mark.parametrize(
    ("where", "damage"), [*(("folder", damage) for damage in DAMAGES), ("hub", DAMAGES[0]), ("hub", DAMAGES[-3])]
)
def test_what_is_damaged_is_found_out_again(request, place, suite, where, damage):
    if where == "hub":
        request.getfixturevalue("hub")
    source = MODEL if where == "hub" else suite
    first = started(place, source)
    whole = known(place).read_bytes()
    known(place).write_bytes(damage(unsealed(json.loads(whole))))
    assert started(place, source) == first
    assert known(place).read_bytes() == whole


@pytest.mark.parametrize("suite", [1, 2], indirect=True, ids=["whole", "shards"])
class TestOnDisk:
    def test_a_repeat_finds_the_same_and_opens_no_checkpoint(self, place, suite, monkeypatch):
        first = started(place, suite)
        monkeypatch.setattr(
            "ninscope.checkpoints.local.LocalFile.__init__", lambda *_: pytest.fail("weights were opened")
        )
        assert started(place, suite) == first

    @pytest.mark.parametrize("name", ["config.json", "model*.safetensors"])
    def test_a_file_that_was_touched_is_looked_at_again(self, place, suite, name):
        first = started(place, suite)
        os.utime(next((suite / "step1").glob(name)), ns=(1, 1))
        second = started(place, suite)
        assert [one.fingerprint == other.fingerprint for one, other in zip(first, second, strict=True)] == [
            True,
            False,
            True,
            True,
        ]
        assert [one.content_sha256 for one in first] == [one.content_sha256 for one in second]

    def test_weights_that_were_replaced_by_others_of_equal_size(self, place, suite):
        first = started(place, suite)
        for file in (suite / "step8").glob("*.safetensors"):
            stamp = (suite / "step1" / file.name).stat()
            shutil.copyfile(file, suite / "step1" / file.name)
            os.utime(suite / "step1" / file.name, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        second = started(place, suite)
        assert second[1].content_sha256 == first[3].content_sha256
        assert [one.finding.status for one in second] == ["ok", "duplicate", "ok", "duplicate"]

    def test_a_folder_that_was_moved_is_another(self, place, suite):
        first = started(place, suite)
        suite.rename(place / "moved")
        second = started(place, place / "moved")
        assert [one.content_sha256 for one in second] == [one.content_sha256 for one in first]
        assert all(one.source.endswith("moved") for one in second)
        assert not any(str(suite) + "/" in path for one in second for path, _ in one.stamps)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def located(tmp_path_factory):
    place = tmp_path_factory.mktemp("facts")
    write_suite(place / "tiny", (1,), **SHAPE)
    return started(place, place / "tiny")[0]


class TestFacts:
    def test_survive_json(self, located):
        facts = fields_of(json.loads(json.dumps(facts_of(located))))
        assert replace(located, **facts) == located

    @given(st.data())
    def test_whatever_became_of_them_they_are_taken_or_left(self, located, data):
        """A part of them replaced by anything: what is taken has an identity with a digest, and sizes that can be summed."""
        facts = json.loads(json.dumps(facts_of(located)))
        here = facts
        while True:
            key = data.draw(st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here))))
            if not isinstance(here[key], dict | list) or not here[key] or data.draw(st.booleans()):
                here[key] = data.draw(JSON)
                break
            here = here[key]
        found = fields_of(facts)
        if found is not None:
            taken = replace(located, **found)
            assert isinstance(taken.content_sha256, str)
            wired = taken.wiring(DEFAULT_READING)
            assert isinstance(taken.bytes + wired.weight_bytes + taken.parameters, int)
            assert isinstance(wired.digest + wired.note + wired.status + taken.kind, str)


def test_nothing_is_remembered_of_a_revision_whose_files_are_not_known():
    with pytest.raises(ValueError, match="step4: its files are not known; nothing can be remembered of it"):
        facts_of(Located("step4", 4, suite="s", model="m", source="org/tiny"))
