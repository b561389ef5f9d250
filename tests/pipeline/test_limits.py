"""Limits of the shell that are too low are named before a worker is started; those that may be raised are."""

import os
import resource

import pytest
from driving import process, write_dag
from suites import write_suite

from ninscope.errors import RequestError
from ninscope_pipeline.execution.limits import check_limits, reserve_little

UNLIMITED = resource.RLIM_INFINITY


@pytest.fixture
def limits(monkeypatch):
    """Soft and hard limits by number, unlimited unless a test says otherwise; what is set is seen."""
    known = {resource.RLIMIT_NOFILE: (UNLIMITED, UNLIMITED), resource.RLIMIT_AS: (UNLIMITED, UNLIMITED)}
    monkeypatch.setattr(resource, "getrlimit", known.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", known.__setitem__)
    return known


@pytest.mark.parametrize(
    ("limit", "hard", "processes", "message"),
    [
        (
            "NOFILE", 40, True,
            "ulimit -n allows 40 open files, and 2 worker processes may need 64; raise it; or ask for fewer workers",
        ),
        ("NOFILE", 40, False, "ulimit -n allows 40 open files, and a run may need 64; raise it$"),
        ("AS", 1_126_400_000, True, "ulimit -v allows 1100000 KB of virtual memory a process, and a run needs 1992187 or more"),
        ("AS", 1_126_400_000, False, "ulimit -v allows 1100000 KB of virtual memory a process, and a run needs 1660156"),
    ],
)  # fmt: skip
def test_the_limit_that_is_too_low_is_named(limits, limit, hard, processes, message):
    limits[getattr(resource, f"RLIMIT_{limit}")] = (hard, hard)
    with pytest.raises(RequestError, match=message):
        check_limits(2, processes)


def test_open_files_may_be_raised_and_memory_is_the_users(limits):
    limits[resource.RLIMIT_NOFILE] = (40, 4096)
    check_limits(20, True)
    assert limits[resource.RLIMIT_NOFILE] == (352, 4096)
    check_limits(2, True)
    assert limits[resource.RLIMIT_NOFILE] == (352, 4096)  # and never lowered
    limits[resource.RLIMIT_AS] = (10**9, UNLIMITED)
    with pytest.raises(RequestError, match="ulimit -v allows 976562 KB"):
        check_limits(2, True)


@pytest.mark.parametrize(("memory", "pool"), [(UNLIMITED, None), (2_500_000_000, "system")])
def test_under_a_limit_of_memory_pyarrow_reserves_none(limits, monkeypatch, memory, pool):
    monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", "")  # to be put back
    monkeypatch.delenv("ARROW_DEFAULT_MEMORY_POOL")
    limits[resource.RLIMIT_AS] = (memory, UNLIMITED)
    reserve_little()
    assert os.environ.get("ARROW_DEFAULT_MEMORY_POOL") == pool


def test_the_pool_that_a_user_chose_stays(limits, monkeypatch):
    monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", "mimalloc")
    limits[resource.RLIMIT_AS] = (2_500_000_000, UNLIMITED)
    reserve_little()
    assert os.environ["ARROW_DEFAULT_MEMORY_POOL"] == "mimalloc"


@pytest.mark.slow
def test_a_run_under_a_low_limit_ends(tmp_path):
    write_suite(tmp_path / "tiny", [0], blocks=1, width=16, heads=2)
    dag = write_dag(tmp_path / "x.toml", tmp_path / "tiny", cluster={"kind": "local", "processes": True, "workers": 2})

    def low() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    ended = process("run", dag, "--runs-dir", tmp_path / "runs", cwd=tmp_path, preexec_fn=low)
    assert ended.code == 2
    assert ended.says[-1].startswith("ulimit -n allows 40 open files, and 2 worker processes may need 64; raise it")
