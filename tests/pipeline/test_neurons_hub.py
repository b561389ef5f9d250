"""[[neurons]] of models on a Hub: the numbers of a folder, and weights that are fetched once for all that is compared."""

from pathlib import Path

import pandas as pd
import pytest
from driving import command, write_dag

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from finetune_models import add_sections, write_prose
from finetune_models import made as made_model
from hub_client import _private_client, serve  # noqa: F401 (fixtures)
from models_here import _models_in_this_process  # noqa: F401 (fixture)

pytestmark = pytest.mark.usefixtures("undrawn")
WEIGHTS = "model.safetensors"
SECTION = {
    "text": "prose.txt", "window": 16, "tokens": 256, "tokenizer": "bytes", "batch_size": 8,
    "measures": ["dormant", "sign_flips", "function_distance"], "neuron_values": True,
}  # fmt: skip


def test_models_on_a_hub_are_those_of_a_folder(tmp_path, serve):
    for step in (0, 1, 4):
        made_model("neox", seed=step).save_pretrained(tmp_path / "tiny" / f"step{step}")
    write_prose(tmp_path)
    hub = serve({"org/tiny": {folder.name: folder for folder in (tmp_path / "tiny").iterdir()}})
    tables = {}
    for name, source in (("here", "tiny"), ("hub", "org/tiny")):
        model = {"suite": "tiny", "model": "tiny", "source": source}
        dag = add_sections(write_dag(tmp_path / f"{name}.toml", models=[model]), neurons=SECTION)
        ended = command("run", dag, "--runs-dir", tmp_path / "runs", "--workers", 1)
        assert (ended.code, ended.err) == (0, ended.err)
        tables[name] = pd.read_parquet(tmp_path / "runs" / name / "tables" / "neurons.parquet")
    assert set(tables["here"]["status"]) == {"ok"}
    pd.testing.assert_frame_equal(tables["hub"], tables["here"])
    before = len(hub.requests)
    again = command("run", tmp_path / "hub.toml", "--runs-dir", tmp_path / "runs", "--workers", 1)
    assert "nothing to run" in again.out
    sent = sum(request.bytes_sent for request in hub.requests[before:] if request.path.endswith(WEIGHTS))
    assert sent < Path(tmp_path / "tiny" / "step0" / WEIGHTS).stat().st_size  # headers at most
