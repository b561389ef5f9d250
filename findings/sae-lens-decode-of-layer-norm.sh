#!/usr/bin/env bash
# sae-lens 6.54.12: decode of an autoencoder that normalises its input depends on what was encoded last, and works once.
#
# With normalize_activations="layer_norm" (constant_norm_rescale too), encode keeps the mean and deviation of its batch on the module,
# and decode takes them from there and deletes them. So features that were encoded, and decoded after another batch of the same shape
# was encoded, come back with the other batch's mean and scale, without a warning. Decoding them once more raises AttributeError. Who
# edits features and decodes both the old and the new ones has to encode the activations again before each.
#
# Seen: "decoded at once True; after another batch was encoded False; once more AttributeError". This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 sae-lens==6.54.12
cat >"$folder/show.py" <<'PY'
import warnings

import torch
from sae_lens.saes import StandardSAE, StandardSAEConfig

warnings.simplefilter("ignore")
torch.manual_seed(0)
sae = StandardSAE(StandardSAEConfig(d_in=4, d_sae=8, normalize_activations="layer_norm"))
small, large = torch.randn(3, 4), 100 * torch.randn(3, 4)
with torch.no_grad():
    reconstruction = sae(small)
    at_once = torch.allclose(sae.decode(sae.encode(small)), reconstruction)
    features = sae.encode(small)
    sae.encode(large)
    later = torch.allclose(sae.decode(features), reconstruction)
    try:
        sae.decode(features)
        again = "no error"
    except AttributeError:
        again = "AttributeError"
print(f"decoded at once {at_once}; after another batch was encoded {later}; once more {again}")
PY
seen=$("$folder/venv/bin/python" "$folder/show.py" 2>/dev/null | tail -n 1)
echo "$seen"
[ "$seen" = "decoded at once True; after another batch was encoded False; once more AttributeError" ]
