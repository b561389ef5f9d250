"""The suites in data/ are what their README says: really initialised, really trained, small, readable by others."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

DATA = Path(__file__).parents[1] / "data"
SUITE = DATA / "stdlib-neox-500k"
SMALLEST = DATA / "stdlib-neox-67k"
SEEDS = {seed: DATA / f"stdlib-neox-67k-seed{seed}" for seed in (1, 2)}
SEED_STEPS = [0, 64, 512, 1000]
STEPS = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 4000]
DIFFUSION = DATA / "digits-ddpm"
DIFFUSION_STEPS = [0, 4, 16, 64, 256, 512, 1000, 2000]


def losses(task: str, metric: str = "loss", suite: Path = SUITE) -> dict[int, float]:
    with open(suite / "evaluations.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["task"], row["metric"]) == (task, metric)]
    return {int(row["step"]): float(row["value"]) for row in rows}


def test_every_revision_is_complete_and_the_whole_is_small():
    assert sorted(int(path.name[4:]) for path in SUITE.glob("step*")) == STEPS
    for step in STEPS:
        assert {path.name for path in (SUITE / f"step{step}").iterdir()} == {"config.json", "model.safetensors"}
        assert json.loads((SUITE / f"step{step}" / "config.json").read_text())["model_type"] == "gpt_neox"
    assert sum(path.stat().st_size for path in SUITE.rglob("*") if path.is_file()) < 15_000_000


def test_it_learned():
    held_out, train = losses("held_out"), losses("train")
    assert list(held_out) == list(train) == STEPS
    assert held_out[0] > math.log(256)  # no better than guessing
    assert all(
        later < earlier for earlier, later in zip(list(held_out.values()), list(held_out.values())[1:], strict=False)
    )
    assert held_out[4000] < 1.3


def test_step0_is_pythias_initialisation():
    tensors = load_file(SUITE / "step0" / "model.safetensors")
    width, blocks = 96, 4
    for name, values in tensors.items():
        if values.ndim != 2:
            continue
        into_residual = name.endswith(("attention.dense.weight", "dense_4h_to_h.weight"))
        expected = 2 / (blocks * math.sqrt(width)) if into_residual else math.sqrt(2 / (5 * width))
        # A sample of n normal numbers has its standard deviation within 4 / sqrt(2 n) of it.
        assert np.std(values.astype(np.float64)) == pytest.approx(expected, rel=4 / math.sqrt(2 * values.size)), name


def test_another_library_reads_it_and_finds_it_has_learned():
    """transformers loads step 0 and step 4000; on this very file the trained model is better by far."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    text = torch.tensor([list(Path(__file__).read_bytes()[:256])])
    found = []
    for step in (0, 4000):
        model = transformers.GPTNeoXForCausalLM.from_pretrained(SUITE / f"step{step}", dtype=torch.float32).eval()
        with torch.no_grad():
            found.append(float(model(text, labels=text).loss))
    assert found[0] > 5
    assert found[1] < 2.5


def settings_of(suite: Path) -> dict:
    return json.loads((suite / "training.json").read_text(encoding="utf-8"))


class TestSeeds:
    """stdlib-neox-67k-seed1 and -seed2: the smallest model with other random numbers."""

    @pytest.mark.parametrize("seed", SEEDS)
    def test_nothing_but_the_seed_differs_from_seed_0(self, seed):
        assert settings_of(SEEDS[seed]) == settings_of(SMALLEST) | {"seed": seed}
        assert sorted(int(path.name[4:]) for path in SEEDS[seed].glob("step*")) == SEED_STEPS
        for step in SEED_STEPS:
            folders = (SMALLEST / f"step{step}", SEEDS[seed] / f"step{step}")
            assert {path.name for path in folders[1].iterdir()} == {"config.json", "model.safetensors"}
            first, second = ((folder / "config.json").read_bytes() for folder in folders)
            assert first == second
        assert sum(path.stat().st_size for path in SEEDS[seed].rglob("*") if path.is_file()) < 600_000

    def test_each_has_weights_of_its_own_with_the_same_names_and_shapes(self):
        for step in (0, 1000):
            several = [load_file(suite / f"step{step}" / "model.safetensors") for suite in (SMALLEST, *SEEDS.values())]
            names = [{name: values.shape for name, values in tensors.items()} for tensors in several]
            assert names[0] == names[1] == names[2]
            embeddings = [tensors["gpt_neox.embed_in.weight"].astype(np.float64).ravel() for tensors in several]
            correlations = np.corrcoef(embeddings)[np.triu_indices(3, 1)]
            # Unrelated normal numbers, 256 x 32: within 4 / sqrt(8192) of 0 before training.
            assert np.abs(correlations).max() < (4 / math.sqrt(8192) if step == 0 else 0.2)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_it_learned_as_much_as_seed_0(self, seed):
        first, own = (losses("held_out", suite=suite) for suite in (SMALLEST, SEEDS[seed]))
        assert list(own) == list(first) == SEED_STEPS
        assert own[0] > math.log(256)
        assert own[1000] == pytest.approx(first[1000], abs=0.02)


