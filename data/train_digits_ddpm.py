"""Train the small denoising diffusion suite that ships in this folder, and write it revision by revision.

A UNet2DModel of diffusers learns to predict the noise (DDPM: Ho, Jain and Abbeel, 2020) in scikit-learn's bundled
handwritten digits, 1,797 grey images of 8x8 pixels. Revisions are kept at log-spaced steps; `step0` is the untouched
initialisation.

    python data/train_digits_ddpm.py --out suite                     # the whole suite
    python data/train_digits_ddpm.py --out start --stop-after 64     # its first revisions, same schedule
    python data/train_digits_ddpm.py --sheet digits.png suite/step2000   # pictures that a revision draws

Written to `--out`:
    step{N}/config.json, step{N}/diffusion_pytorch_model.safetensors   float16 weights after N updates
    evaluations.csv      revision, step, task, metric, value
                         train, held_out: loss, mean squared error of the predicted noise
                         samples: frechet and nearest_train (see `sample_quality`)
    training.json        settings, versions, and what held-out images get in place of samples
"""

import argparse
import copy
import csv
import hashlib
import json
import math
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

import diffusers
import numpy as np
import scipy
import sklearn
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

SIDE, CHANNELS, LEVELS, HEAD_WIDTH, NORM_GROUPS = 8, (24, 40), 16, 8, 8
NOISE_LEVELS, NOISE_SCHEDULE = 1000, "squaredcos_cap_v2"
BATCH = 64
PEAK_LEARNING_RATE, WARMUP_STEPS = 2e-3, 50
BETAS, WEIGHT_DECAY, CLIP_NORM = (0.9, 0.99), 0.01, 1.0
REVISIONS = (0, 4, 16, 64, 256, 512, 1000, 2000)
HELD_OUT_ONE_IN = 5
EVALUATED_IMAGES, EVALUATED_LEVELS = 320, 8  # of each split; noise levels that each image's loss is taken at
SAMPLING_STEPS = 25
SHEET_ROWS, SHEET_COLUMNS, SHEET_ZOOM = 8, 12, 6


