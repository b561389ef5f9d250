#!/usr/bin/env bash
# peft 0.21.2 with torch 2.13.0: LoRA on torch.nn.MultiheadAttention counts the update of out_proj twice.
#
# LoraConfig(r=2, lora_alpha=2) scales an update B A by lora_alpha / r = 1. Of in_proj_weight that is so: merge_and_unload adds B A.
# To out_proj.weight it adds 2 B A. The model with its adapter gives the same output as the merged one, so training saw the doubled
# update too, and an adapter that is merged by W + lora_alpha / r * B A is another model than the one that was trained.
#
# Seen: "in_proj 1.0 out_proj 2.0 same output True". This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 peft==0.21.2
cat >"$folder/show.py" <<'PY'
import torch
from peft import LoraConfig, get_peft_model


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


torch.manual_seed(0)
model = Attention().eval()
before = {name: values.detach().clone() for name, values in model.named_parameters()}
settings = LoraConfig(r=2, lora_alpha=2, target_modules=["attention"], init_lora_weights=False)
adapted = get_peft_model(model, settings).eval()
factors = {name: values.detach().clone() for name, values in adapted.named_parameters() if "lora_" in name}
x = torch.randn(1, 3, 8)
with torch.no_grad():
    output = adapted(x)
    merged = adapted.merge_and_unload()
    same = torch.allclose(output, merged(x), atol=1e-6)
after = dict(merged.named_parameters())


def times(weight, inside):
    """By how many times B A the weight has changed."""
    a, b = (next(v for n, v in factors.items() if f"lora_{letter}" in n and ("out_proj" in n) == inside) for letter in "AB")
    change, update = after[weight] - before[weight], b @ a
    return round(float((change * update).sum() / (update * update).sum()), 4)


print("in_proj", times("attention.in_proj_weight", False), "out_proj", times("attention.out_proj.weight", True), "same output", same)
PY
seen=$("$folder/venv/bin/python" "$folder/show.py" | tail -n 1)
echo "$seen"
[ "$seen" = "in_proj 1.0 out_proj 2.0 same output True" ]
