"""Small models for tests of MEmeL: real ones of transformers, and plain ones whose layers return all kinds of things."""

from collections import namedtuple

import torch
import transformers
from torch import nn

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 6, "intermediate_size": 24, "vocab_size": 40}
VISION = {"image_size": 16, "patch_size": 4, "num_channels": 3}


def tokens(samples=3, length=7):
    generator = torch.Generator().manual_seed(7)
    mask = (torch.arange(length) < torch.tensor([length, length - 2, length - 4])[:samples, None]).long()
    return {"input_ids": torch.randint(2, 40, (samples, length), generator=generator), "attention_mask": mask}


def images(samples=3):
    return {"pixel_values": torch.randn(samples, 3, 16, 16, generator=torch.Generator().manual_seed(7))}


def seq2seq():
    asked = tokens()
    shorter = {f"decoder_{name}": values[:, 2:].contiguous() for name, values in tokens().items()}
    return asked | shorter


def bert(**settings):
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL | settings, num_labels=3))


def swin():
    config = transformers.SwinConfig(
        **VISION | {"patch_size": 2}, embed_dim=8, depths=[2, 4], num_heads=[2, 2], window_size=4, num_labels=3
    )
    return transformers.SwinForImageClassification(config)


# What builds a model, what it is given, and the names of its middle four.
MODELS = {
    "BERT": (bert, tokens, [f"bert.encoder.layer.{number}.attention" for number in (1, 2, 3, 4)]),
    "GPT-NeoX": (
        lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SMALL)),
        tokens,
        [f"gpt_neox.layers.{number}.attention" for number in (1, 2, 3, 4)],
    ),
    "GPT-2": (
        lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=16, n_head=2, n_layer=6, vocab_size=40)),
        tokens,
        [f"transformer.h.{number}.attn" for number in (1, 2, 3, 4)],
    ),
    "llama": (
        lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, num_key_value_heads=1)),
        tokens,
        [f"model.layers.{number}.self_attn" for number in (1, 2, 3, 4)],
    ),
    "ViT": (
        lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL, **VISION)),
        images,
        None,
    ),
    "Swin": (swin, images, None),
    "T5": (
        lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
            )
        ),
        seq2seq,
        [
            *(f"encoder.block.{number}.layer.0" for number in (1,)),
            *(f"decoder.block.{number}" for number in ("0.layer.0", "0.layer.1", "1.layer.0")),
        ],
    ),
    "BART": (
        lambda: transformers.BartForSequenceClassification(
            transformers.BartConfig(
                vocab_size=40, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
                decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=32,
                pad_token_id=0, eos_token_id=1, num_labels=3,
            )
        ).model,
        seq2seq,
        None,
    ),
}  # fmt: skip

Pair = namedtuple("Pair", ["index", "values"])


class Returning(nn.Module):
    """A linear layer whose output comes packed in some way."""

    def __init__(self, pack):
        super().__init__()
        self.linear, self.pack = nn.Linear(5, 5), pack

    def forward(self, x):
        return self.pack(self.linear(x))


class Around(nn.Module):
    """A model of one layer, and how its output is unpacked."""

    def __init__(self, layer, unpack=lambda out: out):
        super().__init__()
        self.layer, self.unpack = layer, unpack

    def forward(self, x):
        return self.unpack(self.layer(x))


def perceptron():
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def convolutional():
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(4 * 144, 2))


def encoder(layers=5):
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), layers)


# Layers that return something around their activations, how that is unpacked.
PACKED = {
    "tensor": (lambda out: out, lambda out: out),
    "tuple": (lambda out: (None, out, out + 1), lambda out: out[1]),
    "list": (lambda out: [out, 3], lambda out: out[0]),
    "dict": (lambda out: {"index": torch.arange(3), "values": out}, lambda out: out["values"]),
    "namedtuple": (lambda out: Pair(torch.arange(3), out), lambda out: out.values),
    "output": (
        lambda out: transformers.modeling_outputs.BaseModelOutput(last_hidden_state=out, hidden_states=(out,)),
        lambda out: out.last_hidden_state,
    ),
}
