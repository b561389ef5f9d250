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
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_many_as_published(name):
    config, layers, left_out, published = PUBLISHED[name]
    architecture = architecture_of(config).with_convolutions("per_tap")
    weights = sum(edges * nodes for edges, nodes in map(architecture.edges_of, architecture.blocks))
    assert weights + left_out == published
    assert len(architecture.layers) == layers
