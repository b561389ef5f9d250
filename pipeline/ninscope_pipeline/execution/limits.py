"""Limits of the shell (ulimit) under which a run would fail late, or never end: seen before workers are started."""

import resource

from ninscope.errors import RequestError

# Measured on a small suite. Virtual memory is what is reserved; what is used is a fraction of it.
_THREADS_MEMORY, _PROCESSES_MEMORY = 1_700_000_000, 2_040_000_000
_FILES, _FILES_OF_WORKER = 32, 16


def check_limits(workers: int, processes: bool) -> None:
    """Raises RequestError for a limit that is too low for so many workers, threads or processes; a soft limit is raised first."""
    files = _FILES + _FILES_OF_WORKER * workers if processes else 2 * _FILES
    what = f"{workers} worker processes" if processes else "a run"
    advice = "; or ask for fewer workers (--workers)" if processes and workers > 1 else ""
    if _is_below(resource.RLIMIT_NOFILE, files):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        raise RequestError(f"ulimit -n allows {hard} open files, and {what} may need {files}; raise it{advice}")
    memory = _PROCESSES_MEMORY if processes else _THREADS_MEMORY
    if _is_below(resource.RLIMIT_AS, memory):
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        raise RequestError(
            f"ulimit -v allows {hard // 1024} KB of virtual memory a process, and a run needs {memory // 1024} or more; raise it"
        )


def _is_below(limit: int, needed: int) -> bool:
    """Whether a limit stays below what is needed once it is raised as far as may be."""
    soft, hard = resource.getrlimit(limit)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return False
    if hard != resource.RLIM_INFINITY and hard < needed:
        return True
    resource.setrlimit(limit, (needed, hard))
    return False
