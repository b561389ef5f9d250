"""Weights in a layout that is not read: each is named for what it is, with what to do about it."""

import re
from collections.abc import Iterable

_SHARD = re.compile(r"-\d{5}-of-(?!00001\.)\d{5}\.")  # one of one is whole
_DCP = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER model.pt"
# (a name in the folder, what the folder is and what to do): the first that fits.
_LAYOUTS = (
    (
        r"latest_checkpointed_iteration\.txt|model_optim_rng\.pt|distrib_optim\.pt|mp_rank_\d+(_\d+)*|common\.pt",
        "a checkpoint of Megatron; convert it to a folder of the Hub's layout (Megatron Bridge, or tools/checkpoint/convert.py of "
        "Megatron)",
    ),
    (
        r".*\.distcp",
        f"a distributed checkpoint of torch (DCP); make one file of it: {_DCP}",
    ),
    (
        r"shard-\d+.*\.safetensors",
        "a distributed checkpoint of torch (DCP) in safetensors, in shards; consolidate them "
        "(torch.distributed.checkpoint.HuggingFaceStorageWriter with enable_consolidation=True)",
    ),
    (
        r"(bf16_)?zero_pp_rank_\d+_mp_rank_\d+_model_states\.pt|zero_to_fp32\.py",
        "a checkpoint of DeepSpeed's ZeRO, whose ranks hold parts; join them: python zero_to_fp32.py FOLDER OUT",
    ),
    (
        r".*\.gguf",
        "a GGUF file, which llama.cpp reads, mostly quantised; use the checkpoint that it was converted from",
    ),
    (
        r"pytorch_lora_weights\.(safetensors|bin)",
        "LoRA weights of diffusers; fuse them into their pipeline (load_lora_weights, fuse_lora, save_pretrained) and name that",
    ),
    (
        rf".*{_SHARD.pattern}\w+",
        "shards without their index (model.safetensors.index.json or the like); fetch the index too",
    ),
    (
        r"models--[^/]+|refs|snapshots",
        "the cache of the Hub's client; name the repository (org/name), or the folder snapshots/COMMIT of one in it",
    ),
)


def other_layout(names: Iterable[str]) -> str:
    """One clause that says what a folder with these names in it is; empty where it is none of these layouts."""
    names = sorted(names)
    for pattern, clause in _LAYOUTS:
        shown = next((name for name in names if re.fullmatch(pattern, name)), None)
        if shown is not None:
            return f"{shown}: {clause}"
    return ""
