"""The scripts of docs/training.md for several processes, on two: each measures what one process does."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ninscope

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed", allow_module_level=True)
if not hasattr(os, "fork"):
    pytest.skip("the processes are forked", allow_module_level=True)

pytestmark = pytest.mark.slow

WORK = Path(__file__).with_name("page_work.py")
PAGE = (WORK.parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
SCRIPTS = dict(re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL))
NEEDS = {"zero3": "deepspeed"}
RUN = {name: code for name, code in SCRIPTS.items() if name not in NEEDS or importlib.util.find_spec(NEEDS[name])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the scripts ran."""
    place = tmp_path_factory.mktemp("scripts")
    paths = []
    for name, code in RUN.items():
        paths.append(place / f"{name}.py")
        paths[-1].write_text(code, encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, WORK, *paths],
        cwd=place, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def whole() -> ninscope.Measurement:
    """Of the scripts' model, in one process."""
    import torch

    torch.manual_seed(0)
    return ninscope.measure(torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 65)))


def test_the_page_has_the_scripts():
    assert list(SCRIPTS) == ["fsdp2", "tensor_parallel", "data_parallel", "zero3"]
    for name, code in SCRIPTS.items():
        compile(code, name, "exec")


@pytest.mark.parametrize("name", RUN)
def test_a_script_measures_what_one_process_does(folder, whole, name):
    (log,) = re.findall(r'log="(.*?)"', SCRIPTS[name])
    rows = ninscope.open_run(folder / log).table("emergence").set_index("step")
    assert rows.index.tolist() == ([0, 2, 4] if name == "fsdp2" else [0])
    here, there = np.array([whole.alpha0, whole.width]), rows.loc[0, ["alpha0", "width"]].to_numpy(np.float64)
    assert here.tobytes() == there.tobytes()
    assert repr(whole.alpha0) in (folder / f"{name}.txt").read_text(encoding="utf-8")
