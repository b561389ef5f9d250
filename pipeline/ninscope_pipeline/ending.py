"""How a command ends: every error is one line and an exit code, Ctrl-C ends it in order, and no thread is waited for."""

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

import typer

from ninscope import garbage
from ninscope.errors import InterruptedRun, NinscopeError, RequestError, described

if TYPE_CHECKING:
    from ninscope_pipeline.display import Say


def run_command_line(app: typer.Typer, arguments: Sequence[str] | None, say: "Say") -> None:
    """Run a command and end the process with its exit code. say: prints a line that is not a result."""
    atexit.register(
        gc.freeze
    )  # the interpreter's last search for garbage, among all of numba's objects, takes .3 s of CPU
    # Not where it is ignored, as under nohup, nor in a thread, which cannot.
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt_once)
    try:
        with garbage.looked_for_seldom():
            code = _exit_code(app, arguments, say)
    finally:
        if signal.getsignal(signal.SIGINT) is _interrupt_once:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(code)


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """Ctrl-C ends the command in order, and a second one while it is ending changes nothing."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _exit_code(app: typer.Typer, arguments: Sequence[str] | None, say: "Say") -> int:
    interrupted = False
    code: int | str | None
    try:
        code = app(args=arguments, standalone_mode=False, prog_name="ninscope")
        sys.stdout.flush()
        interrupted = code == 130
    except RequestError as error:
        say(str(error))
        code = _leave_work(2)
    except InterruptedRun as error:
        say(str(error))
        code = _leave_work(130)
    except NinscopeError as error:
        say(str(error))
        code = _leave_work(1)
    except SystemExit as end:  # how the command line library ends on Ctrl-C
        code, interrupted = end.code, end.code == 130
    except (typer.Abort, KeyboardInterrupt):
        code, interrupted = 130, True
    except Exception as error:
        code = _leave_work(_unexpected(error, say))
    if interrupted:
        say("interrupted")
        sys.stderr.flush()
        os._exit(130)  # not to wait for threads that measure what nobody wants any more; nothing is being written
    return int(code or 0)


def _leave_work(code: int) -> int:
    """End at once where threads measure what nobody wants any more: Python would wait for them, an hour perhaps.

    What they write is aside until it is whole. Returns the exit code where no thread is at work.
    """
    from ninscope_pipeline.execution import JOB_THREADS

    for thread in threading.enumerate():
        if thread.name.startswith(JOB_THREADS):
            thread.join(1)  # it may be about to end
            if thread.is_alive():
                for stream in (sys.stdout, sys.stderr):
                    with suppress(OSError, AttributeError):  # its reader went away
                        stream.flush()
                os._exit(code)
    return code


def _unexpected(error: Exception, say: "Say") -> int:
    """Unknown options and the like; a reader that went away; and our own faults, whose traceback can be asked for."""
    if hasattr(error, "format_message"):
        text = error.format_message()
        if text:
            say(f"{text} ({_command_of(error)} --help)")
        return 2
    if isinstance(error, BrokenPipeError):
        sys.stdout = None
        return 1
    if os.environ.get("NINSCOPE_DEBUG"):
        raise error
    say(f"failed: {described(error)} (NINSCOPE_DEBUG=1 shows where)")
    return 1


def _command_of(error: Exception) -> str:
    """The command whose help says which options there are: "ninscope measure"."""
    context = getattr(error, "ctx", None)
    return context.command_path if context is not None else "ninscope"
