"""`ninscope audit`: a table and a verdict, or one JSON document; exit code 0 where all is ok, 1 where something is not, 2 for
a wrong request."""

import hashlib
import json
import os
import shutil

import pytest
from driving import command, process, write_dag
from hub_client import _private_client, serve  # noqa: F401 (fixtures)
from suites import neox_tensors, write_checkpoint, write_suite

import ninscope

pytestmark = pytest.mark.filterwarnings("error")

SHAPE = {"blocks": 1, "width": 16, "heads": 2}
KEYS = ["revision", "step", "status", "message", "bytes", "content_sha256"]
MODEL = "org/tiny"


@pytest.fixture
def clean(tmp_path):
    return write_suite(tmp_path / "clean", (0, 1, 10, 2), **SHAPE)


@pytest.fixture
def dirty(tmp_path):
    """step0 is step10, step1 lacks its configuration, step3 is another model's, step20 is cut short."""
    suite = write_suite(tmp_path / "dirty", (1, 2, 4, 10, 20), **SHAPE)
    shutil.copytree(suite / "step10", suite / "step0")
    (suite / "step1" / "config.json").unlink()
    write_checkpoint(suite / "step3", neox_tensors(1, 24, 3, seed=3))
    with open(suite / "step20" / "model.safetensors", "r+b") as file:
        file.truncate(1000)
    return suite


FAULTS = {
    "step0": ("duplicate", "the same weights as step10"),
    "step1": ("missing", "step1: config.json is absent; it tells how the weights are joined"),
    "step3": ("corrupt", "its config.json has hidden_size 24, its siblings' 16"),
    "step10": ("duplicate", "the same weights as step0"),
    "step20": ("corrupt", "model.safetensors has 1000 bytes, its siblings' have 14720"),
}
LINES = [f"{revision}: {status}: {message}" for revision, (status, message) in FAULTS.items()]


def document(text):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_of_a_clean_source(clean):
    ended = command("audit", clean)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1] == f"{clean}: 4 of 4 revisions ok"
    assert [line for line in ended.out.splitlines() if "step" in line and " ok " in line]


def test_of_a_dirty_source(dirty):
    ended = command("audit", dirty)
    assert ended.code == 1
    assert ended.says == LINES
    assert ended.err.count("\n") == len(LINES)
    last = ended.out.splitlines()[-1]
    assert last == (
        f"{dirty}: 2 of 7 revisions ok; 2 duplicate, 1 missing, 2 corrupt; "
        "its baseline is a duplicate, so no E against it means anything"
    )
    for revision, (status, message) in FAULTS.items():
        (row,) = (line for line in ended.out.splitlines() if f" {revision} " in line.split(status)[0])
        assert status in row
        assert message in row  # whole, however narrow the window


def test_json_is_one_document_with_the_contracts_keys(dirty):
    ended = command("audit", dirty, "--json")
    found = document(ended.out)
    assert ended.code == 1
    assert ended.says == LINES
    assert list(found) == ["source", "rows"]
    assert found["source"] == str(dirty)
    assert all(list(row) == KEYS for row in found["rows"])
    assert [row["step"] for row in found["rows"]] == [0, 1, 2, 3, 4, 10, 20]
    for row in found["rows"]:
        status, message = FAULTS.get(row["revision"], ("ok", None))
        assert (row["status"], row["message"]) == (status, message)
        weights = dirty / row["revision"] / "model.safetensors"
        if status == "missing":
            assert (row["bytes"], row["content_sha256"]) == (None, None)
        else:
            assert row["bytes"] == weights.stat().st_size
            assert row["content_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_json_says_what_the_library_does(dirty):
    table = ninscope.audit(str(dirty))
    rows = document(command("audit", dirty, "--json").out)["rows"]
    assert table["revision"].tolist() == [row["revision"] for row in rows]
    assert table["message"].tolist() == [row["message"] or "" for row in rows]
    assert table["bytes"].astype(object).where(table["bytes"].notna(), None).tolist() == [row["bytes"] for row in rows]


def test_of_several_sources(clean, dirty):
    ended = command("audit", clean, dirty, clean)
    assert ended.code == 1
    assert ended.says == [f"{dirty} {line}" for line in LINES]
    assert [line.split(": ")[0] for line in ended.out.splitlines() if " revisions ok" in line] == [
        str(clean),
        str(dirty),
    ]
    found = document(command("audit", clean, dirty, "--json").out)
    assert [each["source"] for each in found] == [str(clean), str(dirty)]
    assert found[0] == document(command("audit", clean, "--json").out)
    assert command("audit", clean, clean, "--json").code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["absent"], "absent: no such folder, and not a Hub repository id (org/name)"),
        ([""], "an empty name is no source; name a folder, or a Hub repository id (org/name)"),
        ([], "Missing argument 'SOURCE...'. (ninscope audit --help)"),
        (["clean", "absent"], "absent: no such folder, and not a Hub repository id (org/name)"),
        (["clean", "--yaml"], "No such option: --yaml (ninscope audit --help)"),
    ],
)
def test_a_wrong_request_is_one_line(clean, monkeypatch, arguments, says):
    monkeypatch.chdir(clean.parent)
    ended = command("audit", *arguments)
    assert (ended.code, ended.says, ended.err.count("\n")) == (2, [says], 1)


