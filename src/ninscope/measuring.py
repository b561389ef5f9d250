"""From a checkpoint to its spectrum: where checkpoints, architectures, networks and multifractal meet."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from inspect import signature
from typing import Any

import numpy as np

from ninscope.architectures.layout import parts_of
from ninscope.checkpoints.baseline import Baseline
from ninscope.checkpoints.source import Source, open_source
from ninscope.devices import default_streams
from ninscope.errors import CheckpointError
from ninscope.exact.live import check_held_alike, counts_alone, held_analysis, lies_on_devices, ranks_of
from ninscope.exact.whole import ExactAnalysis, Passenger, exact_analysis, uncounted_layers
from ninscope.locating import (
    LocatedRevision,
    Wiring,
    audit_revisions,
    failed,
    locate_siblings,
    named_baseline,
    named_revision,
    revision_of,
)
from ninscope.measured_rows import Measured, MeasuredRows
from ninscope.measurement import Measurement, exact_measurement, origin_of, with_origin
from ninscope.multifractal.boxes import box_histogram
from ninscope.multifractal.emergence import compared
from ninscope.multifractal.means import without_spectrum
from ninscope.multifractal.spectrum import Spectrum, spectrum_of_counts
from ninscope.networks.incoming import directed
from ninscope.networks.neuron_network import NeuronNetwork, neuron_network
from ninscope.networks.radii import log_radii
from ninscope.networks.sampled import SampledNetwork, directed_sample, sampled_network
from ninscope.networks.shortest_paths import path_histograms, path_radii
from ninscope.networks.walks import Redrawing
from ninscope.parameters import Parameters, lists_parameters, parameters_of_call
from ninscope.progress import counting
from ninscope.ranks import ALONE, on_all_ranks
from ninscope.threads import cores, threads_of
from ninscope.wording import joined_clauses


def analyse_network(
    network: SampledNetwork, parameters: Parameters, redrawing: Callable[[int], Redrawing | None] = lambda sample: None
) -> Measurement:
    """The spectrum of every sample of a network, and of its parts where Parameters.parts asks for them.

    redrawing: the null model of each sample, of paths across several layers; None for the network itself.
    """
    network = directed_sample(network, parameters.direction)
    parts = parts_of([layer for layer in network.layers if layer.name in network.sources], parameters.parts)
    rows = {part: network.rows_of(layers) for part, layers in parts.items()}
    spectra: list[Spectrum] = []
    part_spectra: dict[str, list[Spectrum]] = {part: [] for part in parts}
    degrees = np.zeros((network.samples, network.nodes), np.int64)
    for sample, (counts, logarithms) in enumerate(_counts(network, parameters, redrawing)):
        spectra.append(_spectrum(counts, logarithms, parameters))
        for part, chosen in rows.items():
            part_spectra[part].append(_spectrum(counts[chosen], logarithms, parameters))
        degrees[sample] = counts.sum(axis=1)
    return Measurement(
        tuple(spectra),
        network.nodes,
        tuple(degrees.sum(axis=1).tolist()),
        joined_clauses(*_notes(network, spectra, degrees, parameters)),
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


def _counts(
    network: SampledNetwork, parameters: Parameters, redrawing: Callable[[int], Redrawing | None]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(edges, or nodes reached across several layers, per node and distance bin; ln r of every bin) of each sample."""
    if (crossed := parameters.layers_crossed) > 1:
        grid = parameters.integer_radii
        logarithms = path_radii(grid, crossed, parameters.fit_radii)
        histograms = path_histograms(network, crossed, grid, redrawing=redrawing)
        yield from ((counts, logarithms) for counts in histograms)
        return
    for sample in range(network.samples):
        indptr, part = network.row_pointer(sample)
        weights = network.matrix.data[part]
        log_count = parameters.log_count
        radii = parameters.integer_radii if log_count is None else log_radii(log_count, np.abs(weights))
        yield box_histogram(indptr, radii.bins(weights), radii.count), parameters.log_radii(radii)


def sample_network(network: NeuronNetwork, parameters: Parameters) -> SampledNetwork:
    """All samples of a checkpoint's network. Raises CheckpointError."""
    return sampled_network(
        network, parameters.sampled_nodes, parameters.samples, parameters.seed, parameters.edge_bound
    )


def measured_network(
    network: NeuronNetwork,
    parameters: Parameters,
    threads: int = 1,
    layers: bool = True,
    models: tuple[str, ...] = (),
    passenger: Passenger | None = None,
) -> Measurement:
    """The spectra of a checkpoint's network, exact or of samples, as the parameters ask. Raises CheckpointError.

    layers: False leaves out the statistics of node layers, a tenth of the time of a small checkpoint. models: as in Origin.
    passenger: sees every weight that an exact analysis of single layers reads.
    """
    if parameters.exact:
        with default_streams():
            analysis = _exact_analysis(network, parameters, threads, layers, passenger)
        measurement = exact_measurement(analysis)
    else:
        measurement = analyse_network(sample_network(network, parameters), parameters)
    message = joined_clauses(network.note, measurement.message)
    return replace(
        with_origin(measurement, origin_of(parameters, network.digest, network.family, models)),
        message=message,
        reading_warning=network.warning,
    )


