#!/usr/bin/env bash
# transformers 5.23.0: a GPT-NeoX that its Trainer resumes from the Trainer's own checkpoint goes on with an untrained output matrix.
#
# The module calls its output matrix lm_head, the saved file calls it embed_out. from_pretrained renames it; the Trainer, which loads
# the state dict of a checkpoint into the model that it was given, does not, and takes the missing and the unexpected key for
# harmless: no error, no exit. Everything else is loaded, the optimizer's state too. So a resumed training of Pythia's kind starts
# from a random head, and what it saves later differs from what an uninterrupted training saves.
#
# Seen: "body as in the checkpoint: True; head as in the checkpoint: False; head as initialised: True". This script fails if that
# changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 numpy==2.4.6
cat >"$folder/show.py" <<'PY'
import sys

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, Trainer, TrainerCallback, TrainingArguments

SIZES = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
examples = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 64


def model(seed):
    torch.manual_seed(seed)
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES))


def matrices(one):
    return [part.weight.detach().clone() for part in (one.gpt_neox.embed_in, one.get_output_embeddings())]


class Look(TrainerCallback):
    def on_train_begin(self, args, state, control, model, **kwargs):
        self.seen = matrices(model)


arguments = TrainingArguments(sys.argv[1], max_steps=2, save_steps=2, learning_rate=0.1, report_to=[], disable_tqdm=True)
Trainer(model(0), arguments, train_dataset=examples).train()
saved = matrices(GPTNeoXForCausalLM.from_pretrained(f"{sys.argv[1]}/checkpoint-2"))
other, look = model(1), Look()
initial = matrices(other)
arguments.max_steps = 4
Trainer(other, arguments, train_dataset=examples, callbacks=[look]).train(resume_from_checkpoint=f"{sys.argv[1]}/checkpoint-2")
body, head = (torch.equal(mine, its) for mine, its in zip(look.seen, saved))
untrained = torch.equal(look.seen[1], initial[1])
print(f"body as in the checkpoint: {body}; head as in the checkpoint: {head}; head as initialised: {untrained}")
PY
seen=$("$folder/venv/bin/python" "$folder/show.py" "$folder/trained" 2>/dev/null | tail -n 1)
echo "$seen"
[ "$seen" = "body as in the checkpoint: True; head as in the checkpoint: False; head as initialised: True" ]
