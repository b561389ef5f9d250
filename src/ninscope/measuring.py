"""From a checkpoint to its spectrum: the one place where checkpoints, architectures, networks and multifractal meet."""

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ninscope.architectures import architecture_of
from ninscope.checkpoints.source import open_source
from ninscope.checkpoints.tensors import Checkpoint
from ninscope.errors import CheckpointError, RequestError
from ninscope.exact import exact_spectrum, uncounted_layers
from ninscope.multifractal.boxes import box_histogram
from ninscope.multifractal.emergence import emergence, why_undefined
from ninscope.multifractal.spectrum import (
    DERIVATIVES,
    Spectrum,
    checked_bounds,
    checked_q,
    default_q,
    spectrum_of_counts,
)
from ninscope.networks.sampled import SampledNetwork, sampled_network
from ninscope.networks.transfer import TRANSFERS, distance_bins, radius_count

MAX_SAMPLES = 10_000
MAX_NODES_PER_LAYER = 100_000


@dataclass(frozen=True)
class Parameters:
    """How a sampled network is drawn and analysed; the defaults are the papers' (METHOD sections 1 to 3)."""

    nodes_per_layer: int = 64
    samples: int = 10
    seed: int = 0
    transfer: str = "reciprocal"
    max_distance: float = 150.0
    min_degree: int = 10
    q: np.ndarray = field(default_factory=default_q)
    derivative: str = "exact"

    def checked(self) -> "Parameters":
        """Itself, with q as an array. Raises RequestError for a value that makes no sense."""
        for name, low, high in (
            ("nodes_per_layer", 1, MAX_NODES_PER_LAYER),
            ("samples", 1, MAX_SAMPLES),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
                raise RequestError(f"{name} is {value!r}; an integer from {low} to {high} was expected")
        for name, known in (("transfer", TRANSFERS), ("derivative", DERIVATIVES)):
            if getattr(self, name) not in known:
                raise RequestError(f"{name} is {getattr(self, name)!r}; one of {', '.join(known)}")
        checked_bounds(self.max_distance, self.min_degree)
        object.__setattr__(self, "q", checked_q(self.q))
        return self


@dataclass(frozen=True)
class Measurement:
    """The spectra of one checkpoint: of its samples, or, exact, of the whole network (then there is one).

    Its own q, tau, alpha, f, r2, alpha0 and width are means over the samples. A sample without a spectrum (Spectrum.message
    says why) is left out of the means, and `message` says how many were. network_nodes: nodes of one network;
    network_edges: edges with 1 < 1/|w| <= max_distance, for each. method: "sampled" or "exact".
    """

    samples: tuple[Spectrum, ...]
    network_nodes: int
    network_edges: tuple[int, ...]
    message: str = ""
    method: str = "sampled"

    def _known(self, name: str) -> np.ndarray:
        values = np.array([getattr(sample, name) for sample in self.samples])
        known = ~np.isnan(np.array([sample.alpha0 for sample in self.samples]))
        return values[known]

    def _mean(self, name: str):
        known = self._known(name)
        return known.mean(axis=0) if len(known) else np.full(np.shape(getattr(self.samples[0], name)), np.nan)

    def _std(self, name: str) -> float:
        known = self._known(name)
        return float(known.std(ddof=1)) if len(known) > 1 else math.nan

    q = property(lambda self: self.samples[0].q)
    tau = property(lambda self: self._mean("tau"))
    alpha = property(lambda self: self._mean("alpha"))
    f = property(lambda self: self._mean("f"))
    r2 = property(lambda self: self._mean("r2"))
    alpha0 = property(lambda self: float(self._mean("alpha0")))
    width = property(lambda self: float(self._mean("width")))
    alpha0_std = property(lambda self: self._std("alpha0"), doc="over samples, n-1 in the denominator")
    width_std = property(lambda self: self._std("width"), doc="over samples, n-1 in the denominator")
    nodes = property(lambda self: self.network_nodes)

    @property
    def edges(self) -> float:
        """Mean over samples; a whole number where there is one."""
        mean = float(np.mean(self.network_edges))
        return int(mean) if mean.is_integer() else mean


@dataclass(frozen=True)
class Measured:
    """One revision's result: a spectrum, or the status and message that say why there is none."""

    revision: str
    step: int | None
    status: str
    message: str
    spectrum: Measurement | None
    emergence: float = math.nan


def analyse_network(network: SampledNetwork, parameters: Parameters) -> Measurement:
    """The spectrum of every sample of a network."""
    spectra = []
    degrees = np.zeros((network.samples, network.nodes), np.int64)
    for sample in range(network.samples):
        indptr, part = network.row_pointer(sample)
        bins = distance_bins(network.matrix.data[part], parameters.transfer, parameters.max_distance)
        counts = box_histogram(indptr, bins, radius_count(parameters.max_distance))
        spectra.append(spectrum_of_counts(counts, parameters.min_degree, parameters.q, parameters.derivative))
        degrees[sample] = counts.sum(axis=1)
    edges = degrees.sum(axis=1).tolist()
    notes = []
    without = [spectrum.message for spectrum in spectra if spectrum.message]
    if without:
        notes.append(f"{len(without)} of {len(spectra)} samples: {without[0]}")
    elif silent := network.layers_without_nodes(degrees, parameters.min_degree):
        notes.append(uncounted_layers(silent))
    if taken_whole := network.layers_taken_whole(parameters.nodes_per_layer):
        notes.append(taken_whole)
    return Measurement(tuple(spectra), network.nodes, tuple(edges), "; ".join(notes))


def sample_network(checkpoint: Checkpoint, parameters: Parameters) -> SampledNetwork:
    """All samples of a checkpoint's network. Raises CheckpointError."""
    return sampled_network(
        checkpoint,
        architecture_of(checkpoint.config),
        parameters.nodes_per_layer,
        parameters.samples,
        parameters.seed,
        parameters.max_distance,
    )


def measure_exactly(checkpoint: Checkpoint, parameters: Parameters, workers: int = 1) -> Measurement:
    """Analyse the whole network of a checkpoint; workers: threads, on which the result does not depend.

    Raises CheckpointError.
    """
    spectrum, nodes, edges = exact_spectrum(
        checkpoint,
        architecture_of(checkpoint.config),
        parameters.q,
        parameters.transfer,
        parameters.max_distance,
        parameters.min_degree,
        parameters.derivative,
        workers,
    )
    return Measurement((spectrum,), nodes, (edges,), spectrum.message, "exact")


def measure(source: str, revision: str | None = None, exact: bool = False, **parameters) -> Measurement:
    """The spectrum of one checkpoint, from its weights alone.

    source: a folder with one checkpoint, a folder of revision folders, or a Hub repository id ("org/name").
    revision: which one, where the source has several; a Hub repository without step branches is taken at "main".
    exact: every neuron and every weight, streamed, instead of samples. Sampled values depend on the number of neurons taken
    (METHOD section 2), the exact one is what they approach.
    parameters: fields of `Parameters` (q, transfer, max_distance, min_degree, derivative; nodes_per_layer, samples and seed
    where samples are taken).

    Raises RequestError: the source does not exist, or has several revisions and none was named, or a parameter is wrong.
    Raises CheckpointError: this checkpoint is missing, corrupt, nonfinite or unsupported (its `status`).
    """
    chosen = _parameters(parameters, exact)
    opened = open_source(source)
    if revision is None:
        revisions = opened.revisions()
        if len(revisions) > 1:
            raise RequestError(
                f"{source} has {len(revisions)} revisions ({revisions[0]} ... {revisions[-1]}); name one with revision="
            )
        revision = revisions[0]
    return _measured(opened.open(revision), chosen, exact, cores())


def measure_all(
    source: str,
    revision: str | None = None,
    done: Callable[[Measured], None] = lambda measured: None,
    workers: int | None = None,
    exact: bool = False,
    **parameters,
) -> list[Measured]:
    """Every revision of a source (or the one named), in step order, each with E against step 0 of the same source.

    For one revision step 0 is measured too where the source has it, for E.

    A checkpoint that cannot be analysed is a row with its status and message; the others go on. done: called after each.
    workers: threads, default one a core; results do not depend on it. Raises RequestError.
    """
    chosen = _parameters(parameters, exact)
    opened = open_source(source)
    wanted = opened.revisions() if revision is None else [revision]
    if revision is not None:  # E needs the start as well
        wanted = [name for name in opened.revisions() if opened.step_of(name) == 0 and name != revision][:1] + wanted

    threads = workers or cores()
    # One checkpoint is split over the threads; of several, each has a thread of its own.
    threads_of_one = threads if len(wanted) == 1 else 1

    def one(name: str) -> Measured:
        try:
            spectrum = _measured(opened.open(name), chosen, exact, threads_of_one)
            measured = Measured(name, opened.step_of(name), "ok", spectrum.message, spectrum)
        except CheckpointError as error:
            measured = Measured(name, opened.step_of(name), error.status, str(error), None)
        done(measured)
        return measured

    with ThreadPoolExecutor(threads) as pool:
        measured = list(pool.map(one, wanted))
    rows = list(with_emergence(measured))
    return rows if revision is None else [row for row in rows if row.revision == revision]


def _measured(checkpoint: Checkpoint, parameters: Parameters, exact: bool, threads: int) -> Measurement:
    if exact:
        return measure_exactly(checkpoint, parameters, threads)
    return analyse_network(sample_network(checkpoint, parameters), parameters)


def with_emergence(measured: list[Measured], baseline_step: int = 0) -> Iterator[Measured]:
    """The same rows, each with E against the row of `baseline_step`; where there is no E, the message says why."""
    start = next((row for row in measured if row.step == baseline_step and row.spectrum is not None), None)
    for row in measured:
        if row.spectrum is None:
            yield row
            continue
        reason = why_undefined(row.spectrum, start and start.spectrum, baseline_step)
        value = emergence(row.spectrum, start and start.spectrum)
        message = "; ".join(note for note in (row.message, reason) if note)
        yield Measured(row.revision, row.step, row.status, message, row.spectrum, value)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _parameters(given: dict, exact: bool) -> Parameters:
    senseless = [name for name in ("nodes_per_layer", "samples", "seed") if given.get(name) is not None]
    if exact and senseless:
        raise RequestError(f"an exact measurement takes every neuron; leave out {' and '.join(senseless)}")
    known = Parameters.__dataclass_fields__
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise RequestError(f"unknown parameter {', '.join(unknown)}; known: {', '.join(known)}")
    return Parameters(**{name: value for name, value in given.items() if value is not None}).checked()
