"""The library's own small models of every family, saved by save_pretrained, and what their modules say of the network.

Nothing here asks ninscope which tensors there are: blocks are taken from modules by attribute, and what there is to take is
found by walking the model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

TEXT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "vocab_size": 31,
    "max_position_embeddings": 16,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GPT2 = {
    "n_embd": 24,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 16,
    "vocab_size": 31,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
OPT = {name: value for name, value in TEXT.items() if name != "intermediate_size"} | {"ffn_dim": 40}
IMAGE = {name: TEXT[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}
GROUPED = TEXT | {"num_key_value_heads": 2}
GEMMA4 = GROUPED | {
    "num_hidden_layers": 4,
    "head_dim": 10,
    "global_head_dim": 12,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 14,
    "vocab_size_per_layer_input": 31,
    "enable_moe_block": True,
    "num_experts": 3,
    "top_k_experts": 2,
    "moe_intermediate_size": 16,
}
EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
DEEPSEEK = TEXT | {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "q_lora_rank": 18,
    "kv_lora_rank": 14,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6,
    "v_head_dim": 5,
}
DISTILBERT = {"dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 40, "vocab_size": 31, "max_position_embeddings": 16}
T5 = {"d_model": 24, "d_kv": 5, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 4, "vocab_size": 31}
WHISPER = {
    "d_model": 24,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 36,
    "num_mel_bins": 12,
    "max_source_positions": 16,
    "max_target_positions": 16,
    "vocab_size": 31,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
CLIP = {
    "text_config": IMAGE | {"vocab_size": 31, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1},
    "vision_config": IMAGE | {"hidden_size": 20, "num_hidden_layers": 1, "image_size": 8, "patch_size": 4},
    "projection_dim": 18,
}
MAMBA = {"hidden_size": 24, "num_hidden_layers": 2, "state_size": 12, "vocab_size": 31}
FALCON = GROUPED | {
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 12,
    "head_dim": 10,
}
SWIN = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 12,
    "depths": [1, 2, 1],
    "num_heads": [2, 3, 4],
    "window_size": 4,
}
LLAMA4 = GROUPED | {"num_local_experts": 3, "head_dim": 10}


@dataclass(frozen=True)
class Case:
    """A head model's class, its configuration's class and arguments, and the parameters that are left out on purpose."""

    model: str
    config: str
    sizes: dict
    left_out: str = "lm_head|classifier"
    hub_names: bool = True  # save_pretrained's save_original_format
    alone: str = field(default="")  # what may be saved without its head


CASES = {
    "gpt2": Case("GPT2LMHeadModel", "GPT2Config", GPT2, alone="transformer"),
    "gpt2-inner": Case("GPT2Model", "GPT2Config", GPT2 | {"n_inner": 40}),
    "llama": Case("LlamaForCausalLM", "LlamaConfig", GROUPED | {"head_dim": 10}, alone="model"),
    "llama-tied": Case("LlamaForCausalLM", "LlamaConfig", TEXT | {"tie_word_embeddings": True}),
    "mistral": Case("MistralForCausalLM", "MistralConfig", GROUPED),
    "qwen2": Case("Qwen2ForCausalLM", "Qwen2Config", GROUPED),
    "qwen3": Case("Qwen3ForCausalLM", "Qwen3Config", GROUPED | {"head_dim": 10}),
    "olmo": Case("OlmoForCausalLM", "OlmoConfig", TEXT),
    "olmo2": Case("Olmo2ForCausalLM", "Olmo2Config", GROUPED),
    "olmo3": Case("Olmo3ForCausalLM", "Olmo3Config", GROUPED),
    "smollm3": Case("SmolLM3ForCausalLM", "SmolLM3Config", GROUPED),
    "granite": Case("GraniteForCausalLM", "GraniteConfig", GROUPED),
    "ministral3": Case("Ministral3ForCausalLM", "Ministral3Config", GROUPED | {"head_dim": 10}),
    "gemma": Case("GemmaForCausalLM", "GemmaConfig", GROUPED | {"head_dim": 10}),
    "gemma2": Case("Gemma2ForCausalLM", "Gemma2Config", GROUPED | {"head_dim": 10}),
    "gemma3_text": Case("Gemma3ForCausalLM", "Gemma3TextConfig", GROUPED | {"head_dim": 10}),
    "gemma4_text": Case("Gemma4ForCausalLM", "Gemma4TextConfig", GEMMA4, alone="model"),
    "gemma4_text-plain": Case(
        "Gemma4ForCausalLM",
        "Gemma4TextConfig",
        GROUPED | {"head_dim": 10, "global_head_dim": 12, "num_hidden_layers": 6, "hidden_size_per_layer_input": 0},
    ),
    "phi3": Case("Phi3ForCausalLM", "Phi3Config", GROUPED, alone="model"),
    "apertus": Case("ApertusForCausalLM", "ApertusConfig", GROUPED),
    "qwen2_moe": Case(
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        GROUPED | EXPERTS | {"shared_expert_intermediate_size": 20},
        alone="model",
    ),
    "qwen3_moe": Case(
        "Qwen3MoeForCausalLM", "Qwen3MoeConfig", GROUPED | EXPERTS | {"mlp_only_layers": [0], "head_dim": 10}
    ),
    "gpt_oss": Case(
        "GptOssForCausalLM",
        "GptOssConfig",
        GROUPED | {"num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": 10},
        "lm_head|_proj_bias",
    ),
    "qwen3_moe-fused": Case(
        "Qwen3MoeForCausalLM", "Qwen3MoeConfig", GROUPED | EXPERTS | {"head_dim": 10}, hub_names=False
    ),
    "llama4_text": Case("Llama4ForCausalLM", "Llama4TextConfig", LLAMA4, alone="model"),
    "llama4_text-step": Case(
        "Llama4ForCausalLM", "Llama4TextConfig", LLAMA4 | {"interleave_moe_layer_step": 2, "intermediate_size_mlp": 28}
    ),
    "granitemoe": Case("GraniteMoeForCausalLM", "GraniteMoeConfig", GROUPED | {"num_local_experts": 3}, alone="model"),
    "granitemoe-fused": Case(
        "GraniteMoeForCausalLM", "GraniteMoeConfig", GROUPED | {"num_local_experts": 3}, hub_names=False
    ),
    "deepseek_v3": Case("DeepseekV3ForCausalLM", "DeepseekV3Config", DEEPSEEK, alone="model"),
    "deepseek_v3-plain-queries": Case("DeepseekV3ForCausalLM", "DeepseekV3Config", DEEPSEEK | {"q_lora_rank": None}),
    "opt": Case("OPTForCausalLM", "OPTConfig", OPT | {"word_embed_proj_dim": 24}, alone="model"),
    "opt-350m": Case("OPTForCausalLM", "OPTConfig", OPT | {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "bert": Case("BertForMaskedLM", "BertConfig", TEXT, r"^cls\.", alone="bert"),
    "bert-classifier": Case("BertForSequenceClassification", "BertConfig", TEXT, "pooler|classifier"),
    "roberta": Case("RobertaForMaskedLM", "RobertaConfig", TEXT, alone="roberta"),
    "distilbert": Case(
        "DistilBertForMaskedLM", "DistilBertConfig", DISTILBERT, "vocab_transform|vocab_projector", alone="distilbert"
    ),
    "t5": Case("T5ForConditionalGeneration", "T5Config", T5),
    "t5-gated": Case(
        "T5ForSequenceClassification", "T5Config", T5 | {"feed_forward_proj": "gated-gelu"}, "classification_head"
    ),
    "t5-encoder": Case("T5EncoderModel", "T5Config", T5),
    "whisper": Case("WhisperForConditionalGeneration", "WhisperConfig", WHISPER, "proj_out", alone="model"),
    "whisper-encoder": Case("WhisperForAudioClassification", "WhisperConfig", WHISPER, "projector|classifier"),
    "clip": Case("CLIPModel", "CLIPConfig", CLIP, "_projection"),
    "clip-classifier": Case("CLIPForImageClassification", "CLIPConfig", CLIP),
    "clip_text_model": Case("CLIPTextModelWithProjection", "CLIPTextConfig", CLIP["text_config"], "_projection"),
    "clip_vision_model": Case("CLIPVisionModel", "CLIPVisionConfig", CLIP["vision_config"]),
    "mamba": Case("MambaForCausalLM", "MambaConfig", MAMBA, r"lm_head|A_log|conv1d", alone="backbone"),
    "mamba2": Case(
        "Mamba2ForCausalLM", "Mamba2Config", MAMBA | {"num_heads": 6, "head_dim": 8, "n_groups": 2}, "lm_head|conv1d"
    ),
    "falcon_h1": Case("FalconH1ForCausalLM", "FalconH1Config", FALCON, "lm_head|conv1d"),
    "rwkv": Case(
        "RwkvForCausalLM",
        "RwkvConfig",
        {"hidden_size": 24, "num_hidden_layers": 2, "vocab_size": 31},
        "head|time_mix",
        alone="rwkv",
    ),
    "vit": Case("ViTForImageClassification", "ViTConfig", IMAGE | {"image_size": 8, "patch_size": 4}, alone="vit"),
    "vit-modules": Case("ViTModel", "ViTConfig", IMAGE | {"image_size": 8, "patch_size": [4, 2]}, "pooler", False),
    "swin": Case("SwinForImageClassification", "SwinConfig", SWIN, alone="swin"),
    "swin-modules": Case("SwinForImageClassification", "SwinConfig", SWIN | {"mlp_ratio": 1.7}, hub_names=False),
    "mixtral": Case("MixtralForCausalLM", "MixtralConfig", GROUPED | {"num_local_experts": 3}, alone="model"),
    "mixtral-fused": Case("MixtralForCausalLM", "MixtralConfig", GROUPED | {"num_local_experts": 3}, hub_names=False),
    "olmoe": Case("OlmoeForCausalLM", "OlmoeConfig", TEXT | {"num_experts": 4, "num_experts_per_tok": 2}),
    "olmoe-fused": Case(
        "OlmoeForCausalLM", "OlmoeConfig", GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}, hub_names=False
    ),
    "resnet-basic": Case(
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 12, "hidden_sizes": [12, 24], "depths": [2, 2], "layer_type": "basic"},
        alone="resnet",
    ),
    "resnet-bottleneck": Case(
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 16, "hidden_sizes": [48, 64], "depths": [1, 2], "downsample_in_first_stage": True},
    ),
    "resnet-same-width": Case(  # a shortcut for the resolution's sake alone
        "ResNetModel",
        "ResNetConfig",
        {"embedding_size": 16, "hidden_sizes": [16, 16], "depths": [1, 1], "layer_type": "basic", "num_channels": 1},
    ),
}
FAMILIES = {name: re.split("-", name)[0] for name in CASES}


def built(name: str):
    """The model of a case, its weights normal with deviation 0.2 and its biases 0; the same ones every time."""
    import torch
    import transformers

    case = CASES[name]
    torch.manual_seed(len(name))
    model = getattr(transformers, case.model)(getattr(transformers, case.config)(**case.sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                parameter.zero_()  # outputs are then the weights' alone
    return model


def saved(model, name: str, folder: Path) -> Path:
    model.save_pretrained(folder, save_original_format=CASES[name].hub_names)
    return folder


def weights_of_neurons(model, name: str) -> dict:
    """Every parameter of two or more axes that joins neurons: all but look-up tables, tokens, positions, and what is left out."""
    import torch

    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    besides = re.compile(
        rf"cls_token|class_embedding|position_embeddings|relative_position_bias_table|{CASES[name].left_out}"
    )
    return {
        key: parameter
        for key, parameter in model.named_parameters()
        if parameter.ndim > 1 and id(parameter) not in tables and not besides.search(key)
    }


# Sizes of the node layers that a module's weight, [out, in], brings along with it: those that its neighbours do not name.
SIZES = (
    (r"attn\.c_attn", lambda out, into: [into, out // 3, out // 3, out // 3]),
    (r"(q_proj|query)", lambda out, into: [into, out]),
    (r"(k_proj|v_proj|key|value)", lambda out, into: [out]),
    (r"(o_proj|out_proj|attn\.c_proj|attention\.output\.dense)", lambda out, into: [into, out]),
    (r"(gate_proj|up_proj|fc1|c_fc|intermediate\.dense|mlp\.gate)", lambda out, into: [out]),
    (r"(down_proj|project_in)", lambda out, into: [into]),
    (r"(fc2|mlp\.c_proj|output\.dense)", lambda out, into: []),
    (r"project_out", lambda out, into: [out]),
    (r"downsample\.reduction", lambda out, into: [into // 4, into]),
    (r"(projection|embedder\.convolution|layer\.\d\.convolution)", lambda out, into: [into]),
    (r"shortcut\.convolution", lambda out, into: []),
)


# Families whose modules' shapes do not say how many node layers they bring along: the names of blocks do. For each, the layers
# whose rows a module's weight holds, where they are several.
FUSED = {
    "apertus": {},
    "gpt_oss": {"gate_up_proj": 2},
    "llama4_text": {"gate_up_proj": 2},
    "granitemoe": {"gate_up_proj": 2},
    "gemma4_text": {"gate_up_proj": 2, "per_layer_model_projection": 4},
    "phi3": {"qkv_proj": 3, "gate_up_proj": 2},
    "qwen2_moe": {"gate_up_proj": 2},
    "qwen3_moe": {"gate_up_proj": 2},
    "distilbert": {},
    "t5": {},
    "whisper": {},
    "clip": {},
    "clip_text_model": {},
    "clip_vision_model": {},
    "mamba": {"in_proj": 2, "x_proj": 3},
    "mamba2": {"in_proj": 5},
    "falcon_h1": {"mamba.in_proj": 5},
    "rwkv": {},
    "deepseek_v3": {"kv_a_proj_with_mqa": 2, "kv_b_proj": 2, "gate_up_proj": 2},
}


def layer_sizes(model, name: str) -> list[int]:
    """Neurons of every node layer, sorted, as the modules' own weights have them."""
    if FAMILIES[name] in FUSED:
        blocks = blocks_of_modules(model, name)
        sizes = {source: weight.shape[1] for (source, _), weight in blocks.items()}
        return sorted((sizes | {target: weight.shape[0] for (_, target), weight in blocks.items()}).values())
    config = model.config
    sizes = [getattr(config, "hidden_size", None) or config.hidden_sizes[-1]]
    for key, parameter in weights_of_neurons(model, name).items():
        shape = tuple(parameter.shape)
        if key.endswith("experts.gate_up_proj"):
            sizes += [shape[1] // 2] * (2 * shape[0])
        elif key.endswith("experts.down_proj"):
            sizes += [shape[2]] * shape[0]
        else:
            out, into = shape[::-1] if FAMILIES[name] == "gpt2" else shape[:2]
            sizes += next(rule for pattern, rule in SIZES if re.search(rf"{pattern}\.weight$", key))(out, into)
    return sorted(sizes)


def block_and_edge_counts(model, name: str) -> tuple[int, int, int]:
    """(weight blocks, pairs of joined neurons, weights), counted from parameters."""
    blocks = edges = weights = 0
    for key, parameter in weights_of_neurons(model, name).items():
        parts = FUSED.get(FAMILIES[name], {"c_attn": 3, "gate_up_proj": 2})
        fused = next((count for part, count in parts.items() if part in key), 1)
        blocks += fused * (parameter.shape[0] if ".experts." in key else 1)
        edges += parameter.numel() // (parameter[0, 0].numel() if ".experts." not in key else 1)
        weights += parameter.numel()
    return blocks, edges, weights


Blocks = dict[tuple[str, str], np.ndarray]


def blocks_of_modules(model, name: str) -> Blocks:
    """W[out, in(, *kernel)] by (source, target), taken from the model's modules."""
    core = getattr(model, model.base_model_prefix, getattr(model, "model", model))
    family = FAMILIES[name]
    found = BLOCKS.get(family, _llama)(core)
    return {key: weight.detach().numpy() for key, weight in found.items()}


def _chain(count: int, last: str = "output.x"):
    return [(f"block{n}", f"block{n + 1}.x" if n + 1 < count else last) for n in range(count)]


def _seven(of: str, after: str, q, k, v, o, up, down) -> dict:
    return {
        (f"{of}.x", f"{of}.q"): q,
        (f"{of}.x", f"{of}.k"): k,
        (f"{of}.x", f"{of}.v"): v,
        (f"{of}.c", f"{of}.a"): o,
        (f"{of}.a", f"{of}.m"): up,
        (f"{of}.m", after): down,
    }


def _gpt2(core) -> dict:
    found = {}
    for (of, after), layer in zip(_chain(len(core.h)), core.h, strict=True):
        qkv = layer.attn.c_attn.weight.T.split(layer.attn.split_size)
        rest = (layer.attn.c_proj, layer.mlp.c_fc, layer.mlp.c_proj)
        found |= _seven(of, after, *qkv, *(module.weight.T for module in rest))
    return found


def _opt(core) -> dict:
    core, found = core.decoder, {}
    if core.project_in is not None:
        found["input.e", "block0.x"] = core.project_in.weight
        found["output.x", "output.e"] = core.project_out.weight
    for (of, after), layer in zip(_chain(len(core.layers)), core.layers, strict=True):
        own = layer.self_attn
        modules = (own.q_proj, own.k_proj, own.v_proj, own.out_proj, layer.fc1, layer.fc2)
        found |= _seven(of, after, *(module.weight for module in modules))
    return found


def _distilbert(core) -> dict:
    found = {}
    for (of, after), layer in zip(_chain(len(core.transformer.layer)), core.transformer.layer, strict=True):
        own = layer.attention
        modules = (own.q_lin, own.k_lin, own.v_lin, own.out_lin, layer.ffn.lin1, layer.ffn.lin2)
        found |= _seven(of, after, *(module.weight for module in modules))
    return found


def _towers(stack, tower: str) -> list[tuple[str, str, object]]:
    chain = _chain(len(stack))
    return [(f"{tower}{of}", f"{tower}{after}", layer) for (of, after), layer in zip(chain, stack, strict=True)]


def _cross(of: str, q, k, v, o) -> dict:
    """Attention from a to the encoder's output, and b that it is added to."""
    encoder = "encoder.output.x"
    return {(f"{of}.a", f"{of}.xq"): q, (encoder, f"{of}.xk"): k, (encoder, f"{of}.xv"): v, (f"{of}.xc", f"{of}.b"): o}


def _t5(core) -> dict:
    found, towers = {}, [("encoder.", core.encoder)]
    towers += [("decoder.", core.decoder)] if hasattr(core, "decoder") else []
    for tower, stack in towers:
        for of, after, block in _towers(stack.block, tower):
            own, mlp = block.layer[0].SelfAttention, block.layer[-1].DenseReluDense
            found |= {(f"{of}.x", f"{of}.{part}"): getattr(own, part).weight for part in "qkv"}
            found[f"{of}.c", f"{of}.a"] = own.o.weight
            reads = f"{of}.b" if len(block.layer) == 3 else f"{of}.a"
            if len(block.layer) == 3:
                found |= _cross(of, *(getattr(block.layer[1].EncDecAttention, part).weight for part in "qkvo"))
            if hasattr(mlp, "wi_0"):
                found |= {(reads, f"{of}.g"): mlp.wi_0.weight, (reads, f"{of}.u"): mlp.wi_1.weight}
            else:
                found[reads, f"{of}.m"] = mlp.wi.weight
            found[f"{of}.m", after] = mlp.wo.weight
    return found


def _of_attention(own) -> list:
    return [module.weight for module in (own.q_proj, own.k_proj, own.v_proj, own.out_proj)]


def _whisper(core) -> dict:
    encoder = getattr(core, "encoder", core)
    found = {("input.x", "input.h"): encoder.conv1.weight, ("input.h", "encoder.block0.x"): encoder.conv2.weight}
    for of, after, layer in _towers(encoder.layers, "encoder."):
        found |= _seven(of, after, *_of_attention(layer.self_attn), layer.fc1.weight, layer.fc2.weight)
    for of, after, layer in _towers(core.decoder.layers if hasattr(core, "decoder") else [], "decoder."):
        block = _seven(of, after, *_of_attention(layer.self_attn), layer.fc1.weight, layer.fc2.weight)
        block[f"{of}.b", f"{of}.m"] = block.pop((f"{of}.a", f"{of}.m"))
        found |= block | _cross(of, *_of_attention(layer.encoder_attn))
    return found


def _clip(core) -> dict:
    found = {}
    if hasattr(core, "text_model"):
        found |= _clip_tower(core.text_model, "text.")
    return found | _clip_tower(core.vision_model, "vision.")


def _clip_tower(core, tower: str = "") -> dict:
    core = getattr(core, "text_model", core)
    found = {}
    if hasattr(core.embeddings, "patch_embedding"):
        found[f"{tower}input.x", f"{tower}block0.x"] = core.embeddings.patch_embedding.weight
    for of, after, layer in _towers(core.encoder.layers, tower):
        found |= _seven(of, after, *_of_attention(layer.self_attn), layer.mlp.fc1.weight, layer.mlp.fc2.weight)
    return found


def _mamba(core) -> dict:
    found = {}
    for (of, after), layer in zip(_chain(len(core.layers)), core.layers, strict=True):
        mixer = layer.mixer
        hidden, gate = mixer.in_proj.weight.chunk(2)
        of_state = mixer.x_proj.weight.split([mixer.time_step_rank, mixer.ssm_state_size, mixer.ssm_state_size])
        found |= {(f"{of}.x", f"{of}.h"): hidden, (f"{of}.x", f"{of}.z"): gate}
        found |= {(f"{of}.h", f"{of}.{part}"): rows for part, rows in zip("tBC", of_state, strict=True)}
        found |= {(f"{of}.t", f"{of}.dt"): mixer.dt_proj.weight, (f"{of}.s", after): mixer.out_proj.weight}
    return found


def _state_space(of: str, after: str, mixer) -> dict:
    """Mamba-2's. The rows of in_proj as the module's own forward pass splits what they give, and the convolution's after it."""
    channels, state = mixer.intermediate_size, mixer.n_groups * mixer.ssm_state_size
    gate, mixed, step = mixer.in_proj.weight.split([channels, mixer.conv_dim, mixer.num_heads])
    parts = dict(zip(("z", "h", "B", "C", "dt"), (gate, *mixed.split([channels, state, state]), step), strict=True))
    found = {(f"{of}.x", f"{of}.{part}"): rows for part, rows in parts.items()}
    return found | {(f"{of}.s", after): mixer.out_proj.weight}


def _mamba2(core) -> dict:
    found = {}
    for (of, after), layer in zip(_chain(len(core.layers)), core.layers, strict=True):
        found |= _state_space(of, after, layer.mixer)
    return found


def _falcon_h1(core) -> dict:
    found = {}
    for (of, after), layer in zip(_chain(len(core.layers)), core.layers, strict=True):
        found |= _attention(of, layer.self_attn) | _state_space(of, f"{of}.a", layer.mamba)
        found |= _gated(of, after, layer.feed_forward, of)
    return found


def _rwkv(core) -> dict:
    found = {}
    for (of, after), block in zip(_chain(len(core.blocks)), core.blocks, strict=True):
        own, mlp = block.attention, block.feed_forward
        found |= {(f"{of}.x", f"{of}.r"): own.receptance.weight, (f"{of}.x", f"{of}.k"): own.key.weight}
        found |= {(f"{of}.x", f"{of}.v"): own.value.weight, (f"{of}.c", f"{of}.a"): own.output.weight}
        found |= {(f"{of}.a", f"{of}.m"): mlp.key.weight, (f"{of}.a", f"{of}.g"): mlp.receptance.weight}
        found[f"{of}.m", after] = mlp.value.weight
    return found


def _bert(core) -> dict:
    found = {}
    for (of, after), layer in zip(_chain(len(core.encoder.layer)), core.encoder.layer, strict=True):
        own, out = layer.attention.self, layer.attention.output.dense
        modules = (own.query, own.key, own.value, out, layer.intermediate.dense, layer.output.dense)
        found |= _seven(of, after, *(module.weight for module in modules))
    return found


def _of_vision_block(of: str, after: str, layer) -> dict:
    own = layer.attention
    modules = (own.q_proj, own.k_proj, own.v_proj, own.o_proj, layer.mlp.fc1, layer.mlp.fc2)
    return _seven(of, after, *(module.weight for module in modules))


def _vit(core) -> dict:
    found = {("input.x", "block0.x"): core.embeddings.patch_embeddings.projection.weight}
    for (of, after), layer in zip(_chain(len(core.layers)), core.layers, strict=True):
        found |= _of_vision_block(of, after, layer)
    return found


def _swin(core) -> dict:
    found = {("input.x", "stage0.block0.x"): core.embeddings.patch_embeddings.projection.weight}
    for number, stage in enumerate(core.encoder.layers):
        last = "output.x" if stage.downsample is None else f"stage{number}.merge.x"
        for (of, after), layer in zip(_chain(len(stage.blocks), last), stage.blocks, strict=True):
            after = after if after == last else f"stage{number}.{after}"
            found |= _of_vision_block(f"stage{number}.{of}", after, layer)
        if stage.downsample is not None:
            found[f"stage{number}.merge.n", f"stage{number + 1}.block0.x"] = stage.downsample.reduction.weight
    return found


def _llama(core) -> dict:
    found = {}
    for (of, after), layer in zip(_chain(len(core.layers)), core.layers, strict=True):
        own = next(getattr(layer, name) for name in ("mlp", "feed_forward", "block_sparse_moe") if hasattr(layer, name))
        found |= _attention(of, layer.self_attn) | _mlp(of, after, own)
    return found


def _gemma4(core) -> dict:
    found = {}
    for (of, after), layer in zip(_chain(len(core.layers)), core.layers, strict=True):
        own, inputs = layer.self_attn, layer.hidden_size_per_layer_input
        found |= {(f"{of}.x", f"{of}.q"): own.q_proj.weight, (f"{of}.c", f"{of}.a"): own.o_proj.weight}
        for part in "kv":
            module = getattr(own, f"{part}_proj", None)
            found |= {} if module is None else {(f"{of}.x", f"{of}.{part}"): module.weight}
        behind = f"{of}.b" if inputs else after
        found |= _gated(of, behind, layer.mlp, of)
        if layer.enable_moe_block:
            found[f"{of}.a", f"{of}.r"] = layer.router.proj.weight
            for n, (both, down) in enumerate(zip(layer.experts.gate_up_proj, layer.experts.down_proj, strict=True)):
                found[f"{of}.a", f"{of}.e{n}.g"], found[f"{of}.a", f"{of}.e{n}.u"] = both.chunk(2)
                found[f"{of}.e{n}.m", behind] = down
        if inputs:
            found |= {(behind, f"{of}.pg"): layer.per_layer_input_gate.weight}
            found |= {(f"{of}.pm", after): layer.per_layer_projection.weight}
    if core.hidden_size_per_layer_input:
        for n, rows in enumerate(core.per_layer_model_projection.weight.chunk(len(core.layers))):
            found["block0.x", f"block{n}.pi"] = rows
    return found


def _attention(of: str, own) -> dict:
    if hasattr(own, "kv_b_proj"):
        return _latent_attention(of, own)
    if hasattr(own, "qkv_proj"):
        values = own.num_key_value_heads * own.head_dim
        split = own.qkv_proj.weight.split([own.o_proj.in_features, values, values])
    else:
        split = [module.weight for module in (own.q_proj, own.k_proj, own.v_proj)]
    found = {(f"{of}.x", f"{of}.{part}"): weight for part, weight in zip("qkv", split, strict=True)}
    return found | {(f"{of}.c", f"{of}.a"): own.o_proj.weight}


def _latent_attention(of: str, own) -> dict:
    latent, turned = own.kv_a_proj_with_mqa.weight.split([own.kv_lora_rank, own.qk_rope_head_dim])
    heads = own.kv_b_proj.weight.unflatten(0, (own.num_heads, -1))
    keys, values = heads.split([own.qk_nope_head_dim, own.v_head_dim], dim=1)
    found = {(f"{of}.x", f"{of}.kvl"): latent, (f"{of}.x", f"{of}.kr"): turned}
    found |= {(f"{of}.kvl", f"{of}.k"): keys.flatten(0, 1), (f"{of}.kvl", f"{of}.v"): values.flatten(0, 1)}
    if own.q_proj is None:
        found |= {(f"{of}.x", f"{of}.ql"): own.q_a_proj.weight, (f"{of}.ql", f"{of}.q"): own.q_b_proj.weight}
    else:
        found[f"{of}.x", f"{of}.q"] = own.q_proj.weight
    return found | {(f"{of}.c", f"{of}.a"): own.o_proj.weight}


def _mlp(of: str, after: str, mlp) -> dict:
    if type(mlp.experts if hasattr(mlp, "experts") else mlp).__name__ in ("GptOssExperts", "Llama4TextExperts"):
        return _turned_experts(of, after, mlp)
    if not hasattr(mlp, "experts"):
        return (
            _gated(of, after, mlp, of)
            if hasattr(mlp, "gate_proj") or hasattr(mlp, "gate_up_proj")
            else _plain(of, after, mlp)
        )
    found = {(f"{of}.a", f"{of}.r"): (mlp.gate if hasattr(mlp, "gate") else mlp.router).weight}
    for n, (both, down) in enumerate(zip(mlp.experts.gate_up_proj, mlp.experts.down_proj, strict=True)):
        found[f"{of}.a", f"{of}.e{n}.g"], found[f"{of}.a", f"{of}.e{n}.u"] = both.chunk(2)
        found[f"{of}.e{n}.m", after] = down
    shared = getattr(mlp, "shared_expert", getattr(mlp, "shared_experts", None))
    if shared is not None:
        found |= _gated(of, after, shared, f"{of}.shared")
    if hasattr(mlp, "shared_expert_gate"):
        found[f"{of}.a", f"{of}.shared.r"] = mlp.shared_expert_gate.weight
    return found


def _turned_experts(of: str, after: str, mlp) -> dict:
    """Experts are [in, out]. GPT-OSS's gate and up projection take turns, as the module's own forward pass slices them."""
    found = {(f"{of}.a", f"{of}.r"): mlp.router.weight}
    for n, (both, down) in enumerate(zip(mlp.experts.gate_up_proj, mlp.experts.down_proj, strict=True)):
        halves = both.chunk(2, dim=1) if hasattr(mlp, "shared_expert") else (both[:, ::2], both[:, 1::2])
        found[f"{of}.a", f"{of}.e{n}.g"], found[f"{of}.a", f"{of}.e{n}.u"] = (half.T for half in halves)
        found[f"{of}.e{n}.m", after] = down.T
    if hasattr(mlp, "shared_expert"):
        found |= _gated(of, after, mlp.shared_expert, f"{of}.shared")
    return found


def _plain(of: str, after: str, mlp) -> dict:
    return {(f"{of}.a", f"{of}.m"): mlp.up_proj.weight, (f"{of}.m", after): mlp.down_proj.weight}


def _gated(of: str, after: str, mlp, within: str) -> dict:
    fused = hasattr(mlp, "gate_up_proj")
    gate, up = mlp.gate_up_proj.weight.chunk(2) if fused else (mlp.gate_proj.weight, mlp.up_proj.weight)
    found = {(f"{of}.a", f"{within}.g"): gate, (f"{of}.a", f"{within}.u"): up}
    return found | {(f"{within}.m", after): mlp.down_proj.weight}


def _resnet(core) -> dict:
    found = {("input.x", "stage0.layer0.x"): core.embedder.embedder.convolution.weight}
    layers = [
        (f"stage{s}.layer{n}", layer)
        for s, stage in enumerate(core.encoder.stages)
        for n, layer in enumerate(stage.layers)
    ]
    for place, (of, layer) in enumerate(layers):
        after = f"{layers[place + 1][0]}.x" if place + 1 < len(layers) else "output.x"
        nodes = [f"{of}.x", *(f"{of}.h{n}" for n in range(len(layer.layer) - 1)), after]
        for source, target, module in zip(nodes[:-1], nodes[1:], layer.layer, strict=True):
            found[source, target] = module.convolution.weight
        if hasattr(layer.shortcut, "convolution"):
            found[f"{of}.x", after] = layer.shortcut.convolution.weight
    return found


BLOCKS = {
    "gemma4_text": _gemma4,
    "distilbert": _distilbert,
    "t5": _t5,
    "whisper": _whisper,
    "clip": _clip,
    "clip_text_model": _clip_tower,
    "clip_vision_model": _clip_tower,
    "mamba": _mamba,
    "mamba2": _mamba2,
    "falcon_h1": _falcon_h1,
    "rwkv": _rwkv,
    "gpt2": _gpt2,
    "opt": _opt,
    "bert": _bert,
    "roberta": _bert,
    "vit": _vit,
    "swin": _swin,
    "resnet": _resnet,
}
