"""How the text of report.html writes texts of tables and sets of checkpoints."""

from collections.abc import Sequence

from ninscope.wording import listed

MOST_RUNS = 6  # of checkpoints that a sentence lists; of more it says how many there are


def plain(text: str) -> str:
    """A text of a table on one line, without a full stop at its end."""
    return " ".join(text.split()).rstrip(".")


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def checkpoints(names: Sequence[str], chosen: Sequence[bool]) -> str:
    """The chosen ones of a model's checkpoints in order: "step 4000", "steps 1, 8 to 128 and 512", "all 14 checkpoints".

    names: "step N", or a revision's name where it states no step. Neighbours in this order are told as one run.
    """
    count = sum(chosen)
    if count == len(names) > 1:
        return f"all {count} checkpoints"
    runs: list[list[str]] = []
    before = False
    for name, is_chosen in zip(names, chosen, strict=True):
        if is_chosen:
            runs = runs if before else [*runs, []]
            runs[-1].append(name)
        before = is_chosen
    if len(runs) > MOST_RUNS:
        return f"{count} of {len(names)} checkpoints, the first at {runs[0][0]} and the last at {runs[-1][-1]}"
    short = [run for names_of_run in runs for run in _run(names_of_run)]
    if count > 1 and all(name.startswith("step ") for name in short):
        return "steps " + listed([name.replace("step ", "") for name in short])
    return listed(short)


def _run(names: list[str]) -> list[str]:
    return names if len(names) < 3 else [f"{names[0]} to {names[-1]}"]


def stays_from(flags: Sequence[bool]) -> int | None:
    """Where the last run of flags that are set begins, if it reaches the end."""
    start = len(flags)
    while start and flags[start - 1]:
        start -= 1
    return start if start < len(flags) else None
