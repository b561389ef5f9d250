"""Train the small image classification suite that ships in this folder, and write it revision by revision.

A Swin of transformers learns to tell scikit-learn's bundled handwritten digits apart, 1,797 grey images of 8x8 pixels, each pixel
shown as 2x2. Revisions are kept at spaced steps; `step0` is the untouched initialisation.

    python data/train_digits_swin.py --out suite                     # the whole suite
    python data/train_digits_swin.py --out start --stop-after 64     # its first revisions, same schedule

Written to `--out`:
    step{N}/config.json, step{N}/model.safetensors   float16 weights after N updates
    evaluations.csv      revision, step, task, metric, value
                         train, held_out: loss, cross entropy in nats, and accuracy
    training.json        settings, versions, and what a linear classifier gets
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

import numpy as np
import sklearn
import torch
import transformers
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from transformers import SwinConfig, SwinForImageClassification

PIXELS, SIDE, LEVELS, CLASSES = 8, 16, 16, 10
SIZES = {
    "image_size": SIDE,
    "patch_size": 4,
    "num_channels": 1,
    "embed_dim": 32,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 2,
    "mlp_ratio": 4.0,
    "drop_path_rate": 0.0,  # what is dropped would depend on the steps before
    "use_absolute_embeddings": True,
    "initializer_range": 0.1,
}
BATCH, SHIFT = 64, 1
PEAK_LEARNING_RATE, WARMUP_STEPS = 2e-3, 50
BETAS, WEIGHT_DECAY, CLIP_NORM = (0.9, 0.99), 0.05, 1.0
REVISIONS = (0, 16, 64, 128, 256, 1000)
HELD_OUT_ONE_IN = 5

Images = tuple[torch.Tensor, torch.Tensor]


# --- images -------------------------------------------------------------------------------------------------
def read_digits() -> dict[str, Images]:
    """(images float32 [n, 1, 16, 16] from -1 to 1, labels int64 [n]) of each split, in scikit-learn's order.

    The split depends on an image's pixels alone, so copies of one image are on the same side.
    """
    digits = load_digits()
    pixels = digits.images.astype(np.uint8)  # integers from 0 to 16
    held_out = np.array(
        [int(hashlib.sha256(image.tobytes()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0 for image in pixels]
    )
    larger = pixels.repeat(SIDE // PIXELS, axis=1).repeat(SIDE // PIXELS, axis=2)
    scaled = torch.from_numpy(larger.astype(np.float32) * 2 / LEVELS - 1)[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return {
        split: (scaled[torch.from_numpy(here)], labels[torch.from_numpy(here)])
        for split, here in (("train", ~held_out), ("held_out", held_out))
    }


def linear_accuracy(images: dict[str, Images]) -> float:
    """Held-out accuracy of a logistic regression on the training images' pixels, to compare with."""
    (train, train_labels), (held_out, labels) = images["train"], images["held_out"]
    classifier = LogisticRegression(max_iter=2000).fit(train.flatten(1).numpy(), train_labels.numpy())
    return float(classifier.score(held_out.flatten(1).numpy(), labels.numpy()))


# --- model --------------------------------------------------------------------------------------------------
def build_model(seed: int) -> SwinForImageClassification:
    """An untrained model with transformers' initialisation: matrices normal, biases and positions 0, norms 1."""
    names = {str(digit): digit for digit in range(CLASSES)}
    config = SwinConfig(**SIZES, id2label={digit: name for name, digit in names.items()}, label2id=names)
    torch.manual_seed(seed)
    return SwinForImageClassification(config)


