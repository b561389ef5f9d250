"""From a checkpoint to its spectrum: where checkpoints, architectures, networks and multifractal meet."""

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

from ninscope.architectures.layout import parts_of
from ninscope.checkpoints.baseline import Baseline
from ninscope.checkpoints.source import Source, open_source
from ninscope.errors import CheckpointError
from ninscope.exact.layers import LayerStatistics, NodeValues
from ninscope.exact.whole import ExactAnalysis, exact_analysis, uncounted_layers
from ninscope.locating import (
    LocatedRevision,
    Wiring,
    audit_revisions,
    failed,
    locate_siblings,
    named_baseline,
    revision_of,
)
from ninscope.measured_rows import MeasuredRows
from ninscope.multifractal.boxes import box_histogram
from ninscope.multifractal.emergence import compared
from ninscope.multifractal.means import known_std, without_spectrum
from ninscope.multifractal.origin import Origin
from ninscope.multifractal.spectrum import Spectrum, joined_warnings, spectrum_of_counts, warning_of
from ninscope.networks.neuron_network import NeuronNetwork, neuron_network
from ninscope.networks.radii import log_radii
from ninscope.networks.sampled import SampledNetwork, sampled_network
from ninscope.networks.shortest_paths import path_histograms, path_radii
from ninscope.parameters import Parameters, lists_parameters, parameters_of_call
from ninscope.progress import counting
from ninscope.shown import Shown, without_empty
from ninscope.threads import cores, threads_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class Measurement(Shown):
    """The spectra of one checkpoint: one for each of its samples, or the one of its whole network.

    q, tau, alpha, f, r2, alpha0 and width are means over the samples. A sample without a spectrum (Spectrum.message says why) is
    left out of the means, and `message` says how many were. network_nodes: nodes of one network; sample_edges: for each
    network, its edges within the distance bounds (across several layers: pairs of nodes that a path joins). method: "sampled" or
    "exact". layers: statistics of every node layer that edges leave, of an exact measurement. nodes_of: by layer, the values of
    its single neurons, where Parameters.per_node asks for them. parts: by the part's name ("block/block0", "kind/attention",
    "layer/block0.x"), one spectrum a sample, where Parameters.parts asks for them. reading_warning: why not to trust how the
    checkpoint was read, one clause, or empty. layers_counted: node layers with a node that counts, None of samples.
    """

    samples: tuple[Spectrum, ...]
    network_nodes: int
    sample_edges: tuple[int, ...]
    message: str = ""
    method: str = "sampled"
    layers: tuple[LayerStatistics, ...] = ()
    nodes_of: Mapping[str, NodeValues] = field(default_factory=dict)
    parts: Mapping[str, tuple[Spectrum, ...]] = field(default_factory=dict)
    reading_warning: str = ""
    layers_counted: int | None = None

    def facts(self) -> dict[str, object]:
        """What a terminal or a notebook shows of it."""
        samples = len(self.samples) if self.method == "sampled" else None
        told = {"alpha0": self.alpha0, "width": self.width, "nodes": self.nodes, "edges": self.edges}
        notes = without_empty(
            samples=samples, parts=len(self.parts) or None, warning=self.warning, message=self.message
        )
        return {"method": self.method} | told | notes

    def plot(self, ax: "Axes | None" = None, label: str | None = None) -> "Axes":
        """Draw f(alpha), with a dot at alpha0. ax: where (default: axes of a new figure). label: in a legend."""
        from ninscope.report.plots import plot_spectrum

        return plot_spectrum(self.alpha, self.f, self.alpha0, ax, label)

    def part(self, name: str) -> "Measurement":
        """A part of the network as a measurement: its nodes and edges are those that count. Raises KeyError."""
        spectra = self.parts[name]
        edges = tuple(spectrum.edges for spectrum in spectra)
        return Measurement(spectra, max(spectrum.nodes for spectrum in spectra), edges, method=self.method)

    def _mean(self, name: str) -> np.ndarray:
        """The mean over the samples that have a spectrum, of a curve or of one number."""
        values = np.array([getattr(sample, name) for sample in self.samples])
        known = values[~np.isnan([sample.alpha0 for sample in self.samples])]
        return known.mean(axis=0) if len(known) else np.full(values.shape[1:], np.nan)

    def _std(self, name: str) -> float:
        return known_std([getattr(sample, name) for sample in self.samples])

    @property
    def q(self) -> np.ndarray:
        return self.samples[0].q

    @property
    def tau(self) -> np.ndarray:
        return self._mean("tau")

    @property
    def alpha(self) -> np.ndarray:
        return self._mean("alpha")

    @property
    def f(self) -> np.ndarray:
        return self._mean("f")

    @property
    def r2(self) -> np.ndarray:
        return self._mean("r2")

    @property
    def alpha0(self) -> float:
        return float(self._mean("alpha0"))

    @property
    def width(self) -> float:
        return float(self._mean("width"))

    @property
    def alpha0_std(self) -> float:
        """Over samples, n - 1 in the denominator."""
        return self._std("alpha0")

    @property
    def width_std(self) -> float:
        """Over samples, n - 1 in the denominator."""
        return self._std("width")

    @property
    def r2_mass_mean(self) -> float:
        return float(self._mean("r2_mass_mean"))

    @property
    def r2_partition(self) -> float:
        return float(self._mean("r2_partition"))

    @property
    def warning(self) -> str:
        """Why not to trust the spectrum; empty if nothing speaks against it."""
        return joined_warnings(warning_of(self.r2_mass_mean, self.r2_partition, self.samples), self.reading_warning)

    @property
    def origin(self) -> Origin | None:
        """How it was made, as far as that is known."""
        return self.samples[0].origin

    @property
    def nodes(self) -> int:
        return self.network_nodes

    @property
    def nodes_counted(self) -> float:
        """Nodes with enough edges to count, the mean over samples."""
        return float(np.mean([sample.nodes for sample in self.samples]))

    @property
    def edges(self) -> float:
        """Mean over samples; a whole number where there is one."""
        mean = float(np.mean(self.sample_edges))
        return int(mean) if mean.is_integer() else mean


