#!/usr/bin/env bash
# torch-pruning 1.6.1: max_pruning_ratio does not bound what global pruning removes from a layer.
#
# "The maximum pruning ratio, useful if over-pruning happens" looks like the least that every layer keeps. It is compared with what
# a layer has before a step, not after: in one step it never holds. Bounded by .5, a layer of 10 neurons loses 6 or 8; the result
# is that without a bound.
#
# Seen: "bounded by 0.5: 10 4, 10 2; unbounded: 10 4, 10 2". This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 torch-pruning==1.6.1
cat >"$folder/show.py" <<'PY'
import torch
import torch_pruning as tp
from torch import nn


def left(ratio, bound):
    """Neurons that stay in each hidden layer."""
    layers = [nn.Linear(10, 10), nn.Linear(10, 10), nn.Linear(10, 2)]
    with torch.no_grad():  # importance 100, 200, ... of the first layer's neurons, 1, 2, ... of the second's
        for layer, scale in zip(layers, (100, 1), strict=False):
            layer.weight.copy_(scale * torch.arange(1.0, 11)[:, None].expand(10, 10))
    pruner = tp.pruner.BasePruner(
        nn.Sequential(*layers),
        torch.zeros(1, 10),
        importance=tp.importance.MagnitudeImportance(p=1, group_reduction="first", normalizer=None),
        global_pruning=True,
        pruning_ratio=ratio,
        max_pruning_ratio=bound,
        ignored_layers=[layers[-1]],
    )
    pruner.step()
    return " ".join(str(layer.out_features) for layer in layers[:-1])


bounded, unbounded = (", ".join(left(ratio, bound) for ratio in (0.3, 0.4)) for bound in (0.5, 1.0))
print(f"bounded by 0.5: {bounded}; unbounded: {unbounded}")
PY
seen=$("$folder/venv/bin/python" "$folder/show.py" 2>/dev/null | tail -n 1)
echo "$seen"
[ "$seen" = "bounded by 0.5: 10 4, 10 2; unbounded: 10 4, 10 2" ]
