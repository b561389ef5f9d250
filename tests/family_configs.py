"""The part of config.json that says how weights are joined, of a small model of every family, by model_type."""

LLAMA = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
}
BERT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
GROUPED = ("llama", "mistral", "qwen2", "qwen3", "olmo", "olmo2", "mixtral", "olmoe")
CONFIGS = {name: {"model_type": name} | LLAMA for name in ("llama", "mistral", "qwen2", "qwen3", "olmo", "olmo2")}
CONFIGS["qwen3"]["head_dim"] = 6
CONFIGS |= {
    "gpt2": {"model_type": "gpt2", "n_embd": 24, "n_layer": 2, "n_head": 4},
    "opt": {
        "model_type": "opt",
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 40,
        "word_embed_proj_dim": 16,
    },
    "bert": {"model_type": "bert"} | BERT,
    "roberta": {"model_type": "roberta"} | BERT,
    "vit": {"model_type": "vit", "patch_size": 4} | BERT,
    "swin": {"model_type": "swin", "embed_dim": 12, "depths": [1, 2], "num_heads": [2, 3], "mlp_ratio": 4.0},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 3} | LLAMA,
    "olmoe": {"model_type": "olmoe", "num_experts": 3} | LLAMA,
    "resnet": {
        "model_type": "resnet",
        "embedding_size": 12,
        "hidden_sizes": [16, 24],
        "depths": [1, 2],
        "layer_type": "bottleneck",
    },
}
