"""Train the runs of the study of docs/what-does-e-see.md: one small model on text, on shuffled text, on noise.

Models, batches and optimiser are those of train_stdlib_neox.py, with shorter windows and smaller batches. A *cell* of
the study is a width, a learning rate, a weight decay and a repetition; each cell has an initialisation and batch
positions of its own and is trained three times:

    text       the standard library's text
    shuffled   the same bytes, shuffled within each file: only the frequencies of bytes can be learned
    uniform    as many bytes drawn uniformly: nothing can be learned, the best loss is ln 256 throughout

    python data/train_controls_study.py --out study                  # all 108 runs
    python data/train_controls_study.py --out study --runs 18        # the first 18: every width, rate and kind of text

The runs are ordered so that the first ones are a smaller study of the same design. A run that is whole is skipped,
so the command can be stopped and given again. Written to `--out`, a folder for each run:

    {text}-{cell}/step{N}/config.json, model.safetensors   float16 weights after N updates; cells are numbered from 0
    .../evaluations.csv   revision, step, task (held_out), metric (loss, kl_from_start, kl_from_previous,
                          change_from_start, change_from_previous), value
    .../training.json     settings and versions; written last

`kl_*` is the mean over predicted bytes of KL(now || then) in nats, `change_*` the mean squared difference of log-probabilities, on
FUNCTION_WINDOWS fixed windows of the run's own held-out bytes; *previous* is the revision kept before.
"""

import argparse
import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import platform
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent))
import train_stdlib_neox as neox

TEXTS = ("text", "shuffled", "uniform")
WIDTHS = (32, 64)
LEARNING_RATES = (3e-3, 1e-3)
WEIGHT_DECAYS = (0.01, 0.0, 0.1)
REPETITIONS = 3
CELLS = list(itertools.product(range(REPETITIONS), WEIGHT_DECAYS, LEARNING_RATES, WIDTHS))

