"""The examples, each in a process of its own: `python example_work.py STEPS SCRIPT...`.

One process imports what they import and then forks one for each script, since importing takes longer than the work. A script is
run as `python SCRIPT --steps STEPS --out NAME` runs it; what it prints stands in NAME.txt.
"""

import contextlib
import os
import runpy
import sys
import traceback
from pathlib import Path

import lightning
import matplotlib.figure
import pandas
import torch
import transformers

import ninscope
import ninscope.integrations

# What these give when they are first used: loaded here, once for all scripts.
USED = (
    transformers.GPTNeoXForCausalLM, transformers.LlamaForCausalLM, transformers.Trainer, ninscope.measure_all, ninscope.open_run,
    ninscope.integrations.EmergenceCallback, ninscope.integrations.LightningEmergenceCallback, lightning.Trainer,
    matplotlib.figure.Figure, pandas.read_csv,
)  # fmt: skip


def forked(script: Path, steps: str) -> int:
    if child := os.fork():
        return child
    ended = 1
    try:
        sys.argv = [str(script), "--steps", steps, "--out", script.stem]
        sys.path.insert(0, str(script.parent))
        with open(f"{script.stem}.txt", "w", encoding="utf-8") as printed, contextlib.redirect_stdout(printed):
            runpy.run_path(str(script), run_name="__main__")
        ended = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(ended)


def main(steps: str, scripts: list[str]) -> int:
    torch.set_num_threads(1)
    ended = []
    for script in scripts:
        ended.append(os.waitstatus_to_exitcode(os.waitpid(forked(Path(script), steps), 0)[1]))
    return max(ended)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