def _exact_analysis(
    network: NeuronNetwork, parameters: Parameters, threads: int, layers: bool, passenger: Passenger | None
) -> ExactAnalysis:
    """Of files, and of models in memory: weights on a device are counted there, and those that ranks share by all of them."""
    ranks = ranks_of(network)
    if ranks.count > 1 or (passenger is None and counts_alone(parameters) and lies_on_devices(network)):
        check_held_alike(network, ranks)
        return held_analysis(network, parameters, ranks, threads, layers)
    whole = directed(network, parameters.direction)
    return exact_analysis(whole, parameters, threads, statistics=layers, passenger=passenger)


@lists_parameters
def measure(
    source: Any,
    revision: str | int | None = None,
    exact: bool | None = None,
    base: str | None = None,
    base_revision: str | None = None,
    **parameters: Any,
) -> Measurement:
    """The spectrum of one checkpoint, from its weights alone.

    source: a folder with one checkpoint, a folder of revision folders, a file of weights, or a Hub repository id ("org/name");
    or a model in memory: a torch module, or a state dict (without a configuration it is read as generic). A module is measured as
    it is used: parametrised weights are computed, and adapters of peft merged, a matrix at a time; the module stays as it is.
    revision: which one, by its name or its step, where the source has several; a Hub repository without step branches is taken
    at "main".
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
    network = on_all_ranks(getattr(opened, "ranks", ALONE), lambda: neuron_network(opened.open(name), chosen.reading))
    return measured_network(network, chosen, cores(), models=opened.models_of(name))


@lists_parameters
def measure_all(
    source: Any,
    revision: str | int | None = None,
    done: Callable[[Measured], None] = lambda measured: None,
    workers: int | None = None,
    exact: bool | None = None,
    trust_duplicates: bool = False,
    trust_unlike_counts: bool = False,
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
    steps have the same weights there is no E that either would falsify (status duplicate), unless trust_duplicates. Nor is there
    one where other layers count than in the baseline, or 10 % more or fewer nodes, unless trust_unlike_counts.

    A checkpoint that cannot be analysed is a row with its status and message; the others go on. done: called after each, with
    its row before E is known. workers: threads (default: one a core); results do not depend on it. layers: False leaves the
    statistics of node layers out of the spectra. progress: show a bar on standard error. exact, base, base_revision, parameters:
    as in `measure`. Raises RequestError.
    """
    chosen = parameters_of_call(parameters, exact, signature(measure_all).parameters)
    opened = open_source(source, base, base_revision)
    chosen_baseline = named_baseline(opened, baseline)
    revision = None if revision is None else named_revision(opened, revision)
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
    rows = _rows(judged, chosen_baseline, trust_duplicates, trust_unlike_counts)
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
    judged: list[tuple[LocatedRevision, Measurement | None]],
    baseline: Baseline,
    trust_duplicates: bool,
    trust_unlike_counts: bool,
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
            row = _against(row, start, located.no_emergence, baseline, start_name, trust_unlike_counts)
            parts = {
                name: _against(
                    replace(row, message="", spectrum=measurement.part(name)),
                    start.part(name) if start is not None and name in start.parts else None,
                    located.no_emergence,
                    baseline,
                    start_name,
                    trust_unlike_counts,
                )
                for name in measurement.parts
            }
            row = replace(row, parts=parts)
        rows.append(row)
    return rows


def _against(
    row: Measured,
    start: Measurement | None,
    no_emergence: str,
    baseline: Baseline,
    start_name: str,
    trust_unlike_counts: bool,
) -> Measured:
    """A row that has a spectrum, with E against that of the baseline."""
    assert row.spectrum is not None
    comparison = compared(row.spectrum, start, no_emergence, baseline.label, trust_unlike_counts=trust_unlike_counts)
    return replace(
        row,
        message=joined_clauses(row.message, comparison.message),
        warning=joined_clauses(row.spectrum.warning, comparison.warning),
        emergence=comparison.emergence,
        baseline=start_name,
    )


def _row(located: LocatedRevision, measurement: Measurement | None, trust_duplicates: bool) -> Measured:
    """The row of a revision, but for E."""
    if measurement is None:
        return Measured(located.revision, located.step, located.status, located.message, None)
    note, is_duplicate = located.audit_note(trust_duplicates)  # of a duplicate, the reason why there is no E says it
    message = joined_clauses(measurement.message, "" if is_duplicate else note, located.unsure)
    return Measured(located.revision, located.step, located.emergence_status, message, measurement)
