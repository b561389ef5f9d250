"""[cluster] in a DAG file: workers of this machine, of a running scheduler, or jobs of a batch system. No result depends on it."""

import difflib
import inspect
import re
import signal
import threading
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, Literal

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
LOCAL: Final = "local"

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
    def _makes_sense(self) -> "Cluster":
        allowed = {LOCAL: ("workers", "processes"), "address": ("address",)}.get(
            self.kind, ("minimum", "maximum", "job")
        )
        goes_with = {"workers": '"local"', "processes": '"local"', "address": '"address"'}
        for name in ("address", "workers", "processes", "minimum", "maximum", "job"):
            if name not in allowed and getattr(self, name) is not None:
                raise ValueError(
                    f'{name} goes with {goes_with.get(name, "a batch system")}, but kind is "{self.kind}"; leave it out'
                )
        if self.kind == "address" and self.address is None:
            raise ValueError('kind = "address" needs the key address, such as tcp://HOST:PORT')
        if self.kind in QUEUES:
            if self.maximum is None:
                raise ValueError(f'kind = "{self.kind}" needs the key maximum, the largest number of workers at a time')
            if (self.minimum or 0) > self.maximum:
                raise ValueError(
                    f"minimum ({self.minimum}) is larger than maximum ({self.maximum}); give a smaller minimum"
                )
            try:
                job_class = job_class_of(self.kind)
            except RequestError:
                return self  # said where workers are wanted: not to look at a file, nor with --scheduler
            check_job(self, job_class)
        return self

    def overridden(self, scheduler: str | None, workers: int | None) -> "Cluster":
        """With --scheduler ("local": this machine) and --workers instead. Raises RequestError where they do not fit."""
        cluster = self
        if scheduler is not None:
            cluster = Cluster() if scheduler == LOCAL else Cluster(kind="address", address=scheduler)
        if workers is None:
            return cluster
        if cluster.kind == "address":
            raise RequestError(
                f"--workers applies only to workers that ninscope starts; the scheduler at {cluster.address} already has its own"
            )
        changes = {"workers": workers} if cluster.kind == LOCAL else {"minimum": workers, "maximum": workers}
        try:
            return Cluster.model_validate({**cluster.model_dump(), **changes})
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
            raise ValueError(f"job.{option}: this option of dask-jobqueue is now called {_RENAMED[option]}")
        if option not in known:
            near = difflib.get_close_matches(option, known, 1)
            raise ValueError(f"job.{option}: {name} has no such option{f'; did you mean {near[0]}?' if near else ''}")
        _check_value(cluster.kind, option, value)
    if _TOKEN.search(str(given)):
        raise ValueError(
            "job: this would copy a token to run.toml; export the token before ninscope run, or let job_script_prologue read "
            "it from a file"
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # they come when jobs are submitted
            # Without its log folder, which it would make.
            job_class("tcp://scheduler:8786", name="checked", **_of_the_job({**given, "log_directory": None}))
    except Exception as error:
        reason = str(error).splitlines()[0].removesuffix(", for example:")
        raise ValueError(f"job: {one_line(reason)} ({name})") from None
    processes = processes_of(cluster)
    if cluster.maximum is not None and cluster.maximum < processes:
        raise ValueError(
            f"maximum is {cluster.maximum} workers, but one job alone has {processes} (job.processes, or job.cores); raise maximum"
        )


def _options_of(job_class: type) -> list[str]:
    names = {
        name
        for ancestor in job_class.__mro__
        if "__init__" in vars(ancestor) and ancestor is not object
        for name, parameter in inspect.signature(vars(ancestor)["__init__"]).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    return sorted((names | set(_OF_THE_CLUSTER)) - set(_NOT_OPTIONS))


def _of_the_job(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in (*_OF_THE_CLUSTER, "security")}


# What the options of a job must be, by name: whether a value is such, and what was expected. All others are strings.
_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("cores", "processes", "job_cpu", "ncpus"),
        (lambda value: type(value) is int and value >= 1, "a positive integer"),
    ),
    "scheduler_options": (lambda value: isinstance(value, dict), "a table"),
    **dict.fromkeys(
        (*_LISTS, *_LISTS_OF_HTCONDOR),
        (
            lambda value: isinstance(value, list) and all(isinstance(entry, str) for entry in value),
            "a list of strings",
        ),
    ),
    **dict.fromkeys(("nanny", "security", "use_stdin"), (lambda value: isinstance(value, bool), "true or false")),
    "death_timeout": (lambda value: type(value) in (int, float) and value > 0, "a number of seconds"),
    **dict.fromkeys(("mem", "job_mem"), (lambda value: isinstance(value, str | int), "a string")),
}
_STRING: tuple[Callable[[Any], bool], str] = (lambda value: isinstance(value, str), "a string")


def _check_value(kind: str, option: str, value: Any) -> None:
    """dask-jobqueue checks no types: a string where a list belongs becomes a line a letter. Raises ValueError."""
    is_valid, expected = _TYPES.get(option, _STRING)
    if option == "job_extra_directives" and kind == "htcondor":
        is_valid, expected = _TYPES["scheduler_options"]
    if not is_valid(value):
        shown = value if expected == "a string" else repr(value)
        raise ValueError(f"job.{option}: {expected} was expected (it is {shown})")
