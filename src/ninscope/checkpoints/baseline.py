"""The baseline: the revision of a model that E compares its others with."""

from collections.abc import Sequence
from dataclasses import dataclass

from ninscope.checkpoints.revisions import step_of
from ninscope.checks import did_you_mean
from ninscope.errors import RequestError
from ninscope.wording import outer_names

FIRST = "first"


@dataclass(frozen=True)
class Baseline:
    """Which revision that is.

    step: any that states this step, the first that can be measured (two trainings in one repository both have a step 0).
    revision: this one by its name; step is then its own, None where it states none.
    """

    step: int | None = 0
    revision: str | None = None

    @property
    def label(self) -> str:
        """What messages and figures call it."""
        return f"step{self.step}" if self.revision is None else self.revision

    def is_at(self, revision: str, step: int | None) -> bool:
        """Whether this revision may be the baseline."""
        return step == self.step if self.revision is None else revision == self.revision


STEP_0 = Baseline()


def baseline_of(
    requested: str | int | None, revisions: Sequence[tuple[str, int | None]], label: str, default: Baseline = STEP_0
) -> Baseline:
    """The baseline that a user names: a revision, a step, or "first" (of those that state a step); None takes the default.

    revisions: (name, step) of those there are, in step order. label: of their source. Raises RequestError: there is none of that
    name or step.
    """
    if requested is None:
        return default
    names = dict(revisions)
    if isinstance(requested, str) and requested in names:
        return Baseline(names[requested], requested)
    if requested == FIRST and revisions:
        name, step = next((pair for pair in revisions if pair[1] is not None), revisions[0])
        return Baseline(step, name)
    step = stated_step(requested)
    if step is not None and step in names.values():
        return Baseline(step)
    shown = [name for name, _ in revisions]
    raise RequestError(
        f"baseline {requested!r}: {label} has no such revision or step{did_you_mean(str(requested), shown)}; "
        f'its {len(shown)} revisions: {outer_names(shown)}; "{FIRST}" is the first by step'
    )


def stated_step(requested: str | int) -> int | None:
    """The step that a request states: 500, "500", or "step500" for a revision checkpoint-500."""
    if isinstance(requested, int):
        return None if isinstance(requested, bool) else requested
    return int(requested) if requested.isascii() and requested.isdigit() and len(requested) < 16 else step_of(requested)
