"""What comes over the network from a Hub that is 50 ms away: bytes, requests and seconds. `--serve FOLDER SUITE` is that Hub."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measures import in_new_process
from benchmarks.shapes import SHAPES, used_shapes, write_checkpoint, write_empty_checkpoint
from ninscope.networks.sampling import sampled_neurons

LATENCY = 0.05
ROOT = Path(__file__).parents[1]


def over_the_network(folder: Path, exact: str, sampled: str, revisions: int):
    """One checkpoint exactly, one by samples and a suite's audit, each against what is needed at least."""
    write_checkpoint(folder / "hub" / "warm", "tiny")
    write_checkpoint(folder / "hub" / exact, exact, vocabulary=50304 if exact == "70m" else 512)
    write_empty_checkpoint(folder / "hub" / f"empty-{sampled}", sampled)
    for number in range(revisions):
        write_checkpoint(folder / "suite" / f"step{number}", "tiny", seed=number)
    by_samples = {"nodes_per_layer": 64, "samples": 1}
    with _served(folder / "hub", folder / "suite") as endpoint:
        measured, sampling = _in_process(
            endpoint,
            ("ninscope.measure('bench/warm')", f"ninscope.measure('bench/{exact}')"),
            (
                f"ninscope.measure('bench/warm', **{by_samples!r})",
                f"ninscope.measure('bench/empty-{sampled}', **{by_samples!r})",
            ),
        )
        # By a process that has measured nothing, whose files are kept.
        (audited,) = _in_process(endpoint, ("ninscope.audit('bench/other')", "ninscope.audit('bench/suite')"))
    yield from _exactly(exact, measured)
    yield from _by_samples(sampled, sampling)
    yield from _audit(revisions, audited)


def _exactly(shape: str, found: dict):
    used = sum(2 * math.prod(size) for size in used_shapes(shape).values())
    name = f"exact from a Hub, {shape} shape, 50 ms a request"
    yield from _rows(name, found, used, f"1.02 times the {used / 1e6:.1f} MB of tensors used", 1.02)
    yield "", found["seconds"], "s", "wanted: under 1.5 s", found["seconds"] / 1.5


def _by_samples(shape: str, found: dict):
    rows = _bytes_of_rows(shape, 64)
    name = f"one sample of 64 a layer from a Hub, {shape} shape"
    yield from _rows(name, found, rows, f"1.3 times the {rows / 1e6:.1f} MB of rows needed", 1.3)
    yield "", found["seconds"], "s", "(50 ms a request)", None


def _audit(revisions: int, found: dict):
    """From metadata alone."""
    yield (
        f"audit of {revisions} revisions, 50 ms a request",
        found["seconds"],
        "s",
        "wanted: under 10 s",
        found["seconds"] / 10,
    )
    each = found["requests"] / revisions
    yield "", each, "requests/revision", f"wanted: at most 4 ({found['bytes'] / 1e3:.0f} kB)", each / 4


def _rows(name: str, found: dict, needed: int, wanted: str, limit: float):
    yield name, found["bytes"] / 1e6, "MB", f"wanted: at most {wanted}", found["bytes"] / needed / limit
    each = found["requests"] / (found["bytes"] / 1e6)
    yield "", each, "requests/MB", f"wanted: at most 1 where ranges are large ({found['requests']} requests)", each


def _bytes_of_rows(shape: str, nodes_per_layer: int) -> int:
    """Of the rows that one sample takes."""
    blocks, width, _ = SHAPES[shape]
    total = 0
    for block in range(blocks):
        after = f"block{block + 1}.x" if block + 1 < blocks else "output.x"
        for group, size, matrices, columns in (
            (f"block{block}.attention", width, 3, width),
            (f"block{block}.a", width, 1, width),
            (f"block{block}.m", 4 * width, 1, width),
            (after, width, 1, 4 * width),
        ):
            total += matrices * sampled_neurons(0, 0, group, size, nodes_per_layer).size * columns * 2
    return total


def _in_process(endpoint: str, *works: tuple[str, str]) -> list[dict]:
    """Bytes, requests and seconds of the second of each two statements, in one process, which is warm from the first."""
    code = "import time\nimport ninscope\nfrom ninscope.checkpoints.hub.traffic import counted\nresult = []\n"
    for first, then in works:
        code += (
            f"{first}\n"
            "start = time.perf_counter()\n"
            "with counted() as traffic:\n"
            f"    {then}\n"
            "result.append({**vars(traffic.fetched), 'seconds': time.perf_counter() - start})\n"
        )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    here = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    return in_new_process(code, {**kept, **here})["result"]


@contextmanager
def _served(repositories: Path, suite: Path) -> Iterator[str]:
    """A Hub in a process of its own: a repository for each of some folders, and one whose branches those of a suite are.

    Gives its endpoint.
    """
    command = [sys.executable, "-m", "benchmarks.network", "--serve", str(repositories), str(suite)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield json.loads(server.stdout.readline())
        finally:
            server.stdin.close()


if __name__ == "__main__":  # python -m benchmarks.network --serve FOLDER SUITE, until standard input ends
    sys.path.insert(0, str(ROOT / "tests"))
    from hub_server import HubServer

    checkpoints = {f"bench/{path.name}": {"main": path} for path in Path(sys.argv[2]).iterdir()}
    revisions = sorted(Path(sys.argv[3]).iterdir())
    checkpoints["bench/suite"] = {path.name: path for path in revisions}
    checkpoints["bench/other"] = {"step0": revisions[0]}
    with HubServer(checkpoints, redirect_lfs=True, latency=LATENCY) as running:
        print(json.dumps(running.endpoint), flush=True)
        sys.stdin.read()
