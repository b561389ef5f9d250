"""How sampling changes what is measured: alpha0, width and E against the number of neurons taken from each layer.

NeuroMFA takes the sampled network for the whole one (Eq. 28), but values depend on the sample's size (docs/method.md#sampling).
This measures it on a checkpoint: samples of every size and the whole network, all from one pass over the weights.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ninscope.architectures import architecture_of
from ninscope.architectures.layout import Architecture
from ninscope.auditing import siblings
from ninscope.checkpoints.audit import falsified
from ninscope.checkpoints.source import Source, open_source
from ninscope.errors import CheckpointError, RequestError
from ninscope.exact.bands import Chosen
from ninscope.exact.whole import analyse_networks
from ninscope.measuring import asked_parameters
from ninscope.multifractal.emergence import emergence, emergence_of, why_undefined
from ninscope.multifractal.means import MeanSpectrum, known_std, without_spectrum
from ninscope.multifractal.spectrum import Spectrum
from ninscope.networks.sampling import sampled_neurons
from ninscope.parameters import MAX_NODES_PER_LAYER, Parameters
from ninscope.threads import threads_of

SMALLEST = 16
COLUMNS = {
    "revision": "string", "step": "Int64", "method": "string", "nodes_per_layer": "Int64", "samples": "int64",
    "nodes": "int64", "alpha0": "float64", "alpha0_std": "float64", "width": "float64", "width_std": "float64",
    "emergence": "float64", "emergence_std": "float64", "message": "string",
}  # fmt: skip


def sampling_bias(
    source: str,
    revision: str | None = None,
    nodes_per_layer: Sequence[int] | None = None,
    samples: int = Parameters.samples,
    seed: int = Parameters.seed,
    workers: int | None = None,
    trust_duplicates: bool = False,
    **parameters,
) -> pd.DataFrame:
    """One row for each number of neurons per layer, then one for the whole network (method exact, nodes_per_layer missing).

    source: as `ninscope.measure`; revision: default the last by step. nodes_per_layer: default 16, 32, 64, ... as long as the
    largest layer has more. samples, seed: the same neurons as `measure` takes with them. parameters: q, transfer,
    max_distance, min_degree, derivative. workers: threads, default one a core.

    alpha0, width: means over samples, with their standard deviations (n - 1); emergence: E of the means against step 0 of the
    same source, from samples of the same size; emergence_std: over samples, each against its own neurons at step 0. Values
    are missing where they do not exist, or where the audit found that E would be false (unless trust_duplicates), and `message`
    says why.

    Raises RequestError: a wrong source or parameter. Raises CheckpointError: the checkpoint is missing or cannot be analysed, or
    step 0 cannot.
    """
    chosen = asked_parameters({**parameters, "nodes_per_layer": 1, "samples": samples, "seed": seed}, exact=False)
    if chosen.log_count is not None:
        raise RequestError("logarithmic radii depend on the sample; the sampling bias is measured on integer radii")
    opened = open_source(source)
    found, _ = siblings(opened, revision)
    revision = list(found)[-1] if revision is None else revision
    start = next((name for name in found if opened.step_of(name) == 0), None)
    no_e = "" if trust_duplicates else falsified(list(found.values())).get(revision, "")
    found[revision].check_shape()
    now, nodes = _spectra(opened, revision, nodes_per_layer, chosen, threads_of(workers))
    before = now
    if start is None or no_e:
        before = {}
    elif start != revision:
        try:
            found[start].check_shape()
            before, _ = _spectra(opened, start, nodes_per_layer, chosen, threads_of(workers))
        except CheckpointError as error:
            raise CheckpointError(error.status, f"{start}, which E compares with: {error}") from None
    keys = {"revision": revision, "step": opened.step_of(revision)}
    sizes = [*(size for size in now if size is not None), None]
    rows = [keys | _row(size, nodes[size], now[size], before.get(size, []), no_e) for size in sizes]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _spectra(
    opened: Source, revision: str, asked: Sequence[int] | None, parameters: Parameters, workers: int
) -> tuple[dict[int | None, list[Spectrum]], dict[int | None, int]]:
    """(spectra of every sample, nodes of one network), both by neurons per layer, None for the whole network."""
    checkpoint = opened.open(revision)
    architecture = architecture_of(checkpoint.config, checkpoint.tensors, parameters.reading)
    sizes = _checked_sizes(asked, architecture)
    # The whole network first: what is not finite is found where it first stands, not where a sample first has it.
    networks: list[tuple[int | None, Chosen]] = [(None, None)]
    networks += [
        (size, _neurons(architecture, size, sample, parameters.seed))
        for size in sizes
        for sample in range(parameters.samples)
    ]
    choices = [choice for _, choice in networks]
    analyses = analyse_networks(checkpoint, architecture, parameters, parameters.integer_radii, choices, workers)
    spectra: dict[int | None, list[Spectrum]] = {}
    nodes = {}
    for (size, _), analysis in zip(networks, analyses, strict=True):
        spectra.setdefault(size, []).append(analysis.spectrum)
        nodes[size] = analysis.nodes
    return spectra, nodes


def _checked_sizes(asked: Sequence[int] | None, architecture: Architecture) -> list[int]:
    largest = max(layer.size for layer in architecture.layers)
    if asked is None:
        doubled = [SMALLEST << step for step in range(32)]
        return [size for size in doubled if size < largest]
    sizes = list(asked) if isinstance(asked, Sequence | np.ndarray) and not isinstance(asked, str) else []
    whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in sizes)
    if not sizes or not whole or not all(1 <= n <= MAX_NODES_PER_LAYER for n in sizes):
        raise RequestError(
            f"nodes_per_layer is {asked!r}; a list of integers from 1 to {MAX_NODES_PER_LAYER} was expected"
        )
    return sorted({int(size) for size in sizes})


def _neurons(architecture: Architecture, size: int, sample: int, seed: int) -> dict[str, np.ndarray]:
    return {
        layer.name: sampled_neurons(seed, sample, layer.sample_group, layer.size, size) for layer in architecture.layers
    }


def _row(size: int | None, nodes: int, now: list[Spectrum], start: list[Spectrum], no_e: str) -> dict:
    mean, mean_start = _mean(now), _mean(start) if start else None
    pairs = zip(now, start, strict=True) if start else ()
    of_samples = [emergence_of(one.alpha0, one.width, other.alpha0, other.width) for one, other in pairs]
    messages = [spectrum.message for spectrum in now]
    undefined = no_e or why_undefined(mean, mean_start)
    notes = (messages[0] if len(now) == 1 else without_spectrum(messages, "samples"), undefined)
    return {
        "method": "exact" if size is None else "sampled",
        "nodes_per_layer": pd.NA if size is None else size,
        "samples": len(now),
        "nodes": nodes,
        "alpha0": mean.alpha0,
        "alpha0_std": known_std([spectrum.alpha0 for spectrum in now]),
        "width": mean.width,
        "width_std": known_std([spectrum.width for spectrum in now]),
        "emergence": emergence(mean, mean_start),
        "emergence_std": known_std(of_samples),
        "message": "; ".join(note for note in notes if note),
    }


def _mean(spectra: Sequence[Spectrum]) -> MeanSpectrum:
    return MeanSpectrum([spectrum.alpha0 for spectrum in spectra], [spectrum.width for spectrum in spectra])