# --- images -------------------------------------------------------------------------------------------------
def read_digits() -> dict[str, tuple[torch.Tensor, np.ndarray]]:
    """(images float32 [n, 1, 8, 8] from -1 to 1, labels [n]) of each split, in scikit-learn's order.

    The split depends on an image's pixels alone, so copies of one image are on the same side.
    """
    digits = load_digits()
    pixels = digits.images.astype(np.uint8)  # integers from 0 to 16
    held_out = np.array(
        [int(hashlib.sha256(image.tobytes()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0 for image in pixels]
    )
    scaled = torch.from_numpy(pixels.astype(np.float32) * 2 / LEVELS - 1)[:, None]
    return {
        split: (scaled[torch.from_numpy(here)], digits.target[here])
        for split, here in (("train", ~held_out), ("held_out", held_out))
    }


# --- model --------------------------------------------------------------------------------------------------
def build_model(seed: int) -> UNet2DModel:
    """An untrained model with diffusers' initialisation, which is PyTorch's own of each layer."""
    torch.manual_seed(seed)
    return UNet2DModel(
        sample_size=SIDE,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=CHANNELS,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=HEAD_WIDTH,
        norm_num_groups=NORM_GROUPS,
    ).to(memory_format=torch.channels_last)  # by a third faster


def noise_schedule() -> DDPMScheduler:
    return DDPMScheduler(num_train_timesteps=NOISE_LEVELS, beta_schedule=NOISE_SCHEDULE)


def squared_error(model: UNet2DModel, images: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Squared error of the predicted noise, [n, 1, 8, 8]."""
    noisy = noise_schedule().add_noise(images, noise, levels)
    return (model(noisy, levels).sample - noise) ** 2


@torch.no_grad()
def mean_loss(model: UNet2DModel, images: torch.Tensor) -> float:
    """Mean squared error over the first images at EVALUATED_LEVELS evenly spaced levels, the same noise at every revision."""
    model.eval()
    images = images[:EVALUATED_IMAGES]
    draw = torch.Generator().manual_seed(1)
    total = 0.0
    for number in range(EVALUATED_LEVELS):
        level = (2 * number + 1) * NOISE_LEVELS // (2 * EVALUATED_LEVELS)
        noise = torch.randn(images.shape, generator=draw)
        total += squared_error(model, images, noise, torch.full((len(images),), level)).double().mean().item()
    return total / EVALUATED_LEVELS


@torch.no_grad()
def drawn_samples(model: UNet2DModel, count: int) -> torch.Tensor:
    """Pictures [count, 1, 8, 8] from pure noise, in SAMPLING_STEPS deterministic steps (DDIM); the same noise always."""
    model.eval()
    steps = DDIMScheduler(num_train_timesteps=NOISE_LEVELS, beta_schedule=NOISE_SCHEDULE)
    steps.set_timesteps(SAMPLING_STEPS)
    pictures = torch.randn((count, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(2))
    for level in steps.timesteps:
        pictures = steps.step(model(pictures, level).sample, level, pictures).prev_sample
    return pictures.clamp(-1, 1)


# --- quality of samples -------------------------------------------------------------------------------------
def train_classifier(images: torch.Tensor, labels: np.ndarray) -> MLPClassifier:
    """A small classifier of the real digits, whose hidden units are the features of `frechet_distance`."""
    return MLPClassifier(hidden_layer_sizes=(64,), max_iter=1000, random_state=0).fit(flat(images), labels)


def flat(images: torch.Tensor) -> np.ndarray:
    """Pixels from 0 to 1, [n, 64] float64."""
    return (images.reshape(len(images), -1).double().numpy() + 1) / 2


def features(classifier: MLPClassifier, images: torch.Tensor) -> np.ndarray:
    return np.maximum(flat(images) @ classifier.coefs_[0] + classifier.intercepts_[0], 0)


def frechet_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Of the normal distributions with the means and covariances of two sets of features (Heusel et al., 2017)."""
    gap = one.mean(0) - other.mean(0)
    first, second = np.cov(one.T), np.cov(other.T)
    # The trace of the root of first @ second; its eigenvalues are real and not negative, but for rounding.
    root = np.sqrt(np.maximum(np.linalg.eigvals(first @ second).real, 0)).sum()
    return float(gap @ gap + np.trace(first) + np.trace(second) - 2 * root)


def sample_quality(classifier: MLPClassifier, pictures: torch.Tensor, train: torch.Tensor) -> dict[str, float]:
    """frechet: Fréchet distance of the classifier's hidden units on pictures and on training images; less is better.
    nearest_train: mean Euclidean distance of a picture to its nearest training image, pixels from 0 to 1.

    Held-out images have both, too: samples that come nearer to the training images than these are copies of them.
    """
    between = np.sqrt(((flat(pictures)[:, None] - flat(train)[None]) ** 2).sum(-1))
    return {
        "frechet": frechet_distance(features(classifier, pictures), features(classifier, train)),
        "nearest_train": float(between.min(1).mean()),
    }


# --- training -----------------------------------------------------------------------------------------------
def learning_rate(step: int, steps: int) -> float:
    """Rate of update number `step` (from 1): linear warm-up, then a cosine to next to nothing."""
    warmup = min(WARMUP_STEPS, steps)
    if step <= warmup:
        return PEAK_LEARNING_RATE * step / warmup
    return PEAK_LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps + 1 - warmup)))


