"""Where numba keeps what it compiles: beside the sources, or in the user's cache, or where NUMBA_CACHE_DIR says."""

from pathlib import Path

from ninscope.errors import RequestError


def cache_folder() -> Path | None:
    """The folder in which numba keeps machine code of this package; None where compiling is switched off (NUMBA_DISABLE_JIT).

    Raises RequestError where it can keep none: importing any kernel fails then.
    """
    from numba import njit

    try:
        compiled = njit(cache=True)(_nothing)
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(
            f"numba can keep no compiled code ({reason}); set NUMBA_CACHE_DIR to a folder to write to"
        ) from None
    folder = compiled.stats.cache_path if hasattr(compiled, "stats") else None
    return None if folder is None else Path(folder)


def _nothing() -> None:
    """What is given to numba to ask for its cache, and never compiled."""