STEPS, BATCH, CONTEXT = 512, 8, 128
KEPT = (0, 8, 16, 32, 64, 128, 256, 512)
EVALUATION_WINDOWS, FUNCTION_WINDOWS = 128, 16


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: its text and its cell. `seed` is of the cell, so the three texts of a cell start from the same weights."""

    text: str
    width: int
    rate: float
    decay: float
    repetition: int

    @property
    def seed(self) -> int:
        settings = len(LEARNING_RATES) * len(WEIGHT_DECAYS)
        setting = LEARNING_RATES.index(self.rate) * len(WEIGHT_DECAYS) + WEIGHT_DECAYS.index(self.decay)
        return self.repetition * settings + setting

    @property
    def name(self) -> str:
        return f"{self.text}-{CELLS.index((self.repetition, self.decay, self.rate, self.width))}"


def all_runs() -> list[Run]:
    """Every run, the three texts of a cell beside each other, repetitions outermost."""
    return [Run(text, width, rate, decay, repetition) for repetition, decay, rate, width in CELLS for text in TEXTS]


# --- texts --------------------------------------------------------------------------------------------------
def rewrite_sources(sources: list[tuple[str, str, bytes]], text: str) -> list[tuple[str, str, bytes]]:
    """The same files with the content that `text` (of TEXTS) names; what is drawn depends on the path alone."""
    if text == "text":
        return sources
    return [(split, path, redraw(path, content, text)) for split, path, content in sources]


def redraw(path: str, content: bytes, text: str) -> bytes:
    seed = int.from_bytes(hashlib.sha256(f"{text} {path}".encode()).digest()[:8], "little")
    draw = np.random.default_rng(seed)
    if text == "shuffled":
        return draw.permutation(np.frombuffer(content, np.uint8)).tobytes()
    return draw.integers(0, neox.VOCABULARY, len(content), dtype=np.uint8).tobytes()


def read_texts() -> dict[str, dict[str, torch.Tensor]]:
    """For each of TEXTS, its `train` and its `held_out` bytes."""
    sources = neox.read_sources()
    rewritten = {text: rewrite_sources(sources, text) for text in TEXTS}
    return {
        text: {split: neox.join_split(files, split) for split in ("train", "held_out")}
        for text, files in rewritten.items()
    }


# --- one run ------------------------------------------------------------------------------------------------
@torch.no_grad()
def log_probabilities(model: transformers.GPTNeoXForCausalLM, windows: torch.Tensor) -> torch.Tensor:
    """(windows, bytes, VOCABULARY) float32 log-probabilities of the next byte."""
    model.eval()
    return model(input_ids=windows[:, :-1], use_cache=False).logits.log_softmax(-1)


def distances(now: torch.Tensor, then: torch.Tensor) -> tuple[float, float]:
    """(mean KL(now || then), mean squared difference) of two tables of log-probabilities."""
    difference = (now - then).double()
    divergence = (now.double().exp() * difference).sum(-1).mean().item()
    return max(divergence, 0.0), difference.square().mean().item()


def train(run: Run, split: dict[str, torch.Tensor], folder: Path, kept: tuple[int, ...], steps: int) -> None:
    """Train one run and write its revisions and evaluations to `folder`."""
    held_out = neox.evaluation_windows(split["held_out"], EVALUATION_WINDOWS, CONTEXT)
    fixed = held_out[:: EVALUATION_WINDOWS // FUNCTION_WINDOWS]
    model = neox.build_model(run.seed, run.width)
    optimizer = neox.build_optimizer(model, run.decay)
    rows: list[tuple] = []
    outputs: list[torch.Tensor] = []  # of step 0 and of the revision before
    for step in range(max(kept) + 1):
        if step > 0:
            batch = neox.training_batch(split["train"], run.seed, step, BATCH, CONTEXT)
            neox.update(model, optimizer, batch, neox.learning_rate(step, steps, run.rate))
        if step in kept:
            shipped = neox.save_revision(model, folder / f"step{step}")
            values = {"loss": neox.mean_loss(shipped, held_out)}
            now = log_probabilities(shipped, fixed)
            for then, past in zip(("start", "previous"), outputs, strict=False):
                values[f"kl_from_{then}"], values[f"change_from_{then}"] = distances(now, past)
            outputs = [outputs[0] if outputs else now, now]
            rows += [(f"step{step}", step, "held_out", metric, f"{value:.6g}") for metric, value in values.items()]
    neox.write_csv(folder / "evaluations.csv", ("revision", "step", "task", "metric", "value"), rows)
    settings = dataclasses.asdict(run) | {
        "seed": run.seed, "steps": steps, "kept": list(kept), "batch": BATCH, "context": CONTEXT, "adam_betas": neox.BETAS,
        "final_fraction": neox.FINAL_FRACTION, "warmup_steps": neox.WARMUP_STEPS, "clip_norm": neox.CLIP_NORM,
        "bytes_evaluated": held_out[:, 1:].numel(), "python": platform.python_version(), "torch": torch.__version__,
        "transformers": transformers.__version__, "machine": platform.machine(),
    }  # fmt: skip
    (folder / "training.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


# --- all runs -----------------------------------------------------------------------------------------------
TEXTS_OF_PROCESS: dict[str, dict[str, torch.Tensor]] = {}


def start_process() -> None:
    """One thread a process: the sums of a run have one order however many runs are side by side."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.disable_progress_bar()
    TEXTS_OF_PROCESS.update(read_texts())


def make_run(run: Run, out: Path, kept: tuple[int, ...], steps: int) -> tuple[str, float]:
    """Train `run` unless its folder is there. It is moved into place when it is whole; returns name and seconds."""
    started = time.process_time()
    if not (out / run.name / "training.json").is_file():
        with tempfile.TemporaryDirectory(prefix=f".{run.name}-", dir=out) as scratch:
            folder = Path(scratch) / run.name
            folder.mkdir()
            train(run, TEXTS_OF_PROCESS[run.text], folder, kept, steps)
            shutil.rmtree(out / run.name, ignore_errors=True)
            folder.rename(out / run.name)
    return run.name, time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the runs of the study of what E sees.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; runs that are whole in it are kept")
    parser.add_argument("--runs", type=int, default=len(all_runs()), help="how many, from the first (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="runs side by side (%(default)s)")
    options = parser.parse_args()
    if not 1 <= options.runs <= len(all_runs()) or options.processes < 1:
        parser.error(f"--runs must be 1 to {len(all_runs())}, --processes at least 1")
    options.out.mkdir(parents=True, exist_ok=True)
    runs = [run for run in all_runs()[: options.runs] if not (options.out / run.name / "training.json").is_file()]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=spawn, initializer=start_process) as pool:
        made = pool.map(make_run, runs, *(itertools.repeat(value) for value in (options.out, KEPT, STEPS)))
        for number, (name, seconds) in enumerate(made, start=1):
            print(f"{number} of {len(runs)}  {name}  {seconds:.0f} CPU seconds", flush=True)


if __name__ == "__main__":
    main()
