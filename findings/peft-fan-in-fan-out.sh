#!/usr/bin/env bash
# peft 0.21.2, transformers 5.23.0: fan_in_fan_out in adapter_config.json is what the last adapted module needed, not the model.
#
# GPT-2 stores its matrices [in, out]. An adapter of c_proj alone is saved with fan_in_fan_out true. With the classifier's head (a
# Linear, adapted last) beside it, the same c_proj is saved in a file that says false, and is still merged turned over. c_proj is
# square, so who reads the flag and not the module's type adds its update transposed, and no shape tells.
#
# Seen: "alone True; beside score False; turned over in both True". This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 peft==0.21.2
cat >"$folder/show.py" <<'PY'
import json
import sys
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2ForSequenceClassification

warnings.simplefilter("ignore")
sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 11, "n_positions": 8, "num_labels": 3}


def saved(*targets):
    """The flag that is saved, and whether the merged c_proj differs from the base's by the update turned over."""
    torch.manual_seed(0)
    model = GPT2ForSequenceClassification(GPT2Config(**sizes))
    before = model.transformer.h[0].attn.c_proj.weight.detach().clone()
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=2, target_modules=list(targets), init_lora_weights=False))
    folder = Path(sys.argv[1]) / "-".join(targets)
    adapted.save_pretrained(folder)
    flag = json.loads((folder / "adapter_config.json").read_text())["fan_in_fan_out"]
    module = adapted.base_model.model.transformer.h[0].attn.c_proj
    update = (module.lora_B["default"].weight @ module.lora_A["default"].weight).detach()
    after = adapted.merge_and_unload().transformer.h[0].attn.c_proj.weight.detach()
    return flag, torch.allclose(after - before, update.T, atol=1e-6)


alone, turned = saved("c_proj")
beside, turned_beside = saved("c_proj", "score")
print(f"alone {alone}; beside score {beside}; turned over in both {turned and turned_beside}")
PY
seen=$("$folder/venv/bin/python" "$folder/show.py" "$folder" 2>/dev/null | tail -n 1)
echo "$seen"
[ "$seen" = "alone True; beside score False; turned over in both True" ]
