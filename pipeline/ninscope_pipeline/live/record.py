"""What a training has recorded so far: one JSON file, live.json, from which every table follows with the artefacts it names."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from ninscope.checkpoints.baseline import STEP_0, Baseline
from ninscope.checkpoints.identity import FileIdentity, Identity
from ninscope.errors import RequestError
from ninscope.locating import Wiring, audit_revisions
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.wording import joined_clauses
from ninscope_pipeline.live.request import LiveResult, dag_of
from ninscope_pipeline.live.state import FILE
from ninscope_pipeline.located import Located
from ninscope_pipeline.outcome import Outcome
from ninscope_pipeline.request.dagfile import Dag
from ninscope_pipeline.request.models import TRAINING
from ninscope_pipeline.storing.runfolder import RunFolder

FORMAT = 1
_WEIGHTS = "weights in memory"  # what the audit calls their file; no message names it
_REPLACED = "measured again after the training was resumed, with other weights than before"


@dataclass(frozen=True)
class LiveWiring:
    """A network's wiring, as far as tables tell of it; as in NeuronNetwork."""

    family: str
    weight_bytes: int
    note: str
    warning: str

    @classmethod
    def of(cls, network: NeuronNetwork) -> "LiveWiring":
        return cls(network.family, network.weight_bytes, network.note, network.warning)


@dataclass(frozen=True)
class LiveRow:
    """One step. content: of its weights, empty where it was not measured. parameters: numbers in the model, -1 where not known.
    wiring: the digest, empty where not known. controls: the status of its controls and why, both empty where there are some, or
    none are asked for. session: in which it was measured. replaces: whether it stands for another that had other weights.
    """

    step: int
    status: str
    message: str
    content: str
    parameters: int
    wiring: str
    controls: tuple[str, str]
    snapshot: bool
    session: int
    replaces: bool = False

    @property
    def is_measured(self) -> bool:
        return self.status == "ok"

    @property
    def revision(self) -> str:
        return f"step{self.step}"


@dataclass(frozen=True)
class LiveRecord:
    """asked: of the request of the last session, as JSON values. rows: by step. wirings: by digest. baseline: the step of the
    first row that was measured. session: the number of the last one, from 1. ended: whether it said that it was at its end.
    """

    asked: Mapping[str, Any]
    rows: Mapping[int, LiveRow] = field(default_factory=dict)
    wirings: Mapping[str, LiveWiring] = field(default_factory=dict)
    baseline: int | None = None
    session: int = 1
    ended: bool = False

    def with_row(self, row: LiveRow, network: NeuronNetwork | None) -> "LiveRecord":
        """With a row in the place of that of the same step, if there is one."""
        wirings = self.wirings if network is None else {**self.wirings, network.digest: LiveWiring.of(network)}
        baseline = row.step if self.baseline is None and row.is_measured else self.baseline
        return replace(self, rows={**self.rows, row.step: row}, wirings=wirings, baseline=baseline, ended=False)

    @property
    def in_order(self) -> list[LiveRow]:
        return [self.rows[step] for step in sorted(self.rows)]

    @cached_property
    def dag(self) -> Dag:
        """The DAG file that asks for what there is."""
        return dag_of(self.asked, self.baseline)

    def located(self) -> list[Located]:
        """The steps as checkpoints of a run, in their order, audited beside each other as any are."""
        baseline = STEP_0 if self.baseline is None else Baseline(self.baseline)
        rows = [self.located_row(row) for row in self.in_order]
        located = audit_revisions(rows, baseline=baseline, trust_duplicates=self.dag.emergence.trust_duplicates)
        notes = _notes(self.in_order)
        return [
            replace(one, unsure=joined_clauses(one.unsure, notes.get(one.revision, ""))) if one.ok else one
            for one in located
        ]

    def located_row(self, row: LiveRow) -> Located:
        """A step as a checkpoint of a run, before it is audited."""
        (reading,) = {analysis.parameters.reading for analysis in self.dag.analyses()}
        wiring = self.wirings.get(row.wiring)
        identity = None
        wirings: tuple[Wiring, ...] = ()
        if wiring is not None:
            told = wiring.family, row.wiring, wiring.weight_bytes, wiring.note
            wirings = (Wiring(reading.key, *told, warning=wiring.warning),)
            if row.content:
                file = FileIdentity(_WEIGHTS, wiring.weight_bytes, row.content)
                identity = Identity(row.revision, row.step, (file,))
        return Located(
            row.revision,
            row.step,
            identity=identity,
            kind="local",
            parameters=None if row.parameters < 0 else row.parameters,
            wirings=wirings,
            suite=self.asked["suite"],
            model=self.asked["model"],
            source=TRAINING,
            readings=(reading,),
            baseline=STEP_0 if self.baseline is None else Baseline(self.baseline),
        ).with_outcome(Outcome(row.status, row.message))

    def as_bytes(self) -> bytes:
        content = {
            "format": FORMAT,
            "asked": dict(self.asked),
            "baseline": self.baseline,
            "session": self.session,
            "ended": self.ended,
            "wirings": {digest: asdict(wiring) for digest, wiring in self.wirings.items()},
            "rows": [vars(row) for row in self.in_order],
        }
        return json.dumps(content, separators=(",", ":"), sort_keys=True).encode()

    def write(self, folder: RunFolder) -> None:
        """Raises StoreError."""
        folder.write_bytes(folder.root / FILE, self.as_bytes())


