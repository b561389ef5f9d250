"""What tests of fine-tuning share: tiny bases as they lie on disk, texts to train on, and fine-tunes that are interrupted."""

import json
from pathlib import Path

import numpy as np
import tomli_w
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from ninscope.neurons.convgru import ConvGRU, ConvGRUConfig
from ninscope.neurons.finetuning.bases import Analysed
from ninscope.neurons.finetuning.recipe import Inhibition, Recipe
from ninscope.neurons.finetuning.saved import SavedState
from ninscope.neurons.finetuning.training import fine_tune
from ninscope.neurons.tasks.settings import TextSettings
from ninscope.neurons.tasks.task import Base

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
NEOX = GPTNeoXConfig(**SMALL, vocab_size=256, max_position_embeddings=64, bos_token_id=0, eos_token_id=0)
BERT = BertConfig(**SMALL, vocab_size=256, max_position_embeddings=64, hidden_dropout_prob=0.2, num_labels=2)
VIT = ViTConfig(**SMALL, image_size=8, patch_size=4, num_channels=1, num_labels=10)
SWIN = SwinConfig(
    image_size=8,
    patch_size=2,
    num_channels=1,
    embed_dim=8,
    depths=[1, 1],
    num_heads=[2, 2],
    window_size=2,
    num_labels=10,
)
GRU = ConvGRUConfig(
    height=8, width=8, input_frames=2, output_frames=2, convolution_channels=(4, 6), convolution_kernels=(3, 3),
    strides=(1, 2), paddings=(1, 1), hidden_channels=(5, 6), input_kernels=(3, 3), recurrent_kernels=(3, 3),
    upsampling_kernels=(3, 4),
)  # fmt: skip
KINDS = {
    "neox": (GPTNeoXForCausalLM, NEOX),
    "bert": (BertForSequenceClassification, BERT),
    "vit": (ViTForImageClassification, VIT),
    "swin": (SwinForImageClassification, SWIN),
}


