"""Train the small forecasting suite that ships in this folder, and write it revision by revision.

A ConvGRU (Shi et al., 2017) learns to forecast the next five frames of moving Gaussian blobs from the five before them.
Revisions are kept at spaced steps; `step0` is the untouched initialisation.

    python data/train_blobs_convgru.py --out suite                     # the whole suite
    python data/train_blobs_convgru.py --out start --stop-after 64     # its first revisions, same schedule

Written to `--out`:
    step{N}/config.json, step{N}/model.safetensors   float16 weights after N updates
    evaluations.csv      revision, step, task, metric, value
                         train, held_out: loss; b_mae and b_mse, of pixels from 0 to 255
    training.json        settings, versions, and what forecasts that need no model get
"""

import argparse
import copy
import csv
import json
import math
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ninscope.neurons.convgru import ConvGRU, ConvGRUConfig, parameter_count
from ninscope.neurons.tasks.forecast_settings import ForecastSettings
from ninscope.neurons.tasks.forecasting import Forecasting

SIDE, INPUT_FRAMES, OUTPUT_FRAMES = 16, 5, 5
CONFIG = ConvGRUConfig(
    height=SIDE,
    width=SIDE,
    input_frames=INPUT_FRAMES,
    output_frames=OUTPUT_FRAMES,
    convolution_channels=(12, 20),
    convolution_kernels=(3, 3),
    strides=(2, 2),
    paddings=(1, 1),
    hidden_channels=(16, 24),
    input_kernels=(3, 3),
    recurrent_kernels=(3, 3),
    upsampling_kernels=(4, 4),
)
BLOBS, EDGES, WEIGHTS_OF = 3, "bounce", "rain_rate"
BATCH = 16
PEAK_LEARNING_RATE, WARMUP_STEPS = 4e-3, 50
BETAS, WEIGHT_DECAY, CLIP_NORM = (0.9, 0.99), 0.01, 1.0
REVISIONS = (0, 16, 64, 256, 512, 1000, 2000)
EVALUATED_SEQUENCES, EVALUATION_BATCH = 320, 32


# --- sequences ----------------------------------------------------------------------------------------------
def forecasting(split_evaluated: str, seed: int, steps: int) -> Forecasting:
    """The task; what its `evaluate` scores are the first EVALUATED_SEQUENCES of a split.

    Training sequences are those numbered from 0, each seen once, in order. Held-out ones are drawn from other numbers of the seed.
    """
    settings = ForecastSettings(
        dataset="blobs",
        height=SIDE,
        width=SIDE,
        input_frames=INPUT_FRAMES,
        output_frames=OUTPUT_FRAMES,
        weights_of=WEIGHTS_OF,
        seed=seed,
        train_size=max(steps * BATCH, EVALUATED_SEQUENCES),
        held_out_size=EVALUATED_SEQUENCES,
        blobs=BLOBS,
        edges=EDGES,
    )
    return TrainScored(settings) if split_evaluated == "train" else Forecasting(settings)


class TrainScored(Forecasting):
    """Scores the first training sequences where the task scores held-out ones."""

    def held_out(self, size: int):
        for first in range(0, EVALUATED_SEQUENCES, size):
            yield self.batch(np.arange(first, min(first + size, EVALUATED_SEQUENCES)))


def training_numbers(step: int) -> np.ndarray:
    """The sequences of one step, from 1: they depend on the step alone, and each sequence on (seed, number)."""
    return np.arange((step - 1) * BATCH, step * BATCH)


# --- scores -------------------------------------------------------------------------------------------------
class Persistence(nn.Module):
    """The last frame seen, again and again: what any forecast has to be better than."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return frames[:, -1:].expand(-1, OUTPUT_FRAMES, -1, -1)


class LinearMotion(nn.Module):
    """The last difference between two frames, added once a frame."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        step = torch.arange(1, OUTPUT_FRAMES + 1)[None, :, None, None]
        return frames[:, -1:] + step * (frames[:, -1:] - frames[:, -2:-1])


class NoRain(nn.Module):
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(frames[:, :1]).expand(-1, OUTPUT_FRAMES, -1, -1)


@torch.no_grad()
def scores(task: Forecasting, model: nn.Module) -> dict[str, float]:
    """loss, b_mae and b_mse over the sequences that the task scores."""
    model.eval()
    losses = [task.loss(model, batch).double() for batch in task.held_out(EVALUATION_BATCH)]
    found = {"loss": float(torch.stack(losses).mean())}
    return found | task.evaluate(model, EVALUATION_BATCH, torch.device("cpu"))


