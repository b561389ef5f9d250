"""The examples as a user runs them: what they measure while they train is, bit for bit, what their checkpoints say afterwards."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import ninscope

if importlib.util.find_spec("torch") is None or not hasattr(os, "fork"):
    pytest.skip("the examples need torch, and their processes are forked", allow_module_level=True)

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
WORK = Path(__file__).with_name("example_work.py")
NAMES = ("train_with_trainer", "train_with_lightning", "train_plain_loop")
STEPS = 4
LINE_BLUE = (31, 119, 180)  # of matplotlib's first line


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where each script wrote into the folder of its name, and what it printed beside it: `example_work.py`."""
    place = tmp_path_factory.mktemp("examples")
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",  # two threads that wait for each other take twice the CPU time
        "PYTHONPATH": os.pathsep.join(str(ROOT / root) for root in ("src", "pipeline")),
    }
    done = subprocess.run(
        [sys.executable, WORK, str(STEPS), *(EXAMPLES / f"{name}.py" for name in NAMES)],
        cwd=place, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return place


def module_of(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        return __import__(name)


def bits(values: object) -> bytes:
    return np.asarray(values, np.float64).tobytes()


def assert_drawn(figure: Path) -> None:
    """Each of the four panels has a line in it."""
    picture = np.asarray(Image.open(figure).convert("RGB")).astype(int)
    for rows in np.array_split(picture, 2):
        for panel in np.array_split(rows, 2, axis=1):
            assert (np.abs(panel - LINE_BLUE).sum(axis=-1) < 30).sum() > 50, figure


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "checkpoints", "reading"),
    [
        ("train_with_trainer", ".", {}),
        ("train_with_lightning", "checkpoints", {}),
        ("train_plain_loop", "checkpoints", {"architecture": "ARCHITECTURE"}),
    ],
)
def test_rows_are_what_the_saved_checkpoints_say(folder, name, checkpoints, reading):
    out = folder / name
    chosen = {key: getattr(module_of(name), constant) for key, constant in reading.items()}
    saved = ninscope.measure_all(out / checkpoints, **chosen)
    assert [row.step for row in saved] == [0, STEPS]
    assert all(row.status == "ok" for row in saved)
    rows = ninscope.open_run(out / "ninscope").table("emergence").set_index("step")
    assert rows.index.tolist() == list(range(STEPS + 1))
    for row in saved:
        recorded = rows.loc[row.step, ["alpha0", "width", "emergence"]].tolist()
        assert bits([row.alpha0, row.width, row.emergence]) == bits(recorded)
    assert saved[-1].emergence != 0  # it trained
    assert_drawn(out / "emergence.png")
    line = "2 of 2 checkpoints: alpha0, w and E are those that were measured while training, bit for bit"
    assert (folder / f"{name}.txt").read_text(encoding="utf-8").splitlines()[-1] == line


def test_an_example_writes_over_nothing(tmp_path, monkeypatch, capsys):
    common = module_of("common")
    for arguments, said in (
        (["--out", str(tmp_path)], f"{re.escape(str(tmp_path))} exists; choose another --out"),
        (["--steps", "0"], "--steps must be at least 1"),
    ):
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        with pytest.raises(SystemExit, match="2"):
            common.parse_options("An example.", steps=10, out=str(tmp_path / "new"))
        assert re.search(said, capsys.readouterr().err)


def test_a_comparison_that_fails_says_so(tmp_path, capsys):
    """Another number in one row, and the script ends with exit code 1."""
    common = module_of("common")
    source = ROOT / "data" / "stdlib-neox-67k"
    rows = list(ninscope.measure_all(source, revision="step64"))
    common.compare(rows, source, revision="step64")
    assert capsys.readouterr().out.startswith("1 of 1 checkpoints")
    other = [type("Row", (), {"step": 64, "alpha0": np.nextafter(rows[0].alpha0, 9), "width": rows[0].width,
                              "emergence": rows[0].emergence})]  # fmt: skip
    with pytest.raises(SystemExit, match="1"):
        common.compare(other, source, revision="step64")
    assert capsys.readouterr().out.startswith("0 of 1 checkpoints")
