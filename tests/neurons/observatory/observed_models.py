"""Small models of the real library in which the answers are known."""

import torch


def still_neox(layers=3):
    """A GPT-NeoX of 19 tokens, width 12, 3 heads, whose queries and keys are 0, so that heads attend to all earlier positions
    alike, and whose blocks write nothing: the residual stream is the embedding at every depth."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=19,
        hidden_size=12,
        num_hidden_layers=layers,
        num_attention_heads=3,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(config)
    with torch.no_grad():
        model.gpt_neox.embed_in.weight.normal_()
        for layer in model.gpt_neox.layers:
            qkv = layer.attention.query_key_value
            for part in (qkv.weight.view(3, 3, 4, 12), qkv.bias.view(3, 3, 4)):  # head, then query, key, value
                part[:, :2] = 0
            for written in (layer.attention.dense, layer.mlp.dense_4h_to_h):
                written.weight.zero_()
                written.bias.zero_()
    return model


def small_swin():
    """A Swin of 16 x 16 pixels in patches of 2 x 2, windows of 2 x 2 patches, two stages of 2 blocks, 5 classes."""
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(
        image_size=16,
        patch_size=2,
        num_channels=3,
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=2,
        num_labels=5,
    )
    torch.manual_seed(0)
    return SwinForImageClassification(config)


def grouped_llama():
    """A Llama of 19 tokens, width 16, 2 layers, 4 heads of which two share keys and values, with weights so large that heads
    differ."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=19,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.5)
    return model
