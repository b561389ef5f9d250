"""[cluster] in a DAG file: workers of this machine, of a running scheduler, or jobs of a batch system. No result depends on it."""

import difflib
import inspect
import re
import signal
import threading
import warnings
from importlib import import_module
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from ninscope.errors import RequestError, one_line
from ninscope_pipeline.request.models import Strict

# The classes of dask-jobqueue.
QUEUES = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "htcondor": "HTCondorCluster",
    "oar": "OARCluster",
    "moab": "MoabCluster",
}
LOCAL = "local"

_LISTS = ("job_extra_directives", "job_script_prologue", "job_directives_skip", "worker_extra_args")
_LISTS_OF_HTCONDOR = ("submit_command_extra", "cancel_command_extra")
_OF_THE_CLUSTER = ("scheduler_options", "shared_temp_directory")
_NOT_OPTIONS = ("self", "scheduler", "name", "config_name", "protocol")
_RENAMED = {
    "extra": "worker_extra_args",
    "env_extra": "job_script_prologue",
    "job_extra": "job_extra_directives",
    "header_skip": "job_directives_skip",
}
# What is asked is copied to run.toml, which people share.
_TOKEN = re.compile(r"""(?:HF_TOKEN|HUGGING_FACE_HUB_TOKEN)=(?!["']?\$)|\bhf_[A-Za-z0-9]{16,}""")