@dataclass(frozen=True, repr=False)
class Measured(Shown):
    """The result of one revision: a spectrum, or the status and message that say why there is none.

    emergence: E against the revision `baseline`; NaN, with the message saying why, where there is none. warning: why not to
    trust the spectrum or E, or empty. parts: by the part's name a row of its own, where Parameters.parts asks for them.
    """

    revision: str
    step: int | None
    status: str
    message: str
    spectrum: Measurement | None
    emergence: float = math.nan
    baseline: str = ""
    warning: str = ""
    parts: Mapping[str, "Measured"] = field(default_factory=dict)

    @property
    def alpha0(self) -> float:
        """Of the spectrum; NaN where there is none, as is width."""
        return math.nan if self.spectrum is None else self.spectrum.alpha0

    @property
    def width(self) -> float:
        return math.nan if self.spectrum is None else self.spectrum.width

    def facts(self) -> dict[str, object]:
        """What a terminal or a notebook shows of it."""
        spectrum = self.spectrum
        told = {} if spectrum is None else {"alpha0": spectrum.alpha0, "width": spectrum.width, "E": self.emergence}
        against = self.baseline if told else None
        notes = without_empty(baseline=against, warning=self.warning, message=self.message)
        return {"revision": self.revision, "status": self.status} | told | notes


def analyse_network(network: SampledNetwork, parameters: Parameters) -> Measurement:
    """The spectrum of every sample of a network, and of its parts where Parameters.parts asks for them."""
    parts = parts_of([layer for layer in network.layers if layer.name in network.sources], parameters.parts)
    rows = {part: network.rows_of(layers) for part, layers in parts.items()}
    spectra: list[Spectrum] = []
    part_spectra: dict[str, list[Spectrum]] = {part: [] for part in parts}
    degrees = np.zeros((network.samples, network.nodes), np.int64)
    for sample, (counts, logarithms) in enumerate(_counts(network, parameters)):
        spectra.append(_spectrum(counts, logarithms, parameters))
        for part, chosen in rows.items():
            part_spectra[part].append(_spectrum(counts[chosen], logarithms, parameters))
        degrees[sample] = counts.sum(axis=1)
    return Measurement(
        tuple(spectra),
        network.nodes,
        tuple(degrees.sum(axis=1).tolist()),
        "; ".join(_notes(network, spectra, degrees, parameters)),
        parts={part: tuple(samples) for part, samples in part_spectra.items()},
    )


