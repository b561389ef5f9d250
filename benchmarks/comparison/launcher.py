"""Runs a command and writes what it cost: `python launcher.py COSTS.json PROGRAM ARGUMENTS...`.

A process of its own, since on Linux the peak memory that the kernel tells of a child is never below that of the process that
started it. This one holds 10 MB.
"""

import json
import os
import sys
import time


def main() -> int:
    costs, *command = sys.argv[1:]
    began = time.perf_counter()
    child = os.posix_spawn(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    wall = time.perf_counter() - began
    kilobyte = 1024 if sys.platform != "darwin" else 1  # ru_maxrss: kilobytes on Linux, bytes on macOS
    spent = {
        "wall_seconds": wall,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * kilobyte,
    }
    with open(costs, "w", encoding="utf-8") as file:
        json.dump(spent, file)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
