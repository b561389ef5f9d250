"""Limits of the shell (ulimit) under which a run would fail late, or never end: seen before workers are started."""

import math
import os
import resource

from ninscope.errors import RequestError

# Measured on a small suite. Virtual memory is what is reserved; what is used is a fraction of it.
_THREADS_MEMORY, _PROCESSES_MEMORY = 1_700_000_000, 2_040_000_000
_FILES, _FILES_OF_WORKER = 32, 16
# Else pyarrow reserves nearly 1 GB at once where that is allowed, and leaves too little of a limit for everything else.
_POOL, _RESERVES_NOTHING = "ARROW_DEFAULT_MEMORY_POOL", "system"


def check_limits(workers: int, processes: bool) -> None:
    """Raises RequestError for a limit that is too low for so many workers, threads or processes.

    The limit of open files is raised where that is allowed; that of memory is left as the user wants it.
    """
    files = _FILES + _FILES_OF_WORKER * workers if processes else 2 * _FILES
    soft, hard = (_finite(limit) for limit in resource.getrlimit(resource.RLIMIT_NOFILE))
    if hard < files:
        what = f"{workers} worker processes" if processes else "a run"
        advice = "; or ask for fewer workers (--workers)" if processes and workers > 1 else ""
        raise RequestError(f"ulimit -n allows {hard:.0f} open files, and {what} may need {files}; raise it{advice}")
    if soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    memory = _PROCESSES_MEMORY if processes else _THREADS_MEMORY
    allowed = _finite(resource.getrlimit(resource.RLIMIT_AS)[0])
    if allowed < memory:
        raise RequestError(
            f"ulimit -v allows {allowed // 1024:.0f} KB of virtual memory a process, and a run needs {memory // 1024} or more; "
            "raise it"
        )


def reserve_little() -> None:
    """Under a limit of memory, have pyarrow reserve none of it. To be called before pyarrow is imported."""
    if math.isfinite(_finite(resource.getrlimit(resource.RLIMIT_AS)[0])):
        os.environ.setdefault(_POOL, _RESERVES_NOTHING)


def _finite(limit: int) -> float:
    return math.inf if limit == resource.RLIM_INFINITY else limit
