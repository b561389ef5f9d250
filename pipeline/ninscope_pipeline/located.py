"""What each revision of a run is, before a weight is read; the rules are those of `ninscope.locating`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ninscope.architectures import DEFAULT_READING, Reading
from ninscope.checkpoints.baseline import STEP_0, Baseline
from ninscope.checkpoints.identity import FileIdentity, Identity
from ninscope.checkpoints.source import Source, open_source
from ninscope.locating import LocatedRevision, with_identity, with_wirings
from ninscope_pipeline.outcome import OK, Outcome, attempt

STAGE = "locate"


@dataclass(frozen=True, kw_only=True)
class Located(LocatedRevision):
    """One revision of one model of a run.

    suite, model, source: as the DAG file names them. attempted: what became of locating it, with its traceback and traffic.
    fingerprint: the name under which its facts may be remembered. readings: the ways in which it is to be read. base,
    base_revision: the model into which an adapter is merged. baseline: what E of its model compares with.
    """

    suite: str
    model: str
    source: str
    attempted: Outcome = OK
    fingerprint: str | None = None
    readings: tuple[Reading, ...] = (DEFAULT_READING,)
    base: str | None = None
    base_revision: str | None = None
    baseline: Baseline = STEP_0

    @property
    def id(self) -> tuple[str, str, str]:
        """What tells it from other checkpoints of a run."""
        return self.suite, self.model, self.revision

    @property
    def is_baseline(self) -> bool:
        """Whether E of its model may compare with it."""
        return self.baseline.is_at(self.revision, self.step)

    @property
    def outcome(self) -> Outcome:
        """What became of it so far, with what the audit says."""
        return replace(self.attempted, status=self.status, message=self.message)

    @property
    def known_identity(self) -> Identity:
        """Its files, of a revision that was found. Raises ValueError where they are not known."""
        if self.identity is None:
            raise ValueError(f"{self.suite}/{self.model} {self.revision}: its files are not known")
        return self.identity

    @property
    def bytes(self) -> int | None:
        return self.identity.bytes if self.identity is not None else None

    def opened(self) -> Source:
        """Where it is. Raises RequestError."""
        return open_source(self.source, self.base, self.base_revision)

    def with_outcome(self, outcome: Outcome) -> "Located":
        """The same revision, once locating it has ended so."""
        return replace(self, attempted=outcome, status=outcome.status, message=outcome.message)


def reading_outcome(located: Located, reading: Reading) -> Outcome:
    """Why a checkpoint cannot be read in this way; ok where it can."""
    if not located.ok:
        return located.outcome
    wiring = located.wiring(reading)
    return Outcome(wiring.status, wiring.message)


def task_key(suite: str, model: str, revision: str) -> str:
    """What the run's log calls the locating of one revision."""
    return f"{suite}-{model}-{revision}"


def locate(located: Located, known: Mapping[str, FileIdentity]) -> Located:
    """Identify a revision and read its headers. known: files whose hashes are taken again only where they have changed."""
    so_far = located

    def work() -> None:
        nonlocal so_far
        source = located.opened()
        so_far = with_identity(so_far, source, known)
        so_far = with_wirings(so_far, source, located.readings)
        so_far.check()

    outcome = attempt(STAGE, task_key(located.suite, located.model, located.revision), work)
    return so_far.with_outcome(outcome)
