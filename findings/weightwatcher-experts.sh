#!/usr/bin/env bash
# weightwatcher 0.7.7, transformers 5.23.0, torch 2.13.0: the experts of a mixture are analysed in a folder, and passed over in memory.
#
# transformers 5 holds the experts of a Mixtral block as two stacked parameters, and saves them as a matrix for each expert. analyze()
# of the folder sees the matrices; analyze() of the model that was saved to it looks for modules with a weight, finds none for the
# experts, and says nothing. Both are the same weights, and the mean alpha that is quoted for a model hangs on how it was passed.
#
# Seen: "in memory 6 layers, 0 of experts, mean alpha 3.71; in the folder 18 layers, 12 of experts, mean alpha 4.89". This script
# fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.23.0 weightwatcher==0.7.7
cat >"$folder/show.py" <<'PY'
import logging
import sys
import warnings

import torch
import weightwatcher
from transformers import MixtralConfig, MixtralForCausalLM

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2}
torch.manual_seed(0)
model = MixtralForCausalLM(MixtralConfig(**sizes, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2))
saved = sys.argv[1] + "/mixtral"
model.save_pretrained(saved)


def told(source):
    layers = weightwatcher.WeightWatcher(model=source).analyze()
    of_experts = layers["longname"].str.contains("expert").sum()
    return f"{len(layers)} layers, {of_experts} of experts, mean alpha {layers['alpha'].mean():.2f}"


seen = f"in memory {told(model)}; in the folder {told(saved)}"
print(seen)
PY
seen=$("$folder/venv/bin/python" "$folder/show.py" "$folder" 2>/dev/null | tail -n 1)
echo "$seen"
[ "$seen" = "in memory 6 layers, 0 of experts, mean alpha 3.71; in the folder 18 layers, 12 of experts, mean alpha 4.89" ]
