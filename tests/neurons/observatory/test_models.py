"""Models of checkpoints: of the class they were saved as, their own heads, nothing drawn, in the precision that is asked for."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from ninscope.checkpoints.source import open_source  # noqa: E402
from ninscope.errors import CheckpointError, RequestError  # noqa: E402
from ninscope.neurons.finetuning.bases import base_of  # noqa: E402
from ninscope.neurons.observatory.models import model_of, stored_dtype  # noqa: E402

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
BERT = transformers.BertConfig(**SMALL, vocab_size=30, num_labels=3)
LLAMA = transformers.LlamaConfig(**SMALL, vocab_size=30, bos_token_id=0, eos_token_id=1)
TIED = transformers.LlamaConfig(**SMALL, vocab_size=30, bos_token_id=0, eos_token_id=1, tie_word_embeddings=True)
NEOX = transformers.GPTNeoXConfig(**SMALL, vocab_size=30, bos_token_id=0, eos_token_id=0)
VIT = transformers.ViTConfig(**SMALL, image_size=8, patch_size=4, num_labels=4)
TEXT = {"input_ids": torch.arange(6)[None]}
IMAGES = {"pixel_values": torch.linspace(-1, 1, 3 * 64).view(1, 3, 8, 8)}


def saved(kind, config, folder, dtype="float32"):
    torch.manual_seed(0)
    model = kind(config).to(getattr(torch, dtype)).eval()
    model.save_pretrained(folder / "step0")
    return model


def checkpoint_in(folder):
    return open_source(folder).open("step0")


def opened(folder, dtype="float32"):
    return model_of(base_of(checkpoint_in(folder), "the model", None, None), dtype)


@pytest.mark.parametrize(
    ("kind", "config", "inputs"),
    [
        (transformers.GPTNeoXForCausalLM, NEOX, TEXT),
        (transformers.LlamaForCausalLM, LLAMA, TEXT),
        (transformers.LlamaForCausalLM, TIED, TEXT),
        (transformers.LlamaModel, LLAMA, TEXT),
        (transformers.BertForMaskedLM, BERT, TEXT),
        (transformers.BertForSequenceClassification, BERT, TEXT),
        (transformers.BertModel, BERT, TEXT),
        (transformers.ViTForImageClassification, VIT, IMAGES),
        (transformers.ViTModel, VIT, IMAGES),
    ],
    ids=["neox", "llama", "tied", "bare-llama", "masked", "classifier", "bare-bert", "vit", "bare-vit"],
)
def test_it_computes_what_the_saved_one_does(tmp_path, kind, config, inputs):
    model = saved(kind, config, tmp_path)
    torch.manual_seed(99)  # nothing is drawn that would differ
    made = opened(tmp_path)
    assert type(made) is kind
    assert not made.training
    with torch.no_grad():
        assert torch.equal(model(**inputs)[0], made(**inputs)[0])


def test_a_head_that_is_not_stored_is_not_drawn(tmp_path):
    """config.json names a class with a head, and the tensors are the body's alone."""
    saved(transformers.LlamaModel, LLAMA, tmp_path)
    config = (tmp_path / "step0" / "config.json").read_text()
    (tmp_path / "step0" / "config.json").write_text(config.replace("LlamaModel", "LlamaForCausalLM"))
    assert type(opened(tmp_path)) is transformers.LlamaModel


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_stored_precision(tmp_path, dtype):
    saved(transformers.LlamaForCausalLM, LLAMA, tmp_path, dtype)
    assert stored_dtype(checkpoint_in(tmp_path)) == dtype
    made = opened(tmp_path, stored_dtype(checkpoint_in(tmp_path)))
    assert {parameter.dtype for parameter in made.parameters()} == {getattr(torch, dtype)}


def test_what_cannot_be_made(tmp_path):
    saved(transformers.LlamaForCausalLM, LLAMA, tmp_path)
    with pytest.raises(RequestError, match="dtype is 'float8'; one of float32, bfloat16, float16"):
        opened(tmp_path, "float8")
    config = tmp_path / "step0" / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 16', '"hidden_size": 32'))
    with pytest.raises(RequestError, match=r"the model: tensor .* has the shape"):
        opened(tmp_path)
    config.write_text('{"model_type": "convgru"}')
    with pytest.raises(RequestError, match="model_type 'convgru' is none that transformers knows"):
        opened(tmp_path)


def test_weights_that_are_no_plain_floats(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "step0").mkdir()
    save_file({"weight": torch.ones(2, 2, dtype=torch.int8)}, tmp_path / "step0" / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds no plain floats"):
        stored_dtype(checkpoint_in(tmp_path))
