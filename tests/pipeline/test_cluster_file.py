"""[cluster] in DAG files: what is accepted, what is refused with one line, and what the command line changes of it."""

import contextlib
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import dask
import dask_jobqueue
import pytest
from driving import command, write_dag
from suites import write_suite

from ninscope.errors import RequestError
from ninscope_pipeline.execution import batch_jobs as jobs
from ninscope_pipeline.execution import workers
from ninscope_pipeline.execution.dask_cluster import OnCluster
from ninscope_pipeline.execution.here import ThreadsHere
from ninscope_pipeline.prepared_run import prepare, start
from ninscope_pipeline.request.cluster import QUEUES, Cluster, job_class_of
from ninscope_pipeline.request.dagfile import load_dag

pytestmark = pytest.mark.usefixtures("undrawn")

JOB = {"cores": 1, "memory": "1GB"}
SLURM = 'kind = "slurm"\nmaximum = 4\n[cluster.job]\ncores = 2\nmemory = "4GB"\n'


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Path:
    return write_suite(tmp_path_factory.mktemp("cluster") / "tiny", (0, 1), blocks=1, width=16, heads=2)


def loaded(tmp_path: Path, section: str) -> Cluster:
    path = tmp_path / "x.toml"
    path.write_text(f'[[models]]\nsuite = "s"\nmodel = "m"\nsource = "./w"\n[cluster]\n{section}')
    return load_dag(path).cluster


