"""Jobs in threads of this process, without the work itself."""

import threading
from concurrent.futures import ThreadPoolExecutor

from ninscope_pipeline.execution import here
from ninscope_pipeline.outcome import OK
from ninscope_pipeline.stages.stage import Job


def test_each_of_two_runs_in_threads_of_one_process_hears_of_its_own_jobs(monkeypatch):
    both_ready, dask_get = threading.Barrier(2, timeout=60), here.threaded.get

    def get_together(*arguments, **options):
        both_ready.wait()
        return dask_get(*arguments, **options)

    monkeypatch.setattr(here.threaded, "get", get_together)
    monkeypatch.setattr(here, "run_job", lambda *_: OK)

    def executed(run: str) -> tuple[dict, list]:
        jobs = [Job("exact", f"{run}-{number}", "", None) for number in range(5)]
        heard: list = []
        outcomes = here.ThreadsHere(2).execute(run, jobs, lambda job_id, _: heard.append(job_id), lambda *_: None)
        return dict(outcomes), sorted(heard)

    with ThreadPoolExecutor(2) as pool:
        for run, (outcomes, heard) in zip("ab", pool.map(executed, "ab"), strict=True):
            expected = [("exact", f"{run}-{number}") for number in range(5)]
            assert (outcomes, heard) == (dict.fromkeys(expected, OK), expected)
