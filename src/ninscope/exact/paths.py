"""The analysis of a whole network across several layers, and that of its null models: every neuron, its shortest paths exact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ninscope.architectures.layout import parts_of
from ninscope.checkpoints.verification import Verification
from ninscope.exact.path_nulls import PATH_NULLS, Drawn, check_path_nulls
from ninscope.multifractal.node_dimension import mass_radius_fits
from ninscope.multifractal.partition import PartitionSums, partition_sums
from ninscope.multifractal.spectrum import Spectrum, mass_quality, spectrum_of_sums
from ninscope.networks.neuron_network import NeuronNetwork
from ninscope.networks.shortest_paths import path_radii
from ninscope.networks.walks import Redrawing
from ninscope.networks.whole_paths import whole_path_histograms
from ninscope.parameters import Parameters


@dataclass
class _Sums:
    """What a spectrum needs, added layer after layer."""

    sums: PartitionSums | None = None
    r2: list[np.ndarray] = field(default_factory=list)

    def add(self, sums: PartitionSums, r2: np.ndarray) -> None:
        self.sums = sums if self.sums is None else self.sums + sums
        self.r2.append(r2)

    def spectrum(self, parameters: Parameters, logarithms: np.ndarray) -> Spectrum:
        assert self.sums is not None
        quality = mass_quality(np.concatenate(self.r2))
        return spectrum_of_sums(self.sums, parameters.q, logarithms, parameters.derivative, **quality)


@dataclass(frozen=True)
class PathAnalysis:
    """spectrum: of the whole network; parts: of its parts, by name; reached: pairs of neurons that a path joins; silent: names of
    source layers without a node that counts; unverified: as in ExactAnalysis.
    """

    spectrum: Spectrum
    parts: Mapping[str, Spectrum]
    reached: int
    silent: Sequence[str]
    unverified: str = ""


def analyse_paths(network: NeuronNetwork, parameters: Parameters, workers: int = 1) -> PathAnalysis:
    """The spectrum of a whole network across parameters.layers_crossed layers, at least 2. workers: threads.

    Raises CheckpointError: what reading raises; unsupported, where blocks of distances do not fit into memory.
    """
    radii, k = parameters.integer_radii, parameters.layers_crossed
    logarithms = path_radii(radii, k)
    layers_of = parts_of(network.source_layers, parameters.parts)
    whole, parts = _Sums(), {part: _Sums() for part in layers_of}
    reached, silent = 0, []
    verification = Verification(network.tensors)
    for layer, (counts,) in whole_path_histograms(network, k, radii, threads=workers):
        degrees = counts.sum(axis=1, dtype=np.int64)
        reached += int(degrees.sum())
        _, r2 = mass_radius_fits(counts, parameters.min_degree, logarithms, degrees)
        sums, r2 = partition_sums(counts, parameters.min_degree, parameters.q, degrees), r2[~np.isnan(r2)]
        if sums.nodes == 0:
            silent.append(layer)
        for part in [whole, *(parts[name] for name, names in layers_of.items() if layer in names)]:
            part.add(sums, r2)
    note = verification.finish()
    spectra = {name: part.spectrum(parameters, logarithms) for name, part in parts.items()}
    return PathAnalysis(whole.spectrum(parameters, logarithms), spectra, reached, silent, note)


def path_null_spectra(
    network: NeuronNetwork, nulls: Mapping[str, int], parameters: Parameters, seed: int = 0, workers: int = 1
) -> dict[str, list[Spectrum]]:
    """Spectra of null models of a whole network across parameters.layers_crossed layers, one for each draw, in one pass.

    nulls: how many draws of each, by its name, one of PATH_NULLS. Raises CheckpointError: as `analyse_paths`, and unsupported
    where the network has no such null model; ValueError: an unknown one.
    """
    if unknown := [null for null in nulls if null not in PATH_NULLS]:
        raise ValueError(f"unknown null model of paths {unknown[0]!r}; one of {', '.join(PATH_NULLS)}")
    radii = parameters.integer_radii
    check_path_nulls(network, list(nulls), radii)
    logarithms = path_radii(radii, parameters.layers_crossed)
    draws = [(null, sample) for null, samples in nulls.items() for sample in range(samples)]
    redrawings: list[Redrawing | None] = [Drawn(null, radii, seed, sample) for null, sample in draws]
    sums = [_Sums() for _ in draws]
    verification = Verification(network.tensors)
    for _, counts in whole_path_histograms(network, parameters.layers_crossed, radii, redrawings, workers):
        for of_draw, own in zip(counts, sums, strict=True):
            own.add(partition_sums(of_draw, parameters.min_degree, parameters.q), np.zeros(0))
    verification.finish()
    spectra: dict[str, list[Spectrum]] = {null: [] for null in nulls}
    for (null, _), own in zip(draws, sums, strict=True):
        spectra[null].append(own.spectrum(parameters, logarithms))
    return spectra
