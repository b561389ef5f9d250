"""How the process of a stage that runs models begins. It imports nothing heavy: what it sets must be set before that."""

import os
import signal
import threading
from multiprocessing import connection, parent_process

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def begin() -> None:
    """One thread of each library, no Ctrl-C of its own, and an end with the process that started it."""
    os.environ.update(ONE_THREAD)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C goes to every process; the run stops this one
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)  # nobody waits for what it makes, and what it stores is stored whole
