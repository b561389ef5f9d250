"""Exact: the whole network of a checkpoint, streamed; nothing of it is stored but the results (stage `exact`).

A large checkpoint is analysed in parts, each a task of its own (stage `parts`), on whichever machine: counts of edges are
integers, so no bit depends on it. Logarithmic radii need the range of all weights first (stage `ranges`, in the same parts).
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from ninscope.architectures import architecture_of
from ninscope.architectures.layout import Architecture
from ninscope.checkpoints.tensors import Checkpoint
from ninscope.errors import CheckpointError
from ninscope.exact.counting import magnitudes
from ninscope.exact.whole import analyse_piece, combine, exact_analysis
from ninscope.measuring import exact_measurement
from ninscope.networks.radii import LogRadii, Radii, log_radii
from ninscope.parameters import Parameters
from ninscope_pipeline.stages import part_artefacts, spectrum
from ninscope_pipeline.stages.locate import Located
from ninscope_pipeline.stages.of_checkpoint import Work, is_stored, store_of_checkpoint
from ninscope_pipeline.stages.outcome import Outcome, attempt
from ninscope_pipeline.storing.keys import beyond_defaults, content_key
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

STAGE, PARTS, RANGES = "exact", "parts", "ranges"
VERSION = 3


def exact_key(located: Located, parameters: Parameters, matrices: bool) -> str:
    """What an exact spectrum depends on: the weights, the wiring, the analysis. matrices: whether null models will follow."""
    return content_key(
        STAGE,
        VERSION,
        weights=located.content_sha256,
        architecture=located.wired(parameters.reading).digest,
        transfer=parameters.transfer,
        max_distance=parameters.max_distance if parameters.log_count is None else None,
        radii=parameters.radii,
        min_degree=parameters.min_degree,
        q=parameters.q,
        derivative=parameters.derivative,
        per_node=parameters.per_node,
        matrices=matrices,
        **beyond_defaults(parameters, "parts"),
    )


def stored_key(
    located: Located, parameters: Parameters, matrices: bool, store: ArtefactStore, planned: Collection[str]
) -> str:
    """Its key, or that of an analysis that holds all of it and more (single nodes, matrices) and is stored, or planned."""
    wanted = exact_key(located, parameters, matrices)
    if store.has(STAGE, wanted):
        return wanted
    richer = (
        exact_key(located, replace(parameters, per_node=per_node), with_matrices)
        for per_node in {parameters.per_node, True}
        for with_matrices in {matrices, True}
    )
    return next((key for key in sorted(richer) if key in planned or store.has(STAGE, key)), wanted)


def part_key(key: str, number: int, count: int) -> str:
    return f"{key}-{number + 1}-of-{count}"


def store_exact(root: str, located: Located, parameters: Parameters, matrices: bool, key: str) -> Outcome:
    """Analyse and store a checkpoint in one go; NaN in its weights is stored as a failure."""

    def work(checkpoint: Checkpoint, architecture: Architecture) -> Artefact:
        return artefact_of(exact_analysis(checkpoint, architecture, parameters, matrices=matrices), parameters)

    store = ArtefactStore(RunFolder(root))
    return attempt(STAGE, key, lambda: store_of_checkpoint(store, STAGE, key, located, parameters.reading, work))


def store_range(root: str, located: Located, parameters: Parameters, key: str, number: int, count: int) -> Outcome:
    """The smallest and the largest weight of one part of a checkpoint."""

    def work(checkpoint: Checkpoint, architecture: Architecture) -> Artefact:
        return Artefact({"magnitudes": magnitudes(checkpoint, architecture, number, count)}, {})

    return _attempt_part(root, RANGES, key, part_key(key, number, count), located, parameters, work)


def store_part(
    root: str,
    ranges: Sequence[Outcome],
    located: Located,
    parameters: Parameters,
    matrices: bool,
    key: str,
    number: int,
    count: int,
) -> Outcome:
    """Count one part of a checkpoint. ranges: outcomes of all its ranges, where the radii need them."""
    if failed := _first_failure(ranges):
        return failed.passed_on()
    store = ArtefactStore(RunFolder(root))

    def work(checkpoint: Checkpoint, architecture: Architecture) -> Artefact:
        radii = _radii(store, parameters, key, count)
        (piece,) = analyse_piece(checkpoint, architecture, parameters, radii, number, count, matrices=matrices)
        return part_artefacts.artefact_of(piece)

    return _attempt_part(root, PARTS, key, part_key(key, number, count), located, parameters, work)


def _attempt_part(
    root: str, stage: str, key: str, of_part: str, located: Located, parameters: Parameters, work: Work
) -> Outcome:
    store = ArtefactStore(RunFolder(root))

    def unless_done() -> None:
        if not is_stored(store, STAGE, key):  # another run may have been faster, and has cleared the parts away
            store_of_checkpoint(store, stage, of_part, located, parameters.reading, work)

    return attempt(stage, of_part, unless_done)


def store_combined(root: str, parts: Sequence[Outcome], located: Located, parameters: Parameters, key: str) -> Outcome:
    """Add up the parts of a checkpoint and clear them away. parts: their outcomes, in order; the first failure is passed on."""
    store = ArtefactStore(RunFolder(root))
    if failed := _first_failure(parts):
        if failed.status == "nonfinite" and not store.has(STAGE, key):
            store.write_failure(STAGE, key, CheckpointError(failed.status, failed.message))
            clear_parts(store, key)
        return failed.passed_on()

    def work() -> None:
        if is_stored(store, STAGE, key):
            return
        source = located.opened()
        checkpoint = source.open(located.revision, located.identity)
        architecture = architecture_of(checkpoint.config, checkpoint.tensors, parameters.reading)
        pieces = [
            part_artefacts.piece_of(store.read(PARTS, part_key(key, number, len(parts))))
            for number in range(len(parts))
        ]
        analysis = combine(pieces, architecture, parameters, _radii(store, parameters, key, len(parts)))
        store.write(STAGE, key, artefact_of(analysis, parameters))
        clear_parts(store, key)

    return attempt(STAGE, key, work)


def artefact_of(analysis, parameters: Parameters) -> Artefact:
    """A spectrum's artefact, with the statistics of layers, and nodes and matrices where they are asked for."""
    artefact = spectrum.artefact_of(exact_measurement(analysis))
    arrays, attributes = part_artefacts.matrices_as_arrays(analysis.matrices)
    bounds = [analysis.radii.smallest_weight, analysis.radii.largest_weight] if parameters.log_count else None
    return Artefact({**artefact.arrays, **arrays}, {**artefact.attributes, **attributes, "log_bounds": bounds})


