"""Kernels of CUDA give the CPU's integers: run by numba's simulator, in one process whose cases are told apart here."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from modes import SEED

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
SCRIPT = HERE / "simulated_kernels.py"


def names() -> list[str]:
    """Those of the cases, read from the script: its module needs the simulator."""
    found = []
    lines = SCRIPT.read_text(encoding="utf-8").splitlines()
    for marker, line in pairwise(lines):
        name = line.removeprefix("def ").split("(")[0]
        if marker == "@case":
            found.append(name)
        elif marker == "@case_of_each_type":
            found += [f"{name}[{dtype}]" for dtype in ("F16", "BF16", "F32")]
    return found


@pytest.fixture(scope="module")
def results() -> dict[str, str]:
    """What went wrong in each case; empty where nothing did."""
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "0"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, str(SCRIPT), str(SEED)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, str] = json.loads(ran.stdout.splitlines()[-1])
    assert set(found) == set(names())
    return found


@pytest.mark.parametrize("name", names())
def test_under_the_simulator(name, results):
    assert not results[name], results[name]
