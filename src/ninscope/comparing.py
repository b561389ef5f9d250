"""What differs between two checkpoints, or two models, read from their weights: ninscope.compare."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from inspect import signature
from typing import Any

from ninscope.architectures import Reading
from ninscope.auditing import identified_revision
from ninscope.checkpoints.identity import Identity
from ninscope.checkpoints.source import Source, open_source
from ninscope.comparison import ComparedValue, Comparison
from ninscope.errors import RequestError
from ninscope.locating import revision_of
from ninscope.measurement import Measurement
from ninscope.measuring import measured_network
from ninscope.multifractal.emergence import Bootstrap, compared
from ninscope.multifractal.emergence import Comparison as ComparedEmergence
from ninscope.multifractal.origin import Origin
from ninscope.networks.neuron_network import NeuronNetwork, neuron_network
from ninscope.parameters import Parameters, lists_parameters, parameters_of_call
from ninscope.threads import cores
from ninscope.weights.changes import CHANGES, WeightChange, network_changes
from ninscope.weights.counting import WHOLE, WeightCounter, network_weights
from ninscope.weights.statistics import WeightStatistics
from ninscope.wording import includes_zero, interval, listed, number, of_number, outer_names

MOST_CHANGED = 3  # matrices that the words name
_DETAILS = ("matrix", "norm_a", "norm_b", *CHANGES, "message")


@dataclass(frozen=True)
class _Side:
    """One of the two. name: "A" or "B"; label: its source and revision. weights: statistics by matrix; none with samples."""

    name: str
    label: str
    source: Source
    revision: str
    identity: Identity
    parameters: int
    network: NeuronNetwork
    stored: NeuronNetwork
    measurement: Measurement
    weights: Mapping[str, WeightStatistics]


@lists_parameters
def compare(
    a: Any,
    b: Any,
    revision_a: str | int | None = None,
    revision_b: str | int | None = None,
    exact: bool | None = None,
    same_training: bool = False,
    trust_unlike_counts: bool = False,
    **parameters: Any,
) -> Comparison:
    """What differs between two checkpoints: their networks, alpha0 and width, E of B against A, norms, and which matrices changed.

    a, b: sources as in `ninscope.measure`. revision_a, revision_b: which revision, where a source has several. exact: as in
    `measure`; of samples no matrices are compared, since that takes every weight. same_training: the two are of one training,
    though they lie in two folders or repositories, so that E may compare them. trust_unlike_counts: E also where other layers
    count, or 10 % more or fewer nodes. parameters: how both networks are drawn and analysed, listed below.

    Raises RequestError: a source or parameter is wrong. Raises CheckpointError: a checkpoint is missing, corrupt, nonfinite or
    unsupported.
    """
    chosen = parameters_of_call(parameters, exact, signature(compare).parameters)
    first = _measured("A", open_source(a), revision_a, chosen, same_training)
    second = _measured("B", open_source(b), revision_b, chosen, same_training, first)
    emergence = _emergence(first, second, trust_unlike_counts)
    changes = _changes(first, second) if first.weights else {}
    same = _same_weights(first, second, changes) and first.network.digest == second.network.digest
    words = [_what_is_same(first, second, changes, same), *_of_models(first, second)]
    if not same:
        words += _of_spectra(first, second)
        words += [_of_emergence(emergence), *_of_norms(first, second), *_of_changes(changes)]
    words += _warnings(first, second)
    values = tuple(_values(first, second, emergence))
    return Comparison(first.label, second.label, same, words, values, _DETAILS, _detail_rows(first, second, changes))


def _measured(
    name: str,
    source: Source,
    requested: str | int | None,
    parameters: Parameters,
    same_training: bool,
    other: _Side | None = None,
) -> _Side:
    """One side, measured; what has the weights and the wiring of the other side is not measured again."""
    revision = _revision(name, source, requested)
    identity = identified_revision(source, revision)
    checkpoint = source.open(revision)
    network = neuron_network(checkpoint, parameters.reading)
    label = source.label if revision in source.label.split("/") else f"{source.label} {revision}"
    side = (name, label, source, revision, identity, checkpoint.parameters, network)
    if other is not None and _same_files(identity, other.identity) and network.digest == other.network.digest:
        return _Side(*side, other.stored, other.measurement, other.weights)
    models = () if same_training else source.models_of(revision)
    if not parameters.exact:
        return _Side(*side, network, measured_network(network, parameters, cores(), models=models), {})
    # Norms and changes are of the weights as they are stored, whatever the spectrum is of.
    stored = neuron_network(checkpoint, _stored_reading(parameters))
    if parameters.reading == _stored_reading(parameters) and _one_pass(parameters):
        counter = WeightCounter(network)
        measurement = measured_network(network, parameters, cores(), models=models, passenger=counter)
        return _Side(*side, stored, measurement, counter.weights().statistics)
    measurement = measured_network(network, parameters, cores(), models=models)
    return _Side(*side, stored, measurement, network_weights(stored, cores()).statistics)


def _revision(name: str, source: Source, requested: str | int | None) -> str:
    """Raises RequestError: the source has several, and none is named."""
    if requested is None and len(revisions := source.revisions()) > 1:
        raise RequestError(
            f"{source.label} has {len(revisions)} revisions ({outer_names(revisions)}); name one: {source.label}@{revisions[-1]} "
            f"on the command line, revision_{name.lower()}= in Python"
        )
    return revision_of(source, requested)


def _stored_reading(parameters: Parameters) -> Reading:
    return replace(parameters.reading, gauge=Reading.gauge)


def _one_pass(parameters: Parameters) -> bool:
    """Whether the exact analysis reads every weight once, as it lies in its matrix."""
    return parameters.layers_crossed == 1 and parameters.direction == "out" and parameters.log_count is None


def _same_files(identity: Identity, other: Identity) -> bool:
    return identity.content_sha256 == other.content_sha256


def _same_weights(a: _Side, b: _Side, changes: Mapping[str, WeightChange]) -> bool:
    """Whether files have one hash, or every matrix of both networks holds the same weights."""
    if _same_files(a.identity, b.identity):
        return True
    return bool(changes) and set(a.weights) == set(b.weights) and _kept(a, b, changes) == len(changes) - 1


def _kept(a: _Side, b: _Side, changes: Mapping[str, WeightChange]) -> int:
    """Matrices that hold the same weights in both."""
    both_zero = {name for name in changes if _norm(a, name) == 0 == _norm(b, name)}  # no distance is defined there
    return sum(name in both_zero or change.distance == 0 for name, change in changes.items() if name != WHOLE)


def _emergence(a: _Side, b: _Side, trust_unlike_counts: bool) -> ComparedEmergence:
    """E of B against A, or why there is none."""
    before, now = (side.measurement.origin or Origin() for side in (a, b))
    clauses = before.differences(now)
    reason = f"no E: {'; '.join(clauses)}" if clauses else ""
    return compared(b.measurement, a.measurement, reason, "A", Bootstrap(), trust_unlike_counts=trust_unlike_counts)


def _changes(a: _Side, b: _Side) -> dict[str, WeightChange]:
    """Of every matrix of B against A, those that only A has, and all together ("all"), last."""
    if b.stored is a.stored:
        unchanged = WeightChange(0.0, 1.0, 0.0)
        return dict.fromkeys(a.weights, unchanged)
    changes = dict(network_changes(b.stored, a.stored, "A").changes)
    whole = changes.pop(WHOLE)
    only_a = WeightChange(message="B has no such matrix")
    return changes | {name: only_a for name in a.weights if name not in changes and name != WHOLE} | {WHOLE: whole}


def _what_is_same(a: _Side, b: _Side, changes: Mapping[str, WeightChange], same: bool) -> str:
    if _same_files(a.identity, b.identity):
        digest = a.identity.content_sha256[:12]
        if same:
            return f"A and B are the same: their weight files have one sha256 ({digest}), and they are read as one network."
        return f"The weight files are the same (sha256 {digest}), but they are read as two networks."
    if same:
        return "A and B have the same weights, though their files differ: no matrix of the network changed."
    if not changes:
        return "The weight files differ."
    kept = _kept(a, b, changes)
    clause = f"; {of_number(kept, 'matrix is', 'matrices are')} the same in both" if kept else ""
    return f"The weights differ{clause}."


def _of_models(a: _Side, b: _Side) -> Iterator[str]:
    """How the two are built, where that differs; else what both are."""
    values = list(_model_values(a, b))
    clauses = [f"{value.name} {_shown(value.a)} and {_shown(value.b)}" for value in values if value.differs]
    if clauses:
        yield f"The models are built otherwise (A and B): {'; '.join(clauses)}."
    elif a.network.digest != b.network.digest:
        yield "The models have the same sizes, but their layers are joined otherwise."
    else:
        layers = of_number(len(a.network.layers), "node layer")
        yield f"Both are read as {a.network.family}: {layers}, {a.measurement.nodes:,} neurons, {a.parameters:,} parameters."


def _shown(value: object) -> str:
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _model_values(a: _Side, b: _Side) -> Iterator[ComparedValue]:
    yield ComparedValue("model", "family", a.network.family, b.network.family)
    yield ComparedValue("model", "parameters", a.parameters, b.parameters)
    yield ComparedValue("model", "node layers", len(a.network.layers), len(b.network.layers))
    yield ComparedValue("model", "matrices", len(a.network.blocks), len(b.network.blocks))
    shapes = dict(a.identity.shape), dict(b.identity.shape)
    for name in dict.fromkeys((*shapes[0], *shapes[1])):
        yield ComparedValue("model", name, shapes[0].get(name), shapes[1].get(name))


def _of_spectra(a: _Side, b: _Side) -> Iterator[str]:
    for side in (a, b):
        if math.isnan(side.measurement.alpha0):
            yield f"{side.name} has no spectrum: {side.measurement.message}."
    if math.isnan(a.measurement.alpha0) or math.isnan(b.measurement.alpha0):
        return
    for name in ("alpha0", "width"):
        now, before = (_with_spread(side.measurement, name) for side in (b, a))
        ends = [side.measurement.interval()[name] for side in (a, b)]
        yield (
            f"{name} is {now} in both." if now == before else f"{name} is {before} in A and {now} in B{_apart(*ends)}."
        )


def _with_spread(measurement: Measurement, name: str) -> str:
    value, low_high = getattr(measurement, name), measurement.interval()[name]
    std = getattr(measurement, f"{name}_std")
    if not any(map(math.isnan, low_high)):
        return f"{number(value)} ({interval(*low_high)})"
    return number(value) if math.isnan(std) else f"{number(value)} ± {number(std)}"


def _apart(a: tuple[float, float], b: tuple[float, float]) -> str:
    if any(map(math.isnan, (*a, *b))):
        return ""
    return "; the intervals do not overlap" if a[1] < b[0] or b[1] < a[0] else "; the intervals overlap"


def _of_emergence(emergence: ComparedEmergence) -> str:
    if math.isnan(emergence.emergence):
        reason = emergence.message.removeprefix("no E: ")
        on_both = reason.replace("same_training=True where", "--same-training, or same_training=True in Python, where")
        return f"There is no E of B against A: {on_both}."
    told = f"E of B against A is {number(emergence.emergence)}"
    if math.isnan(emergence.low):
        return f"{told}, without an interval."
    zero = ", which includes 0" if includes_zero(emergence.low, emergence.high) else ""
    return f"{told} ({interval(emergence.low, emergence.high)}{zero})."


def _of_norms(a: _Side, b: _Side) -> Iterator[str]:
    if not a.weights:
        yield "Norms and changes of matrices take every weight, and are left out with samples."
        return
    before, now = (side.weights[WHOLE].norm for side in (a, b))
    ratio = f", {number(now / before)} times A's" if before > 0 else ""
    yield f"The norm of all weights is {number(before)} in A and {number(now)} in B{ratio}."


def _of_changes(changes: Mapping[str, WeightChange]) -> Iterator[str]:
    """How far the weights are from each other, and which matrices are furthest."""
    if not changes:
        return
    whole = changes[WHOLE]
    if math.isnan(whole.distance):
        yield f"The matrices cannot be compared: {whole.message}."
        return
    note = f" ({whole.message})" if whole.message else ""
    if whole.distance == 0:
        yield f"No matrix that both have changed{note}."
        return
    yield (
        f"The distance between the weights is {number(whole.distance)} times the norm of A's, and {100 * whole.sign_flips:.1f} % "
        f"have the other sign{note}."
    )
    furthest = [(name, change) for name, change in _by_distance(changes) if change.distance > 0][:MOST_CHANGED]
    named = listed([f"{name} ({number(change.distance)})" for name, change in furthest])
    yield f"Most changed, by distance over the norm in A: {named}."


def _by_distance(changes: Mapping[str, WeightChange]) -> list[tuple[str, WeightChange]]:
    """Matrices, the furthest first, those without a distance last; equal ones in the order of the network."""
    matrices = [(name, change) for name, change in changes.items() if name != WHOLE]
    return sorted(matrices, key=lambda named: -named[1].distance if not math.isnan(named[1].distance) else math.inf)


def _warnings(a: _Side, b: _Side) -> Iterator[str]:
    """Why not to trust the spectra: once where both say it."""
    warnings = a.measurement.warning, b.measurement.warning
    if warnings[0] and warnings[0] == warnings[1]:
        yield f"Warning, of A and B: {warnings[0]}."
        return
    yield from (f"Warning, of {side.name}: {text}." for side, text in zip((a, b), warnings, strict=True) if text)


def _values(a: _Side, b: _Side, emergence: ComparedEmergence) -> Iterator[ComparedValue]:
    steps = (a.source.step_of(a.revision), b.source.step_of(b.revision))
    yield ComparedValue("checkpoint", "source", a.source.label, b.source.label)
    yield ComparedValue("checkpoint", "revision", a.revision, b.revision)
    yield ComparedValue("checkpoint", "step", *steps)
    yield ComparedValue("checkpoint", "content_sha256", a.identity.content_sha256, b.identity.content_sha256)
    yield from _model_values(a, b)
    for name in ("nodes", "edges", "nodes_counted"):
        yield ComparedValue("network", name, *(getattr(side.measurement, name) for side in (a, b)))
    for name in ("alpha0", "width"):
        yield ComparedValue("spectrum", name, *(getattr(side.measurement, name) for side in (a, b)))
        ends = [side.measurement.interval()[name] for side in (a, b)]
        for position, end in enumerate(("low", "high")):
            yield ComparedValue("spectrum", f"{name}_{end}", ends[0][position], ends[1][position])
        yield ComparedValue("spectrum", f"{name}_std", *(getattr(side.measurement, f"{name}_std") for side in (a, b)))
    for name in ("r2_mass_mean", "r2_partition"):
        yield ComparedValue("spectrum", name, *(getattr(side.measurement, name) for side in (a, b)))
    for name, value in (
        ("emergence", emergence.emergence), ("emergence_low", emergence.low), ("emergence_high", emergence.high),
    ):  # fmt: skip
        yield ComparedValue("emergence", name, None, value)
    for name in ("norm", "rms") if a.weights else ():
        yield ComparedValue("weights", name, *(getattr(side.weights[WHOLE], name) for side in (a, b)))


def _detail_rows(a: _Side, b: _Side, changes: Mapping[str, WeightChange]) -> list[dict[str, Any]]:
    ordered = [*_by_distance(changes), *((name, change) for name, change in changes.items() if name == WHOLE)]
    return [
        {"matrix": name, "norm_a": _norm(a, name), "norm_b": _norm(b, name)} | asdict(change)
        for name, change in ordered
    ]


def _norm(side: _Side, matrix: str) -> float:
    return side.weights[matrix].norm if matrix in side.weights else math.nan
