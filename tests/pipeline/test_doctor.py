"""`ninscope doctor` names what would stop a run, and `ninscope` alone says what to do next."""

import json
import math
import os
import resource
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
from driving import command
from hub_client import _private_client, point_client_at, serve  # noqa: F401 (fixtures)

import ninscope
from ninscope_pipeline import environment, machine
from ninscope_pipeline.environment import checks

UNLIMITED = resource.RLIM_INFINITY


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """An empty working folder, limits that nothing here reaches, and no token."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (UNLIMITED, UNLIMITED))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)


def check(name: str, runs_dir="runs"):
    """(state, text, advice) of one check."""
    (found,) = (each for each in checks(Path(runs_dir)) if each.name == name)
    return found.state, found.text, found.advice


def test_all_is_well(tmp_path):
    ended = command("doctor")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[-1] == "a run has what it needs"
    assert len(lines) <= 24
    assert lines[0].split()[:4] == ["ok", "version", "ninscope", f"{ninscope.__version__},"]
    document = json.loads(command("doctor", "--json").out)
    assert document["ok"] is True
    assert [each["name"] for each in document["checks"]][:9] == [
        "version", "packages", "cores", "memory", "limits", "disk", "numba", "Hub", "Hub token",
    ]  # fmt: skip
    assert {each["state"] for each in document["checks"]} <= {"ok", "note"}
    assert all(each["advice"] or each["state"] == "ok" for each in document["checks"])
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_that_is_said_and_is_no_fault():
    """The fixture points the client at a port where nobody listens."""
    state, text, advice = check("Hub")
    assert (state, advice) == ("note", "local checkpoints need no Hub")
    assert "refused" in text


def test_a_hub_that_answers(serve):
    serve({})
    assert check("Hub") == ("ok", "answers", "")


def test_a_hub_that_never_answers_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("ninscope.checkpoints.hub.http.silence", lambda seconds: time.sleep(10))
    monkeypatch.setattr(environment, "HUB_SECONDS", 0.2)
    start = time.monotonic()
    assert check("Hub")[:2] == ("note", "cannot be reached (no answer in 0.2 s)")
    assert time.monotonic() - start < 5


def test_neither_token_nor_password_is_shown(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secretsecretsecret")
    point_client_at(monkeypatch, "http://someone:password@127.0.0.1:9")
    ended = command("doctor")
    assert "there is one" in ended.out
    assert "secret" not in ended.out
    assert "password" not in ended.out


def test_a_limit_of_open_files_that_is_too_low(monkeypatch):
    limits = {resource.RLIMIT_NOFILE: (40, 40)}
    monkeypatch.setattr(resource, "getrlimit", lambda limit: limits.get(limit, (UNLIMITED, UNLIMITED)))
    ended = command("doctor")
    assert ended.code == 1
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]  # columns are as wide as the extras' names
    assert "wrong limits ulimit -n allows 40 open files, and a run may need 64; raise it" in lines
    assert ended.out.splitlines()[-1] == "1 thing would stop a run"
    assert json.loads(command("doctor", "--json").out)["ok"] is False


def test_a_limit_of_memory_that_is_too_low(monkeypatch):
    limits = {resource.RLIMIT_AS: (10**9, UNLIMITED)}
    monkeypatch.setattr(resource, "getrlimit", lambda limit: limits.get(limit, (UNLIMITED, UNLIMITED)))
    state, text, advice = check("limits")
    assert (state, advice) == ("wrong", "raise it")
    assert text.startswith("ulimit -v allows 976562 KB of virtual memory a process")
    assert check("memory")[1] == "1.0 GB allowed"


def test_numba_that_can_keep_nothing(monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("numba.core.caching.os.makedirs", refuse)
    state, text, advice = check("numba")
    assert (state, advice) == ("wrong", "set NUMBA_CACHE_DIR to a folder to write to")
    assert text.startswith("numba can keep no compiled code (cannot cache function")


def test_the_folder_of_numba_is_named(monkeypatch):
    import numba

    monkeypatch.setattr(numba, "njit", lambda **_: lambda function: function)
    assert check("numba")[0] == "note"
    monkeypatch.undo()
    state, text, _ = check("numba")
    assert state == "ok"
    assert text.startswith(f"numba {metadata.version('numba')} keeps compiled code in ")


@pytest.mark.parametrize("what", ["full", "a file", "not writable"])
def test_a_disk_that_takes_no_run(tmp_path, monkeypatch, what):
    if what == "full":
        monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 99_000_000})())
    elif what == "a file":
        (tmp_path / "runs").write_text("")
    else:
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    state, text, advice = check("disk", tmp_path / "runs")
    assert state == "wrong"
    assert {"full": f"{tmp_path}: 99.0 MB free", "a file": f"{tmp_path / 'runs'}: no folder", "not writable": "cannot be written"}[
        what
    ] in text  # fmt: skip
    assert advice.endswith("choose another folder with --runs-dir")


def test_packages_that_are_missing_or_old(monkeypatch):
    versions = {"numpy": "1.26.0", "torch": "2.13.0"}

    def version(name):
        if name in ("numba", "pillow"):
            raise metadata.PackageNotFoundError(name)
        return versions.get(name, "9.9")

    required = [
        "numpy>=2.0",
        "numba>=0.61",
        "pandas>=2.2",
        'torch>=2.6; extra == "memel"',
        'pillow>=10; extra == "memel"',
    ]
    monkeypatch.setattr(metadata, "requires", lambda name: required)
    monkeypatch.setattr(metadata, "version", version)
    state, text, _ = check("packages")
    assert (state, text) == ("wrong", "numpy is 1.26.0, and >=2.0 is needed; numba is not installed")
    assert check("memel") == (
        "note",
        "torch 2.13.0; pillow is not installed (stages that run models)",
        "pip install 'ninscope[memel]'",
    )


def test_no_metadata_of_ninscope(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert check("packages")[0] == "note"


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_control_groups(tmp_path, monkeypatch, version):
    """As the kernel shows them: the least of a group and those above it counts."""
    groups, own = tmp_path / "groups", tmp_path / "own"
    files = {
        2: {
            "memory.max": "8000000000", "a/memory.max": "max", "a/b/memory.max": "4000000000",
            "cpu.max": "max 100000", "a/b/cpu.max": "150000 100000",
        },
        1: {
            "memory/memory.limit_in_bytes": "9223372036854771712", "memory/a/b/memory.limit_in_bytes": "4000000000",
            "cpu,cpuacct/a/b/cpu.cfs_quota_us": "150000", "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000",
            "cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
    }[version]  # fmt: skip
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(f"{text}\n")
    if version == 1:
        (groups / "cpu").symlink_to(groups / "cpu,cpuacct")
    own.write_text({1: "4:memory:/a/b\n3:cpu,cpuacct:/a/b\n2:pids:/\n", 2: "0::/a/b\n"}[version])
    monkeypatch.setattr(machine, "_GROUPS", groups)
    monkeypatch.setattr(machine, "_OWN_GROUPS", own)
    assert machine.group_memory() == 4_000_000_000
    assert machine.memory_allowed() <= 4_000_000_000
    assert machine.group_cores() == 1.5
    monkeypatch.setattr("ninscope_pipeline.environment.cores", lambda: 4)
    state, text, advice = check("cores")
    assert (state, advice) == ("note", "give --workers 1")
    assert text.endswith("; a control group leaves the time of 1.5")
    own.write_text("0::/\n" if version == 2 else "2:pids:/\n")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        (groups / name).unlink(missing_ok=True)
    assert machine.group_memory() == math.inf


def test_a_machine_without_control_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_OWN_GROUPS", tmp_path / "absent")
    assert (machine.group_memory(), machine.group_cores()) == (math.inf, math.inf)


@pytest.mark.slow
def test_doctor_and_help_are_quick_and_import_no_torch():
    code = (
        "import sys\nfrom ninscope_pipeline.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'pandas', 'zarr', 'numpy', 'numba') if name in sys.modules])"
    )
    for arguments, names in ((["--help"], "[]"), (["doctor"], "['numpy', 'numba']")):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == names


# --- `ninscope` alone


def write_run(folder, tables: str, checkpoints: int, age: float):
    (folder / "tables").mkdir(parents=True)
    (folder / "run.toml").write_text("")
    os.utime(folder / "run.toml", (time.time() - age,) * 2)
    plan = {"stages": {}, "tables": "key", "checkpoints": [{}] * checkpoints}
    (folder / "plan.json").write_text(json.dumps(plan))
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # sha256 of nothing
    (folder / "tables" / "x.parquet").write_bytes(b"")
    (folder / "tables" / "manifest.json").write_text(json.dumps({"key": tables, "files": {"x.parquet": digest}}))


def suggested(out: str) -> list[str]:
    return [line.split("  ")[1] for line in out.splitlines() if line.startswith("  ninscope ")]


def test_without_a_run_the_demo_comes_first():
    ended = command()
    assert (ended.code, ended.err) == (0, "")
    assert "There is no run in runs/ yet. Next:" in ended.out
    assert [step.split()[1] for step in suggested(ended.out)] == ["demo", "measure", "run", "doctor", "--help"]


def test_the_newest_run_and_what_to_do_with_it(tmp_path):
    write_run(tmp_path / "runs" / "old", "key", 3, age=100)
    write_run(tmp_path / "runs" / "it's new", "key", 1, age=1)
    ended = command()
    assert "runs/ holds 2 runs; the newest is it's new: finished, 1 checkpoint. Next:" in ended.out
    assert any(step.startswith("ninscope query 'it'\"'\"'s new' \"SELECT ") for step in suggested(ended.out))
    assert len(ended.out.splitlines()) <= 14
    write_run(tmp_path / "runs" / "newest", "other", 3, age=0)
    ended = command()
    assert "the newest is newest: not finished, 3 checkpoints. Next:" in ended.out
    assert [step.split()[1] for step in suggested(ended.out)][:2] == ["status", "run"]


def test_only_commands_that_there_are_are_suggested(tmp_path):
    from ninscope_pipeline.cli import app

    write_run(tmp_path / "runs" / "mine", "key", 3, age=0)
    known = {registered.name or registered.callback.__name__ for registered in app.registered_commands}
    named = {step.split()[1] for step in suggested(command().out)}
    assert named - {"--help"} <= known
    assert "query" in named
