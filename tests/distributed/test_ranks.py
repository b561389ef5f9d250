"""Two, three and four processes that hold a model together; what they do is in rank_work.py, which this module does not import."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed", allow_module_level=True)
if not hasattr(os, "fork"):
    pytest.skip("the processes are forked", allow_module_level=True)

pytestmark = pytest.mark.slow  # one start of all processes

WORK = Path(__file__).with_name("rank_work.py")
CASES = [
    (int(world), name)
    for worlds, name in re.findall(r"^@case\((.*)\)\ndef (\w+)", WORK.read_text(encoding="utf-8"), re.MULTILINE)
    for world in worlds.split(", ")
]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    tests = WORK.parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run(
        [sys.executable, WORK, folder],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout
    return folder


@pytest.mark.parametrize(("world", "work"), CASES)
def test_ranks(found, world, work):
    for rank in range(world):
        assert json.loads((found / f"{world}-{rank}.json").read_text())[work] == "", f"rank {rank}"


def test_every_case_was_done(found):
    for world in (2, 3, 4):
        done = json.loads((found / f"{world}-0.json").read_text())
        assert list(done) == [name for size, name in CASES if size == world] != []
