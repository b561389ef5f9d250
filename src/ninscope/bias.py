"""How sampling changes what is measured: alpha0, width and E against the number of neurons taken from each layer.

NeuroMFA takes the sampled network for the whole one (Eq. 28), but values depend on the sample's size (docs/method.md#sampling).
This measures how much, on a checkpoint: samples of every size and the whole network, all from one pass over the weights.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ninscope.checkpoints.baseline import Baseline
from ninscope.checkpoints.source import Source, open_source
from ninscope.errors import CheckpointError, RequestError
from ninscope.exact.bands import ChosenNeurons
from ninscope.exact.whole import ExactAnalysis, analyse_networks
from ninscope.locating import LocatedRevision, Wiring, audit_revisions, locate_siblings, named_baseline, named_revision
from ninscope.measurement import Measurement, exact_measurement
from ninscope.multifractal.emergence import compared, emergence_of
from ninscope.multifractal.means import known_std, without_spectrum
from ninscope.networks.neuron_network import NeuronNetwork, neuron_network
from ninscope.networks.sampling import sampled_neurons
from ninscope.parameters import MAX_NODES_PER_LAYER, Parameters, parameters_of_call
from ninscope.threads import threads_of
from ninscope.wording import joined_clauses

SMALLEST = 16
COLUMNS = {
    "revision": "string", "step": "Int64", "method": "string", "nodes_per_layer": "Int64", "samples": "int64",
    "nodes": "int64", "alpha0": "float64", "alpha0_std": "float64", "width": "float64", "width_std": "float64",
    "emergence": "float64", "emergence_std": "float64", "message": "string", "baseline": "string",
    "warning": "string",
}  # fmt: skip


def sampling_bias(
    source: str,
    revision: str | int | None = None,
    nodes_per_layer: Sequence[int] | None = None,
    samples: int = Parameters.samples,
    seed: int = Parameters.seed,
    workers: int | None = None,
    trust_duplicates: bool = False,
    trust_unlike_counts: bool = False,
    baseline: str | int | None = None,
    **parameters: Any,
) -> pd.DataFrame:
    """One row for each number of neurons per layer, then one for the whole network (method exact, nodes_per_layer missing).

    source: as in `ninscope.measure`. revision: which one (default: the last by step). nodes_per_layer: numbers of neurons
    (default: 16, 32, 64, ... as long as the largest layer has more). samples, seed: these choose the same neurons as in
    `measure`. parameters: q, transfer, max_distance, min_degree, derivative. workers: threads (default: one a core). baseline:
    what E compares with, as in `measure_all`.

    alpha0, width: means over samples, with their standard deviations (n - 1); emergence: E of the means against the baseline,
    from samples of the same size; emergence_std: over samples, each against its own neurons at the baseline. Values
    are missing where they do not exist, where the audit found that E would be false (unless trust_duplicates), or where it would
    compare unlike networks (unless trust_unlike_counts), and `message` says why. `warning`: why not to trust a spectrum or E.

    Raises RequestError: a wrong source or parameter. Raises CheckpointError: the checkpoint is missing or cannot be analysed, or
    the baseline cannot.
    """
    chosen = parameters_of_call({**parameters, "nodes_per_layer": 1, "samples": samples, "seed": seed}, exact=False)
    if chosen.log_count is not None:
        raise RequestError("logarithmic radii depend on the sample; the sampling bias is measured on integer radii")
    opened = open_source(source)
    chosen_baseline = named_baseline(opened, baseline)
    revision = None if revision is None else named_revision(opened, revision)
    siblings = {
        located.revision: located for located in locate_siblings(opened, revision, trust_duplicates, chosen_baseline)
    }
    name = list(siblings)[-1] if revision is None else revision
    start_name = next(
        (other for other, sibling in siblings.items() if chosen_baseline.is_at(other, sibling.step)), None
    )
    threads = threads_of(workers)
    siblings[name], now = _measured(opened, siblings[name], nodes_per_layer, chosen, threads)
    start = now if start_name == name else {}
    if start_name is not None and start_name != name and not siblings[name].falsified:
        try:
            siblings[start_name], start = _measured(opened, siblings[start_name], nodes_per_layer, chosen, threads)
        except CheckpointError as error:
            raise CheckpointError(error.status, f"{start_name}, which E compares with: {error}") from None
    # Judged once more, with what the headers say.
    audited = audit_revisions(list(siblings.values()), baseline=chosen_baseline, trust_duplicates=trust_duplicates)
    located = next(located for located in audited if located.revision == name)
    located.check()
    rows = [
        {"revision": name, "step": located.step}
        | _row(size, now[size], start.get(size), located.no_emergence, chosen_baseline, trust_unlike_counts)
        for size in [*(size for size in now if size is not None), None]
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _measured(
    source: Source, located: LocatedRevision, sizes: Sequence[int] | None, parameters: Parameters, workers: int
) -> tuple[LocatedRevision, dict[int | None, Measurement]]:
    """The revision with its wiring, and its measurement by neurons per layer, None for the whole network."""
    located.check()
    network = neuron_network(source.open(located.revision), parameters.reading)
    located = replace(located, wirings=(Wiring.of(network, parameters.reading),))
    return located, _measurements(network, _checked_sizes(sizes, network), parameters, workers)


def _measurements(
    network: NeuronNetwork, sizes: Sequence[int], parameters: Parameters, workers: int
) -> dict[int | None, Measurement]:
    # The whole network first: what is not finite is found where it first stands, not where a sample first has it.
    choices: list[tuple[int | None, ChosenNeurons]] = [(None, None)]
    choices += [
        (size, _neurons(network, size, sample, parameters.seed))
        for size in sizes
        for sample in range(parameters.samples)
    ]
    all_analyses = analyse_networks(
        network, parameters, parameters.integer_radii, [chosen for _, chosen in choices], workers
    )
    by_size: dict[int | None, list[ExactAnalysis]] = {}
    for (size, _), analysis in zip(choices, all_analyses, strict=True):
        by_size.setdefault(size, []).append(analysis)
    return {
        size: replace(_measurement(size, analyses), reading_warning=network.warning)
        for size, analyses in by_size.items()
    }


def _measurement(size: int | None, analyses: Sequence[ExactAnalysis]) -> Measurement:
    if size is None:
        return exact_measurement(analyses[0])
    spectra = tuple(analysis.spectrum for analysis in analyses)
    messages = [spectrum.message for spectrum in spectra]
    message = messages[0] if len(messages) == 1 else without_spectrum(messages, "samples")
    message = joined_clauses(message, analyses[0].unverified)
    return Measurement(spectra, analyses[0].nodes, tuple(analysis.edges for analysis in analyses), message)


def _checked_sizes(nodes_per_layer: Sequence[int] | None, network: NeuronNetwork) -> list[int]:
    largest = max(network.sizes.values())
    if nodes_per_layer is None:
        doubled = [SMALLEST << step for step in range(32)]
        return [size for size in doubled if size < largest]
    given = isinstance(nodes_per_layer, Sequence | np.ndarray) and not isinstance(nodes_per_layer, str)
    sizes = list(nodes_per_layer) if given else []
    whole = all(isinstance(size, int | np.integer) and not isinstance(size, bool) for size in sizes)
    if not sizes or not whole or not all(1 <= size <= MAX_NODES_PER_LAYER for size in sizes):
        raise RequestError(
            f"nodes_per_layer is {nodes_per_layer!r}; a list of integers from 1 to {MAX_NODES_PER_LAYER} was expected"
        )
    return sorted({int(size) for size in sizes})


def _neurons(network: NeuronNetwork, size: int, sample: int, seed: int) -> dict[str, np.ndarray]:
    return {layer.name: sampled_neurons(seed, sample, layer.sample_group, layer.size, size) for layer in network.layers}


def _row(
    size: int | None,
    now: Measurement,
    start: Measurement | None,
    no_emergence: str,
    baseline: Baseline,
    trust_unlike_counts: bool,
) -> dict[str, Any]:
    comparison = compared(now, start, no_emergence, baseline.label, trust_unlike_counts=trust_unlike_counts)
    has_e = start is not None and not math.isnan(comparison.emergence)
    pairs = zip(now.samples, start.samples, strict=True) if start is not None and has_e else ()
    values = [emergence_of(after.alpha0, after.width, before.alpha0, before.width) for after, before in pairs]
    return {
        "method": now.method,
        "nodes_per_layer": pd.NA if size is None else size,
        "samples": len(now.samples),
        "nodes": now.nodes,
        "alpha0": now.alpha0,
        "alpha0_std": now.alpha0_std,
        "width": now.width,
        "width_std": now.width_std,
        "emergence": comparison.emergence,
        "emergence_std": known_std(values),
        "baseline": baseline.label,
        "warning": joined_clauses(now.warning, comparison.warning),
        "message": joined_clauses(now.message, comparison.message),
    }
