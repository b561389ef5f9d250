"""A real SLURM on this machine alone, from Debian's slurm-wlm and munge: its own ports, key, sockets and folder.

Nothing of the system's own SLURM or munge is touched, so several may run at once. By hand, until Ctrl-C:

    python tests/single_node.py
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo", "scancel")
START_SECONDS = 30
CPUS = 8  # what SLURM is told, as of its memory; the machine may have less

_CONFIGURATION = """
ClusterName=ninscope-tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
KillWait=2
MinJobAge=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 State=UNKNOWN
PartitionName=short Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=closed Nodes={host} MaxTime=INFINITE State=DOWN
"""


class CannotStart(Exception):
    """SLURM cannot be started on this machine; the message says why."""


@contextlib.contextmanager
def single_node() -> Iterator[dict[str, str]]:
    """What the environment must hold for sbatch, squeue and scancel to reach a SLURM that lives meanwhile.

    Jobs in the partition `short` start within a second; those in `closed` stay pending. Raises CannotStart.
    """
    _check()
    # Not pytest's temporary folder, which nobody but root may enter: munged is not root.
    folder = Path(tempfile.mkdtemp(prefix="ninscope-slurm-"))
    started: list[subprocess.Popen] = []
    try:
        folder.chmod(0o755)
        environment = _configured(folder)
        started.append(_munged(folder))
        _wait(lambda: (folder / "munge" / "socket").exists(), started, folder)
        started.append(_daemon(folder, "slurmctld", environment))
        started.append(_daemon(folder, "slurmd", environment))
        _wait(
            lambda: _asked("sinfo", "-h", "-p", "short", "-o", "%t", environment=environment) == "idle", started, folder
        )
        yield environment
    finally:
        _stop(started)
        shutil.rmtree(folder, ignore_errors=True)


def _check() -> None:
    path = _with_sbin()
    if absent := [name for name in PROGRAMS if shutil.which(name, path=path) is None]:
        raise CannotStart(f"{', '.join(absent)} not installed (Debian: apt-get install slurm-wlm munge)")
    if os.geteuid() != 0:
        raise CannotStart("only root can start slurmd")


def _with_sbin() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _configured(folder: Path) -> dict[str, str]:
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(mode=0o755)
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in free:
            one.bind(("127.0.0.1", 0))
        controller_port, node_port = (one.getsockname()[1] for one in free)
    (folder / "slurm.conf").write_text(
        _CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            controller_port=controller_port,
            node_port=node_port,
            folder=folder,
            cpus=CPUS,
        )
    )
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(256))
    key.chmod(0o400)
    for path in (folder / "munge", key):
        shutil.chown(path, "munge", "munge")
    return os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _with_sbin()}


def _munged(folder: Path) -> subprocess.Popen:
    place = folder / "munge"
    files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
    options = [f"--{option}={place / name}" for option, name in files.items()]
    return _started(
        folder, "munged", [shutil.which("munged", path=_with_sbin()), "--foreground", *options], user="munge"
    )


def _daemon(folder: Path, name: str, environment: dict[str, str]) -> subprocess.Popen:
    return _started(folder, name, [shutil.which(name, path=_with_sbin()), "-D"], env=environment)


def _started(folder: Path, name: str, command: list[str], **options) -> subprocess.Popen:
    with open(folder / f"{name}.log", "wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder, **options)


def _wait(ready, started: list[subprocess.Popen], folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        ended = [one for one in started if one.poll() is not None]
        if ended or time.monotonic() > deadline:
            name = Path((ended or started)[-1].args[0]).name
            said = (folder / f"{name}.log").read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            why = "ended" if ended else f"is not ready after {START_SECONDS} s"
            raise CannotStart(f"{name} {why}: {said[-1]}")
        time.sleep(0.1)


def _asked(*command: str, environment: dict[str, str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stdout.strip()


def queue(environment: dict[str, str]) -> list[tuple[str, str]]:
    """(id, state) of every job that is pending, running or ending."""
    return [tuple(line.split()) for line in _asked("squeue", "-h", "-o", "%i %T", environment=environment).splitlines()]


def _stop(started: list[subprocess.Popen]) -> None:
    for one in reversed(started):
        one.send_signal(signal.SIGTERM)
        try:
            one.wait(10)
        except subprocess.TimeoutExpired:
            one.kill()
            one.wait()


if __name__ == "__main__":
    with single_node() as environment, contextlib.suppress(KeyboardInterrupt):
        print(f"export SLURM_CONF={environment['SLURM_CONF']}", flush=True)
        signal.pause()
