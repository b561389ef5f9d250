"""Who does the work, and how it is handed to them: threads of this process, or the workers of a Dask cluster.

Imports nothing: `model_process` begins a process with it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from ninscope_pipeline.outcome import Outcome
    from ninscope_pipeline.stages.stage import Job, JobId

TELL_AGAIN_SECONDS = 60.0  # between lines that say what is waited for

Tell = Callable[[str], None]
Done: TypeAlias = "Callable[[JobId, Outcome], None]"
Died: TypeAlias = "Callable[[str, Sequence[JobId]], None]"


class Executor(Protocol):
    """What runs the jobs of a plan."""

    def execute(self, root: str, jobs: "Sequence[Job]", done: Done, died: Died) -> "Mapping[JobId, Outcome]":
        """Run every job, those first that others need. root: the run's folder.

        done(job, outcome) is called as each ends; died(worker, jobs) for each worker that died with jobs of these. A failed job
        does not stop the others. Raises what concerns all (RequestError, StoreError), the other jobs given up; ClusterError when
        the workers are gone.
        """


# How the names of threads begin that do jobs in the command's own process.
JOB_THREADS = "ninscope-job"
