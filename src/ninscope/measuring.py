"""From a checkpoint to its spectrum: the one place where checkpoints, architectures, networks and multifractal meet."""

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from ninscope.architectures import architecture_of, unlike
from ninscope.architectures.layout import Architecture, parts_of
from ninscope.auditing import siblings
from ninscope.checkpoints.audit import falsified
from ninscope.checkpoints.source import open_source
from ninscope.checkpoints.tensors import Checkpoint
from ninscope.errors import CheckpointError, RequestError
from ninscope.exact.layers import LayerStatistics, NodeValues
from ninscope.exact.whole import ExactAnalysis, exact_analysis, uncounted_layers
from ninscope.multifractal.boxes import box_histogram
from ninscope.multifractal.emergence import emergence, why_undefined
from ninscope.multifractal.means import known_std, without_spectrum
from ninscope.multifractal.spectrum import Spectrum, fit_warning, spectrum_of_counts
from ninscope.networks.radii import log_radii
from ninscope.networks.sampled import SampledNetwork, sampled_network
from ninscope.networks.shortest_paths import path_histograms, path_radii
from ninscope.parameters import ALL, Parameters
from ninscope.threads import cores, threads_of


@dataclass(frozen=True)
class Measurement:
    """The spectra of one checkpoint: of its samples, or, exact, of the whole network (then there is one).

    Its own q, tau, alpha, f, r2, alpha0 and width are means over the samples. A sample without a spectrum (Spectrum.message
    says why) is left out of the means, and `message` says how many were. network_nodes: nodes of one network;
    network_edges: edges within the distance bounds, for each (across several layers, pairs of nodes that a path joins).
    method: "sampled" or "exact". layers: of an exact measurement, statistics of every node layer with outgoing edges;
    nodes_of: by layer, the values of its single neurons, where Parameters.per_node asks for them; parts: where
    Parameters.parts asks, spectra of parts of the network by the part's name ("block/block0", "kind/attention",
    "layer/block0.x"), one a sample.
    """

    samples: tuple[Spectrum, ...]
    network_nodes: int
    network_edges: tuple[int, ...]
    message: str = ""
    method: str = "sampled"
    layers: tuple[LayerStatistics, ...] = ()
    nodes_of: Mapping[str, NodeValues] = field(default_factory=dict)
    parts: Mapping[str, tuple[Spectrum, ...]] = field(default_factory=dict)

    def part(self, name: str) -> "Measurement":
        """A part of the network as a measurement: its nodes and edges are those that count. Raises KeyError."""
        of_part = self.parts[name]
        edges = tuple(spectrum.edges for spectrum in of_part)
        return Measurement(of_part, max(spectrum.nodes for spectrum in of_part), edges, method=self.method)

    def _known(self, name: str) -> np.ndarray:
        values = np.array([getattr(sample, name) for sample in self.samples])
        known = ~np.isnan(np.array([sample.alpha0 for sample in self.samples]))
        return values[known]

    def _mean(self, name: str):
        known = self._known(name)
        return known.mean(axis=0) if len(known) else np.full(np.shape(getattr(self.samples[0], name)), np.nan)

    def _std(self, name: str) -> float:
        return known_std([getattr(sample, name) for sample in self.samples])

    q = property(lambda self: self.samples[0].q)
    tau = property(lambda self: self._mean("tau"))
    alpha = property(lambda self: self._mean("alpha"))
    f = property(lambda self: self._mean("f"))
    r2 = property(lambda self: self._mean("r2"))
    alpha0 = property(lambda self: float(self._mean("alpha0")))
    width = property(lambda self: float(self._mean("width")))
    alpha0_std = property(lambda self: self._std("alpha0"), doc="over samples, n-1 in the denominator")
    width_std = property(lambda self: self._std("width"), doc="over samples, n-1 in the denominator")
    r2_mass_mean = property(lambda self: float(self._mean("r2_mass_mean")))
    r2_partition = property(lambda self: float(self._mean("r2_partition")))
    warning = property(
        lambda self: fit_warning(self.r2_mass_mean, self.r2_partition), doc="why not to trust it; empty if nothing is"
    )
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
    """The spectrum of every sample of a network, and of its parts where they are asked for."""
    spectra = []
    parts = parts_of([layer for layer in network.layers if layer.name in network.sources], parameters.parts)
    of_parts: dict[str, list[Spectrum]] = {name: [] for name in parts}
    rows = {name: network.rows_of(layers) for name, layers in parts.items()}
    degrees = np.zeros((network.samples, network.nodes), np.int64)
    for sample, (counts, logarithms) in enumerate(_counts(network, parameters)):

        def spectrum(counts: np.ndarray, logarithms: np.ndarray = logarithms) -> Spectrum:
            return spectrum_of_counts(counts, parameters.min_degree, parameters.q, logarithms, parameters.derivative)

        spectra.append(spectrum(counts))
        for name, chosen in rows.items():
            of_parts[name].append(spectrum(counts[chosen]))
        degrees[sample] = counts.sum(axis=1)
    edges = degrees.sum(axis=1).tolist()
    notes = []
    if without := without_spectrum([spectrum.message for spectrum in spectra], "samples"):
        notes.append(without)
    elif silent := network.layers_without_nodes(degrees, parameters.min_degree):
        notes.append(uncounted_layers(silent))
    if taken_whole := network.layers_taken_whole(parameters.nodes_per_layer):
        notes.append(taken_whole)
    found = {name: tuple(each) for name, each in of_parts.items()}
    return Measurement(tuple(spectra), network.nodes, tuple(edges), "; ".join(notes), parts=found)


