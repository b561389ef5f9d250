"""What a run needs of the environment, checked thing by thing. Imports no torch: versions come from the packages' metadata."""

import math
import os
import platform
import resource
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from rich.filesize import decimal

import ninscope
from ninscope.compiled_cache import cache_folder
from ninscope.errors import RequestError
from ninscope.threads import cores
from ninscope_pipeline.execution.limits import check_limits
from ninscope_pipeline.machine import group_cores, group_memory, memory_allowed

HUB_SECONDS = 1.0
_LEAST_DISK = 100_000_000  # the demo leaves 42 MB
_MOST_THREADS = 8  # beyond so many cores a run has processes, which need more of every limit
_EXTRAS = {  # extra -> what it is for
    "memel": "stages that run models",
    "polysemanticity": "the polysemanticity laboratory",
    "cluster": "jobs of a batch system",
    "train": "training the suites of data/",
}


@dataclass(frozen=True)
class Check:
    """state: "wrong" is what would stop every run, "note" what stops some or slows them. advice: what to do, or empty."""

    name: str
    state: Literal["ok", "note", "wrong"]
    text: str
    advice: str = ""


def checks(runs_dir: Path) -> list[Check]:
    """Every check, in the order in which it is shown. runs_dir: where run folders go."""
    hub = _Hub()  # asked while all else is looked at
    others = [_versions(), _packages(), _cores(), _memory(), _limits(), _disk(runs_dir.expanduser()), _numba_cache()]
    return [*others, hub.check(), _token(), *_extras()]


def _versions() -> Check:
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return Check("version", "ok", f"ninscope {ninscope.__version__}, {system}")


def _packages() -> Check:
    """Those that every run needs."""
    needed = list(_requirements(""))
    if not needed:
        return Check("packages", "note", "not known, since ninscope is not installed as a package", "pip install -e .")
    unmet = [text for requirement in needed if (text := _unmet(requirement))]
    if unmet:
        return Check("packages", "wrong", "; ".join(unmet), "install ninscope again: pip install -e . or make demo")
    return Check("packages", "ok", f"all {len(needed)} that ninscope needs")


def _requirements(extra: str) -> Iterator[Requirement]:
    """What ninscope's metadata ask for; extra: beyond that of the core, or empty for the core's own."""
    try:
        listed = metadata.requires("ninscope") or []
    except metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, listed):
        marker = requirement.marker
        of_core = marker is None or marker.evaluate({"extra": ""})
        if of_core if not extra else not of_core and marker is not None and marker.evaluate({"extra": extra}):
            yield requirement


def _unmet(requirement: Requirement) -> str:
    """What is wrong with an installed package, or that it is not installed; empty where it is as required."""
    version = _version(requirement.name)
    if not version:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} is {version}, and {requirement.specifier} is needed"
    return ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _cores() -> Check:
    allowed, quota, machine = cores(), group_cores(), os.cpu_count() or 1
    of_machine = "" if allowed == machine else f" of the machine's {machine}, by its affinity"
    if quota < allowed:
        advice = f"give --workers {max(math.floor(quota), 1)}"
        return Check("cores", "note", f"{allowed}{of_machine}; a control group leaves the time of {quota:g}", advice)
    return Check("cores", "ok", f"{allowed}{of_machine}")


def _memory() -> Check:
    limit = " by a control group" if group_memory() == memory_allowed() else ""
    return Check("memory", "ok", f"{decimal(memory_allowed())} allowed{limit}")


def _limits() -> Check:
    """Of the shell, as a run looks at them before it starts."""
    try:
        check_limits(cores(), cores() > _MOST_THREADS)
    except RequestError as error:
        return Check("limits", "wrong", *_apart(error))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = "any number of" if files == resource.RLIM_INFINITY else f"{files:,}"
    return Check("limits", "ok", f"{many} open files (ulimit -n); enough memory a process (ulimit -v)")


def _disk(runs_dir: Path) -> Check:
    folder = runs_dir.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    advice = "choose another folder with --runs-dir"
    if not folder.is_dir():
        return Check("disk", "wrong", f"{folder}: no folder, so {runs_dir} cannot be made", advice)
    if not os.access(folder, os.W_OK | os.X_OK):
        return Check("disk", "wrong", f"{folder}: cannot be written", advice)
    free = shutil.disk_usage(folder).free
    if free < _LEAST_DISK:
        return Check("disk", "wrong", f"{folder}: {decimal(free)} free", f"free space, or {advice}")
    return Check("disk", "ok", f"{decimal(free)} free in {folder}")


def _numba_cache() -> Check:
    try:
        folder = cache_folder()
    except RequestError as error:
        return Check("numba", "wrong", *_apart(error))
    version = f"numba {_version('numba')}"
    if folder is None:
        slow = "compiling is switched off, and kernels take a hundred times as long"
        return Check("numba", "note", f"{version}; {slow}", "unset NUMBA_DISABLE_JIT")
    return Check("numba", "ok", f"{version} keeps compiled code in {folder}")


class _Hub:
    """Asks whether the Hub answers, in a thread: finding an address that is not there takes longer than any time-out."""

    def __init__(self) -> None:
        self._answers: list[str] = []
        self._start = time.monotonic()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        from ninscope.checkpoints.hub.http import silence

        self._answers.append(silence(HUB_SECONDS))

    def check(self) -> Check:
        """Waits until HUB_SECONDS after the start, and for the import of the client."""
        self._thread.join(max(self._start + HUB_SECONDS - time.monotonic(), 0.1))
        reason = self._answers[0] if self._answers else f"no answer in {HUB_SECONDS:g} s"
        if reason:
            return Check("Hub", "note", f"cannot be reached ({reason})", "local checkpoints need no Hub")
        return Check("Hub", "ok", "answers")


def _token() -> Check:
    from huggingface_hub import get_token

    if get_token():
        return Check("Hub token", "ok", "there is one")
    return Check(
        "Hub token", "note", "there is none, and private and gated repositories need one", "hf auth login, or HF_TOKEN"
    )


def _extras() -> Iterator[Check]:
    for extra, use in _EXTRAS.items():
        requirements = list(_requirements(extra))
        unmet = [text for requirement in requirements if (text := _unmet(requirement))]
        there = [f"{r.name} {version}" for r in requirements if (version := _version(r.name))]
        text = "; ".join(filter(None, (", ".join(there), *unmet)))
        if unmet:
            yield Check(extra, "note", f"{text} ({use})", f"pip install 'ninscope[{extra}]'")
        elif there:
            yield Check(extra, "ok", f"{text} ({use})")


def _apart(error: RequestError) -> tuple[str, str]:
    """What is wrong and what to do, of an error's one line."""
    text, _, advice = str(error).rpartition("; ")
    return text, advice