def training_batch(images: torch.Tensor, seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(images, noise, levels) of one step. They depend on (seed, step) alone, not on what was drawn before."""
    draw = torch.Generator().manual_seed(seed * 1_000_003 + step)
    chosen = images[torch.randint(len(images), (BATCH,), generator=draw)]
    noise = torch.randn(chosen.shape, generator=draw)
    return chosen, noise, torch.randint(NOISE_LEVELS, (BATCH,), generator=draw)


def save_revision(model: UNet2DModel, folder: Path) -> UNet2DModel:
    """Write a float16 copy of the model; return what was written, read back in float32, to evaluate it."""
    copy.deepcopy(model).half().to(memory_format=torch.contiguous_format).save_pretrained(folder)
    (folder / "diffusion_pytorch_model.safetensors").chmod(0o644)
    return UNet2DModel.from_pretrained(folder, torch_dtype=torch.float32)


def train(folder: Path, options: argparse.Namespace) -> None:
    digits = read_digits()
    images = {split: pictures for split, (pictures, _) in digits.items()}
    classifier = train_classifier(*digits["train"])
    model = build_model(options.seed)
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
            squared_error(model, *training_batch(images["train"], options.seed, step)).mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
        if step in kept:
            shipped = save_revision(model, folder / f"step{step}")
            pictures = drawn_samples(shipped, EVALUATED_IMAGES)
            values = [(split, "loss", mean_loss(shipped, images[split])) for split in images]
            quality = sample_quality(classifier, pictures, images["train"])
            values += [("samples", metric, value) for metric, value in quality.items()]
            rows += [(f"step{step}", step, task, metric, f"{value:.6f}") for task, metric, value in values]
            said = "  ".join(f"{task} {metric} {value:.4f}" for task, metric, value in values)
            print(f"step {step:4d}  {said}  {time.perf_counter() - started:.0f} s", flush=True)
    with open(folder / "evaluations.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("revision", "step", "task", "metric", "value"), *rows])
    held_out = sample_quality(classifier, images["held_out"][:EVALUATED_IMAGES], images["train"])
    accuracy = classifier.score(flat(images["held_out"]), digits["held_out"][1])
    write_settings(folder / "training.json", options, images, held_out | {"classifier_accuracy": accuracy}, model)


def write_settings(path: Path, options: argparse.Namespace, images: dict, held_out: dict, model: UNet2DModel) -> None:
    settings = {
        "steps": options.steps, "seed": options.seed, "threads": options.threads, "batch": BATCH,
        "parameters": model.num_parameters(), "noise_levels": NOISE_LEVELS, "noise_schedule": NOISE_SCHEDULE,
        "peak_learning_rate": PEAK_LEARNING_RATE, "warmup_steps": WARMUP_STEPS, "adam_betas": BETAS,
        "weight_decay": WEIGHT_DECAY, "clip_norm": CLIP_NORM, "sampling_steps": SAMPLING_STEPS,
        "evaluated_images": EVALUATED_IMAGES, "evaluated_levels": EVALUATED_LEVELS,
        "images": {split: len(pictures) for split, pictures in images.items()},
        "images_sha256": hashlib.sha256(load_digits().images.astype(np.uint8).tobytes()).hexdigest(),
        "held_out_images": {name: round(value, 6) for name, value in held_out.items()},
        "machine": platform.machine(), "python": platform.python_version(), "torch": torch.__version__,
        "diffusers": diffusers.__version__, "numpy": np.__version__, "scipy": scipy.__version__,
        "scikit-learn": sklearn.__version__,
    }  # fmt: skip
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def draw_sheet(revision: Path, picture: Path) -> None:
    """The first pictures that a revision draws, as one PNG."""
    from PIL import Image

    model = UNet2DModel.from_pretrained(revision, torch_dtype=torch.float32)
    drawn = flat(drawn_samples(model, SHEET_ROWS * SHEET_COLUMNS)).reshape(SHEET_ROWS, SHEET_COLUMNS, SIDE, SIDE)
    framed = np.pad(drawn, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=0.5)
    sheet = framed.transpose(0, 2, 1, 3).reshape(SHEET_ROWS * (SIDE + 1), SHEET_COLUMNS * (SIDE + 1))
    large = np.kron(np.uint8(255 * sheet), np.ones((SHEET_ZOOM, SHEET_ZOOM), np.uint8))
    Image.fromarray(large).save(picture)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the small diffusion suite on scikit-learn's digits.")
    parser.add_argument("--out", type=Path, help="folder to write")
    parser.add_argument("--sheet", type=Path, nargs=2, metavar=("PNG", "REVISION"), help="draw pictures instead")
    parser.add_argument("--steps", type=int, default=REVISIONS[-1], help="of the schedule (%(default)s)")
    parser.add_argument("--stop-after", type=int, help="end after this step of the schedule")
    parser.add_argument("--seed", type=int, default=0, help="of initialisation, batches and noise (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (%(default)s)")
    parser.add_argument("--force", action="store_true", help="replace an earlier suite at --out")
    options = parser.parse_args()
    torch.set_num_threads(max(options.threads, 1))
    torch.use_deterministic_algorithms(True)
    if options.sheet:
        picture, revision = options.sheet
        draw_sheet(revision, picture)
        return
    if options.out is None or options.steps < 1 or options.threads < 1 or (options.stop_after or 0) < 0:
        parser.error("--out is needed; --steps and --threads must be at least 1, --stop-after at least 0")
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