def _spectrum(counts: np.ndarray, logarithms: np.ndarray, parameters: Parameters) -> Spectrum:
    return spectrum_of_counts(counts, parameters.min_degree, parameters.q, logarithms, parameters.derivative)


def _notes(
    network: SampledNetwork, spectra: list[Spectrum], degrees: np.ndarray, parameters: Parameters
) -> Iterator[str]:
    if without := without_spectrum([spectrum.message for spectrum in spectra], "samples"):
        yield without
    elif silent := network.layers_without_nodes(degrees, parameters.min_degree):
        yield uncounted_layers(silent)
    if taken_whole := network.layers_taken_whole(parameters.sampled_nodes):
        yield taken_whole
    if network.unverified:
        yield network.unverified


def _counts(network: SampledNetwork, parameters: Parameters) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(edges, or nodes reached across several layers, per node and distance bin; ln r of every bin) of each sample."""
    if (crossed := parameters.layers_crossed) > 1:
        logarithms = path_radii(parameters.integer_radii, crossed)
        yield from ((counts, logarithms) for counts in path_histograms(network, crossed, parameters.integer_radii))
        return
    for sample in range(network.samples):
        indptr, part = network.row_pointer(sample)
        weights = network.matrix.data[part]
        log_count = parameters.log_count
        radii = parameters.integer_radii if log_count is None else log_radii(log_count, np.abs(weights))
        yield box_histogram(indptr, radii.bins(weights), radii.count), radii.logarithms


def sample_network(network: NeuronNetwork, parameters: Parameters) -> SampledNetwork:
    """All samples of a checkpoint's network. Raises CheckpointError."""
    return sampled_network(
        network, parameters.sampled_nodes, parameters.samples, parameters.seed, parameters.edge_bound
    )


def exact_measurement(analysis: ExactAnalysis) -> Measurement:
    """An exact analysis as a measurement of one network."""
    return Measurement(
        (analysis.spectrum,),
        analysis.nodes,
        (analysis.edges,),
        "; ".join(note for note in (analysis.spectrum.message, analysis.unverified) if note),
        "exact",
        analysis.layers,
        analysis.values,
        {name: (spectrum,) for name, spectrum in analysis.parts.items()},
        layers_counted=analysis.layers_counted,
    )


def measured_network(
    network: NeuronNetwork,
    parameters: Parameters,
    threads: int = 1,
    layers: bool = True,
    models: tuple[str, ...] = (),
) -> Measurement:
    """The spectra of a checkpoint's network, exact or of samples, as the parameters ask. Raises CheckpointError.

    layers: False leaves out the statistics of node layers, a tenth of the time of a small checkpoint. models: as in Origin.
    """
    if parameters.exact:
        measurement = exact_measurement(exact_analysis(network, parameters, threads, statistics=layers))
    else:
        measurement = analyse_network(sample_network(network, parameters), parameters)
    message = "; ".join(note for note in (network.note, measurement.message) if note)
    return replace(
        with_origin(measurement, origin_of(parameters, network.digest, network.family, models)),
        message=message,
        reading_warning=network.warning,
    )


def origin_of(parameters: Parameters, wiring: str | None, family: str | None, models: tuple[str, ...] = ()) -> Origin:
    """How the spectra of a network that is wired so are made with these parameters. wiring, family, models: as in Origin."""
    exact, integer = parameters.exact, parameters.log_count is None
    return Origin(
        method="exact" if exact else "sampled",
        nodes_per_layer=None if exact else parameters.sampled_nodes,
        samples=None if exact else parameters.samples,
        seed=None if exact else parameters.seed,
        transfer=parameters.transfer,
        radii=parameters.radii,
        max_distance=float(parameters.max_distance) if integer else None,
        min_degree=parameters.min_degree,
        derivative=parameters.derivative,
        layers_crossed=parameters.layers_crossed,
        wiring=wiring,
        family=family,
        models=models,
        part="",
    )


