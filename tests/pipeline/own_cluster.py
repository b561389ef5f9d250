"""A Dask cluster of processes as a user starts them by hand, to be killed one by one."""

from pathlib import Path

from distributed import Client
from forked import Forked, of_dask


class OwnCluster:
    """`dask scheduler` and `dask worker` processes without nannies. Start it with `with`, which also ends it."""

    def __init__(self, place: Path, workers: int = 2):
        self._place, self._count = place, workers
        self._file = place / "scheduler.json"
        self.scheduler: Forked | None = None
        self.workers: list[Forked] = []
        self.address = ""

    def __enter__(self) -> "OwnCluster":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        for one in (*self.workers, self.scheduler):
            one.kill()
            one.wait(20)

    def start(self) -> None:
        """Start what is not running, and wait until it answers."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            self._file.unlink(missing_ok=True)
            self.scheduler = self._run("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
            for worker in self.workers:  # they belong to the one that is gone
                worker.kill()
                worker.wait(20)
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        while len(self.workers) < self._count:
            self.workers.append(
                self._run("worker", "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny", "--no-dashboard")
            )
        with Client(scheduler_file=str(self._file), timeout=30, set_as_default=False) as client:
            client.wait_for_workers(self._count, timeout=30)
            self.address = client.scheduler.address

    def _run(self, what: str, *options: str) -> Forked:
        return Forked(of_dask, what, "--scheduler-file", self._file, *options, place=self._place)
