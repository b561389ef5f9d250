"""The controlled experiments: what the features are, how they reach the inputs, and which network is observed. Needs no torch."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from ninscope.checks import checked_integer, is_number
from ninscope.errors import RequestError

MAX_NEURONS = 100_000  # of a layer
MAX_EPOCHS, MAX_BATCH, MAX_SAMPLES_PER_OUTPUT = 1_000_000, 10_000_000, 1_000_000
MAX_VALUES = 2**28  # numbers in the features of all samples: 1 GiB in float32
MAX_PARAMETERS = 2**26  # of the observed network: 256 MiB in float32
MAX_NAME = 64


@dataclass(frozen=True)
class Experiment:
    """One controlled experiment (thesis "Polysemanticity under Pruning", section 3 and the figures of parameters, 6 to 29).

    name: in tables and file names; letters, digits, ".", "_" and "-". All random numbers of an experiment follow from its name and
    a seed. linear: no network has an activation function; otherwise hidden layers have ReLU. features: number of features.
    feature_layers: sizes of the feature model's hidden layers, whose neurons are the features. inputs, outputs: dimensions of the
    toy data. sparsity: lowest and highest probability that a feature is absent from a sample; each feature has its own, drawn
    evenly between them. observed: sizes of the observed network's layers, from inputs to outputs.

    threshold: a weight of the feature model below it, in absolute value, is 0. samples_per_output: samples for each feature and
    output. epochs, batch_size, learning_rate: of the observed network's training. test_share: of the samples, held out.

    Lists are kept as tuples. Raises RequestError: a value out of range, or values that contradict each other.
    """

    name: str
    linear: bool
    features: int
    feature_layers: tuple[int, ...]
    inputs: int
    outputs: int
    sparsity: tuple[float, float]
    observed: tuple[int, ...]
    threshold: float = 0.05
    epochs: int = 50
    samples_per_output: int = 50
    batch_size: int = 64
    learning_rate: float = 1e-3
    test_share: float = 0.3

    def __post_init__(self) -> None:
        _check_name(self.name)
        if not isinstance(self.linear, bool):
            raise RequestError(f"experiment {self.name}: linear is {self.linear!r}; true or false was expected")
        for key, low, high in (
            ("features", 2, MAX_NEURONS),
            ("inputs", 1, MAX_NEURONS),
            ("outputs", 1, MAX_NEURONS),
            ("epochs", 1, MAX_EPOCHS),
            ("samples_per_output", 1, MAX_SAMPLES_PER_OUTPUT),
            ("batch_size", 1, MAX_BATCH),
        ):
            self._keep(key, checked_integer(self._named(key), getattr(self, key), low, high))
        self._keep("feature_layers", self._checked_sizes("feature_layers", 2))
        self._keep("observed", self._checked_sizes("observed", 1))
        self._check_layers()
        self._keep("sparsity", self._checked_sparsity())
        self._check_number("threshold", self.threshold, 0, 1)
        self._check_number("test_share", self.test_share, 0, 1, low_counts=False)
        self._check_number("learning_rate", self.learning_rate, 0, math.inf, low_counts=False)
        self._check_size()

    @property
    def samples(self) -> int:
        """Number of samples, of training and test together."""
        return self.samples_per_output * self.features * self.outputs

    @property
    def test_samples(self) -> int:
        """Number of samples that are held out: test_share of them, rounded to the nearest."""
        return round(self.test_share * self.samples)

    def _named(self, key: str) -> str:
        return f"experiment {self.name}: {key}"

    def _keep(self, key: str, value: object) -> None:
        object.__setattr__(self, key, value)

    def _checked_sizes(self, key: str, low: int) -> tuple[int, ...]:
        sizes = getattr(self, key)
        if isinstance(sizes, str) or not isinstance(sizes, Iterable):
            raise RequestError(f"{self._named(key)} is {sizes!r}; a list of layer sizes was expected")
        return tuple(checked_integer(f"{self._named(key)}: a layer", size, low, MAX_NEURONS) for size in sizes)

    def _check_layers(self) -> None:
        if sum(self.feature_layers) != self.features:
            raise RequestError(
                f"{self._named('feature_layers')} has {sum(self.feature_layers)} neurons and features is {self.features}; "
                "each neuron is a feature, so make them equal"
            )
        ends = (self.inputs, self.outputs)
        if len(self.observed) < 3 or (self.observed[0], self.observed[-1]) != ends:
            raise RequestError(
                f"{self._named('observed')} is {list(self.observed)}; a list was expected that begins with inputs "
                f"({self.inputs}), has at least one hidden layer and ends with outputs ({self.outputs})"
            )

    def _checked_sparsity(self) -> tuple[float, float]:
        try:
            low, high = self.sparsity
        except (TypeError, ValueError):
            low = high = math.nan
        if not (is_number(low) and is_number(high) and 0 <= low <= high < 1):
            raise RequestError(
                f"{self._named('sparsity')} is {self.sparsity!r}; two probabilities were expected, the lowest and the highest, "
                "from 0 to below 1: at 1 a feature is in no sample"
            )
        return float(low), float(high)

    def _check_number(self, key: str, value: object, low: float, high: float, low_counts: bool = True) -> None:
        if not is_number(value) or not (low <= value < high if low_counts else low < value < high):
            least = f"from {low}" if low_counts else f"above {low}"
            most = "" if math.isinf(high) else f" to below {high}"
            raise RequestError(f"{self._named(key)} is {value!r}; a number {least}{most} was expected")
        self._keep(key, float(value))

    def _check_size(self) -> None:
        values = self.samples * max(self.features, self.inputs, self.outputs)
        if values > MAX_VALUES:
            raise RequestError(
                f"experiment {self.name}: {self.samples} samples make {values} numbers, more than {MAX_VALUES}; "
                "ask for fewer features, outputs or samples_per_output"
            )
        parameters = sum(below * above + above for below, above in pairwise(self.observed))
        if parameters > MAX_PARAMETERS:
            raise RequestError(
                f"{self._named('observed')} has {parameters} parameters, more than {MAX_PARAMETERS}; ask for smaller layers"
            )
        if not 0 < self.test_samples < self.samples:
            raise RequestError(
                f"{self._named('test_share')} is {self.test_share}; of {self.samples} samples it holds out {self.test_samples}, "
                "and there must be some on both sides"
            )


def _check_name(name: object) -> None:
    plain = isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isascii() and not name.startswith(".")
    if not plain or not all(letter.isalnum() or letter in "._-" for letter in str(name)):
        raise RequestError(
            f"an experiment's name is {name!r}; 1 to {MAX_NAME} letters, digits, '.', '_' or '-' were expected, "
            "the first of them no '.'"
        )


EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment("L1", True, 32, (32,), 10, 2, (0.6, 0.8), (10, 128, 32, 2)),
        Experiment("L2", True, 64, (32, 24, 8), 10, 2, (0.8, 0.9), (10, 256, 64, 64, 2)),
        Experiment("N1", False, 16, (12, 4), 5, 2, (0.65, 0.75), (5, 64, 16, 16, 2)),
        Experiment("N2", False, 32, (32,), 10, 2, (0.6, 0.8), (10, 128, 32, 2)),
        Experiment("N3", False, 64, (32, 24, 8), 10, 2, (0.8, 0.9), (10, 256, 64, 64, 2)),
        Experiment("N4", False, 128, (64, 48, 16), 10, 2, (0.85, 0.95), (10, 512, 128, 128, 2)),
    )
}
"""The thesis' six experiments (Figures 6, 11, 19, 24, 26 and 29): L1, L2 linear, N1 to N4 with ReLU."""
