#!/usr/bin/env bash
# torch 2.13.0: a deep copy of a parametrised module shares its class with the original, and taking the parametrization off the copy
# takes the weight from the original.
#
# torch.nn.utils.parametrize gives a module a class of its own ("ParametrizedLinear") on which `weight` is a property. copy.deepcopy
# copies the module's state and keeps that class, so two modules now have one; remove_parametrizations on the copy deletes the property
# from the class that both share and gives the copy back its plain class. The original still has its parametrization and its tensors,
# and no attribute `weight` any more: reading it, or calling the module, raises AttributeError.
#
# Seen: "one class: True; copy after removal: Linear; original has weight: False". This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat >"$folder/show.py" <<'PY'
import copy

import torch
from torch.nn.utils import parametrizations, parametrize

original = torch.nn.Linear(3, 2)
parametrizations.weight_norm(original)
twin = copy.deepcopy(original)
one_class = type(original) is type(twin)
parametrize.remove_parametrizations(twin, "weight")
print(f"one class: {one_class}; copy after removal: {type(twin).__name__}; original has weight: {hasattr(original, 'weight')}")
PY
seen=$("$folder/venv/bin/python" "$folder/show.py" 2>/dev/null | tail -n 1)
echo "$seen"
[ "$seen" = "one class: True; copy after removal: Linear; original has weight: False" ]
