"""Diffusion models as diffusers builds them, small, saved as it saves them: what the tests of their families share."""

import json
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

WEIGHTS = "diffusion_pytorch_model.safetensors"
SMALL = {"sample_size": 8, "norm_num_groups": 4}
CROSS = {"cross_attention_dim": 12}
MODELS = {
    "ddpm": ("UNet2DModel", SMALL | {
        "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": (8, 12), "attention_head_dim": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }),
    # Heads that do not fill the channels, blocks that resample with weights, both modulations, another time embedding.
    "resampling": ("UNet2DModel", SMALL | {
        "block_out_channels": (8, 12, 16), "layers_per_block": 2, "attention_head_dim": 5, "class_embed_type": "timestep",
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "UNetResAttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D", "UpBlock2D"), "downsample_type": "resnet",
        "upsample_type": "resnet", "resnet_time_scale_shift": "scale_shift", "time_embedding_type": "fourier",
    }),
    "no-middle": ("UNet2DModel", SMALL | {
        "block_out_channels": (8,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",),
        "mid_block_type": None, "num_class_embeds": 3,
    }),
    "stable-diffusion": ("UNet2DConditionModel", SMALL | CROSS | {
        "block_out_channels": (8, 16, 16, 24), "attention_head_dim": 2,
    }),
    "sdxl": ("UNet2DConditionModel", SMALL | CROSS | {
        "block_out_channels": (8, 16, 24), "attention_head_dim": (2, 4, 8), "transformer_layers_per_block": (1, 2, 3),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "use_linear_projection": True,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 20,
        "time_cond_proj_dim": 6,
    }),
    "mixed": ("UNet2DConditionModel", SMALL | CROSS | {
        "block_out_channels": (8, 16), "layers_per_block": (1, 2), "attention_head_dim": (3, 5),
        "down_block_types": ("AttnDownBlock2D", "CrossAttnDownBlock2D"), "only_cross_attention": (False, True),
        "up_block_types": ("CrossAttnUpBlock2D", "AttnUpBlock2D"), "encoder_hid_dim": 7, "conv_in_kernel": 1,
        "mid_block_type": "UNetMidBlock2D", "class_embed_type": "projection", "projection_class_embeddings_input_dim": 9,
        "transformer_layers_per_block": ((1,), (2, 1)), "reverse_transformer_layers_per_block": ((1, 2, 1), (1, 1)),
    }),
    "dit": ("DiTTransformer2DModel", {
        "num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 2, "sample_size": 8, "num_embeds_ada_norm": 10,
    }),
    "pixart": ("PixArtTransformer2DModel", {
        "num_attention_heads": 2, "attention_head_dim": 6, "num_layers": 2, "sample_size": 128, "cross_attention_dim": 12,
        "caption_channels": 5,
    }),
}  # fmt: skip


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """By name: the real module, the folder it was saved to, its config.json, and the weights of its linear layers and
    convolutions by their names in the file.
    """
    built = {}
    for name, (family, options) in MODELS.items():
        torch.manual_seed(0)
        module = getattr(diffusers, family)(**options).eval()
        folder = tmp_path_factory.mktemp(name) / "step0"
        module.save_pretrained(folder)
        weights = {
            f"{path}.weight": part.weight.detach().numpy()
            for path, part in module.named_modules()
            if isinstance(part, torch.nn.Linear | torch.nn.Conv2d | torch.nn.ConvTranspose2d)
        }
        config = json.loads((folder / "config.json").read_text())
        built[name] = SimpleNamespace(module=module, folder=folder, config=config, weights=weights)
    return built


@pytest.fixture
def model(real, name):
    return real[name]
