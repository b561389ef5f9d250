"""Adapters that peft itself makes of small models of the library's, with their bases and what peft merges of both."""

from __future__ import annotations

import warnings
from pathlib import Path

from family_models import CASES, built, saved


def quietly(function, *arguments, **options):
    """Without peft's warnings: of fan_in_fan_out, which it sets itself, of tied weights, of a base without a name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **options)


def adapted(name: str, dtype: str = "float32", **options):
    """A peft model over a case of `family_models`, its A and B random (peft begins with B of zeros)."""
    import peft
    import torch

    base = built(name).to(getattr(torch, dtype))
    return quietly(peft.get_peft_model, base, peft.LoraConfig(**({"init_lora_weights": False} | options)))


def written(folder: Path, name: str, dtype: str = "float32", grown: float = 1, **options) -> tuple[Path, Path, Path]:
    """(adapter, base, merged) as peft and the library save them: merged is what merge_and_unload gives. grown: by what
    every B is multiplied."""
    import torch

    model = adapted(name, dtype, **options)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".lora_B." in key:
                parameter.mul_(grown)
    adapter, base, merged = (folder / part for part in ("adapter", "base", "merged"))
    quietly(model.save_pretrained, adapter)
    saved(built(name).to(getattr(torch, dtype)), name, base)
    saved(quietly(model.merge_and_unload), name, merged)
    return adapter, base, merged


def gpt2_classifier(folder: Path) -> tuple[Path, Path, Path]:
    """As `written`, of a GPT-2 with a head of its own that is a Linear and is adapted last, so that peft writes fan_in_fan_out as
    false; c_proj and the head are square."""
    import peft
    import torch
    import transformers

    torch.manual_seed(3)
    base = transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**CASES["gpt2"].sizes, num_labels=24))
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.normal_(0, 0.1)
    saved(base, "gpt2", folder / "base")
    options = peft.LoraConfig(r=8, target_modules=["c_attn", "c_proj", "score"], init_lora_weights=False)
    model = quietly(peft.get_peft_model, base, options)
    quietly(model.save_pretrained, folder / "adapter")
    saved(quietly(model.merge_and_unload), "gpt2", folder / "merged")
    return folder / "adapter", folder / "base", folder / "merged"
