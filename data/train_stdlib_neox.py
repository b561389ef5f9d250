"""Train the small GPT-NeoX suite that ships in this folder, and write it revision by revision.

A Pythia-style model (parallel residual, fused query_key_value, rotary embedding on a quarter of each head,
untied embeddings, Pythia's initialisation) learns to predict the next byte of Python's own standard library.
Revisions are kept at log-spaced steps, as Pythia does; `step0` is the untouched initialisation.

    python data/train_stdlib_neox.py --out suite                    # the whole suite
    python data/train_stdlib_neox.py --out start --stop-after 64    # its first revisions, same schedule
    python data/train_stdlib_neox.py --out small --hidden 32        # a narrower model, all else the same

Written to `--out`:
    step{N}/config.json, step{N}/model.safetensors   float16 weights after N updates
    evaluations.csv      revision, step, task (train | held_out), metric (loss), value in nats per byte
    text-manifest.csv    split, path (relative to the standard library), bytes, sha256 of every file of text
    training.json        settings and versions

Limits: the text is that of the Python that runs the script; another Python version trains on other bytes.
"""

import argparse
import copy
import csv
import hashlib
import json
import math
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers
from torch.nn import functional
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

HIDDEN, LAYERS, HEAD, VOCABULARY, CONTEXT = 96, 4, 32, 256, 256
BATCH = 16
PEAK_LEARNING_RATE, FINAL_FRACTION, WARMUP_STEPS = 3e-3, 0.1, 40
BETAS, WEIGHT_DECAY, CLIP_NORM = (0.9, 0.95), 0.01, 1.0
EVALUATION_WINDOWS = 512  # of CONTEXT predicted bytes each: 128 KiB of each split
REVISIONS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 4000)

PACKAGES = ("asyncio", "collections", "concurrent", "email", "http", "importlib", "json", "logging",
            "multiprocessing", "unittest", "urllib", "xml")  # fmt: skip
SKIPPED_FOLDERS = {"__pycache__", "test", "tests", "idlelib", "lib2to3", "site-packages"}
HELD_OUT_ONE_IN = 10
SEPARATOR = b"\0"  # closes each file; no source file contains it


# --- text ---------------------------------------------------------------------------------------------------
def read_sources() -> list[tuple[str, str, bytes]]:
    """(split, path relative to the standard library, content) of every file of text, sorted by path.

    The split is by file and depends on the path alone, so no file is on both sides.
    """
    library = Path(os.__file__).parent
    found = [*library.glob("*.py"), *(path for name in PACKAGES for path in (library / name).rglob("*.py"))]
    sources = []
    for path in sorted(path.relative_to(library).as_posix() for path in found):
        parts = path.split("/")
        # _sysconfigdata is written when Python is built and differs from machine to machine
        if SKIPPED_FOLDERS.intersection(parts) or parts[0].startswith("_sysconfigdata"):
            continue
        content = (library / path).read_bytes()
        if content:  # empty __init__.py files hold nothing to learn
            digest = int(hashlib.sha256(path.encode()).hexdigest(), 16)
            sources.append(("held_out" if digest % HELD_OUT_ONE_IN == 0 else "train", path, content))
    return sources


def join_split(sources: list[tuple[str, str, bytes]], split: str) -> torch.Tensor:
    """All files of one split as a (bytes,) uint8 tensor."""
    joined = b"".join(content + SEPARATOR for file_split, _, content in sources if file_split == split)
    return torch.frombuffer(bytearray(joined), dtype=torch.uint8)


def take_windows(text: torch.Tensor, starts: list[int], context: int = CONTEXT) -> torch.Tensor:
    """(len(starts), context + 1) int64: the inputs and, shifted by one, their targets."""
    return torch.stack([text[start : start + context + 1] for start in starts]).long()


def training_batch(
    text: torch.Tensor, seed: int, step: int, batch: int = BATCH, context: int = CONTEXT
) -> torch.Tensor:
    """The batch of one step. It depends on (seed, step) alone, not on what was drawn before."""
    draw = random.Random(f"batch {seed} {step}")
    return take_windows(text, [draw.randrange(len(text) - context) for _ in range(batch)], context)