@torch.no_grad()
def scores(model: SwinForImageClassification, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Mean cross entropy in nats, and accuracy, over all images."""
    model.eval()
    logits = model(images).logits.double()
    loss = torch.nn.functional.cross_entropy(logits, labels)
    return {"loss": float(loss), "accuracy": float((logits.argmax(1) == labels).double().mean())}


# --- training -----------------------------------------------------------------------------------------------
def learning_rate(step: int, steps: int) -> float:
    """Rate of update number `step` (from 1): linear warm-up, then a cosine to next to nothing."""
    warmup = min(WARMUP_STEPS, steps)
    if step <= warmup:
        return PEAK_LEARNING_RATE * step / warmup
    return PEAK_LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps + 1 - warmup)))


def training_batch(images: torch.Tensor, labels: torch.Tensor, seed: int, step: int) -> Images:
    """Images and labels of one step, every image shifted by up to SHIFT of the digit's pixels each way; what comes in is empty.

    They depend on (seed, step) alone, not on what was drawn before.
    """
    draw = torch.Generator().manual_seed(seed * 1_000_003 + step)
    chosen = torch.randint(len(images), (BATCH,), generator=draw)
    shifts = torch.randint(-SHIFT, SHIFT + 1, (BATCH, 2), generator=draw) * (SIDE // PIXELS)
    border = SHIFT * (SIDE // PIXELS)
    framed = torch.nn.functional.pad(images[chosen], (border,) * 4, value=-1.0)
    corners = (border - shifts).tolist()
    shifted = [
        image[:, top : top + SIDE, left : left + SIDE] for image, (top, left) in zip(framed, corners, strict=True)
    ]
    return torch.stack(shifted), labels[chosen]


def save_revision(model: SwinForImageClassification, folder: Path) -> SwinForImageClassification:
    """Write a float16 copy of the model; return what was written, read back in float32, to evaluate it."""
    copy.deepcopy(model).half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    return SwinForImageClassification.from_pretrained(folder, dtype=torch.float32)


def train(folder: Path, options: argparse.Namespace) -> None:
    images = read_digits()
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
            seen, labels = training_batch(*images["train"], options.seed, step)
            torch.nn.functional.cross_entropy(model(seen).logits, labels).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
        if step in kept:
            shipped = save_revision(model, folder / f"step{step}")
            values = [
                (split, metric, value)
                for split, of_split in images.items()
                for metric, value in scores(shipped, *of_split).items()
            ]
            rows += [(f"step{step}", step, task, metric, f"{value:.6f}") for task, metric, value in values]
            said = "  ".join(f"{task} {metric} {value:.4f}" for task, metric, value in values)
            print(f"step {step:4d}  {said}  {time.perf_counter() - started:.0f} s", flush=True)
    with open(folder / "evaluations.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("revision", "step", "task", "metric", "value"), *rows])
    write_settings(folder / "training.json", options, images, model)


def write_settings(
    path: Path, options: argparse.Namespace, images: dict[str, Images], model: SwinForImageClassification
) -> None:
    settings = {
        "steps": options.steps, "seed": options.seed, "threads": options.threads, "batch": BATCH, "shift": SHIFT,
        "parameters": model.num_parameters(), "peak_learning_rate": PEAK_LEARNING_RATE, "warmup_steps": WARMUP_STEPS,
        "adam_betas": BETAS, "weight_decay": WEIGHT_DECAY, "clip_norm": CLIP_NORM,
        "images": {split: len(labels) for split, (_, labels) in images.items()},
        "images_sha256": hashlib.sha256(load_digits().images.astype(np.uint8).tobytes()).hexdigest(),
        "held_out_accuracy_of_logistic_regression": round(linear_accuracy(images), 6),
        "machine": platform.machine(), "python": platform.python_version(), "torch": torch.__version__,
        "transformers": transformers.__version__, "numpy": np.__version__, "scikit-learn": sklearn.__version__,
    }  # fmt: skip
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the small image classification suite on scikit-learn's digits.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=REVISIONS[-1], help="of the schedule (%(default)s)")
    parser.add_argument("--stop-after", type=int, help="end after this step of the schedule")
    parser.add_argument("--seed", type=int, default=0, help="of initialisation and batches (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (%(default)s)")
    parser.add_argument("--force", action="store_true", help="replace an earlier suite at --out")
    options = parser.parse_args()
    torch.set_num_threads(max(options.threads, 1))
    torch.use_deterministic_algorithms(True)
    if options.steps < 1 or options.threads < 1 or (options.stop_after or 0) < 0:
        parser.error("--steps and --threads must be at least 1, --stop-after at least 0")
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
