"""Configurations and files of diffusion models that are wrong: one line, what is at fault, and never a wrong number."""

import json

import numpy as np
import pytest
from diffusion_models import WEIGHTS, config_of
from safetensors.numpy import save_file

import ninscope
from ninscope.architectures import architecture_of
from ninscope.errors import CheckpointError


@pytest.fixture
def damaged(tmp_path):
    """A model's file, its weights random, with its tensors and configuration changed."""

    def copy(name, change=None, **config):
        folder = tmp_path / "step0"
        folder.mkdir()
        rng = np.random.default_rng(0)
        tensors = {
            tensor: (rng.standard_normal(matrix.shape) * 0.2).astype(np.float32)
            for tensor, matrix in architecture_of(config_of(name)).matrices.items()
        }
        if change:
            change(tensors)
        save_file(tensors, folder / WEIGHTS)
        (folder / "config.json").write_text(json.dumps(config_of(name) | config))
        return folder

    return copy


def refusal(config: dict) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        architecture_of(config)
    assert "\n" not in str(caught.value)
    return caught.value


UNKNOWN = [
    ("ddpm", {"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, "down_block_types names 'SkipDownBlock2D'"),
    ("ddpm", {"up_block_types": ["KUpBlock2D", "UpBlock2D"]}, "up_block_types names 'KUpBlock2D'"),
    ("ddpm", {"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift 'spatial' is not supported"),
    ("ddpm", {"downsample_type": "pool"}, "downsample_type 'pool'"),
    ("ddpm", {"time_embedding_type": "x"}, "time_embedding_type 'x'"),
    ("sdxl", {"attention_type": "gated"}, "attention_type 'gated'"),
    ("sdxl", {"dual_cross_attention": True}, "dual_cross_attention True"),
    ("sdxl", {"addition_embed_type": "image"}, "addition_embed_type 'image'"),
    ("sdxl", {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "mid_block_type 'UNetMidBlock2DSimpleCrossAttn'"),
    ("sdxl", {"encoder_hid_dim_type": "image_proj"}, "encoder_hid_dim_type 'image_proj'"),
    ("sdxl", {"cross_attention_dim": [12, 8, 8]}, "cross_attention_dim differs between levels"),
    ("dit", {"norm_type": "ada_norm"}, "norm_type 'ada_norm'"),
    ("dit", {"activation_fn": "relu"}, "activation_fn 'relu'"),
    ("z-image", {"siglip_feat_dim": 8}, "siglip_feat_dim 8 is not supported; only models without it are"),
    ("wan", {"image_dim": 1280}, "image_dim 1280 is not supported; only models without it are"),
    ("wan", {"added_kv_proj_dim": 24}, "added_kv_proj_dim 24 is not supported"),
    ("dit", {"_class_name": "Transformer2DModel", "patch_size": None}, "Transformer2DModel without patch_size"),
]
SENSELESS = [
    ("ddpm", {"block_out_channels": [8]}, "2 down_block_types, 2 up_block_types and 1 block_out_channels"),
    ("ddpm", {"block_out_channels": [8, -12]}, "block_out_channels is -12; an integer from 1"),
    ("ddpm", {"block_out_channels": [8, 10**12]}, "block_out_channels is 1000000000000"),
    ("ddpm", {"layers_per_block": 0}, "layers_per_block is 0"),
    ("ddpm", {"layers_per_block": 10**6}, "sizes imply more than 20000 node layers"),
    ("ddpm", {"attention_head_dim": 13}, "attention_head_dim 13 is more than the 12 channels"),
    ("ddpm", {"add_attention": 1}, "add_attention is 1; true or false"),
    ("ddpm", {"down_block_types": ["CrossAttnDownBlock2D"] * 2}, "a UNet2DModel has no encoder for CrossAttnDownBlock2D to read"),
    ("ddpm", {"down_block_types": "DownBlock2D"}, "down_block_types is not a list"),
    ("ddpm", {"down_block_types": ["DownBlock2D"] * 65}, "down_block_types is not a list of 1 to 64"),
    ("stable-diffusion", {"cross_attention_dim": None}, "cross_attention_dim is absent"),
    ("stable-diffusion", {"attention_head_dim": 99}, "attention_head_dim 99, which is the number of heads"),
    ("stable-diffusion", {"layers_per_block": [1, 2]}, "layers_per_block has 2 entries; 4"),
    ("stable-diffusion", {"only_cross_attention": [True]}, "only_cross_attention is not true, false or a list of 4"),
    ("sdxl", {"transformer_layers_per_block": [1, 2]}, "transformer_layers_per_block has 2 entries, not 3"),
    ("sdxl", {"transformer_layers_per_block": [[1, 1], 2, 3]}, "reverse_transformer_layers_per_block is needed"),
    ("sdxl", {"transformer_layers_per_block": 10**6}, "transformer_layers_per_block is 1000000"),
    ("pixart", {"num_attention_heads": 7}, "cross_attention_dim 12, but captions are projected to 42"),
    ("pixart", {"num_attention_heads": 2, "attention_head_dim": 4, "cross_attention_dim": 8}, "8 channels are not a multiple"),
    ("dit", {"num_layers": 10**9}, "num_layers is 1000000000"),
    ("flux", {"guidance_embeds": "yes"}, "guidance_embeds is 'yes'; true or false"),
    ("sd3", {"caption_projection_dim": 12}, "caption_projection_dim is not 16"),
    ("sd3", {"dual_attention_layers": ["0"]}, "dual_attention_layers is ['0']; a list of blocks' numbers"),
    ("sana", {"cross_attention_dim": 12}, "cross_attention_dim is not 16"),
    ("sana", {"mlp_ratio": "2"}, "mlp_ratio is '2'; a number up to 1000"),
    ("z-image", {"all_patch_size": [2, 4]}, "all_patch_size [2, 4] and all_f_patch_size [1] are not pairs"),
    ("z-image", {"n_heads": 3}, "dim 16 is not a multiple of n_heads 3"),
    ("wan", {"patch_size": [1, 2]}, "patch_size has 2 entries; 3"),
    ("dit", {"patch_size": "2"}, "patch_size is '2'"),
]  # fmt: skip


class TestBadInput:
    @pytest.mark.parametrize(("name", "changed", "message"), UNKNOWN)
    def test_what_is_not_known_is_unsupported_by_name(self, name, changed, message):
        error = refusal(config_of(name) | changed)
        assert error.status == "unsupported"
        assert message in str(error)

    @pytest.mark.parametrize(("name", "changed", "message"), SENSELESS)
    def test_senseless_sizes(self, name, changed, message):
        error = refusal(config_of(name) | changed)
        assert error.status == "corrupt"
        assert message in str(error)

    def test_a_missing_tensor(self, damaged):
        folder = damaged("ddpm", lambda tensors: tensors.pop("mid_block.attentions.0.to_v.weight"))
        with pytest.raises(
            CheckpointError, match=r"mid_block\.attentions\.0\.to_v\.weight is absent, though config.json"
        ):
            ninscope.measure(folder)

    def test_half_of_a_family_s_tensors_missing(self, damaged):
        def halve(tensors):
            for tensor in [tensor for tensor in tensors if tensor.startswith("up_blocks")]:
                del tensors[tensor]

        with pytest.raises(CheckpointError, match=r"tensor up_blocks\.0\.\S+ is absent"):
            ninscope.measure(damaged("stable-diffusion", halve))

    def test_another_shape(self, damaged):
        message = r"tensor \S+ has shape \[8, 1, 3, 3\], config.json \(UNet2DModel\) implies \[8, 2, 3, 3\]"
        with pytest.raises(CheckpointError, match=message) as caught:
            ninscope.measure(damaged("ddpm", in_channels=2))
        assert caught.value.status == "corrupt"

    def test_a_convolution_with_groups_is_not_taken_for_one_without(self, damaged):
        def group(tensors):
            tensors["conv_in.weight"] = np.ascontiguousarray(tensors["conv_in.weight"][:, :2])

        message = (
            r"conv_in\.weight has shape \[8, 2, 3, 3\], config.json \(UNet2DConditionModel\) implies \[8, 4, 3, 3\]"
        )
        with pytest.raises(CheckpointError, match=message):
            ninscope.measure(damaged("stable-diffusion", group))

    def test_a_matrix_where_a_kernel_was_expected(self, damaged):
        with pytest.raises(
            CheckpointError, match=r"proj_in\.weight has shape \[8, 8, 1, 1\], config.json \S+ implies \[8, 8\]"
        ):
            ninscope.measure(damaged("stable-diffusion", use_linear_projection=True))

    def test_what_is_not_finite_in_a_kernel_is_found(self, damaged):
        def spoil(tensors):
            tensors["conv_out.weight"][0, 3, 1, 1] = np.nan

        with pytest.raises(CheckpointError, match=r"conv_out\.weight holds NaN or infinity") as caught:
            ninscope.measure(damaged("ddpm", spoil))
        assert caught.value.status == "nonfinite"
