"""What measures of labelled examples share: refusals, and sums over a class's samples. Needs no torch before there is a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ninscope.errors import CheckpointError
from ninscope.neurons.observatory.measure import HIDDEN, Place

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject


def labels_objection(subject: Subject, least: int) -> str | None:
    """Why these labels are not enough, one clause; None where they are, or where there are none, which `needs` tells.

    least: samples that every class must have.
    """
    labels, classes = subject.examples.labels, subject.examples.classes
    if labels is None:
        return None
    if len(classes) < 2:
        return f"the examples have {len(classes)} class; two or more are needed"
    counts = np.bincount(labels, minlength=len(classes))
    for name, count in zip(classes, counts, strict=True):
        if count < least:
            return f"class {name!r} has {count} of the samples, and {least} or more are needed; take more samples"
    return None


def hidden_objection(subject: Subject) -> str | None:
    """Why no hidden neuron can be measured sample by sample, one clause: rows that are sent to experts belong to none."""
    places = subject.places_of(HIDDEN)
    if places and all(place.routed for place in places):
        return "all its hidden neurons are those of experts, whose rows cannot be told by samples"
    return None


def check_once(place: Place, seen: set[str]) -> None:
    """Note that a layer was shown in this batch. Raises CheckpointError (unsupported): it was before, so that a sample would have
    two rows. seen: names of layers, is changed."""
    if place.layer in seen:
        raise CheckpointError(
            "unsupported",
            f"{place.layer}: it runs more than once in a pass, and which of its activations are meant is not known",
        )
    seen.add(place.layer)


def members(labels: Tensor, classes: int) -> Tensor:
    """Which sample is of which class: float64 [classes, samples], 1 or 0; times values it gives sums in a fixed order."""
    from torch import arange

    return (arange(classes, device=labels.device)[:, None] == labels).double()
