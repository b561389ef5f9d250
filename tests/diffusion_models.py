"""Diffusion models as diffusers builds them, small, saved as it saves them: what the tests of their families share."""

import json
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import pytest

from ninscope.architectures import architecture_of

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
    "flux": ("FluxTransformer2DModel", {
        "in_channels": 12, "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2,
        "joint_attention_dim": 12, "pooled_projection_dim": 14, "axes_dims_rope": (2, 2, 4), "guidance_embeds": True,
    }),
    "sd3": ("SD3Transformer2DModel", {
        "sample_size": 8, "in_channels": 4, "out_channels": 3, "num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 2,
        "joint_attention_dim": 12, "caption_projection_dim": 16, "pooled_projection_dim": 14, "pos_embed_max_size": 8,
        "dual_attention_layers": (0, 1), "qk_norm": "rms_norm",
    }),
    "qwen-image": ("QwenImageTransformer2DModel", {
        "in_channels": 16, "out_channels": 4, "num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2,
        "joint_attention_dim": 12, "axes_dims_rope": (2, 2, 4),
    }),
    "sana": ("SanaTransformer2DModel", {
        "sample_size": 8, "in_channels": 4, "out_channels": 3, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2,
        "num_cross_attention_heads": 3, "cross_attention_head_dim": 4, "cross_attention_dim": 16, "caption_channels": 12,
        "patch_size": 2, "guidance_embeds": True,
    }),
    "wan": ("WanTransformer3DModel", {
        "in_channels": 4, "out_channels": 3, "num_layers": 2, "attention_head_dim": 12, "num_attention_heads": 2, "text_dim": 10,
        "freq_dim": 16, "ffn_dim": 40,
    }),
    "z-image": ("ZImageTransformer2DModel", {
        "in_channels": 4, "dim": 16, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 12,
        "axes_dims": [2, 2, 4], "axes_lens": [64, 16, 16],
    }),
}  # fmt: skip


def config_of(name: str) -> dict:
    """What config.json says of a model, but for what is as diffusers has it by default."""
    family, options = MODELS[name]
    return json.loads(json.dumps({"_class_name": family} | options))


class RealModel:
    """A model that diffusers built.

    module: it. folder: where it is saved. config: its config.json. weights: those of its linear layers and convolutions, by
    their names in the file.
    """

    def __init__(self, name: str, folder: Path):
        import diffusers
        import torch

        torch.manual_seed(0)
        family, options = MODELS[name]
        self.module, self.folder = getattr(diffusers, family)(**options).eval(), folder
        self.module.save_pretrained(folder)
        self.weights = {
            f"{path}.weight": part.weight.detach().numpy()
            for path, part in self.module.named_modules()
            if isinstance(part, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d | torch.nn.ConvTranspose2d)
            if getattr(part, "groups", 1) == 1  # Sana's depthwise convolutions join no two neurons
        }
        self.config = json.loads((folder / "config.json").read_text())

    @cached_property
    def architecture(self):
        return architecture_of(self.config)

    @cached_property
    def sizes(self) -> dict[str, int]:
        return {layer.name: layer.size for layer in self.architecture.layers}

    @cached_property
    def seen(self) -> dict[str, SimpleNamespace]:
        """One forward pass: the first input and the output of every module."""
        import torch

        seen = {}

        def note(path):
            def hook(_, arguments, keywords, output):
                taken = arguments[0] if arguments else next(iter(keywords.values()))
                given = output if torch.is_tensor(output) else output[0]
                seen[path] = SimpleNamespace(input=taken, output=given)

            return hook

        hooks = [
            part.register_forward_hook(note(path), with_kwargs=True)
            for path, part in self.module.named_modules()
            if path
        ]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # more of them would wait for each other: the tensors are small
        with torch.no_grad():
            self.module(**_time(self.config), **_inputs(self.config))
        torch.set_num_threads(threads)
        for hook in hooks:
            hook.remove()
        return seen


def _time(config: dict) -> dict:
    import torch

    return {"t" if config["_class_name"].startswith("ZImage") else "timestep": torch.tensor([3])}


def _inputs(config: dict) -> dict:
    """What a model of such a configuration takes besides the time step."""
    import torch

    draw = torch.Generator().manual_seed(1)
    given = _inputs_of_streams(config, draw)
    if given:
        return given
    size = 8 if config["sample_size"] > 8 else config["sample_size"]
    given = {"sample": torch.randn(1, config["in_channels"], size, size, generator=draw)}
    if not config["_class_name"].startswith("UNet"):
        given["hidden_states"] = given.pop("sample")
    if width := config.get("caption_channels") or config.get("encoder_hid_dim") or config.get("cross_attention_dim"):
        given["encoder_hidden_states"] = torch.randn(1, 3, width, generator=draw)
    if config.get("class_embed_type") == "projection":
        given["class_labels"] = torch.randn(1, 9, generator=draw)
    elif config.get("class_embed_type") or config.get("num_class_embeds") or config["_class_name"].startswith("DiT"):
        given["class_labels"] = torch.tensor([1])
    if config.get("addition_embed_type"):
        given["added_cond_kwargs"] = {"text_embeds": torch.randn(1, 8, generator=draw), "time_ids": torch.ones(1, 3)}
    if config["_class_name"].startswith("PixArt"):
        given["added_cond_kwargs"] = {"resolution": torch.ones(1, 2), "aspect_ratio": torch.ones(1, 1)}
    return given


def _inputs_of_streams(config: dict, draw) -> dict:
    """What newer transformers take: four patches, an image of 8 x 8, or a video of one frame, and three tokens of text."""
    import torch

    family, channels = config["_class_name"].split("Transformer")[0], config["in_channels"]
    if family == "ZImage":
        text = torch.randn(3, config["cap_feat_dim"], generator=draw)
        return {"x": [torch.randn(channels, 1, 4, 4, generator=draw)], "cap_feats": [text]}
    text = next(
        (config[key] for key in ("joint_attention_dim", "text_dim") if key in config), config.get("caption_channels")
    )
    shapes = {
        "Flux": (4, channels),
        "QwenImage": (4, channels),
        "SD3": (channels, 8, 8),
        "Wan": (channels, 1, 8, 8),
        "Sana": (channels, 8, 8),
    }
    if family not in shapes:
        return {}
    given = {
        "hidden_states": torch.randn(1, *shapes[family], generator=draw),
        "encoder_hidden_states": torch.randn(1, 3, text, generator=draw),
    }
    if "pooled_projection_dim" in config:
        given["pooled_projections"] = torch.randn(1, config["pooled_projection_dim"], generator=draw)
    if family in ("Flux", "Sana"):
        given["guidance"] = torch.ones(1)
    if family == "Flux":
        given |= {"img_ids": torch.zeros(4, 3), "txt_ids": torch.zeros(3, 3)}
    if family == "QwenImage":
        given |= {"img_shapes": [[(1, 2, 2)]], "encoder_hidden_states_mask": torch.ones(1, 3, dtype=torch.bool)}
    return given


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """name -> RealModel, built when it is first asked for."""
    built: dict[str, RealModel] = {}

    def get(name: str) -> RealModel:
        if name not in built:
            built[name] = RealModel(name, tmp_path_factory.mktemp(name) / "step0")
        return built[name]

    return get


@pytest.fixture
def model(real, name):
    return real(name)
