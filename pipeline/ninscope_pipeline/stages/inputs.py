"""What the tables of a run are made from: its checkpoints, the keys of what is made of each, and what became of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ninscope_pipeline.asked.analyses import EXACT, OF_NULLS, SAMPLED, Wanted
from ninscope_pipeline.asked.dagfile import Dag, Emergence, Model
from ninscope_pipeline.asked.evaluations import Evaluation
from ninscope_pipeline.stages import emergence, exact, nulls, spectrum
from ninscope_pipeline.stages.locate import Located
from ninscope_pipeline.stages.outcome import Outcome

# Where the results of each method are stored.
STAGES = {SAMPLED: spectrum.STAGE, EXACT: exact.STAGE, OF_NULLS: nulls.STAGE}

# What became of one checkpoint: the outcome of each analysis that is made of it, by name.
Outcomes = Mapping[str, Outcome]


@dataclass(frozen=True)
class Member:
    """One checkpoint of a run.

    keys: of the analyses that are made of it, by name; None where it is known that one cannot be. networks: keys of the
    networks that are sampled for them, where they are.
    """

    located: Located
    keys: Mapping[str, str | None]
    networks: Mapping[str, str | None]

    def standing(self, outcomes: Outcomes, trust_duplicates: bool) -> Outcome:
        """What the table `checkpoints` says of it: what became of it, and, where nothing is wrong with that, the audit."""
        found, outcome = self.located.finding, overall(outcomes)
        notes = (
            [*dict.fromkeys(wired.note for wired in self.located.wirings), self.located.unsure] if outcome.ok else []
        )
        if found is not None and found.content_sha256 is not None and found.message and found.unlike != "shape":
            if found.status == "duplicate" and not trust_duplicates:
                outcome = replace(outcome, status="duplicate") if outcome.ok else outcome
                notes.append(found.message)
            else:  # trusted; or of another size, and yet read and found whole
                notes.append(f"trusted: {found.message}" if found.copies else found.message)
        notes = [note for note in (outcome.message, *notes) if note]
        return replace(outcome, message="; ".join(notes))

    @property
    def row_keys(self) -> dict:
        """The columns every table begins with."""
        located = self.located
        return {
            "suite": located.suite, "model": located.model, "revision": located.revision, "step": located.step,
        }  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """Everything the tables are made from, artefacts aside: small, and the same whatever ran or was already there."""

    members: tuple[Member, ...]
    models: tuple[Model, ...]
    evaluations: tuple[tuple[Evaluation, ...], ...]  # one a model
    wanted: tuple[Wanted, ...]
    asked: Emergence

    @classmethod
    def of(cls, dag: Dag, members: Sequence[Member], evaluations: Sequence[tuple[Evaluation, ...]]) -> "Inputs":
        return cls(tuple(members), tuple(dag.all_models()), tuple(evaluations), dag.wanted(), dag.emergence)

    @property
    def spectra(self) -> list[Wanted]:
        """The analyses that have spectra."""
        return [wanted for wanted in self.wanted if wanted.has_spectra]

    def standing(self, member: Member, outcomes: Outcomes) -> Outcome:
        return member.standing(outcomes, self.asked.trust_duplicates)

    def of_model(self, model: Model, outcomes: Sequence[Outcomes]) -> list[tuple[Member, Outcomes]]:
        """Its checkpoints with what became of them. outcomes: one entry a member."""
        return [
            (member, each)
            for member, each in zip(self.members, outcomes, strict=True)
            if (member.located.suite, member.located.model) == (model.suite, model.model)
        ]

    def history(self, model: Model, wanted: Wanted, outcomes: Sequence[Outcomes]) -> list[emergence.Member]:
        """What E of a model is computed over: its checkpoints that have, or will have, a spectrum of this analysis."""
        return [
            emergence.Member(
                member.located.revision,
                member.located.step,
                member.keys[wanted.name],
                member.located.no_e or member.located.otherwise_wired,
                "duplicate" if member.located.no_e else "ok",
            )
            for member, each in self.of_model(model, outcomes)
            if each[wanted.name].ok
        ]

    def emerging(self, outcomes: Sequence[Outcomes]) -> dict[str, tuple[Wanted, Model, list[emergence.Member]]]:
        """By content key of each emergence artefact of the run: (analysis, model, history). Equal histories share one."""
        found = {}
        for model in self.models:
            for wanted in self.spectra:
                if history := self.history(model, wanted, outcomes):
                    key = emergence.emergence_key(STAGES[wanted.method], history, self.asked)
                    found.setdefault(key, (wanted, model, history))
        return found


# Statuses that follow from a checkpoint's bytes; others (a server that did not answer, memory) may concern one analysis alone.
_FAULTS_OF_BYTES = ("corrupt", "nonfinite")


def settled(outcomes: Outcomes) -> Outcomes:
    """What counts once everything that is made of a checkpoint has an outcome.

    Where its own bytes are at fault in one analysis, no other is trusted; after any other failure the others stand.
    """
    fault = next((each for each in outcomes.values() if each.status in _FAULTS_OF_BYTES), None)
    return outcomes if fault is None else dict.fromkeys(outcomes, fault)


def overall(outcomes: Outcomes) -> Outcome:
    """One outcome for the table `checkpoints`: the first that is not ok, and of which analysis where others are."""
    failed = {name: each for name, each in outcomes.items() if not each.ok}
    if not failed:
        return Outcome()
    name, first = next(iter(failed.items()))
    if len(failed) == len(outcomes):
        return first
    return Outcome(first.status, f"{name}: {first.message}")