def radii_of(artefact: Artefact, parameters: Parameters) -> Radii:
    """The grid of radii that a stored analysis was made on."""
    if parameters.log_count is None:
        return parameters.integer_radii
    return LogRadii(parameters.log_count, *artefact.attributes["log_bounds"])


def _radii(store: ArtefactStore, parameters: Parameters, key: str, count: int) -> Radii:
    if parameters.log_count is None:
        return parameters.integer_radii
    found = [store.read(RANGES, part_key(key, number, count)).arrays["magnitudes"] for number in range(count)]
    return log_radii(parameters.log_count, np.concatenate(found))


def _first_failure(outcomes: Sequence[Outcome]) -> Outcome | None:
    return next((outcome for outcome in outcomes if not outcome.ok), None)


def clear_leftovers(store: ArtefactStore, planned: Sequence[str], alone: bool) -> None:
    """Delete parts that nobody will add up: of analyses that are done, or no more asked for.

    planned: keys of exact analyses. alone: no other run may be asking for any.
    """
    for stage in (PARTS, RANGES):
        for key in {part.split("-")[0] for part in store.keys(stage)}:
            if store.has(STAGE, key) or (alone and key not in planned):
                clear_parts(store, key)


def clear_parts(store: ArtefactStore, key: str) -> None:
    for stage in (PARTS, RANGES):
        store.remove(stage, f"{key}-*")