def evaluation_windows(text: torch.Tensor, count: int = EVALUATION_WINDOWS, context: int = CONTEXT) -> torch.Tensor:
    """Evenly spaced windows over the whole split, the same at every revision."""
    last, gaps = len(text) - context - 1, count - 1
    return take_windows(text, [index * last // gaps for index in range(count)], context)


# --- model --------------------------------------------------------------------------------------------------
def build_model(seed: int, hidden: int = HIDDEN) -> GPTNeoXForCausalLM:
    """An untrained model with Pythia's initialisation, heads of HEAD.

    GPT-NeoX's `small_init`, sqrt(2 / (5 d)), for what reads the residual stream and for both embeddings; its
    `wang_init`, 2 / (L sqrt(d)), for what writes to it. Biases 0, layer norms 1 and 0.
    """
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=LAYERS,
        num_attention_heads=hidden // HEAD,
        intermediate_size=4 * hidden,
        hidden_act="gelu",
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
        use_parallel_residual=True,
        tie_word_embeddings=False,
        eos_token_id=SEPARATOR[0],
        attn_implementation="eager",
    )
    model = GPTNeoXForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    small, wang = math.sqrt(2 / (5 * hidden)), 2 / (LAYERS * math.sqrt(hidden))
    for name, parameter in sorted(model.named_parameters()):
        if parameter.ndim == 2:
            writes_residual = name.endswith(("attention.dense.weight", "mlp.dense_4h_to_h.weight"))
            torch.nn.init.normal_(parameter, std=wang if writes_residual else small, generator=generator)
        else:
            is_norm_scale = "norm" in name and name.endswith("weight")
            torch.nn.init.constant_(parameter, 1.0 if is_norm_scale else 0.0)
    return model


def byte_losses(model: GPTNeoXForCausalLM, windows: torch.Tensor, reduction: str) -> torch.Tensor:
    """Cross-entropy of the next byte, in nats."""
    logits = model(input_ids=windows[:, :-1], use_cache=False).logits.reshape(-1, VOCABULARY)
    return functional.cross_entropy(logits, windows[:, 1:].reshape(-1), reduction=reduction)


@torch.no_grad()
def mean_loss(model: GPTNeoXForCausalLM, windows: torch.Tensor) -> float:
    model.eval()
    total = sum(byte_losses(model, part, "none").double().sum().item() for part in windows.split(32))
    return total / windows[:, 1:].numel()


# --- training -----------------------------------------------------------------------------------------------
def learning_rate(step: int, steps: int, peak: float = PEAK_LEARNING_RATE) -> float:
    """Rate of update number `step` (from 1): linear warm-up, then a cosine to FINAL_FRACTION of the peak."""
    warmup = min(WARMUP_STEPS, steps)
    if step <= warmup:
        return peak * step / warmup
    cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    return peak * (FINAL_FRACTION + (1 - FINAL_FRACTION) * cosine)


def build_optimizer(model: GPTNeoXForCausalLM, weight_decay: float = WEIGHT_DECAY) -> torch.optim.AdamW:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_LEARNING_RATE, betas=BETAS)


def update(model: GPTNeoXForCausalLM, optimizer: torch.optim.Optimizer, batch: torch.Tensor, rate: float) -> None:
    """One step of training at learning rate `rate`, in place."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    model.train()
    optimizer.zero_grad()
    byte_losses(model, batch, "mean").backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    optimizer.step()


def save_revision(model: GPTNeoXForCausalLM, folder: Path) -> GPTNeoXForCausalLM:
    """Write a float16 copy of the model; return what was written, read back in float32, to evaluate it."""
    copy.deepcopy(model).half().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)
    return GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def train(folder: Path, options: argparse.Namespace) -> None:
    sources = read_sources()
    write_csv(folder / "text-manifest.csv", ("split", "path", "bytes", "sha256"), [
        (split, path, len(content), hashlib.sha256(content).hexdigest()) for split, path, content in sources
    ])  # fmt: skip
    texts = {split: join_split(sources, split) for split in ("train", "held_out")}
    windows = {split: evaluation_windows(text) for split, text in texts.items()}

    model = build_model(options.seed, options.hidden)
    optimizer = build_optimizer(model)
    last_step = options.steps if options.stop_after is None else min(options.stop_after, options.steps)
    kept = {step for step in options.keep if step <= last_step} | {last_step}
    losses, started = [], time.perf_counter()
    for step in range(last_step + 1):
        if step > 0:
            batch = training_batch(texts["train"], options.seed, step)
            update(model, optimizer, batch, learning_rate(step, options.steps))
        if step in kept:
            shipped = save_revision(model, folder / f"step{step}")
            values = {split: f"{mean_loss(shipped, windows[split]):.6f}" for split in texts}
            losses += [(f"step{step}", step, split, "loss", value) for split, value in values.items()]
            print(f"step {step:4d}  {values}  {time.perf_counter() - started:.0f} s", flush=True)
    write_csv(folder / "evaluations.csv", ("revision", "step", "task", "metric", "value"), losses)
    write_settings(folder / "training.json", options, texts)


def write_csv(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def write_settings(path: Path, options: argparse.Namespace, texts: dict[str, torch.Tensor]) -> None:
    settings = {
        "steps": options.steps, "hidden": options.hidden, "seed": options.seed, "threads": options.threads, "batch": BATCH,
        "context": CONTEXT, "peak_learning_rate": PEAK_LEARNING_RATE, "final_fraction": FINAL_FRACTION,
        "warmup_steps": WARMUP_STEPS, "adam_betas": BETAS, "weight_decay": WEIGHT_DECAY,
        "clip_norm": CLIP_NORM, "bytes_of_text": {split: len(text) for split, text in texts.items()},
        "bytes_evaluated_per_split": EVALUATION_WINDOWS * CONTEXT, "machine": platform.machine(),
        "python": platform.python_version(), "torch": torch.__version__,
        "transformers": transformers.__version__,
    }  # fmt: skip
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the small GPT-NeoX suite on Python's own source.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=REVISIONS[-1], help="of the schedule (%(default)s)")
    parser.add_argument("--hidden", type=int, default=HIDDEN, help=f"width, a multiple of {HEAD} (%(default)s)")
    parser.add_argument(
        "--keep", type=int, nargs="+", default=REVISIONS, help="steps whose weights are written (%(default)s)"
    )
    parser.add_argument("--stop-after", type=int, help="end after this step of the schedule")
    parser.add_argument("--seed", type=int, default=0, help="of initialisation and batches (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (%(default)s)")
    parser.add_argument("--force", action="store_true", help="replace an earlier suite at --out")
    options = parser.parse_args()
    if options.steps < 1 or options.threads < 1 or (options.stop_after or 0) < 0:
        parser.error("--steps and --threads must be at least 1, --stop-after at least 0")
    if options.hidden < HEAD or options.hidden % HEAD:
        parser.error(f"--hidden must be a multiple of {HEAD}")
    replaceable = options.force and (options.out / "training.json").is_file()
    if options.out.exists() and not replaceable:
        sys.exit(f"{options.out} exists; choose another --out (--force replaces only a suite of this script)")

    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.disable_progress_bar()
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
