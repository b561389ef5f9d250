"""Revisions of a source: the training steps that their names state (step1000, stage1-step1000-tokens5B, step-480k,
global_step1000, checkpoint-1000), and which of them are meant: name patterns, lists and ranges of steps, log-spaced subsets.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ninscope.checks import did_you_mean
from ninscope.errors import RequestError

# "step" must not be the tail of another word (footstep12); a separator may stand between word and number. k is a thousand and
# M a million. What follows must not be a part of the number: another letter (step10th), or more digits (step1_000, step1.5),
# unless they count something else (step-50K-105b).
_STEP = re.compile(
    r"(?:^|[^a-z0-9])(?:global_?)?step[-_=]?(?P<number>[0-9]+(?:\.[0-9]+(?=[km]))?)(?P<unit>[km]?)"
    r"(?![^\W_])(?P<more>[\W_]+[0-9]+(?:\.[0-9]+)?[a-z]?)?",
    re.IGNORECASE,
)
_COUNTS_ELSE = re.compile(r"-[0-9]+(?:\.[0-9]+)?[a-z]", re.IGNORECASE)  # tokens, mostly
_TRAINER = re.compile(r"^checkpoint-([0-9]{1,15})$", re.IGNORECASE)
# A training script names its files so; a branch of such a name may count checkpoints.
_FILE = re.compile(
    r"^(?:ckpt|checkpoint)[-_]?(?P<number>[0-9]+)(?P<unit>[km]?)\.(?:pt|pth|ckpt|bin|safetensors)$", re.IGNORECASE
)
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000}
_MOST_DIGITS = 15
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_NUMBER = re.compile(r"[0-9]{1,15}")
_SHOWN, _TRIED = 2, 10_000


def step_of(revision: str) -> int | None:
    """The training step that a revision name states, or None when it states none, or it is not certain which."""
    if trainer := _TRAINER.match(revision):
        return int(trainer[1])
    if file := _FILE.match(revision):
        return _number(file["number"], file["unit"])
    stated = {_step_in(match) for match in _STEP.finditer(revision)}
    return stated.pop() if len(stated) == 1 else None


def near_revision(requested: str, revisions: Sequence[str]) -> str:
    """The revision that was meant by a name that there is not, in words: that of the same step, or one spelled alike; or empty.

    Where another step is asked for none is named: the next in spelling is another checkpoint.
    """
    step = step_of(requested)
    if step is None:
        return did_you_mean(requested, revisions)
    alike = next((name for name in revisions if step_of(name) == step), None)
    return "" if alike is None else f"; did you mean {alike!r}?"


def _step_in(match: re.Match[str]) -> int | None:
    """The number that a match of _STEP says; None where that is not certain."""
    if match["more"] and not _COUNTS_ELSE.fullmatch(match["more"]):
        return None
    return _number(match["number"], match["unit"])


def _number(digits: str, unit: str) -> int | None:
    """A number of so many ones, thousands or millions; None where it is no whole number, or too long."""
    whole, _, fraction = digits.partition(".")
    zeros = len(str(_UNITS[unit.lower()])) - 1
    if len(whole) + zeros > _MOST_DIGITS or len(fraction) > zeros:
        return None
    return int(whole + fraction.ljust(zeros, "0"))


def unstated(names: Iterable[str]) -> str:
    """One clause where several names are numbered alike and state no step: how many, and how to say that the number is one.

    Empty where there are none: a name by itself (main, v1.0) is no step that was missed.
    """
    without = sorted(name for name in names if step_of(name) is None)
    patterns = Counter(pattern for name in without[:_TRIED] for pattern in _patterns(name))
    numbered = [(pattern, count) for pattern, count in patterns.items() if count > 1]
    if not numbered:
        return ""
    pattern = max(numbered, key=lambda counted: counted[1])[0]
    shown = [name for name in without if RevisionPattern(pattern).step_of(name) is not None][:_SHOWN]
    return (
        f"{len(without)} names state no step ({', '.join(shown)}, ...); if their number is one, say so in a DAG file: "
        f'revisions = "{pattern}"'
    )


def _patterns(name: str) -> list[str]:
    """The name with {step} for each of its numbers in turn."""
    if "{" in name or "}" in name:
        return []
    return [f"{name[: match.start()]}{{step}}{name[match.end() :]}" for match in _NUMBER.finditer(name)]


def in_step_order(revisions: Iterable[str]) -> list[str]:
    """Revision names sorted by step, then by name; names without a step come last."""
    return sorted(revisions, key=lambda name: ((step := step_of(name)) is None, step or 0, name))


@dataclass(frozen=True)
class RevisionPattern:
    """How revisions are named: "stage1-step{step}-tokens{tokens}B". {step} is a number; any other {name} a run without "-" or "/".

    Raises RequestError when {step} is not in it just once.
    """

    text: str

    def __post_init__(self) -> None:
        if self.text.count("{step}") != 1:
            raise RequestError(f"the pattern {self.text!r} needs {{step}} in it, once: step{{step}}")

    def step_of(self, revision: str) -> int | None:
        """The step that a name states, None where the pattern does not fit all of it."""
        parts = _PLACEHOLDER.split(self.text)
        texts, names = parts[::2], parts[1::2]
        fields = [r"(\d{1,15})" if name == "step" else r"[^-/]+" for name in names]
        stated = re.fullmatch("".join(re.escape(t) + f for t, f in zip(texts, [*fields, ""], strict=True)), revision)
        return int(stated.group(1)) if stated else None

    def name_of(self, step: int) -> str:
        """The name of a step's revision; what else the name states is a star."""
        return _PLACEHOLDER.sub("*", self.text.replace("{step}", str(step)))