@pytest.mark.parametrize(
    ("section", "match"),
    [
        ('kind = "slrm"', r"cluster.kind: .*'slurm'.*it is 'slrm'"),
        ("threads = 3", "cluster.threads: no such key"),
        ("workers = 0", "cluster.workers: .*greater than or equal to 1"),
        ("minimum = 1", 'minimum goes with a batch system, but kind is "local"; leave it out'),
        ('address = "tcp://a:1"', 'address goes with "address", but kind is "local"; leave it out'),
        ('kind = "address"', "needs the key address, such as tcp://HOST:PORT"),
        ('kind = "address"\naddress = "tcp://a:1"\nmaximum = 2', "maximum goes with a batch system, but kind"),
        ('kind = "address"\naddress = "tcp://a:1"\nworkers = 2', 'workers goes with "local", but kind is "address"'),
        (
            'kind = "address"\naddress = "tcp://a:1"\nprocesses = true',
            'processes goes with "local", but kind is "address"',
        ),
        ('kind = "slurm"', "needs the key maximum, the largest number of workers at a time"),
        ('kind = "slurm"\nmaximum = 2\nworkers = 2', 'workers goes with "local", but kind is "slurm"'),
        ('kind = "slurm"\nmaximum = 2\nminimum = 3', "minimum .3. is larger than maximum .2.; give a smaller minimum"),
        ('kind = "slurm"\nmaximum = 2', "job: You must specify how much cores and memory .*SLURMCluster"),
        (f'{SLURM}queu = "x"', "job.queu: SLURMCluster has no such option; did you mean queue"),
        (f'{SLURM}resource_spec = "x"', "job.resource_spec: SLURMCluster has no such option$"),
        (f'{SLURM}scheduler = "x"', "job.scheduler: SLURMCluster has no such option"),
        (f'{SLURM}env_extra = ["x"]', "job.env_extra: this option of dask-jobqueue is now called job_script_prologue"),
        (f'{SLURM}job_extra_directives = "--x"', "job.job_extra_directives: a list of strings.*it is '--x'"),
        (f"{SLURM}job_script_prologue = [3]", "job.job_script_prologue: a list of strings"),
        (f"{SLURM}walltime = 04:00:00", "job.walltime: a string was expected .it is 04:00:00"),
        (f"{SLURM}processes = 0", "job.processes: a positive integer"),
        (f"{SLURM}processes = 8", "maximum is 4 workers, but one job alone has 8"),
        (f'{SLURM}death_timeout = "x"', "job.death_timeout: a number of seconds"),
        (f"{SLURM}security = 1", "job.security: true or false"),
        (f'{SLURM}scheduler_options = "x"', "job.scheduler_options: a table"),
        (f'{SLURM}job_script_prologue = ["export HF_TOKEN=abc"]', "job: this would copy a token to run.toml"),
        (f'{SLURM}job_extra_directives = ["--export=X=hf_{"a" * 30}"]', "job: this would copy a token"),
        (SLURM.replace("4GB", "lots"), "job: Could not interpret 'lots'"),
        (SLURM.replace("slurm", "htcondor"), "job: You must specify how much disk .*HTCondorCluster"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, section, match):
    with pytest.raises(RequestError, match=match) as caught:
        loaded(tmp_path, section)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(f"{tmp_path / 'x.toml'}: cluster")


@pytest.mark.parametrize("kind", QUEUES)
def test_every_batch_system_of_dask_jobqueue_is_there(kind):
    """And job_class is what its own cluster uses, so that options are those that it takes."""
    more = {"disk": "1GB"} if kind == "htcondor" else {}
    accepted = Cluster(kind=kind, maximum=2, job=JOB | more)
    assert job_class_of(kind) is getattr(dask_jobqueue, QUEUES[kind]).job_cls
    assert accepted.minimum is None


@pytest.mark.parametrize("kind", QUEUES)
def test_the_job_script_has_what_was_asked_and_one_thread_a_worker(kind, tmp_path):
    more = {"disk": "1GB"} if kind == "htcondor" else {"walltime": "00:07:00"}
    more |= {"memory_per_core_property_name": "not_applicable"} if kind == "oar" else {}
    job = {"cores": 6, "memory": "9GB", "processes": 3, "job_script_prologue": ["export MINE='1 2'"]} | more
    queue = jobs._queue(Cluster(kind=kind, maximum=6, job=job), job_class_of(kind), tmp_path / "log")
    try:
        script = queue.job_script()
    finally:
        queue.close()
    for part in ("--nworkers 3", "--memory-limit 2.79GiB", "--death-timeout 60"):
        assert part in script
    assert script.rindex("--nthreads 1") > script.rindex("--nthreads 2")
    assert kind == "oar" or str(tmp_path / "log") in script
    assert kind == "htcondor" or "00:07" in script
    if kind == "htcondor":  # its arguments are between single quotes, and each quote in them is there twice
        shell = re.search(r"^Arguments = .*?'(.*)'\"$", script, re.MULTILINE)[1].replace("''", "'").replace('""', '"')
    else:
        shell = "\n".join(line for line in script.splitlines() if not line.startswith("#"))
    before, worker, _ = shell.partition(f"{sys.executable} -m distributed.cli.dask_worker")
    assert worker
    done = subprocess.run(["/bin/sh", "-c", f"{before} env"], capture_output=True, text=True, check=True)
    environment = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert (environment["OMP_NUM_THREADS"], environment["MINE"]) == ("1", "1 2")
    config = dask.config.collect(paths=[], env=environment)
    assert config["distributed"]["nanny"]["pre_spawn_environ"] == {"MALLOC_TRIM_THRESHOLD_": None}


def test_importing_dask_jobqueue_leaves_ctrl_c_alone(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("dask_jobqueue")]:
        monkeypatch.delitem(sys.modules, name)
    before = signal.getsignal(signal.SIGINT)
    job_class_of("slurm")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("asked", "threads"),
    [
        ({}, True),
        ({"workers": 8}, True),
        ({"workers": 9}, False),
        ({"workers": 9, "processes": False}, True),
        ({"workers": 1, "processes": True}, False),
    ],
)
def test_local_workers_are_threads_but_for_many_and_where_asked(monkeypatch, tmp_path, asked, threads):
    clients = []

    @contextlib.contextmanager
    def connected(cluster, *_):
        clients.append(cluster)
        yield None

    monkeypatch.setattr(workers, "cores", lambda: 4)
    monkeypatch.setattr(workers, "connected_to", connected)
    with workers.at_work(Cluster(**asked), 5, tmp_path, pytest.fail) as executor:
        assert isinstance(executor, ThreadsHere if threads else OnCluster)
    assert bool(clients) is not threads


def test_the_command_line_comes_before_the_file():
    slurm = Cluster(kind="slurm", maximum=4, job=JOB)
    assert slurm.overridden(None, None) is slurm
    assert slurm.overridden("tcp://a:1", None) == Cluster(kind="address", address="tcp://a:1")
    assert slurm.overridden("local", 3) == Cluster(workers=3)
    fixed = slurm.overridden(None, 3)
    assert (fixed.kind, fixed.minimum, fixed.maximum, fixed.job) == ("slurm", 3, 3, JOB)
    assert Cluster().overridden(None, 2) == Cluster(workers=2)
    with pytest.raises(RequestError, match="the scheduler at tcp://a:1 already has its own"):
        Cluster().overridden("tcp://a:1", 2)
    with pytest.raises(RequestError, match="--workers: maximum is 1 workers, but one job alone has 4"):
        Cluster(kind="slurm", maximum=4, job=JOB | {"cores": 4}).overridden(None, 1)


def test_what_was_asked_is_recorded(suite, tmp_path):
    job = JOB | {"queue": "cpu"}
    dag = write_dag(tmp_path / "tiny.toml", suite, cluster={"kind": "slurm", "maximum": 3, "job": job})

    def recorded() -> dict:
        return tomllib.loads((tmp_path / "tiny" / "run.toml").read_text())["asked"]["cluster"]

    there = load_dag(dag)
    there = there.model_copy(update={"cluster": there.cluster.overridden("tcp://a:1", None)})
    start(prepare(there, tmp_path))
    assert recorded() == {"kind": "address", "address": "tcp://a:1"}
    assert command("run", dag, "--runs-dir", tmp_path, "--scheduler", "local").code == 0
    assert recorded() == {"kind": "local"}
    assert command("run", dag, "--runs-dir", tmp_path).code == 0  # nothing is left to run, so no job
    assert recorded() == {"kind": "slurm", "maximum": 3, "job": job}


def test_without_dask_jobqueue_a_line_tells_how_to_install_it(suite, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    dag = write_dag(tmp_path / "tiny.toml", suite, cluster={"kind": "slurm", "maximum": 2, "job": JOB})
    ended = command("run", dag, "--runs-dir", tmp_path / "runs")
    assert ended.code == 2
    assert ended.says == [
        "[cluster] kind = \"slurm\" needs dask-jobqueue, which is not installed: pip install 'ninscope[cluster]'"
    ]
    assert not (tmp_path / "runs").exists()
    assert command("run", dag, "--runs-dir", tmp_path / "runs", "--scheduler", "local", "--dry-run").code == 0


@pytest.mark.parametrize(
    ("sbatch", "says"),
    [
        (None, "no job could be submitted: sbatch: no such command; jobs are submitted from a login node"),
        ("echo 'sbatch: error: no more jobs' >&2; exit 1", "no job could be submitted: sbatch: error: no more jobs"),
        ("echo 'out of order'; exit 3", "no job could be submitted: sbatch: out of order"),
        ("echo 'what?'", "no job could be submitted: sbatch: Could not parse job id from submission command output"),
    ],
)  # fmt: skip
def test_a_batch_system_that_takes_no_job_is_one_line(suite, tmp_path, monkeypatch, sbatch, says):
    if sbatch is not None:
        (tmp_path / "sbatch").write_text(f"#!/bin/sh\n{sbatch}\n")
        (tmp_path / "sbatch").chmod(0o755)
    dag = write_dag(tmp_path / "tiny.toml", suite, cluster={"kind": "slurm", "maximum": 2, "job": JOB})
    monkeypatch.setenv("PATH", str(tmp_path))
    ended = command("run", dag, "--runs-dir", tmp_path)
    assert ended.code == 2
    assert "Traceback" not in ended.err
    (line,) = ended.says
    assert line.startswith(says)