# --- training -----------------------------------------------------------------------------------------------
def learning_rate(step: int, steps: int) -> float:
    """Rate of update number `step` (from 1): linear warm-up, then a cosine to next to nothing."""
    warmup = min(WARMUP_STEPS, steps)
    if step <= warmup:
        return PEAK_LEARNING_RATE * step / warmup
    return PEAK_LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps + 1 - warmup)))


def save_revision(model: ConvGRU, folder: Path) -> ConvGRU:
    """Write a float16 copy of the model; return what was written, read back in float32, to evaluate it."""
    copy.deepcopy(model).half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    return ConvGRU.from_pretrained(folder)


def train(folder: Path, options: argparse.Namespace) -> None:
    tasks = {split: forecasting(split, options.seed, options.steps) for split in ("train", "held_out")}
    torch.manual_seed(options.seed)
    model = ConvGRU(CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY)
    last_step = options.steps if options.stop_after is None else min(options.stop_after, options.steps)
    kept = {step for step in REVISIONS if step <= last_step} | {last_step}
    rows, started = [], time.perf_counter()
    for step in range(last_step + 1):
        if step > 0:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, options.steps)
            model.train()
            optimizer.zero_grad()
            tasks["train"].loss(model, tasks["train"].batch(training_numbers(step))).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
        if step in kept:
            shipped = save_revision(model, folder / f"step{step}")
            values = [
                (split, metric, value)
                for split, task in tasks.items()
                for metric, value in scores(task, shipped).items()
            ]
            rows += [(f"step{step}", step, task, metric, f"{value:.6f}") for task, metric, value in values]
            said = "  ".join(f"{task} {metric} {value:.4f}" for task, metric, value in values)
            print(f"step {step:4d}  {said}  {time.perf_counter() - started:.0f} s", flush=True)
    with open(folder / "evaluations.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("revision", "step", "task", "metric", "value"), *rows])
    trivial = {"persistence": Persistence(), "linear_motion": LinearMotion(), "no_rain": NoRain()}
    found = {name: scores(tasks["held_out"], forecast) for name, forecast in trivial.items()}
    write_settings(folder / "training.json", options, found)


def write_settings(path: Path, options: argparse.Namespace, trivial: dict) -> None:
    settings = {
        "steps": options.steps, "seed": options.seed, "threads": options.threads, "batch": BATCH,
        "parameters": parameter_count(CONFIG), "peak_learning_rate": PEAK_LEARNING_RATE, "warmup_steps": WARMUP_STEPS,
        "adam_betas": BETAS, "weight_decay": WEIGHT_DECAY, "clip_norm": CLIP_NORM, "blobs": BLOBS, "edges": EDGES,
        "weights_of": WEIGHTS_OF, "evaluated_sequences": EVALUATED_SEQUENCES,
        "held_out_without_a_model": {
            name: {metric: round(value, 6) for metric, value in found.items()} for name, found in trivial.items()
        },
        "machine": platform.machine(), "python": platform.python_version(), "torch": torch.__version__,
        "numpy": np.__version__,
    }  # fmt: skip
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the small forecasting suite on moving blobs.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=REVISIONS[-1], help="of the schedule (%(default)s)")
    parser.add_argument("--stop-after", type=int, help="end after this step of the schedule")
    parser.add_argument("--seed", type=int, default=0, help="of initialisation and sequences (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (%(default)s)")
    parser.add_argument("--force", action="store_true", help="replace an earlier suite at --out")
    options = parser.parse_args()
    torch.set_num_threads(max(options.threads, 1))
    torch.use_deterministic_algorithms(True)
    if options.steps < 1 or options.threads < 1 or options.seed < 0 or (options.stop_after or 0) < 0:
        parser.error("--steps and --threads must be at least 1, --seed and --stop-after at least 0")
    replaceable = options.force and (options.out / "training.json").is_file()
    if options.out.exists() and not replaceable:
        sys.exit(f"{options.out} exists; choose another --out (--force replaces only a suite of this script)")

    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{options.out.name}-", dir=options.out.parent) as scratch:
        folder = Path(scratch) / "suite"
        folder.mkdir()
        train(folder, options)
        if options.out.exists():
            shutil.rmtree(options.out)
        folder.rename(options.out)


if __name__ == "__main__":
    main()
