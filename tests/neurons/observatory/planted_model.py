"""A tiny GPT-2 of ReLU neurons in whose first block some neurons do what they are made for, and its text."""

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

WIDTH, WINDOW, VOCABULARY = 32, 16, 40
HIDDEN_LAYER = "block0.m"
DEAD, DORMANT, DETECTOR, POSITIONAL = 0, 1, 2, 3
TOKEN, EARLY = 7, 5  # what the detector detects; how many first positions the positional neuron is on at


def planted_model():
    """Its first block's attention writes nothing, so that hidden neurons read a token's and a position's embedding."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=WINDOW, n_embd=WIDTH, n_layer=2, n_head=2, activation_function="relu"
        )
    ).eval()
    inner = model.transformer
    with torch.no_grad():
        inner.wte.weight.normal_()
        inner.wte.weight[:, 0] = 0
        inner.wpe.weight.zero_()
        inner.wpe.weight[:EARLY, 0], inner.wpe.weight[EARLY:, 0] = 3, -3
        block = inner.h[0]
        block.attn.c_proj.weight.zero_()
        entering, bias = block.mlp.c_fc.weight, block.mlp.c_fc.bias
        entering.normal_()
        entering[:, DEAD], bias[DEAD] = 0, -1
        entering[:, DORMANT] *= 1e-3
        states = block.ln_2(inner.wte.weight[:, None] + inner.wpe.weight[None])  # [token, position, width]
        entering[:, DETECTOR] = inner.wte.weight[TOKEN] - inner.wte.weight[TOKEN].mean()
        read = states @ entering[:, DETECTOR]
        others = torch.cat([read[:TOKEN], read[TOKEN + 1 :]]).max()
        assert read[TOKEN].min() > others
        bias[DETECTOR] = -(read[TOKEN].min() + others) / 2
        entering[:, POSITIONAL] = 0
        entering[0, POSITIONAL] = 1
        block.mlp.c_proj.weight[DETECTOR] = -inner.wte.weight[TOKEN]
    return model


def planted_text(windows=60):
    return np.random.default_rng(1).integers(0, VOCABULARY, (windows, WINDOW))
