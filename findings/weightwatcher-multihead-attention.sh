#!/usr/bin/env bash
# weightwatcher 0.7.7, torch 2.13.0: the queries, keys and values of torch.nn.MultiheadAttention are passed over.
#
# torch.nn.MultiheadAttention, and so every torch.nn.Transformer, holds them as one parameter in_proj_weight [3 * hidden, hidden].
# analyze() takes modules and tensors that are called "weight", so of an encoder layer it sees the output projection and the MLP, and
# a third of the matrices' weights not at all: in memory, as a state dict and in a folder alike, without a word. Means over layers
# (alpha, log_norm, ...) are those of the other matrices.
#
# Seen: "module, state dict and folder: self_attn.out_proj linear1 linear2; 12288 of 32768 weights passed over". This script fails if
# that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 weightwatcher==0.7.7
cat >"$folder/show.py" <<'PY'
import logging
import sys
import warnings
from pathlib import Path

import torch
import weightwatcher
from safetensors.torch import save_file

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
torch.manual_seed(0)
layer = torch.nn.TransformerEncoderLayer(64, 2, 128)
saved = Path(sys.argv[1]) / "encoder"
saved.mkdir()
save_file(layer.state_dict(), saved / "model.safetensors")
told = [weightwatcher.WeightWatcher(model=source).analyze() for source in (layer, layer.state_dict(), str(saved))]
names = list(told[0]["longname"])
assert all(set(layers["longname"]) == set(names) for layers in told), [list(layers["longname"]) for layers in told]
matrices = {name: values.numel() for name, values in layer.named_parameters() if values.ndim == 2}
analysed = sum(matrices[f"{name}.weight"] for name in names)
print(
    f"module, state dict and folder: {' '.join(names)}; "
    f"{sum(matrices.values()) - analysed} of {sum(matrices.values())} weights passed over"
)
PY
seen=$("$folder/venv/bin/python" "$folder/show.py" "$folder" 2>/dev/null | tail -n 1)
echo "$seen"
[ "$seen" = "module, state dict and folder: self_attn.out_proj linear1 linear2; 12288 of 32768 weights passed over" ]
