"""Planning the laboratory: which networks are trained, what tables call them, and the content keys of what is made of them."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, TypeVar

from ninscope.errors import RequestError
from ninscope.neurons.polysemanticity.experiments import Experiment
from ninscope_pipeline.stages.laboratory.section import SECTION, section_of
from ninscope_pipeline.stages.stage import JobId, Stage
from ninscope_pipeline.storing.keys import content_key

if TYPE_CHECKING:
    from ninscope_pipeline.opened_run import Run
    from ninscope_pipeline.request.dagfile import Dag

W = TypeVar("W")

TOY_DATA, TOY_TRAINING, TOY_PRUNING = "toy_data", "toy_training", "toy_pruning"
# What changes when the same settings give other numbers; part of the keys of all that follows.
VERSIONS = {TOY_DATA: 1, TOY_TRAINING: 1, TOY_PRUNING: 1}

# Fields of Experiment that the toy data know nothing of.
_OF_TRAINING = ("observed", "epochs", "batch_size", "learning_rate")


@dataclass(frozen=True)
class ToySeed:
    """Toy data of one experiment at one seed."""

    experiment: Experiment
    seed: int

    @property
    def label(self) -> str:
        return f"{self.experiment.name} seed {self.seed}"

    @property
    def key(self) -> str:
        settings = {name: value for name, value in asdict(self.experiment).items() if name not in _OF_TRAINING}
        return content_key(TOY_DATA, VERSIONS[TOY_DATA], experiment=settings, seed=self.seed)

    @property
    def id(self) -> JobId:
        return TOY_DATA, self.key


@dataclass(frozen=True)
class Training:
    """One network that is trained on toy data."""

    data: ToySeed
    dropout: float

    @property
    def experiment(self) -> Experiment:
        return self.data.experiment

    @property
    def label(self) -> str:
        return f"{self.data.label} dropout {number_shown(self.dropout)}"

    @property
    def model(self) -> str:
        """What the tables call it: "L1-seed0", with dropout 0.5 "L1-dropout-seed0", with another "L1-dropout0.2-seed0"."""
        share = "" if self.dropout == 0.5 else number_shown(self.dropout)
        return f"{self.experiment.name}{f'-dropout{share}' if self.dropout else ''}-seed{self.data.seed}"

    @property
    def key(self) -> str:
        settings = {name: getattr(self.experiment, name) for name in _OF_TRAINING}
        return content_key(
            TOY_TRAINING, VERSIONS[TOY_TRAINING], data=self.data.key, dropout=float(self.dropout), **settings
        )

    @property
    def id(self) -> JobId:
        return TOY_TRAINING, self.key


@dataclass(frozen=True)
class Pruning:
    """A trained network that is pruned at every ratio and retrained at every rate; all of them train as one batch."""

    training: Training
    ratios: tuple[float, ...]
    rates: tuple[float, ...]

    @property
    def label(self) -> str:
        return self.training.label

    @property
    def key(self) -> str:
        return content_key(
            TOY_PRUNING, VERSIONS[TOY_PRUNING], training=self.training.key, ratios=self.ratios, rates=self.rates
        )

    @property
    def id(self) -> JobId:
        return TOY_PRUNING, self.key


class LaboratoryStage(Stage[W]):
    """A stage of the laboratory. What fails in it has rows of the table `polysemanticity`, whose stage tells of it."""

    runs_models: ClassVar[bool] = True

    def problems(self, run: "Run") -> list[str]:
        return []


def toy_seeds(dag: "Dag") -> Iterator[ToySeed]:
    """Every experiment that is asked for at every seed."""
    if (section := section_of(dag)) is not None:
        for experiment in section.chosen():
            yield from (ToySeed(experiment, seed) for seed in section.seeds)


def trainings(dag: "Dag") -> Iterator[Training]:
    """Every network that is asked for."""
    if (section := section_of(dag)) is not None:
        yield from (Training(data, float(dropout)) for data in toy_seeds(dag) for dropout in section.dropout)


def prunings(dag: "Dag") -> Iterator[Pruning]:
    """Every network that is asked for, where it is to be pruned."""
    section = section_of(dag)
    if section is not None and section.ratios:
        ratios, rates = tuple(section.ratios), tuple(section.rates)
        yield from (Pruning(training, ratios, rates) for training in trainings(dag))


def check_installed(dag: "Dag") -> None:
    """Raises RequestError where the libraries that what is asked for needs are absent."""
    for name in ("torch", *(["torch_pruning"] if any(prunings(dag)) else [])):
        if not _is_installed(name):
            raise RequestError(
                f"[{SECTION.key}] trains and prunes networks, and {name.replace('_', '-')} is not installed; install it: "
                "pip install 'ninscope[polysemanticity]'"
            )


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def ratio_shown(ratio: float) -> str:
    """A ratio in the name of a revision, at least two decimals: "0.30", "0.125"."""
    return f"{ratio:.2f}" if float(f"{ratio:.2f}") == ratio else repr(ratio)


def number_shown(number: float) -> str:
    """A dropout or a learning rate in a name, without digits that say nothing: "0.001", "0.2"."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)
