"""DeepSpeed's own ZeRO-3, where it is installed; what two ranks do is in zero_work.py."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("deepspeed") is None:
    pytest.skip("deepspeed is not installed", allow_module_level=True)
if not hasattr(os, "fork"):
    pytest.skip("the processes are forked", allow_module_level=True)

pytestmark = pytest.mark.slow


def test_two_ranks_of_zero_find_what_deepspeed_gathers(tmp_path):
    work = Path(__file__).with_name("zero_work.py")
    roots = [str(work.parents[1]), os.environ.get("PYTHONPATH", "")]
    ended = subprocess.run(
        [sys.executable, work, tmp_path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600,  # DeepSpeed compiles when it first runs
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == {"partitions_are_what_deepspeed_gathers": "", "a_model_has_the_bits_of_the_whole": ""}
