"""The part of config.json that says how weights are joined, of a small model of every family, by model_type."""

LLAMA = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
}
BERT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
LIKE_LLAMA = (
    "llama", "mistral", "qwen2", "qwen3", "olmo", "olmo2", "olmo3", "smollm3", "granite", "ministral3", "gemma", "gemma2",
    "gemma3_text", "phi3", "apertus",
)  # fmt: skip
EXPERTS = {name: value for name, value in LLAMA.items() if name != "intermediate_size"} | {"moe_intermediate_size": 16}
GROUPED = (
    *LIKE_LLAMA,
    "mixtral",
    "olmoe",
    "qwen2_moe",
    "qwen3_moe",
    "deepseek_v3",
    "falcon_h1",
    "gpt_oss",
    "llama4_text",
    "granitemoe",
    "gemma4_text",
)  # another number of heads is another network
CONFIGS = {name: {"model_type": name} | LLAMA for name in LIKE_LLAMA}
for name in ("qwen3", "ministral3", "gemma", "gemma2", "gemma3_text"):
    CONFIGS[name]["head_dim"] = 6
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
    "distilbert": {"model_type": "distilbert", "dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 40},
    "t5": {
        "model_type": "t5",
        "d_model": 24,
        "d_kv": 5,
        "d_ff": 40,
        "num_layers": 2,
        "num_decoder_layers": 3,
        "num_heads": 4,
    },
    "whisper": {
        "model_type": "whisper",
        "d_model": 24,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 40,
        "decoder_ffn_dim": 36,
        "num_mel_bins": 12,
    },
    "clip": {
        "model_type": "clip",
        "text_config": BERT,
        "vision_config": BERT | {"hidden_size": 20, "num_hidden_layers": 3, "patch_size": 4},
    },
    "clip_text_model": {"model_type": "clip_text_model"} | BERT,
    "clip_vision_model": {"model_type": "clip_vision_model", "patch_size": 4} | BERT,
    "mamba": {"model_type": "mamba", "state_size": 12, "time_step_rank": 3, "hidden_size": 24, "num_hidden_layers": 2},
    "mamba2": {
        "model_type": "mamba2",
        "state_size": 12,
        "num_heads": 6,
        "n_groups": 2,
        "hidden_size": 24,
        "num_hidden_layers": 2,
    },
    "falcon_h1": {"model_type": "falcon_h1", "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_state": 12} | LLAMA,
    "rwkv": {"model_type": "rwkv", "hidden_size": 24, "num_hidden_layers": 2},
    "llama4_text": {"model_type": "llama4_text", "num_local_experts": 3, "head_dim": 6} | LLAMA,
    "llama4": {"model_type": "llama4", "text_config": {"num_local_experts": 3, "head_dim": 6} | LLAMA},
    "granitemoe": {"model_type": "granitemoe", "num_local_experts": 3} | LLAMA,
    "gemma3": {"model_type": "gemma3", "text_config": {"head_dim": 6} | LLAMA},
    "mistral3": {"model_type": "mistral3", "text_config": {"model_type": "mistral"} | LLAMA},
    "gemma4_text": {
        "model_type": "gemma4_text",
        "head_dim": 6,
        "global_head_dim": 8,
        "hidden_size_per_layer_input": 14,
    }
    | LLAMA,
    "gemma4": {
        "model_type": "gemma4",
        "text_config": {"head_dim": 6, "global_head_dim": 8, "hidden_size_per_layer_input": 14} | LLAMA,
    },
    "gpt_oss": {"model_type": "gpt_oss", "num_local_experts": 3, "head_dim": 6} | LLAMA,
    "qwen2_moe": {"model_type": "qwen2_moe", "num_experts": 3, "shared_expert_intermediate_size": 20} | EXPERTS,
    "qwen3_moe": {"model_type": "qwen3_moe", "num_experts": 3} | EXPERTS,
    "deepseek_v3": {
        "model_type": "deepseek_v3",
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "moe_intermediate_size": 16,
        "n_routed_experts": 3,
        "first_k_dense_replace": 0,
        "q_lora_rank": 9,
        "kv_lora_rank": 12,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 6,
        "v_head_dim": 5,
    },
    "resnet": {
        "model_type": "resnet",
        "embedding_size": 12,
        "hidden_sizes": [16, 24],
        "depths": [1, 2],
        "layer_type": "bottleneck",
    },
}