class Cluster(Strict):
    """Where the work runs.

    local: `workers` threads of this process (default: one a core), or with `processes` worker processes of this machine (default:
    where there are more than eight). address: a running Dask scheduler. The others: jobs of a batch system, with `minimum` to
    `maximum` workers, as many as there is work for. job: options of dask-jobqueue's class.
    """

    kind: Literal["local", "address", "slurm", "pbs", "sge", "lsf", "htcondor", "oar", "moab"] = LOCAL
    address: str | None = None
    workers: int | None = Field(default=None, ge=1)
    processes: bool | None = None
    minimum: int | None = Field(default=None, ge=0)
    maximum: int | None = Field(default=None, ge=1)
    job: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _makes_sense(self):
        own = {LOCAL: ("workers", "processes"), "address": ("address",)}.get(self.kind, ("minimum", "maximum", "job"))
        of = {"workers": '"local"', "processes": '"local"', "address": '"address"'}
        for name in ("address", "workers", "processes", "minimum", "maximum", "job"):
            if name not in own and getattr(self, name) is not None:
                raise ValueError(f'{name} is of kind {of.get(name, "slurm and the like")}; kind is "{self.kind}"')
        if self.kind == "address" and self.address is None:
            raise ValueError('kind is "address"; give the address, tcp://HOST:PORT')
        if self.kind in QUEUES:
            if self.maximum is None:
                raise ValueError(f'kind is "{self.kind}"; give maximum, the most workers at a time')
            if (self.minimum or 0) > self.maximum:
                raise ValueError(f"minimum is {self.minimum}, more than maximum, {self.maximum}")
            try:
                job_class = job_class_of(self.kind)
            except RequestError:
                return self  # said where workers are wanted: not to look at a file, nor with --scheduler
            check_job(self, job_class)
        return self

    def overridden(self, scheduler: str | None, workers: int | None) -> "Cluster":
        """With --scheduler ("local": this machine) and --workers instead. Raises RequestError where they do not fit."""
        found = self
        if scheduler is not None:
            found = Cluster() if scheduler == LOCAL else Cluster(kind="address", address=scheduler)
        if workers is None:
            return found
        if found.kind == "address":
            raise RequestError(
                f"--workers is of workers that ninscope starts; those of the scheduler at {found.address} are there already"
            )
        changes = {"workers": workers} if found.kind == LOCAL else {"minimum": workers, "maximum": workers}
        try:
            return Cluster.model_validate({**found.model_dump(), **changes})
        except ValidationError as error:
            raise RequestError(f"--workers: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def job_class_of(kind: str) -> type:
    """dask-jobqueue's class of one job of such a batch system. Raises RequestError when dask-jobqueue is absent."""
    before = signal.getsignal(signal.SIGINT)
    try:
        return getattr(import_module("dask_jobqueue"), QUEUES[kind]).job_cls
    except ImportError:
        raise RequestError(
            f"[cluster] kind = \"{kind}\" needs dask-jobqueue, which is not installed: pip install 'ninscope[cluster]'"
        ) from None
    finally:
        # Its import puts an end to the process, quietly and with exit code 0, in the place of KeyboardInterrupt.
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def processes_of(cluster: Cluster) -> int:
    """Workers of one job: one a core unless fewer are asked for, so that one thread of each is busy."""
    import dask

    given = cluster.job or {}
    for name in ("processes", "cores"):
        if number := given.get(name) or dask.config.get(f"jobqueue.{cluster.kind}.{name}", None):
            return number
    return 1


def check_job(cluster: Cluster, job_class: type) -> None:
    """Whether dask-jobqueue would accept [cluster.job]. Raises ValueError, of one line."""
    name, given = QUEUES[cluster.kind], cluster.job or {}
    known = _options_of(job_class)
    for option, value in given.items():
        if option in _RENAMED:
            raise ValueError(f"job.{option}: dask-jobqueue calls it {_RENAMED[option]} now")
        if option not in known:
            near = difflib.get_close_matches(option, known, 1)
            raise ValueError(f"job.{option}: no such option of {name}{f'; perhaps {near[0]}' if near else ''}")
        _check_value(cluster.kind, option, value)
    if _TOKEN.search(str(given)):
        raise ValueError(
            "job: a token would be copied to run.toml; export it before ninscope run, or have job_script_prologue read a file"
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # they come when jobs are submitted
            # Without its log folder, which it would make.
            job_class("tcp://scheduler:8786", name="checked", **_of_the_job({**given, "log_directory": None}))
    except Exception as error:
        said = str(error).splitlines()[0].removesuffix(", for example:")
        raise ValueError(f"job: {one_line(said)} ({name})") from None
    processes = processes_of(cluster)
    if cluster.maximum < processes:
        raise ValueError(f"maximum is {cluster.maximum} workers; one job has {processes} (job.processes, job.cores)")


def _options_of(job_class: type) -> list[str]:
    found = {
        name
        for each in job_class.__mro__
        if "__init__" in vars(each) and each is not object
        for name, parameter in inspect.signature(each.__init__).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    return sorted((found | set(_OF_THE_CLUSTER)) - set(_NOT_OPTIONS))


def _of_the_job(options: dict) -> dict:
    return {name: value for name, value in options.items() if name not in (*_OF_THE_CLUSTER, "security")}


def _check_value(kind: str, option: str, value) -> None:
    """dask-jobqueue checks no types: a string where a list belongs becomes a line a letter."""
    if option in ("cores", "processes", "job_cpu", "ncpus"):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"job.{option}: a positive integer was expected (it is {value!r})")
    elif option == "scheduler_options" or (option == "job_extra_directives" and kind == "htcondor"):
        if not isinstance(value, dict):
            raise ValueError(f"job.{option}: a table was expected (it is {value!r})")
    elif option in (*_LISTS, *_LISTS_OF_HTCONDOR):
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise ValueError(f"job.{option}: a list of strings was expected (it is {value!r})")
    elif option in ("nanny", "security", "use_stdin"):
        if not isinstance(value, bool):
            raise ValueError(f"job.{option}: true or false was expected (it is {value!r})")
    elif option == "death_timeout":
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"job.{option}: a number of seconds was expected (it is {value!r})")
    elif not isinstance(value, str) and not (option in ("mem", "job_mem") and isinstance(value, int)):
        raise ValueError(f"job.{option}: a string was expected (it is {value!s})")