def _counts(network: SampledNetwork, parameters: Parameters) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(edges, or nodes reached across several layers, per node and distance bin; ln r of every bin) of each sample."""
    radii = parameters.integer_radii
    if (crossed := parameters.layers_crossed) > 1:
        logarithms = path_radii(radii, crossed)
        yield from ((counts, logarithms) for counts in path_histograms(network, crossed, radii))
        return
    for sample in range(network.samples):
        indptr, part = network.row_pointer(sample)
        weights = network.matrix.data[part]
        if parameters.log_count is not None:
            radii = log_radii(parameters.log_count, np.abs(weights))
        yield box_histogram(indptr, radii.bins(weights), radii.count), radii.logarithms


def sample_network(checkpoint: Checkpoint, parameters: Parameters, architecture: Architecture) -> SampledNetwork:
    """All samples of a checkpoint's network. Raises CheckpointError."""
    return sampled_network(
        checkpoint,
        architecture,
        parameters.nodes_per_layer,
        parameters.samples,
        parameters.seed,
        parameters.edge_bound,
    )


def exact_measurement(analysis: ExactAnalysis) -> Measurement:
    """An exact analysis as a measurement of one network."""
    spectrum = analysis.spectrum
    return Measurement(
        (spectrum,),
        analysis.nodes,
        (analysis.edges,),
        spectrum.message,
        "exact",
        analysis.layers,
        analysis.values,
        {name: (of_part,) for name, of_part in analysis.parts.items()},
    )


def measure(
    source: str,
    revision: str | None = None,
    exact: bool | None = None,
    base: str | None = None,
    base_revision: str | None = None,
    **parameters,
) -> Measurement:
    """The spectrum of one checkpoint, from its weights alone.

    source: a folder with one checkpoint, a folder of revision folders, or a Hub repository id ("org/name").
    revision: which one, where the source has several; a Hub repository without step branches is taken at "main".
    exact: every neuron and every weight, streamed, instead of samples; the default unless nodes_per_layer, samples or seed
    are given. Sampled values depend on the number of neurons taken (docs/method.md#sampling), the exact one is what they approach.
    base: of a source of LoRA adapters, the model (a folder, or a repository) that each is merged into; without it an adapter is
    measured alone. base_revision: which revision of it, where a folder has several; a repository is taken at "main".
    parameters: fields of `Parameters` (q, transfer, max_distance, min_degree, derivative, radii, per_node; nodes_per_layer,
    samples and seed where samples are taken).

    Raises RequestError: the source does not exist, or has several revisions and none was named, or a parameter is wrong.
    Raises CheckpointError: this checkpoint is missing, corrupt, nonfinite or unsupported (its `status`).
    """
    chosen = asked_parameters(parameters, exact)
    opened = open_source(source, base, base_revision)
    if revision is None:
        revisions = opened.revisions()
        if len(revisions) > 1:
            raise RequestError(
                f"{source} has {len(revisions)} revisions ({revisions[0]} ... {revisions[-1]}); name one with revision="
            )
        revision = revisions[0]
    return _measured(opened.open(revision), chosen, cores())


