"""The exact analysis of other families beside that of a GPT-NeoX: time a weight, since no two have equally many."""

import json
import math
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import ninscope
from benchmarks.measures import timed
from ninscope.architectures import architecture_of

_UNET_BLOCKS = {
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "attention_head_dim": 8, "cross_attention_dim": 768,
}  # fmt: skip


def configurations(blocks: int, width: int) -> dict[str, dict]:
    """A GPT-NeoX first; then others of about as many weights, with 16 and 2048 those of about 1B."""
    heads = width // 64
    return {
        "GPT-NeoX": {
            "model_type": "gpt_neox", "num_hidden_layers": blocks, "hidden_size": width, "num_attention_heads": heads,
            "intermediate_size": 4 * width,
        },
        "llama": {
            "model_type": "llama", "num_hidden_layers": blocks, "hidden_size": width, "num_attention_heads": heads,
            "num_key_value_heads": max(heads // 4, 1), "intermediate_size": 4 * width,
        },
        "GPT-2 ([in, out])": {"model_type": "gpt2", "n_layer": blocks, "n_embd": width, "n_head": heads},
        "UNet2DConditionModel": {
            "_class_name": "UNet2DConditionModel", **_UNET_BLOCKS,
            "block_out_channels": [width * part // 32 // 8 * 8 for part in (5, 10, 20, 20)],
        },
    }  # fmt: skip


def write(folder: Path, config: dict) -> int:
    """An fp16 checkpoint with all tensors that the family uses; returns how many weights. They repeat, which no analysis sees."""
    architecture = architecture_of(config)
    pool = (np.random.default_rng(0).standard_normal(1 << 22) * 0.03).astype(np.float16)
    tensors = {
        architecture.prefixes[0] + (stored.tensor or name): np.resize(pool[: math.prod(stored.shape)], stored.shape)
        for name, stored in architecture.matrices.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    diffusers = "_class_name" in config
    save_file(tensors, folder / ("diffusion_pytorch_model.safetensors" if diffusers else "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(config))
    return sum(math.prod(stored.shape) for stored in architecture.matrices.values())


def families(folder: Path, blocks: int, width: int, runs: int):
    """Nanoseconds a weight, from the page cache, on all cores."""
    first = None
    for name, config in configurations(blocks, width).items():
        place = folder / f"family-{config.get('model_type', 'unet')}"
        weights = write(place, config)
        took = timed(lambda place=place: ninscope.measure(place), runs)
        for file in place.iterdir():
            file.unlink()
        mine = took.median * 1e9 / weights
        first = first or mine
        limit = f"GPT-NeoX {first:.2f} (best {took.best * 1e9 / weights:.2f}; wanted: 1.2 times)"
        yield f"exact, {name}, {weights / 1e6:.0f}M weights", mine, "ns", limit, mine / first