def with_origin(measurement: Measurement, origin: Origin) -> Measurement:
    """The measurement, whose spectra, and those of whose parts, say how they were made."""
    samples = tuple(replace(spectrum, origin=origin) for spectrum in measurement.samples)
    parts = {
        name: tuple(replace(spectrum, origin=replace(origin, part=name)) for spectrum in spectra)
        for name, spectra in measurement.parts.items()
    }
    return replace(measurement, samples=samples, parts=parts)


@lists_parameters
def measure(
    source: Any,
    revision: str | None = None,
    exact: bool | None = None,
    base: str | None = None,
    base_revision: str | None = None,
    **parameters: Any,
) -> Measurement:
    """The spectrum of one checkpoint, from its weights alone.

    source: a folder with one checkpoint, a folder of revision folders, a file of weights, or a Hub repository id ("org/name");
    or a model in memory: a torch module, or a state dict (without a configuration it is read as generic).
    revision: which one, where the source has several; a Hub repository without step branches is taken at "main".
    exact: True takes every neuron and every weight, streamed, False takes samples (default: exact, unless nodes_per_layer,
    samples or seed is given). Sampled values depend on the number of neurons taken; they approach the exact one
    (docs/method.md#sampling).
    base: where the source holds LoRA adapters, the model (a folder, or a repository) that each is merged into; without it an
    adapter is measured alone. base_revision: which revision of the base, where a folder has several (default: of a repository
    "main").
    parameters: how the network is drawn and analysed, the fields of `ninscope.Parameters`; they are listed below.

    Raises RequestError: the source does not exist, or has several revisions and none was named, or a parameter is wrong.
    Raises CheckpointError: this checkpoint is missing, corrupt, nonfinite or unsupported (its `status`).
    """
    chosen = parameters_of_call(parameters, exact, signature(measure).parameters)
    opened = open_source(source, base, base_revision)
    name = revision_of(opened, revision)
    network = neuron_network(opened.open(name), chosen.reading)
    return measured_network(network, chosen, cores(), models=opened.models_of(name))