def made(name: str, seed: int = 0, **changes) -> PreTrainedModel:
    """A model with weights larger than an initialisation's, so that what it says depends on all of them."""
    torch.manual_seed(seed)
    kind, config = KINDS[name]
    model = kind(type(config).from_dict(config.to_dict() | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def convgru(seed: int = 0) -> ConvGRU:
    torch.manual_seed(seed)
    return ConvGRU(GRU)


def base_of(model: torch.nn.Module, folder: Path) -> Base:
    """A base as it lies on disk, read without ninscope."""
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    return Base(folder.name, config, load_file(folder / "model.safetensors"), folder)


def write_texts(folder: Path, train: int = 20, held_out: int = 8, seed: int = 5) -> tuple[Path, Path]:
    """Tables (JSON Lines) of texts of several lengths, whose labels their letters tell."""
    rng = np.random.default_rng(seed)
    paths = folder / "texts-train.jsonl", folder / "texts-held_out.jsonl"
    for path, count in zip(paths, (train, held_out), strict=True):
        with open(path, "w", encoding="utf-8") as file:
            for number in range(count):
                letters = list(("aeiou", "xyzvw")[number % 2])
                text = "".join(rng.choice(letters, size=rng.integers(3, 12)))
                file.write(json.dumps({"text": text, "label": number % 2}) + "\n")
    return paths


def write_prose(folder: Path, train: int = 700, held_out: int = 180, seed: int = 6) -> tuple[Path, Path]:
    """Text files of made-up words, so many bytes each."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdefgh"), size=3)) for _ in range(12)]
    paths = folder / "prose.txt", folder / "prose-held_out.txt"
    for path, size in zip(paths, (train, held_out), strict=True):
        path.write_text(" ".join(rng.choice(words, size=size))[:size], encoding="utf-8")
    return paths


def write_words(folder: Path, *homes: Path) -> dict:
    """A task of texts of whole words, whose tokenizer is written into each of these folders, as transformers saves it."""
    words = [f"w{number}" for number in range(30)]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(["[UNK]", *words])}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    for home in homes:
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(home)
    rng = np.random.default_rng(3)
    for name, count in (("words.txt", 300), ("words-held_out.txt", 80)):
        (folder / name).write_text(" ".join(rng.choice(words, size=count)), encoding="utf-8")
    return {"kind": "language_modelling", "context": 8, "train": "words.txt", "held_out": "words-held_out.txt"}


def text_task(folder: Path, base: Base, **settings):
    train, held_out = write_texts(folder)
    return TextSettings(train, held_out, tokenizer="bytes", max_length=16, **settings).task(base)


def recipe(method: str = "reversed", **changes) -> Recipe:
    """Few steps of a few examples, of which the last of a pass is smaller; MEmeL begins within them."""
    where = {"layers": "middle:1", "late_start": 2, "forget": 3}
    inhibition = Inhibition(**where | {key: changes.pop(key) for key in list(changes) if key in vars(Inhibition())})
    settings = {"learning_rate": 3e-3, "steps": 9, "batch_size": 8, "evaluate_every": 3}
    return Recipe(method, inhibition=inhibition, **settings | changes)


class Seen:
    """An `Analyse` that keeps the weights of every model it is shown; its alpha0 depends on all of them, to the last bit."""

    def __init__(self):
        self.weights: list[dict[str, torch.Tensor]] = []

    def __call__(self, model: torch.nn.Module) -> Analysed:
        self.weights.append({name: value.detach().clone() for name, value in model.state_dict().items()})
        sums = [float(parameter.detach().double().sum()) for parameter in model.parameters()]
        return Analysed(sum(sums), float(len(sums)), "")


class Interrupted(Exception):
    pass


def tuned(task, base, how, folder, stops=(), stepped=lambda step: None):
    """(evaluations as JSON, states of the model at every evaluation, numbers of the steps that were done) of a fine-tune that is
    interrupted after each of these updates, and then started again. stepped(step): called after every update."""
    seen, done = Seen(), []
    left = list(stops)

    def after(step: int, steps: int) -> None:
        done.append(step)
        stepped(step)
        if left and step == left[0]:
            left.pop(0)
            raise Interrupted

    while True:
        try:
            evaluated = fine_tune(task, base, how, seen, SavedState(folder), after)
        except Interrupted:
            continue
        return [evaluation.as_json() for evaluation in evaluated], seen.weights, done


def assert_same_weights(ours, theirs) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


# --- runs ---------------------------------------------------------------------------------------------------
STEPS = (0, 4, 8)
METHODS_RUN, SEEDS_RUN = ["none", "reversed"], [0, 1]


def neox_suite(folder: Path, steps=STEPS, **changes) -> Path:
    """A revision a step, each of other weights. changes: to the configuration."""
    for step in steps:
        made("neox", seed=step, **changes).save_pretrained(folder / f"step{step}")
    return folder


def language_task(folder: Path, **changes) -> dict:
    """The table `task` of a DAG file in this folder, whose texts are written beside it."""
    train, held_out = write_prose(folder)
    paths = {"train": train.name, "held_out": held_out.name}
    return {"kind": "language_modelling", "tokenizer": "bytes", "context": 16, **paths} | changes


def finetune_section(task: dict, **changes) -> dict:
    """Of [finetune]: few short fine-tunes of every revision."""
    return {
        "model": "tiny", "revisions": "all", "task": task, "methods": METHODS_RUN, "seeds": SEEDS_RUN,
        "learning_rates": [3e-3], "steps": 4, "evaluate_every": 2, "batch_size": 4, "layers": "middle:1", "late_start": 1,
    } | changes  # fmt: skip


def add_sections(dag: Path, **sections) -> Path:
    """The DAG file with these sections, each a table or a list of them."""
    with open(dag, "a", encoding="utf-8") as file:
        file.write("\n" + tomli_w.dumps(sections))
    return dag
