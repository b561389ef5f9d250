"""Training steps from revision names: step1000, stage1-step1000-tokens5B, global_step1000, checkpoint-1000."""

import re

# "step" must not be the tail of another word (footstep12); a separator may stand between word and number.
_STEP = re.compile(r"(?:^|[^a-z0-9])(?:global_?)?step[-_=]?(\d{1,15})(?!\d)", re.IGNORECASE)
_TRAINER = re.compile(r"^checkpoint-(\d{1,15})$", re.IGNORECASE)


def step_of(revision: str) -> int | None:
    """The training step that a revision name states, or None when it states none."""
    found = _STEP.search(revision) or _TRAINER.match(revision)
    return int(found.group(1)) if found else None


def in_step_order(revisions) -> list[str]:
    """Revision names sorted by step, then by name; names without a step come last."""
    return sorted(revisions, key=lambda name: ((step := step_of(name)) is None, step or 0, name))
