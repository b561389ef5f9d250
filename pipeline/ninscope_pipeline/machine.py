"""What this machine, its control groups and the limits of the shell let a process use."""

import math
import os
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_NO_LIMIT = 2**62  # control groups of version 1 have a number near 2^63 for none


def memory_allowed() -> int:
    """Bytes: the machine's memory, or what a control group or `ulimit -v` leaves of it."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(min(machine, group_memory(), address_space()))


def group_memory() -> float:
    """Bytes that the control groups of this process allow; infinity where they set no limit."""
    texts = [*_settings("", "memory.max"), *_settings("memory", "memory.limit_in_bytes")]
    return min((int(text) for text in texts if text.isdigit() and int(text) < _NO_LIMIT), default=math.inf)


def group_cores() -> float:
    """Cores that the control groups of this process allow, in parts of one too; infinity where they set no limit."""
    quotas = [text.split() for text in _settings("", "cpu.max")]
    quotas += [
        list(pair)
        for pair in zip(_settings("cpu", "cpu.cfs_quota_us"), _settings("cpu", "cpu.cfs_period_us"), strict=False)
    ]
    cores = [int(quota) / int(period) for quota, period in quotas if quota.isdigit() and period.isdigit()]
    return min(cores, default=math.inf)


def address_space() -> float:
    """Bytes of virtual memory that a process may reserve (`ulimit -v`); infinity where there is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return math.inf if soft == resource.RLIM_INFINITY else soft


def _settings(controller: str, name: str) -> Iterator[str]:
    """What the control groups of this process say in the file `name`, from its own group up. controller: "" in version 2."""
    try:
        groups = [line.split(":", 2) for line in _OWN_GROUPS.read_text().splitlines()]
    except OSError:  # no Linux
        return
    for _, controllers, path in groups:
        if controller in controllers.split(","):
            own = PurePosixPath(path)
            for group in (own, *own.parents):
                file = _GROUPS / controller / group.relative_to("/") / name
                if file.is_file():
                    yield file.read_text().strip()
