"""The section [polysemanticity] of a DAG file: which experiments, at which seeds, and how their networks are pruned."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ninscope.checks import MAX_SEED, did_you_mean
from ninscope.errors import RequestError
from ninscope.neurons.polysemanticity.experiments import EXPERIMENTS, Experiment
from ninscope.neurons.polysemanticity.perceptron import parameters_of
from ninscope.neurons.polysemanticity.table_names import NEURON_MEASURES
from ninscope_pipeline.request.models import Name, Strict
from ninscope_pipeline.stages.stage import Section

if TYPE_CHECKING:
    from ninscope_pipeline.request.dagfile import Dag

# An experiment of every experiment in the table of correlations, and their figure's name beside "polysemanticity-L1-training.png".
_TAKEN = ("all", "correlations")
MAX_KEPT = 2**28  # numbers in the networks of all epochs of a training, which are kept: 1 GiB
_RATIOS = [round(0.05 * number, 2) for number in range(1, 13)]


class OwnExperiment(Strict):
    """One of [[polysemanticity.own]]: an experiment that is not the thesis', key by key as `Experiment`.

    features: default: as many neurons as feature_layers has.
    """

    name: Name
    linear: bool
    feature_layers: list[int] = Field(min_length=1)
    features: int | None = None
    inputs: int
    outputs: int
    sparsity: list[float]
    observed: list[int]
    threshold: float = Experiment.threshold
    epochs: int = Experiment.epochs
    samples_per_output: int = Experiment.samples_per_output
    batch_size: int = Experiment.batch_size
    learning_rate: float = Experiment.learning_rate
    test_share: float = Experiment.test_share

    @property
    def experiment(self) -> Experiment:
        """Raises RequestError."""
        settings: dict[str, Any] = self.model_dump()
        if self.features is None:
            settings["features"] = sum(self.feature_layers)
        return Experiment(**settings)

    @model_validator(mode="after")
    def _makes_an_experiment(self) -> "OwnExperiment":
        if self.name in EXPERIMENTS:
            raise ValueError(f"{self.name} is one of the thesis' experiments; give this one another name")
        if self.name in _TAKEN or self.name.endswith("-"):
            raise ValueError(f"the name {self.name!r} is one that tables or figures have a use for; give it another")
        try:
            experiment = self.experiment
        except RequestError as error:
            raise ValueError(str(error)) from None
        kept = (experiment.epochs + 1) * parameters_of(experiment.observed)
        if kept > MAX_KEPT:
            raise ValueError(
                f"the weights of every epoch are kept, which would be {kept} numbers of {self.name}, more than {MAX_KEPT}; "
                "ask for fewer epochs or smaller layers"
            )
        return self


class PolysemanticitySection(Strict):
    """[polysemanticity]: every experiment at every seed and dropout is trained, pruned at every ratio and retrained at every rate.

    experiments: names of the thesis' experiments (default: all six, or none where there are own ones). own: others. suite: what
    the tables call all of them. dropout: 0 is without. ratios: pruning ratios that are asked for, each the least share of the
    parameters that is to go. rates: learning rates of the retraining. neuron_measures: of NEURON_MEASURES, or "all" of them, taken
    of every network's neurons (default: none). neuron_epochs: of every so many epochs and of the last.
    """

    experiments: list[str] | None = None
    own: list[OwnExperiment] = Field(default=[])
    suite: Name = "polysemanticity"
    seeds: list[Annotated[int, Field(ge=0, le=MAX_SEED)]] = Field(default=[0, 1, 2], min_length=1)
    dropout: list[Annotated[float, Field(ge=0, lt=1)]] = Field(default=[0.0, 0.5], min_length=1)
    ratios: list[Annotated[float, Field(gt=0, lt=1)]] = Field(default=_RATIOS)
    rates: list[Annotated[float, Field(gt=0, lt=math.inf)]] = Field(default=[1e-3, 1e-2])
    neuron_measures: list[str] | Literal["all"] = Field(default=[])
    neuron_epochs: int = Field(default=1, ge=1)

    @field_validator("experiments")
    @classmethod
    def _known(cls, names: list[str] | None) -> list[str] | None:
        for name in names or ():
            if name not in EXPERIMENTS:
                raise ValueError(
                    f"there is no experiment {name!r}{did_you_mean(name, EXPERIMENTS, cutoff=0.4)}; the thesis has "
                    f"{', '.join(EXPERIMENTS)}; others stand in [[polysemanticity.own]], and run without being listed here"
                )
        return names

    @field_validator("neuron_measures")
    @classmethod
    def _can_be_taken(cls, names: list[str] | str) -> list[str] | str:
        for name in () if isinstance(names, str) else names:
            if name not in NEURON_MEASURES:
                raise ValueError(
                    f"{name!r} is no measure of the neurons of these networks{did_you_mean(name, NEURON_MEASURES)}; give some of "
                    f'{", ".join(NEURON_MEASURES)}, or "all"'
                )
        return names

    @model_validator(mode="after")
    def _has_another_seed(self) -> "PolysemanticitySection":
        if "universal" in self.neuron_measures and len(self.seeds) < 2:
            raise ValueError(
                "neuron_measures: universal compares a network with that of another seed, and seeds has one; add a seed, or leave "
                "universal out"
            )
        return self

    @model_validator(mode="after")
    def _makes_sense(self) -> "PolysemanticitySection":
        chosen = list(self.chosen())
        if not chosen:
            raise ValueError(
                "experiments is empty, and there is no [[polysemanticity.own]]; name at least one experiment"
            )
        listed: dict[str, Sequence] = {
            "experiments": [experiment.name for experiment in chosen],
            "seeds": self.seeds, "dropout": self.dropout, "ratios": self.ratios, "rates": self.rates,
            "neuron_measures": self.measures,
        }  # fmt: skip
        for key, values in listed.items():
            twice = next((value for value in values if list(values).count(value) > 1), None)
            if twice is not None and twice in [own.name for own in self.own]:
                raise ValueError(f"own: two experiments have the name {twice!r}; rename one")
            if twice is not None:
                raise ValueError(f"{key}: a value is listed twice, {twice!r}; list each one once")
        if any(later < earlier for earlier, later in pairwise(self.ratios)):
            raise ValueError("ratios: the values do not ascend; list them from the smallest to the largest")
        if bool(self.ratios) != bool(self.rates):
            raise ValueError(
                "ratios and rates: one is empty and the other is not; give both, or neither to prune nothing"
            )
        for experiment in chosen:
            self._check_ratios(experiment)
        return self

    def _check_ratios(self, experiment: Experiment) -> None:
        """Raises ValueError for a ratio that is not possible, whichever neurons are removed."""
        sizes = experiment.observed
        smallest = (sizes[0], *[1] * (len(sizes) - 2), sizes[-1])
        most = 1 - parameters_of(smallest) / parameters_of(sizes)
        if not self.ratios or self.ratios[-1] <= most:
            return
        if most == 0:
            raise ValueError(
                f"ratios: {experiment.name} has one neuron in every hidden layer, of which none can go; give ratios = [] and "
                "rates = [], or larger layers"
            )
        raise ValueError(
            f"ratios: {experiment.name} without {self.ratios[-1]:g} of its parameters has a hidden layer without neurons; the "
            f"largest ratio that may be possible is {math.floor(most * 1000) / 1000:g}"
        )

    @property
    def measures(self) -> tuple[str, ...]:
        """Measures that are taken of neurons; of "all" without universal where there is one seed."""
        if self.neuron_measures != "all":
            return tuple(self.neuron_measures)
        return tuple(name for name in NEURON_MEASURES if name != "universal" or len(self.seeds) > 1)

    def chosen(self) -> Iterator[Experiment]:
        """The thesis' experiments that are asked for, then own ones."""
        names = self.experiments
        if names is None:
            names = [] if self.own else list(EXPERIMENTS)
        yield from (EXPERIMENTS[name] for name in names)
        yield from (own.experiment for own in self.own)


SECTION = Section("polysemanticity", PolysemanticitySection | None, None)


def section_of(dag: "Dag") -> PolysemanticitySection | None:
    """What a DAG file says in [polysemanticity]; None where it has no such section."""
    section: PolysemanticitySection | None = getattr(dag, SECTION.key, SECTION.default)
    return section