@dataclass(frozen=True)
class RevisionSelection:
    """Some of a source's revisions. pattern: of their names, by default whatever states a step.

    steps: these alone, and one that is absent is named all the same, so that it is reported. start, stop: none before, none
    after. every: multiples of it alone. log: so many, evenly spaced in the logarithm of the step, the first and last among them.
    """

    pattern: RevisionPattern | None = None
    steps: tuple[int, ...] | None = None
    start: int = 0
    stop: int | None = None
    every: int = 1
    log: int | None = None

    def chosen(self, revisions: Iterable[str]) -> list[tuple[str, int]]:
        """(revision, step) of those that are meant, in step order. Raises RequestError when there is none."""
        revisions = list(revisions)
        stated = self.pattern.step_of if self.pattern is not None else step_of
        stepped = sorted((step, name) for name in revisions if (step := stated(name)) is not None)
        if not stepped and self.steps is None:
            shown = f"the pattern {self.pattern.text!r}" if self.pattern is not None else "a step"
            raise RequestError(f"no revision states {shown}; there are {', '.join(revisions[:3])} ...")
        within = [
            (name, step)
            for step, name in stepped
            if self.start <= step and (self.stop is None or step <= self.stop) and step % self.every == 0
        ]
        if self.steps is not None:
            within = [(name, step) for name, step in within if step in set(self.steps)]
            absent = sorted(set(self.steps) - {step for _, step in within})
            within += [((self.pattern or RevisionPattern("step{step}")).name_of(step), step) for step in absent]
        if self.log is not None:
            kept = log_spaced([step for _, step in within], self.log)
            within = [(name, step) for name, step in within if step in kept]
        if not within:
            raise RequestError(
                f"none of the {len(stepped)} revisions ({stepped[0][1]}..{stepped[-1][1]}) has one of the selected steps"
            )
        return sorted(within, key=lambda chosen: (chosen[1], chosen[0]))


def log_spaced(steps: Sequence[int], count: int) -> set[int]:
    """`count` of the steps (all, where there are no more), the first and last among them, evenly spaced in log(step + 1)."""
    distinct = np.unique(np.asarray(steps, dtype=np.int64))
    if distinct.size <= count:
        return set(distinct.tolist())
    logarithms = np.log1p(distinct.astype(np.float64))
    kept = {0, distinct.size - 1}
    for target in np.linspace(logarithms[0], logarithms[-1], count)[1:-1]:
        # The nearest that is not taken yet, so that as many are kept as were asked for.
        order = np.argsort(np.abs(logarithms - target), kind="stable").tolist()
        kept.add(next(number for number in order if number not in kept))
    return {int(distinct[number]) for number in kept}