def test_an_empty_folder_is_a_wrong_request(tmp_path):
    ended = command("audit", tmp_path, "--json")
    assert (ended.code, ended.out) == (2, "")
    assert "no checkpoint and no revision folders" in ended.says[0]


def test_of_a_hub(serve, dirty):
    server = serve({MODEL: {folder.name: folder for folder in dirty.iterdir()} | {"main": dirty / "step20"}})
    ended = command("audit", MODEL, "--json")
    assert ended.code == 1
    assert ended.says == LINES
    here = document(command("audit", dirty, "--json").out)
    assert document(ended.out) == here | {"source": MODEL}
    assert server.bytes_served(".safetensors") == 0


@pytest.mark.slow
def test_in_a_process_of_its_own_with_the_client_as_users_have_it(serve, dirty):
    server = serve({MODEL: {folder.name: folder for folder in dirty.iterdir()}})
    ended = process(
        "audit", MODEL, "--json", env=os.environ | {"HF_ENDPOINT": server.endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"}
    )
    assert ended.code == 1
    assert ended.says == LINES
    assert len(document(ended.out)["rows"]) == 7
    assert server.bytes_served(".safetensors") == 0
    assert len(server.requests) <= 4 * 7


def test_names_of_strangers_are_printed_as_they_are(tmp_path):
    """Square brackets are markup to what draws the table."""
    suite = write_suite(tmp_path / "suite", (0, 1), **SHAPE)
    shutil.copytree(suite / "step1", suite / "step2[red]x")
    ended = command("audit", suite)
    assert ended.code == 1
    assert "step2[red]x: duplicate: the same weights as step1" in ended.says
    assert "the same weights as step2[red]x" in ended.out


class TestNamesThatStateNoStep:
    SAYS = (
        "3 names state no step (ckpt_000, ckpt_001, ...); if their number is one, say so in a DAG file: "
        'revisions = "ckpt_{step}"'
    )

    @pytest.fixture
    def numbered(self, tmp_path):
        for number in range(3):
            write_checkpoint(tmp_path / "numbered" / f"ckpt_{number:03}", neox_tensors(seed=number, **SHAPE))
        return tmp_path / "numbered"

    def test_the_audit_says_how_to_say_it(self, numbered):
        ended = command("audit", numbered, "--json")
        assert (ended.code, ended.says) == (0, [f"{numbered}: {self.SAYS}"])
        assert [row["step"] for row in document(ended.out)["rows"]] == [None] * 3
        assert ninscope.audit(str(numbered)).attrs == {"note": self.SAYS}

    def test_branches_too(self, numbered, serve):
        serve({MODEL: {folder.name: folder for folder in numbered.iterdir()} | {"main": numbered / "ckpt_002"}})
        assert command("audit", MODEL, "--json").says == [f"{MODEL}: {self.SAYS.replace('3 names', '4 names')}"]

    def test_a_run_of_all_of_them_says_it_and_one_by_the_pattern_has_steps(self, numbered, tmp_path):
        dag = write_dag(tmp_path / "all.toml", numbered)
        ended = command("run", dag, "--runs-dir", tmp_path / "runs", "--dry-run")
        assert [line for line in ended.says if "state no step" in line] == [f"tiny/numbered: {self.SAYS}"]
        dag.write_text(dag.read_text().replace("[[models]]", '[[models]]\nrevisions = "ckpt_{step}"'))
        assert command("run", dag, "--runs-dir", tmp_path / "runs", "--dry-run").says == []
