"""Ctrl-C and processes that are started: a terminal sends it to all of them, and a run stops its own."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def unseen_by_children(number: int) -> Iterator[None]:
    """Processes and threads started meanwhile never see the signal; this thread sees it afterwards.

    A terminal's Ctrl-C goes to every process of the command. Worker processes are to be stopped by us, not by a
    KeyboardInterrupt each, so they inherit the signal blocked.
    """
    # Started by the first process of a program, and it would unblock the signal in the thread that does.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def ignored(number: int) -> Iterator[None]:
    """A second Ctrl-C while workers are being stopped changes nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)
