#!/usr/bin/env bash
# torch-pruning 1.6.1: global pruning leaves a layer whole where its ranking would remove all of it, and removes too few, in silence.
#
# Two hidden layers of 10 neurons; every neuron of the second has less importance than any of the first. A larger ratio of neurons
# should remove more. At .4 the second layer loses 8 of 10. At .5 it would lose all 10: it keeps all, so nothing is removed. At .6
# only 2 of the first layer go, 10 % of all instead of 60 %. No warning, no error. Who reports the ratio that was asked for, or even
# counts parameters afterwards and plots against them, compares networks that were pruned by different rules.
#
# Seen: "0.3: 10 4, 0.4: 10 2, 0.5: 10 10, 0.6: 8 10; warnings 0". This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 torch-pruning==1.6.1
cat >"$folder/show.py" <<'PY'
import warnings

import torch
import torch_pruning as tp
from torch import nn


def left(ratio):
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
        ignored_layers=[layers[-1]],
    )
    pruner.step()
    return " ".join(str(layer.out_features) for layer in layers[:-1])


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    seen = ", ".join(f"{ratio}: {left(ratio)}" for ratio in (0.3, 0.4, 0.5, 0.6))
own = [warning for warning in caught if "torch_pruning" in warning.filename]
print(f"{seen}; warnings {len(own)}")
PY
seen=$("$folder/venv/bin/python" "$folder/show.py" 2>/dev/null | tail -n 1)
echo "$seen"
[ "$seen" = "0.3: 10 4, 0.4: 10 2, 0.5: 10 10, 0.6: 8 10; warnings 0" ]
