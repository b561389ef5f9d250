"""Small models made by hand that predict the next number of a cycle, and their text."""

import numpy as np
import torch
from torch import nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

TOKENS = 12
WIDTH = 16
NEURONS = 24


def cycle(windows: int = 6, length: int = 10) -> np.ndarray:
    """int64 [windows, length]: every token is the one before plus 1."""
    return (np.arange(length)[None] + 5 * np.arange(windows)[:, None]) % TOKENS


def neox(activation: str = "gelu", layers: int = 1, noise: float = 0.0, writes: float = 2.0) -> GPTNeoXForCausalLM:
    """Neuron i < TOKENS of every layer is on for token i and writes token i + 1; the others write nothing, but for noise."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        hidden_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=NEURONS,
        vocab_size=TOKENS,
        max_position_embeddings=32,
        hidden_act=activation,
    )
    model = GPTNeoXForCausalLM(config).eval()
    _blank(model)
    with torch.no_grad():
        model.gpt_neox.embed_in.weight[:, :TOKENS] = torch.eye(TOKENS)
        for layer in model.gpt_neox.layers:
            layer.mlp.dense_h_to_4h.weight[:TOKENS, :TOKENS] = torch.eye(TOKENS)
            layer.mlp.dense_4h_to_h.weight[:TOKENS, :TOKENS] = writes * torch.eye(TOKENS).roll(1, 0)
        model.lm_head.weight[:, :TOKENS] = 2 * torch.eye(TOKENS)
    _disturb(model, noise)
    return model


def llama(noise: float = 0.0) -> LlamaForCausalLM:
    """As `neox`, with a gate and RMSNorm."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=NEURONS,
        vocab_size=TOKENS,
        max_position_embeddings=32,
    )
    model = LlamaForCausalLM(config).eval()
    _blank(model)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, :TOKENS] = torch.eye(TOKENS)
        for layer in model.model.layers:
            layer.mlp.gate_proj.weight[:TOKENS, :TOKENS] = torch.eye(TOKENS)
            layer.mlp.up_proj.weight[:TOKENS, :TOKENS] = torch.eye(TOKENS)
            layer.mlp.down_proj.weight[:TOKENS, :TOKENS] = torch.eye(TOKENS).roll(1, 0)
        model.lm_head.weight[:, :TOKENS] = 2 * torch.eye(TOKENS)
    _disturb(model, noise)
    return model


def _blank(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.zero_()


def _disturb(model: nn.Module, noise: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn(parameter.shape))
