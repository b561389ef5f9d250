"""What a checkpoint's analysis gives: spectra, of samples or of the whole network, and how they were made."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ninscope.checks import checked_confidence
from ninscope.exact.layers import LayerStatistics, NodeValues
from ninscope.exact.whole import ExactAnalysis
from ninscope.multifractal.jackknife import jackknife_interval
from ninscope.multifractal.means import known_std
from ninscope.multifractal.origin import Origin
from ninscope.multifractal.spectrum import Spectrum, warning_of
from ninscope.parameters import Parameters
from ninscope.shown import Shown, without_empty
from ninscope.wording import joined_clauses

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
    checkpoint was read, one clause, or empty. layers_counted: node layers with a node that counts, counted_layers: their names,
    both None of samples.
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
    counted_layers: frozenset[str] | None = None

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
        """Orders of the moments, float64 [n]."""
        return self.samples[0].q

    @property
    def tau(self) -> np.ndarray:
        """Mass exponent at every q, float64 [n]."""
        return self._mean("tau")

    @property
    def alpha(self) -> np.ndarray:
        """Lipschitz-Hölder exponents, float64 [n], or [n - 1] by forward differences."""
        return self._mean("alpha")

    @property
    def f(self) -> np.ndarray:
        """Multifractal spectrum at every alpha, float64 like alpha."""
        return self._mean("f")

    @property
    def r2(self) -> np.ndarray:
        """R^2 of ln Z_q on ln(r/d) for every q, float64 [n]."""
        return self._mean("r2")

    @property
    def alpha0(self) -> float:
        """Regularity: alpha at the largest f."""
        return float(self._mean("alpha0"))

    @property
    def width(self) -> float:
        """Heterogeneity: the largest alpha less the smallest."""
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
        """R^2 of ln N_i(r) on ln r, the mean over the nodes that count."""
        return float(self._mean("r2_mass_mean"))

    @property
    def r2_partition(self) -> float:
        """R^2 of ln Z_q on ln(r/d), the mean over q without 0."""
        return float(self._mean("r2_partition"))

    @property
    def warning(self) -> str:
        """Why not to trust the spectrum; empty if nothing speaks against it."""
        return joined_clauses(warning_of(self.r2_mass_mean, self.r2_partition, self.samples), self.reading_warning)

    @property
    def left_out(self) -> dict[str, tuple[float, float]]:
        """alpha0 and width without each node layer that counts, by its name; empty where that was not computed."""
        known = {
            layer.layer: (layer.alpha0_without, layer.width_without) for layer in self.layers if layer.nodes_counted
        }
        return {} if np.isnan(list(known.values())).all() else known

    def interval(self, confidence: float = 0.95) -> dict[str, tuple[float, float]]:
        """(low, high) of "alpha0" and "width" of an exact measurement, by leaving out one node layer at a time.

        It says how much the numbers hang on single layers, not how much they differ between seeds
        (docs/method.md#spread-of-the-exact-value). NaN of samples, and where there are fewer than two layers that count. Raises
        RequestError: confidence is not between 0 and 1.
        """
        confidence = checked_confidence(confidence)
        values = np.array(list(self.left_out.values())).reshape(-1, 2)
        return {
            "alpha0": jackknife_interval(self.alpha0, values[:, 0], confidence),
            "width": jackknife_interval(self.width, values[:, 1], confidence, logarithmic=True),
        }

    @property
    def origin(self) -> Origin | None:
        """How it was made, as far as that is known."""
        return self.samples[0].origin

    @property
    def nodes(self) -> int:
        """Nodes of one network, whether they count or not."""
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


def exact_measurement(analysis: ExactAnalysis) -> Measurement:
    """An exact analysis as a measurement of one network."""
    return Measurement(
        (analysis.spectrum,),
        analysis.nodes,
        (analysis.edges,),
        joined_clauses(analysis.spectrum.message, analysis.unverified),
        "exact",
        analysis.layers,
        analysis.values,
        {name: (spectrum,) for name, spectrum in analysis.parts.items()},
        layers_counted=analysis.layers_counted,
        counted_layers=analysis.counted_layers,
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
        direction=parameters.direction,
        wiring=wiring,
        family=family,
        models=models,
        part="",
        gauge=parameters.gauge,
        fit_radii="all" if parameters.fit_radii is None else (parameters.fit_radii[0], parameters.fit_radii[1]),
    )


def with_origin(measurement: Measurement, origin: Origin) -> Measurement:
    """The measurement, whose spectra, and those of whose parts, say how they were made."""
    samples = tuple(replace(spectrum, origin=origin) for spectrum in measurement.samples)
    parts = {
        name: tuple(replace(spectrum, origin=replace(origin, part=name)) for spectrum in spectra)
        for name, spectra in measurement.parts.items()
    }
    return replace(measurement, samples=samples, parts=parts)