def measure_all(
    source: str,
    revision: str | None = None,
    done: Callable[[Measured], None] = lambda measured: None,
    workers: int | None = None,
    exact: bool | None = None,
    trust_duplicates: bool = False,
    base: str | None = None,
    base_revision: str | None = None,
    **parameters,
) -> list[Measured]:
    """Every revision of a source (or the one named), in step order, each with E against step 0 of the same source.

    For one revision step 0 is measured too where the source has it, for E. All revisions are audited first, and where two
    steps have the same weights there is no E that either would falsify (status duplicate), unless trust_duplicates.

    A checkpoint that cannot be analysed is a row with its status and message; the others go on. done: called after each.
    workers: threads, default one a core; results do not depend on it. exact, base, base_revision, parameters: as
    `measure`. Raises RequestError.
    """
    chosen = asked_parameters(parameters, exact)
    opened = open_source(source, base, base_revision)
    found, unknown = siblings(opened, revision)
    wanted = list(found) if revision is None else [revision]
    if revision is not None:  # E needs the start as well
        wanted = [name for name in found if opened.step_of(name) == 0 and name != revision][:1] + wanted
    no_e = {} if trust_duplicates else falsified(list(found.values()))

    threads = threads_of(workers)
    # Checkpoints are measured side by side; where there are fewer than threads, each is split over several.
    threads_of_one = max(threads // len(wanted), 1)

    wirings: dict[str, Architecture] = {}

    def one(name: str) -> Measured:
        try:
            finding = found[name]
            finding.check_known()
            checkpoint = opened.open(name)
            wiring = architecture_of(checkpoint.config, checkpoint.tensors, chosen.reading)
            wiring.tensors(checkpoint.tensors)  # says more, where it is no model at all
            wirings[name] = wiring
            finding.check_shape()
            spectrum = _measured(checkpoint, chosen, threads_of_one)
            notes = (spectrum.message, finding.message if finding.unlike else "", unknown)
            status = "duplicate" if name in no_e else "ok"
            message = "; ".join(note for note in notes if note)
            measured = Measured(name, opened.step_of(name), status, message, spectrum)
        except CheckpointError as error:
            measured = Measured(name, opened.step_of(name), error.status, str(error), None)
        except MemoryError:
            message = f"{name}: there is not enough memory to measure it; use fewer workers or fewer radii"
            measured = Measured(name, opened.step_of(name), "failed", message, None)
        done(measured)
        return measured

    with ThreadPoolExecutor(threads) as pool:
        measured = list(pool.map(one, wanted))
    families = {name: {wiring.family: wiring.note} for name, wiring in wirings.items()}
    for revision_of, error in unlike(families).items():
        at = wanted.index(revision_of)
        measured[at] = replace(measured[at], status=error.status, message=str(error), spectrum=None)
    rows = list(with_emergence(measured, otherwise_wired(wirings, measured) | no_e))
    return rows if revision is None else [row for row in rows if row.revision == revision]


def otherwise_wired(
    wirings: Mapping[str, Architecture], measured: list[Measured], baseline_step: int = 0
) -> dict[str, str]:
    """Revisions that are not wired as that of the baseline step, by name, with a clause that says so: there is no E between
    two networks that are not the same."""
    start = next((row.revision for row in measured if row.step == baseline_step and row.revision in wirings), None)
    if start is None:
        return {}
    return {
        name: f"its tensors are wired otherwise than those of {start}: no E"
        for name, wiring in wirings.items()
        if wiring.digest != wirings[start].digest
    }


def _measured(checkpoint: Checkpoint, parameters: Parameters, threads: int) -> Measurement:
    wiring = architecture_of(checkpoint.config, checkpoint.tensors, parameters.reading)
    if parameters.exact:
        found = exact_measurement(exact_analysis(checkpoint, wiring, parameters, threads))
    else:
        found = analyse_network(sample_network(checkpoint, parameters, wiring), parameters)
    return replace(found, message="; ".join(note for note in (wiring.note, found.message) if note))


def with_emergence(
    measured: list[Measured], no_e: Mapping[str, str] = MappingProxyType({}), baseline_step: int = 0
) -> Iterator[Measured]:
    """The same rows, each with E against the row of `baseline_step`; where there is no E, the message says why.

    no_e: revisions whose E would be false, with the reason.
    """
    start = next((row for row in measured if row.step == baseline_step and row.spectrum is not None), None)
    for row in measured:
        if row.spectrum is None:
            yield row
            continue
        reason = no_e.get(row.revision) or why_undefined(row.spectrum, start and start.spectrum, baseline_step)
        value = math.nan if reason else emergence(row.spectrum, start.spectrum)
        message = "; ".join(note for note in (row.message, reason) if note)
        yield Measured(row.revision, row.step, row.status, message, row.spectrum, value)


def asked_parameters(given: Mapping, exact: bool | None) -> Parameters:
    """Parameters as a caller gave them; None stands for a default. Raises RequestError.

    exact: None takes samples where one of the three sampling parameters is given, and else the whole network.
    """
    known = Parameters.__dataclass_fields__
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise RequestError(f"unknown parameter {', '.join(unknown)}; known: {', '.join(known)}")
    given = {name: value for name, value in given.items() if value is not None}
    sampling = [name for name in ("nodes_per_layer", "samples", "seed") if name in given]
    if given.get("nodes_per_layer") == ALL:
        if exact is False:
            raise RequestError('nodes_per_layer "all" is the exact measurement; leave exact=False out')
        exact = True
        sampling.remove("nodes_per_layer")
    if exact is None:
        exact = not sampling
    if exact and sampling:
        raise RequestError(f"an exact measurement takes every neuron; leave out {' and '.join(sampling)}")
    if not exact and given.get("per_node"):
        raise RequestError("per_node is of the exact measurement; leave out the sampling or per_node")
    return replace(Parameters(**given), **({"nodes_per_layer": ALL} if exact else {})).checked()
