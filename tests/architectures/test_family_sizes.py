"""Published models: with the embeddings, heads and vectors that are left out, our edges are as many numbers as the models have."""

import pytest

from ninscope.architectures import architecture_of

LLAMA_3_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
}
# name: (configuration, node layers, numbers left out, published parameters)
PUBLISHED = {
    "gpt2": (
        {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12},
        85,
        (50257 + 1024) * 768 + 12 * (3 + 1 + 4 + 1 + 4) * 768 + 2 * 768,  # embeddings; biases and normalisations
        124_439_808,
    ),
    "Llama-3-8B": (LLAMA_3_8B, 289, 2 * 128256 * 4096 + 65 * 4096, 8_030_261_248),
    "Mixtral-8x7B": (
        LLAMA_3_8B | {"model_type": "mixtral", "num_local_experts": 8},
        31 * 32 + 1,
        2 * 32000 * 4096 + 65 * 4096,
        46_702_792_704,
    ),
    "opt-350m": (
        {
            "model_type": "opt",
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "ffn_dim": 4096,
            "word_embed_proj_dim": 512,
        },
        7 * 24 + 3,
        50272 * 512 + 2050 * 1024 + 24 * (4 + 4 + 1 + 4) * 1024,
        331_196_416,
    ),
    "bert-base-uncased": (
        {
            "model_type": "bert",
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
        },
        85,
        # embeddings and their normalisation; biases and normalisations; pooler
        (30522 + 512 + 2 + 2) * 768 + 12 * (4 + 4 + 1 + 4) * 768 + 769 * 768,
        109_482_240,
    ),
    "vit-base-patch16-224": (
        {
            "model_type": "vit",
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "patch_size": 16,
        },
        86,
        # token, positions, the convolution's bias and the last normalisation; biases and normalisations; classifier
        (1 + 197 + 1 + 2) * 768 + 12 * (4 + 4 + 1 + 4) * 768 + 769 * 1000,
        86_567_656,
    ),
    "swin-tiny-patch4-window7-224": (
        {"model_type": "swin", "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "patch_size": 4},
        7 * 12 + 2 * 4,
        # the convolution's bias and normalisation; biases, normalisations and position biases; merging's normalisations
        3 * 96
        + sum(n * ((4 + 4 + 1 + 4) * 96 * 2**s + 169 * 3 * 2**s) for s, n in enumerate([2, 2, 6, 2]))
        + 2 * 4 * 96 * (1 + 2 + 4)
        + 2 * 768
        + 769 * 1000,
        28_288_354,
    ),
    "resnet-50": (
        {
            "model_type": "resnet",
            "embedding_size": 64,
            "hidden_sizes": [256, 512, 1024, 2048],
            "depths": [3, 4, 6, 3],
            "layer_type": "bottleneck",
        },
        3 * 16 + 2,
        # normalisations: the first, three a layer, one a shortcut; classifier
        2 * 64
        + sum(2 * (n * (w // 4 * 2 + w) + w) for n, w in zip([3, 4, 6, 3], [256, 512, 1024, 2048], strict=True))
        + 2049 * 1000,
        25_557_032,
    ),
    "Olmo-3-7B": (
        LLAMA_3_8B | {"model_type": "olmo3", "num_key_value_heads": 32, "intermediate_size": 11008},
        289,
        2 * 100278 * 4096 + (4 * 32 + 1) * 4096,
        7_298_011_136,
    ),
    "Phi-3-mini": (
        LLAMA_3_8B | {"model_type": "phi3", "hidden_size": 3072, "num_key_value_heads": 32, "intermediate_size": 8192},
        289,
        2 * 32064 * 3072 + 65 * 3072,
        3_821_079_552,
    ),
    "gemma-2-2b": (
        {
            "model_type": "gemma2",
            "hidden_size": 2304,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "intermediate_size": 9216,
        },
        9 * 26 + 1,
        256000 * 2304 + (4 * 26 + 1) * 2304,
        2_614_341_888,
    ),
    "Qwen1.5-MoE-A2.7B": (
        {
            "model_type": "qwen2_moe",
            "hidden_size": 2048,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "num_experts": 60,
        },
        (11 + 3 * 60) * 24 + 1,
        2 * 151936 * 2048 + (2 * 24 + 1) * 2048 + 24 * 3 * 2048,
        14_315_784_192,
    ),
    "t5-small": (
        {"model_type": "t5", "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
        7 * 6 + 12 * 6 + 2,
        32128 * 512 + 2 * 32 * 8 + 32 * 512,  # embedding; tables of positions; normalisations
        60_506_624,
    ),
    "distilbert-base-uncased": (
        {"model_type": "distilbert", "dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072},
        7 * 6 + 1,
        (30522 + 512 + 2) * 768 + 6 * (4 + 4 + 4 + 1) * 768,
        66_362_880,
    ),
    "clip-vit-base-patch32": (
        {"model_type": "clip", "text_config": {}, "vision_config": {}},
        7 * 24 + 3,
        # embeddings, biases and normalisations, projection: of text and image; the scale of the logits
        (49408 + 77 + 2) * 512
        + 12 * (4 + 4 + 1 + 4) * 512
        + 512 * 512
        + (1 + 50 + 4) * 768
        + 12 * (4 + 4 + 1 + 4) * 768
        + 768 * 512
        + 1,
        151_277_313,
    ),
    "whisper-tiny": (
        {
            "model_type": "whisper",
            "d_model": 384,
            "encoder_layers": 4,
            "decoder_layers": 4,
            "encoder_attention_heads": 6,
            "decoder_attention_heads": 6,
            "encoder_ffn_dim": 1536,
            "decoder_ffn_dim": 1536,
            "num_mel_bins": 80,
        },
        7 * 4 + 12 * 4 + 4,
        # embeddings; biases (k has none) and normalisations of convolutions, encoder, decoder
        (51865 + 1500 + 448) * 384 + 2 * 384 + 4 * (3 + 4 + 1 + 4) * 384 + 4 * (6 + 6 + 1 + 4) * 384 + 4 * 384,
        37_760_640,
    ),
    "mamba-130m": (
        {"model_type": "mamba", "hidden_size": 768, "num_hidden_layers": 24, "state_size": 16, "time_step_rank": 48},
        8 * 24 + 1,
        # embedding; normalisations; convolution and its bias, bias of dt, A, D
        50280 * 768 + (24 + 1) * 768 + 24 * 1536 * (4 + 1 + 1 + 16 + 1),
        129_135_360,
    ),
    "rwkv-4-169m": (
        {"model_type": "rwkv", "hidden_size": 768, "num_hidden_layers": 12},
        8 * 12 + 1,
        2 * 50277 * 768 + 12 * (2 + 3 + 2 + 4) * 768 + 4 * 768,
        169_342_464,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_many_as_published(name):
    config, layers, left_out, published = PUBLISHED[name]
    architecture = architecture_of(config).with_convolutions("per_tap")
    weights = sum(edges * nodes for edges, nodes in map(architecture.edges_of, architecture.blocks))
    assert weights + left_out == published
    assert len(architecture.layers) == layers
