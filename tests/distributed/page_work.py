"""Two ranks that run scripts as torchrun starts them: `python page_work.py SCRIPT...`.

One process imports what scripts import and then forks two ranks for each, one script after the other, since importing takes longer
than the work. What rank 0 prints stands in SCRIPT.txt; the ranks' exit code is this one's.
"""

import contextlib
import os
import runpy
import socket
import sys
import traceback
from pathlib import Path

import torch
import torch._dynamo  # which FSDP2 and DTensors import when they are first used
import torch.distributed.fsdp
import torch.distributed.tensor.parallel

import ninscope.integrations.monitor  # noqa: F401
import ninscope_pipeline.live.recorder  # noqa: F401

RANKS = 2


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def forked(script: Path, rank: int, port: int) -> int:
    if child := os.fork():
        return child
    ended = 1
    try:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_WORLD_SIZE": str(RANKS),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        place = script.with_suffix(".txt") if rank == 0 else Path(os.devnull)
        with open(place, "w", encoding="utf-8") as printed, contextlib.redirect_stdout(printed):
            runpy.run_path(str(script), run_name="__main__")
        ended = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(ended)


def main(scripts: list[str]) -> int:
    torch.set_num_threads(1)
    ended = []
    for script in scripts:
        port = free_port()
        children = [forked(Path(script), rank, port) for rank in range(RANKS)]
        ended += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return max(ended)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
