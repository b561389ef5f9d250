"""What an adapter is: its tensors, what in adapter_config.json its numbers depend on, and its base."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from lora_adapters import gpt2_classifier, written
from safetensors.numpy import load_file, save_file

import ninscope
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError

pytest.importorskip("peft")
pytest.importorskip("torch")

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path, Path]:
    """(adapter, base, merged), not to be changed."""
    return written(tmp_path_factory.mktemp("llama"), "llama", r=4, target_modules=["q_proj", "up_proj"])


def settings(folder: Path, **changes) -> Path:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def sweep(folder: Path, adapter: Path, changes: list[dict]) -> Path:
    """Revisions of equal tensors, each with settings of its own."""
    for step, change in enumerate(changes):
        settings(Path(shutil.copytree(adapter, folder / f"checkpoint-{step}")), **change)
    return folder


class TestDuplicates:
    def test_a_sweep_of_alpha(self, made, tmp_path):
        adapter, base, _ = made
        place = sweep(tmp_path / "sweep", adapter, [{"lora_alpha": alpha} for alpha in (0, 4, 16)])
        rows = ninscope.measure_all(place, base=base)
        assert [row.status for row in rows] == ["ok"] * 3
        alphas = [row.spectrum.alpha0 for row in rows]
        assert len(set(alphas)) == 3
        assert alphas[0] == ninscope.measure(base).alpha0
        assert rows[0].emergence == 0
        assert all(row.emergence > 0 for row in rows[1:])
        assert set(ninscope.audit(place)["status"]) == {"ok"}

    @pytest.mark.parametrize("change", [
        {"use_rslora": True}, {"alpha_pattern": {"q_proj": 3}}, {"init_lora_weights": "pissa"},
        {"target_parameters": ["down_proj"]},
    ])  # fmt: skip
    def test_other_settings_are_other_weights(self, made, tmp_path, change):
        place = sweep(tmp_path, made[0], [{}, change])
        assert list(ninscope.audit(place)["status"]) == ["ok", "ok"]

    @pytest.mark.parametrize("change", [
        {"base_model_name_or_path": "elsewhere"}, {"peft_version": "0.9.0", "inference_mode": False},
        {"target_modules": ["up_proj", "q_proj"]}, {"lora_dropout": 0.1}, {"a_new_option": None},
    ])  # fmt: skip
    def test_what_no_number_depends_on_makes_no_difference(self, made, tmp_path, change):
        place = sweep(tmp_path, made[0], [{}, change])
        assert list(ninscope.audit(place)["status"]) == ["duplicate", "duplicate"]
        assert [row.status for row in ninscope.measure_all(place, base=made[1])] == ["duplicate", "duplicate"]


class TestChanging:
    def test_settings_that_changed_are_noticed(self, made, tmp_path):
        adapter = Path(shutil.copytree(made[0], tmp_path / "adapter"))
        source = open_source(adapter, made[1])
        identity = source.identify("adapter")
        source.check_unchanged(identity)
        settings(adapter, lora_alpha=77)
        with pytest.raises(CheckpointError, match=r"adapter/adapter_config\.json: changed while it was being read"):
            source.check_unchanged(identity)


def test_what_an_earlier_version_merged_otherwise_is_not_believed(tmp_path):
    """Square weights of Conv1D without fan_in_fan_out. Where the flag is set, or none is square, the key stays."""
    adapter, base, _ = gpt2_classifier(tmp_path)
    wrong = open_source(adapter, base).identify("adapter")
    assert wrong.merging
    settings(adapter, fan_in_fan_out=True)
    right = open_source(adapter, base).identify("adapter")
    assert not right.merging
    settings(adapter, fan_in_fan_out=False)
    tensors = load_file(adapter / WEIGHTS)
    save_file({name: of for name, of in tensors.items() if "attn.c_proj." not in name}, adapter / WEIGHTS)
    assert not open_source(adapter, base).identify("adapter").merging


def test_the_key_of_what_was_right_is_as_it_was(made):
    """As every version made it: of the adapter's file, its settings and the base."""

    def sha256(content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()

    adapter, base, _ = made
    own, stated, weights = (
        sha256(path.read_bytes()) for path in (adapter / WEIGHTS, adapter / CONFIG, base / "model.safetensors")
    )
    expected = sha256(f"{own}  adapter\n{stated}  settings\n{weights}  base\n".encode())
    assert open_source(adapter, base).identify("adapter").content_sha256 == expected