@lists_parameters
def measure_all(
    source: Any,
    revision: str | None = None,
    done: Callable[[Measured], None] = lambda measured: None,
    workers: int | None = None,
    exact: bool | None = None,
    trust_duplicates: bool = False,
    base: str | None = None,
    base_revision: str | None = None,
    layers: bool = True,
    baseline: str | int | None = None,
    progress: bool = False,
    **parameters: Any,
) -> MeasuredRows:
    """Every revision of a source (or the one named), in step order, each with E against the baseline of the same source.

    baseline: what E compares with: a revision, a step, or "first", the first by step (default: step 0 where there is one).
    For one revision the baseline is measured too where the source has it. All revisions are audited first, and where two
    steps have the same weights there is no E that either would falsify (status duplicate), unless trust_duplicates.

    A checkpoint that cannot be analysed is a row with its status and message; the others go on. done: called after each, with
    its row before E is known. workers: threads (default: one a core); results do not depend on it. layers: False leaves the
    statistics of node layers out of the spectra. progress: show a bar on standard error. exact, base, base_revision, parameters:
    as in `measure`. Raises RequestError.
    """
    chosen = parameters_of_call(parameters, exact, signature(measure_all).parameters)
    opened = open_source(source, base, base_revision)
    chosen_baseline = named_baseline(opened, baseline)
    located_siblings = locate_siblings(opened, revision, trust_duplicates, chosen_baseline)
    siblings = {located.revision: located for located in located_siblings}
    names = list(siblings) if revision is None else _with_start(siblings, revision, chosen_baseline)

    threads = threads_of(workers)
    # Checkpoints are measured side by side; where there are fewer than threads, each is split over several.
    threads_each = max(threads // len(names), 1)

    def measured(name: str) -> tuple[LocatedRevision, Measurement | None]:
        located, measurement = _measured_revision(opened, siblings[name], chosen, threads_each, layers)
        done(_row(located, measurement, trust_duplicates))
        bar.advance()
        return located, measurement

    pool = ThreadPoolExecutor(threads)
    with counting(f"measuring {opened.label}", len(names), quiet=not progress) as bar:
        try:
            results = dict(zip(names, pool.map(measured, names), strict=True))
        finally:  # on Ctrl-C it is not to wait for checkpoints that nobody wants any more
            pool.shutdown(wait=False, cancel_futures=True)
    # Judged once more, with what their headers say.
    audited = audit_revisions(
        [results[name][0] if name in results else siblings[name] for name in siblings],
        baseline=chosen_baseline,
        trust_duplicates=trust_duplicates,
    )
    judged = [(located, results[located.revision][1]) for located in audited if located.revision in results]
    rows = _rows(judged, chosen_baseline, trust_duplicates)
    shown = rows if revision is None else [row for row in rows if row.revision == revision]
    return MeasuredRows(shown, opened.label)


def _with_start(siblings: Mapping[str, LocatedRevision], revision: str, baseline: Baseline) -> list[str]:
    """The revision, and before it the one that E compares it with."""
    starts = [name for name, located in siblings.items() if baseline.is_at(name, located.step) and name != revision]
    return [*starts[:1], revision]


def _measured_revision(
    source: Source, located: LocatedRevision, parameters: Parameters, threads: int, layers: bool
) -> tuple[LocatedRevision, Measurement | None]:
    """The revision with what its headers say, or why it failed, and its measurement where there is one."""
    if located.identity is None:
        return located, None
    # A revision of another shape than its siblings is opened all the same: its headers say more where it is no model at all.
    unlike = not located.ok
    located = replace(located, status="ok", message="")
    try:
        checkpoint = source.open(located.revision)
        network = neuron_network(checkpoint, parameters.reading)
        wirings = (Wiring.of(network, parameters.reading),)
        located = replace(located, kind=source.kind, parameters=checkpoint.parameters, wirings=wirings)
        models = source.models_of(located.revision)
        return located, None if unlike else measured_network(network, parameters, threads, layers, models)
    except CheckpointError as error:
        return failed(located, error), None
    except MemoryError:
        message = f"{located.revision}: there is not enough memory to measure it; use fewer workers or fewer radii"
        return replace(located, status="failed", message=message), None


def _rows(
    judged: list[tuple[LocatedRevision, Measurement | None]], baseline: Baseline, trust_duplicates: bool
) -> list[Measured]:
    usable = [measurement if located.ok else None for located, measurement in judged]
    start_name, start = next(
        (
            (located.revision, measurement)
            for (located, _), measurement in zip(judged, usable, strict=True)
            if measurement and baseline.is_at(located.revision, located.step)
        ),
        ("", None),
    )
    rows = []
    for (located, _), measurement in zip(judged, usable, strict=True):
        row = _row(located, measurement, trust_duplicates)
        if measurement is not None:
            row = _against(row, start, located.no_emergence, baseline, start_name)
            parts = {
                name: _against(
                    replace(row, message="", spectrum=measurement.part(name)),
                    start.part(name) if start is not None and name in start.parts else None,
                    located.no_emergence,
                    baseline,
                    start_name,
                )
                for name in measurement.parts
            }
            row = replace(row, parts=parts)
        rows.append(row)
    return rows


def _against(
    row: Measured, start: Measurement | None, no_emergence: str, baseline: Baseline, start_name: str
) -> Measured:
    """A row that has a spectrum, with E against that of the baseline."""
    assert row.spectrum is not None
    comparison = compared(row.spectrum, start, no_emergence, baseline.label)
    return replace(
        row,
        message="; ".join(clause for clause in (row.message, comparison.message) if clause),
        warning=joined_warnings(row.spectrum.warning, comparison.warning),
        emergence=comparison.emergence,
        baseline=start_name,
    )


def _row(located: LocatedRevision, measurement: Measurement | None, trust_duplicates: bool) -> Measured:
    """The row of a revision, but for E."""
    if measurement is None:
        return Measured(located.revision, located.step, located.status, located.message, None)
    note, is_duplicate = located.audit_note(trust_duplicates)  # of a duplicate, the reason why there is no E says it
    clauses = (measurement.message, "" if is_duplicate else note, located.unsure)
    message = "; ".join(clause for clause in clauses if clause)
    return Measured(located.revision, located.step, located.emergence_status, message, measurement)
