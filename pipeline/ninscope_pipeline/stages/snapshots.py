"""Snapshots: what a training keeps of a step in place of its weights, so that other questions can be asked later (stage
`snapshots`).

A training writes them while it is measured (`live/recorder.py`), and nobody else can. A run over checkpoints has the weights.
"""

from collections.abc import Iterator
from dataclasses import astuple
from typing import TYPE_CHECKING

import numpy as np

from ninscope.architectures.layout import NodeLayer
from ninscope.errors import CheckpointError
from ninscope.exact.blocks import matrix_name
from ninscope.exact.packed_counts import packed_counts, unpacked_counts
from ninscope.exact.snapshots import Snapshot, SnapshotMatrix
from ninscope.parameters import Parameters
from ninscope_pipeline.located import Located
from ninscope_pipeline.request.analyses import EXACT as EXACT_METHOD
from ninscope_pipeline.request.models import TRAINING
from ninscope_pipeline.stages.stage import Job, Stage
from ninscope_pipeline.storing.keys import content_key
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from ninscope_pipeline.plan import Request


class SnapshotsStage(Stage[None]):
    name, title, version = "snapshots", "snapshots", 1

    def jobs(self, request: "Request") -> Iterator[Job[None]]:
        """One of every step of a training, whether it kept any or not."""
        for located in request.checkpoints:
            if located.source != TRAINING:
                continue
            analysis = request.job_named(located, EXACT_METHOD)
            if analysis is not None and analysis.key and request.outcome(analysis).ok:
                key = snapshot_key(located, analysis.work.parameters)
                yield Job(self.name, key, analysis.label, None, checkpoint=located, listed_as=self.name)

    def make(self, store: ArtefactStore, job: Job[None]) -> Artefact:
        raise CheckpointError("missing", f"{job.label}: only the training itself could keep a snapshot of that step")


SNAPSHOTS = SnapshotsStage()


def snapshot_key(located: Located, parameters: Parameters) -> str:
    """What a snapshot depends on: the weights, the wiring, and what decides the bin of a weight."""
    return content_key(
        SnapshotsStage.name,
        SnapshotsStage.version,
        weights=located.content_sha256,
        architecture=located.wiring(parameters.reading).digest,
        transfer=parameters.transfer,
        max_distance=parameters.max_distance,
    )


def artefact_of_snapshot(snapshot: Snapshot) -> Artefact:
    """counts, distances: bytes of `packed_counts`. totals: int64 [matrices, K + 2]. squares: int64 [matrices, exponents, 4], from
    the first exponent that occurs to the last; of a matrix whose sums were not kept, zeros.
    """
    counts, distances = packed_counts(snapshot.counts)
    nothing = np.zeros((256, 4), np.int64)
    squares = np.stack([nothing if one.squares is None else one.squares for one in snapshot.matrices])
    there = np.flatnonzero(squares.any(axis=(0, 2)))
    first, last = (int(there[0]), int(there[-1]) + 1) if there.size else (0, 0)
    return Artefact(
        {
            "counts": counts,
            "distances": distances,
            "totals": np.stack([matrix.totals for matrix in snapshot.matrices]),
            "squares": np.ascontiguousarray(squares[:, first:last]),
        },
        {
            "layers": [list(astuple(layer)) for layer in snapshot.layers],
            "counted": list(snapshot.counts),
            "matrices": [[one.source, one.target, one.edges, one.nodes, one.taps] for one in snapshot.matrices],
            "without_squares": [one.name for one in snapshot.matrices if one.squares is None],
            "first_exponent": first,
            "family": snapshot.family,
            "wiring": snapshot.digest,
            "note": snapshot.note,
            "warning": snapshot.warning,
        },
    )


def stored_snapshot(artefact: Artefact, parameters: Parameters) -> Snapshot:
    """The snapshot that `artefact_of_snapshot` stored. parameters: of the run that it is of. Raises ValueError."""
    arrays, about = artefact.arrays, artefact.attributes
    layers = tuple(NodeLayer(*layer) for layer in about["layers"])
    sizes = {layer.name: layer.size for layer in layers}
    nodes = {name: sizes[name] for name in about["counted"]}
    bins = parameters.integer_radii.count + 1
    counts = unpacked_counts(arrays["counts"], arrays["distances"], nodes, bins)
    squares = np.zeros((len(about["matrices"]), 256, 4), np.int64)
    first = about["first_exponent"]
    squares[:, first : first + arrays["squares"].shape[1]] = arrays["squares"]
    bare = set(about["without_squares"])
    matrices = tuple(
        SnapshotMatrix(source, target, edges, of, taps, totals, None if matrix_name(source, target) in bare else own)
        for (source, target, edges, of, taps), totals, own in zip(
            about["matrices"], arrays["totals"], squares, strict=True
        )
    )
    about_network = about["family"], about["wiring"], about["note"], about["warning"]
    return Snapshot(layers, matrices, counts, parameters, *about_network)
