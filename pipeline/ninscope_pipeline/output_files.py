"""Files that a command writes where its user says: looked at before the work, and whole or not there."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ninscope.errors import RequestError


def why_no_output(path: Path) -> str:
    """Why a file must not be written there, a clause: it "is a folder", or "is no file" (a device would be replaced)."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""  # nothing is there, or the attempt to write will tell
    if stat.S_ISDIR(mode):
        return "is a folder"
    return "" if stat.S_ISREG(mode) else "is no file"


@contextmanager
def appearing_whole(file: Path, advice: str) -> Iterator[Path]:
    """A path beside the file, to write to: it takes the file's place at the end, and is removed where the work fails.

    advice: what to do where the file system refuses. Raises RequestError.
    """
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(file)
    except OSError as error:
        raise RequestError(f"{file}: cannot be written ({error.strerror or error}); {advice}") from None
    finally:
        with suppress(OSError):  # too long a name
            partial.unlink(missing_ok=True)