def _notes(rows: list[LiveRow]) -> dict[str, str]:
    """By revision, one clause on rows that a resumed training has measured again, or has yet to. rows: in their order."""
    notes, last = {}, None
    for row in rows:
        if row.replaces:
            notes[row.revision] = _REPLACED
            last = row if last is None or row.session >= last.session else last
        elif last is not None and row.session < last.session:
            notes[row.revision] = (
                f"measured before the training was resumed, which had other weights at {last.revision}"
            )
    return notes


def row_of(result: LiveResult, content: str, session: int, with_controls: bool) -> LiveRow:
    """What is recorded of a result."""
    failed = with_controls and result.is_measured and result.readings is None
    return LiveRow(
        result.step,
        "ok" if result.is_measured else result.status,
        result.message if not result.is_measured else "",
        content,
        -1 if result.parameters_count is None else int(result.parameters_count),
        "" if result.network is None else result.network.digest,
        ("failed", result.note or "no controls were taken at this step") if failed else ("", ""),
        result.counts is not None,
        session,
    )


def read_record(folder: RunFolder) -> LiveRecord:
    """Raises RequestError: the file is absent, or makes no sense."""
    path = folder.root / FILE
    try:
        return _record_of(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise RequestError(
            f"{path}: cannot be read ({type(error).__name__}: {error}); give the training another log folder, or delete this one"
        ) from None


def digest_of(folder: RunFolder) -> str:
    """sha256 of the record as it lies there; empty where there is none."""
    try:
        return hashlib.sha256((folder.root / FILE).read_bytes()).hexdigest()
    except OSError:
        return ""


def _record_of(stored: Any) -> LiveRecord:
    """Raises ValueError, TypeError, KeyError, RequestError."""
    if stored["format"] != FORMAT:
        raise ValueError(f"its format is {stored['format']!r}, and this version reads {FORMAT}")
    if not isinstance(stored["wirings"], dict):
        raise ValueError("it says nothing that a training writes")
    rows = [_checked(LiveRow(**row | {"controls": tuple(row["controls"])})) for row in stored["rows"]]
    wirings = {str(digest): _checked(LiveWiring(**wiring)) for digest, wiring in stored["wirings"].items()}
    baseline, session, ended = (stored[name] for name in ("baseline", "session", "ended"))
    if not isinstance(stored["asked"], dict) or type(session) is not int or type(ended) is not bool:
        raise ValueError("it says nothing that a training writes")
    by_step = {row.step: row for row in rows}
    if baseline is not None and not (baseline in by_step and by_step[baseline].is_measured):
        raise ValueError(f"its baseline {baseline!r} is no step that was measured")
    if any(row.is_measured and not (row.content and row.wiring in wirings) for row in rows):
        raise ValueError("a step that was measured has no weights")
    record = LiveRecord(stored["asked"], by_step, wirings, baseline, session, ended)
    _ = record.dag  # which checks what was asked
    return record


def _checked(value: Any) -> Any:
    """Raises TypeError where a field is of another type than it says."""
    for name, kind in _types(type(value)):
        if type(getattr(value, name)) is not kind:
            raise TypeError(f"{name} is {getattr(value, name)!r}")
    return value


def _types(kind: type) -> Iterator[tuple[str, type]]:
    for one in fields(kind):
        yield one.name, tuple if one.name == "controls" else one.type  # type: ignore[misc]