class TestDiffusion:
    """digits-ddpm: a UNet2DModel that learned to draw scikit-learn's digits."""

    def test_every_revision_is_complete_and_the_whole_is_small(self):
        assert sorted(int(path.name[4:]) for path in DIFFUSION.glob("step*")) == DIFFUSION_STEPS
        for step in DIFFUSION_STEPS:
            folder = DIFFUSION / f"step{step}"
            assert {path.name for path in folder.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
            assert json.loads((folder / "config.json").read_text())["_class_name"] == "UNet2DModel"
            tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
            assert sum(values.size for values in tensors.values()) == 302_449
            assert {str(values.dtype) for values in tensors.values()} == {"float16"}
        assert sum(path.stat().st_size for path in DIFFUSION.rglob("*") if path.is_file()) < 5_000_000

    def test_it_learned(self):
        held_out, train = (losses(task, "loss", DIFFUSION) for task in ("held_out", "train"))
        assert list(held_out) == list(train) == DIFFUSION_STEPS
        assert held_out[0] > 1  # the noise has variance 1: no better than predicting none
        values = list(held_out.values())
        assert values == sorted(values, reverse=True)
        assert held_out[2000] < 0.15

    def test_what_it_draws_came_near_to_real_images_and_is_no_copy_of_them(self):
        real = json.loads((DIFFUSION / "training.json").read_text())["held_out_images"]
        frechet, nearest = (losses("samples", metric, DIFFUSION) for metric in ("frechet", "nearest_train"))
        assert frechet[2000] < 2 * real["frechet"] < frechet[0] / 50
        assert real["nearest_train"] < nearest[2000] < 1.2 * real["nearest_train"]

    def test_step0_is_the_untouched_initialisation(self):
        """PyTorch's: weights of a layer with n inputs are even between -1/sqrt(n) and 1/sqrt(n), norms are 1."""
        for name, values in load_file(DIFFUSION / "step0" / "diffusion_pytorch_model.safetensors").items():
            values = values.astype(np.float64)
            if "norm" in name and name.endswith("weight"):
                assert (values == 1).all(), name
            elif values.ndim > 1:
                bound = 1 / math.sqrt(values[0].size)
                assert np.abs(values).max() <= bound * (1 + 2**-10), name
                assert np.std(values) == pytest.approx(bound / math.sqrt(3), rel=4 / math.sqrt(2 * values.size)), name

    def test_another_library_reads_it_and_finds_it_has_learned(self):
        """diffusers loads step 0 and step 2000; only the trained one tells the noise from a drawn ring, which it never saw."""
        torch = pytest.importorskip("torch", reason="torch is not installed")
        diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
        place = torch.arange(8) - 3.5
        ring = 2.0 * ((place[:, None] ** 2 / 1.6 + place[None] ** 2 * 1.4 - 6).abs() < 3) - 1
        images = ring.expand(64, 1, 8, 8)
        draw = torch.Generator().manual_seed(0)
        noise, level = torch.randn(images.shape, generator=draw), torch.full((64,), 500)
        schedule = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
        errors = []
        for step in (0, 2000):
            model = diffusers.UNet2DModel.from_pretrained(DIFFUSION / f"step{step}").eval()
            with torch.no_grad():
                predicted = model(schedule.add_noise(images, noise, level), level).sample
            errors.append(float(((predicted - noise) ** 2).mean()))
        assert errors[0] > 0.9
        assert errors[1] < 0.3
