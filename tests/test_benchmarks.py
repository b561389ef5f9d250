"""Every benchmark still runs, at tiny size; what it prints is a table with each of them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_small_benchmarks_run():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--small"],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for case in (
        "one sample",
        "histogram, F16",
        "histogram, BF16",
        "histogram, F32",
        "exact, tiny",
        "exact run of 3",
        "CPU of measure, one small checkpoint",
        "CPU of measure, 3 checkpoints, tiny shape",
        "CPU of the exact analysis with controls, tiny shape",
        "CPU of the jackknife, tiny shape",
        "CPU of the exact analysis with weights counted, tiny shape",
        "CPU of an exact run with the section weights, tiny shape",
        "CPU of singular values, tiny shape",
        "CPU of audit, 3 generic checkpoints of 6 tensors",
        "CPU of measure, 3 generic checkpoints of 6 tensors",
        "CPU of measure, GPT-2",
        "CPU of run, 3 checkpoints, tiny shape",
        "exact from a Hub",
        "one sample of 64 a layer from a Hub",
        "audit of 4 revisions",
        "exact, GPT-2",
        "exact, UNet2DConditionModel",
        "distances across 3 layers, tiny",
        "to igraph",
        "coupling within blocks, tiny shape",
        "coupling across blocks, 8 pairs, exact",
        "CPU of merging LoRA, r 8, all matrices, tiny shape",
        "correlations, 2 measures x 3 tasks",
        "partition sums",
        "all_reduce of a reading, tiny shape, 2 ranks, FSDP",
        "memory",
        *(
            [
                "measure of a model in memory, tiny shape, float16",
                "MEmeL, positions",
                "MEmeL, top-10",
                "a BERT layer",
                "universal neurons, 1 x 64",
                "measures of one pass, 64 tokens",
                "memory of the measures, tiny shape",
                "memory with four times the tokens",
                "Trainer, tiny shape",
            ]
            if importlib.util.find_spec("transformers")
            else []
        ),
        *(["P of 6 neurons", "run of a small"] if importlib.util.find_spec("torch_pruning") else []),
        *(["bytes read of a Lightning checkpoint"] if importlib.util.find_spec("torch") else []),
        "overhead of a task, 40 tasks",
        "run of 3 tiny checkpoints, again",
        "query of 3 checkpoints, one row a checkpoint",
        "ninscope --help",
        "ninscope doctor",
        "import ninscope",
        "report of 10 checkpoints x 61 q",
        "figures of a run as SVG, CPU",
    ):
        assert case in done.stdout


@pytest.mark.slow
def test_without_a_gpu_nothing_is_claimed_of_one():
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stdout.strip().endswith("nothing was compared, nothing was measured")
