"""When a hidden neuron is on. One rule for all measures that ask, chosen for each layer and written into their facts.

The papers on single neurons look at ReLU: on is what is not zero. What that becomes elsewhere is our choice:

- A layer without a gate is on where its activation is above zero. ReLU and its square, GELU and SiLU are so exactly
  where their input is, thus a GELU neuron is on where a ReLU neuron with the same weights would be. GELU and SiLU also
  let a little through below zero: such a layer is called smooth, which shows by values below zero. tanh and LeakyReLU
  are read alike.
- A layer with a gate multiplies two branches, so signs say nothing. Behind a ReLU gate on is what is not zero. Behind
  a smooth gate (SwiGLU, GEGLU) nothing is zero: on is what exceeds, in size, the mean size of the layer's activations.

Whether there is a gate says the architecture, as the number of matrices that enter the layer; a layer whose matrices
are not known (a module that the user names) counts as one without. The rest is judged by the layer's own values in the
first batch of examples: a module may be called anything, and compute anything. A rectified gate is one that makes some
neurons exactly zero for some tokens and not for others; neurons that are zero throughout (pruned ones) do not count as
a sign of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from ninscope.errors import RequestError
from ninscope.neurons.kernel_threads import in_threads
from ninscope.neurons.observatory.measure import Fact, Place

if TYPE_CHECKING:
    from torch import Tensor

    from ninscope.neurons.observatory.subject import Subject

# Of all activations of a layer behind a rectified gate, at least so many are zero in neurons that are not always zero.
RECTIFIED_ZEROS = 0.01
# Whether what a processor has computed is counted by compiled kernels; torch counts elsewhere. Both give the same.
COMPILED = True
_WORTH_A_THREAD = 64  # neurons
_WORTH_THREADS = 1 << 18  # activations


@dataclass(frozen=True)
class Rule:
    """When neurons of a layer are on. gated: two matrices enter it. smooth: its activation is no rectified one.

    threshold: what the size of an activation has to exceed in a gated layer, and the activation itself elsewhere (0).
    """

    gated: bool
    smooth: bool
    threshold: float

    @property
    def bounds(self) -> tuple[float, float]:
        """A neuron is on where its activation is above the first, or below the second."""
        return self.threshold, -self.threshold if self.gated else -inf


class Firing:
    """The rules of a model's layers."""

    def __init__(self, subject: Subject) -> None:
        self.rules: dict[str, Rule] = {}
        self._subject = subject

    def rule(self, place: Place, values: Tensor) -> Rule:
        """The rule of a place's layer, made of these values if they are its first. values: [n, t, neurons], not
        empty.
        """
        rule = self.rules.get(place.layer)
        if rule is None:
            rule = self.rules[place.layer] = rule_of(values, self._gated(place.layer))
        return rule

    def _gated(self, layer: str) -> bool:
        try:
            return len(self._subject.entering(layer)) > 1
        except RequestError:  # which weights it has is not known
            return False

    def facts(self, measure: str) -> tuple[Fact, ...]:
        """The rule of each layer that was seen, as facts whose names begin with the measure's."""
        found = []
        for layer, rule in self.rules.items():
            found.append(Fact(f"{measure}_smooth", layer, float(rule.smooth)))
            found.append(Fact(f"{measure}_threshold", layer, rule.threshold))
        return tuple(found)


def told_facts(measure: str) -> Mapping[str, str]:
    """What the facts of the rules say."""
    return {
        f"{measure}_smooth": "1 where activations are smooth (GELU, SiLU), 0 where rectified (ReLU), by the first batch",
        f"{measure}_threshold": "what an activation has to exceed to be on; in a layer behind a gate, its size",
    }


def rule_of(values: Tensor, gated: bool) -> Rule:
    """The rule of a layer, from activations [n, t, neurons] that are not empty."""
    if not gated:
        return Rule(gated=False, smooth=bool(values.min() < 0), threshold=0.0)
    rows = values.flatten(0, -2)
    zeros = (rows == 0).sum(0).double()
    zeros_among_others = float(zeros[zeros < len(rows)].sum())
    if zeros_among_others >= RECTIFIED_ZEROS * rows.numel():
        return Rule(gated=True, smooth=False, threshold=0.0)
    return Rule(gated=True, smooth=True, threshold=float(rows.float().abs().mean()))


def is_on(rule: Rule, values: Tensor) -> Tensor:
    """float32, of the shape of the values: 1 where a neuron is on, else 0."""
    above, below = rule.bounds
    return ((values > above) | (values < below)).float()


def processor_values(values: Tensor) -> np.ndarray | None:
    """The values as the kernels take them, float32 and contiguous; None where another device has them, and torch is to
    count.
    """
    if values.device.type != "cpu" or not COMPILED:
        return None
    found: np.ndarray = values.detach().float().contiguous().numpy()
    return found


def over_neurons(held: np.ndarray, work: Callable[[int, int], None]) -> None:
    """work(first, last) of all neurons, in parts by torch's threads. held: [..., neurons], what they are counted in."""
    import torch

    threads = max(min(torch.get_num_threads(), held.shape[-1] // _WORTH_A_THREAD), 1)
    threads = threads if held.size >= _WORTH_THREADS else 1
    in_threads(lambda _, first, last: work(first, last), held.shape[-1], threads)
