"""What tests of tasks share: small real models of transformers, saved and read back, a real tokenizer, and tables."""

import csv
import json

import numpy as np
import pyarrow
import torch
from pyarrow import parquet
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GPTNeoXForSequenceClassification,
    GPTNeoXModel,
    PreTrainedTokenizerFast,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from ninscope.neurons.tasks.task import Base

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
IDS = {"bos_token_id": 2, "eos_token_id": 3}
NEOX = GPTNeoXConfig(**SMALL, **IDS, vocab_size=256, max_position_embeddings=64, pad_token_id=None)
BERT = BertConfig(**SMALL, vocab_size=256, max_position_embeddings=64, hidden_dropout_prob=0.0)
GPT2 = GPT2Config(n_embd=24, n_layer=2, n_head=4, n_positions=64, vocab_size=256, **IDS)
VIT = ViTConfig(**SMALL, image_size=8, patch_size=4, num_channels=1)
SWIN = SwinConfig(
    image_size=16, patch_size=2, num_channels=1, embed_dim=12, depths=[1, 1], num_heads=[2, 2], window_size=4
)

MODELS = {
    "gpt_neox": (GPTNeoXForCausalLM, NEOX),
    "gpt_neox-bare": (GPTNeoXModel, NEOX),
    "gpt_neox-classifier": (GPTNeoXForSequenceClassification, NEOX),
    "bert": (BertForMaskedLM, BERT),
    "bert-bare": (BertModel, BERT),
    "bert-classifier": (BertForSequenceClassification, BERT),
    "gpt2": (GPT2LMHeadModel, GPT2),
    "vit": (ViTForImageClassification, VIT),
    "swin": (SwinForImageClassification, SWIN),
}


def made(name, seed=0, **changes):
    """A model with weights larger than an initialisation's, so that what it says depends on all of them."""
    torch.manual_seed(seed)
    kind, config = MODELS[name]
    config = type(config).from_dict(config.to_dict() | changes)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def base_of(model, folder, name="base", **changes):
    """A base as it lies on disk: what save_pretrained wrote, read without transformers."""
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    return Base(name, config, load_file(folder / "model.safetensors"), folder)


def word_tokenizer(folder, words, pad="[PAD]"):
    """A tokenizer of whole words with BERT's frame around texts, saved as transformers saves it."""
    special = ["[UNK]", "[CLS]", "[SEP]", *([pad] if pad else [])]
    numbers = {word: number for number, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", numbers["[CLS]"]), ("[SEP]", numbers["[SEP]"])],
    )
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"} | ({"pad_token": pad} if pad else {})
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names).save_pretrained(folder)
    return numbers


def write_table(path, rows):
    """Rows (dictionaries) in the format of the path's suffix."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def letter_rows(rng, count, labels=("vowel", "other")):
    """Texts whose label their letters tell: what a small model can learn in a few steps."""
    rows = []
    for number in range(count):
        letters = ("aeiou", "xyzvw")[number % 2]
        text = "".join(rng.choice(list(letters), size=rng.integers(3, 12)))
        rows.append({"text": text, "label": labels[number % 2]})
    return rows


def descended(task, model, steps=12, rate=0.1, size=16):
    """Losses of gradient descent with momentum on batches in order."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    losses = []
    model.train()
    for step in range(steps):
        optimizer.zero_grad()
        examples = np.arange(step * size, (step + 1) * size, dtype=np.int64) % task.train_size
        loss = task.loss(model, task.batch(examples))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses
