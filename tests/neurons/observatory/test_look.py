"""ninscope.neurons.look as a user calls it: what it reads as text, and what it refuses."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, ViTConfig, ViTModel

from ninscope.errors import RequestError
from ninscope.neurons import look

TEXT = "the quick brown fox " * 4
POSITIONS = 32
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}


@pytest.fixture(scope="module")
def neox() -> GPTNeoXForCausalLM:
    torch.manual_seed(0)
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, vocab_size=256, max_position_embeddings=POSITIONS))


class Tokens:
    """A tokenizer of one's own."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


@pytest.mark.parametrize("tokenizer", [None, "bytes", Tokens()], ids=["none", "bytes", "own"])
def test_a_text_is_its_tokens(neox, tokenizer):
    ids = np.frombuffer(TEXT.encode(), np.uint8)
    assert look(neox, TEXT, "dormant", tokenizer=tokenizer).equals(look(neox, ids, "dormant"))


@pytest.mark.parametrize("given", [str, lambda path: path], ids=["name", "path"])
def test_a_tokenizer_of_a_folder(neox, tmp_path, given):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"the": 3, "quick": 1, "brown": 4, "fox": 2, "?": 0}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    ids = np.array([3, 1, 4, 2] * 4)
    assert look(neox, TEXT, "dormant", tokenizer=given(tmp_path)).equals(look(neox, ids, "dormant"))


def test_a_window_is_no_longer_than_the_models_positions(neox):
    """Of a model of rotary positions, which would run beyond them, as of one that could not."""
    learned = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, n_positions=POSITIONS, vocab_size=256))
    for model in (neox, learned):
        assert look(model, TEXT, "dormant").equals(look(model, TEXT, "dormant", window=POSITIONS))
        for settings in ({"window": 33}, {"window": 64}):
            with pytest.raises(RequestError, match=r"has 32 positions, and window is \d+; take a window of 32 or less"):
                look(model, TEXT, "dormant", **settings)
        with pytest.raises(RequestError, match="the model has 32 positions, and window is 40"):
            look(model, np.zeros((2, 40), np.int64), "dormant")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer": 3}, "tokenizer is 3; 'bytes', a folder or the name of one was expected"),
        ({"window": 0}, "window is 0; an integer from 1"),
        ({"window": "a"}, "window is 'a'; an integer from 1"),
        ({"batch_size": 0}, "batch_size is 0; an integer from 1"),
        ({"seed": -1}, "seed is -1; an integer from 0"),
        ({"device": "tpu"}, "device is 'tpu'; one of cpu, cuda was expected"),
        ({"controls": []}, "no control is named; give some of none, shuffled"),
        ({"labels": [-1, 0]}, "labels are classes, whole numbers from 0"),
        ({"labels": []}, "labels are classes, whole numbers from 0"),
        ({"labels": [[0], [1]]}, "labels are classes, whole numbers from 0, one for each sample"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_make_no_sense(neox, settings, message):
    with pytest.raises(RequestError, match=message):
        look(neox, TEXT, "dormant", **settings)


def test_a_folder_without_a_tokenizer(neox, tmp_path):
    with pytest.raises(RequestError, match="is a folder without tokenizer files; give 'bytes' or another one"):
        look(neox, TEXT, "dormant", tokenizer=str(tmp_path))


def test_the_name_of_a_file_is_no_text(neox, tmp_path):
    file = tmp_path / "prose.txt"
    file.write_text(TEXT)
    for given in (str(file), file, [str(file), "more"]):
        with pytest.raises(RequestError, match=r"prose.txt' is the name of a file; give the text that is in it"):
            look(neox, given, "dormant")
    with pytest.raises(RequestError, match="there is no text; give one"):
        look(neox, [], "dormant")
    with pytest.raises(RequestError, match="int is no text"):
        look(neox, 3, "dormant")


def test_a_model_of_images_reads_no_text():
    model = ViTModel(ViTConfig(**SIZES, image_size=8, patch_size=4))
    with pytest.raises(RequestError, match=r"reads images, and no text; give images \[n, channels, height, width\]"):
        look(model, TEXT, "dormant")


def test_what_is_missing_is_asked_for(neox):
    for measure, message in (
        (
            "neural_collapse",
            r"it needs labels, and the model has none on these examples; give labels \(`label` in a DAG file\)",
        ),
        ("function_distance", r"compares with another model .*, and none was given; give other"),
    ):
        with pytest.raises(RequestError, match=message):
            look(neox, TEXT, measure)
    for measure in ("cett", "thresholds"):
        with pytest.raises(RequestError, match="there is no loss; give a model with its head"):
            look(neox.gpt_neox, TEXT, measure)
    with pytest.raises(RequestError, match=r"needs next tokens.*give a causal language model with its head"):
        look(neox.gpt_neox, TEXT, "entropy_neurons")


@pytest.mark.parametrize("token", [0, TEXT.encode()[-1]], ids=["never", "in the last window"])
def test_activations_that_are_not_finite_are_told_by_every_measure_that_reads_them(neox, token):
    """A token that is in no window spoils nothing."""
    import copy

    model = copy.deepcopy(neox)
    with torch.no_grad():
        model.gpt_neox.embed_in.weight[token] = float("nan")
    ids = np.full(4 * POSITIONS, ord("e"))
    ids[-1] = TEXT.encode()[-1]
    table = look(model, ids, "all", controls="none", batch_size=1, window=POSITIONS)
    reads = table[table["measure"].isin(["dormant", "entropy_neurons", "cett", "sinks", "lazy", "thresholds"])]
    assert set(reads["status"]) == ({"nonfinite"} if token else {"ok"})
    assert (
        not token or reads["message"].str.contains(r"(?:block|output|input)\S*: \w+ values are NaN or infinite").all()
    )


def test_another_checkpoint_of_a_source_with_several(neox, tmp_path):
    import copy

    start = copy.deepcopy(neox)
    with torch.no_grad():
        start.gpt_neox.layers[0].mlp.dense_h_to_4h.weight.neg_()
    for step, model in (("step0", start), ("step4", neox)):
        model.save_pretrained(tmp_path / step)
    settings = {"measures": "sign_flips", "revision": "step4"}
    found = look(tmp_path, TEXT, other={"start": f"{tmp_path}@step0"}, **settings)
    assert found.equals(look(tmp_path, TEXT, other={"start": start}, **settings))
    assert found.set_index("layer").loc["block0.a -> block0.m", "value"].max() == 1
    with pytest.raises(RequestError, match=r"has 2 revisions; give one in other, as '.*@step4'"):
        look(tmp_path, TEXT, other={"start": str(tmp_path)}, **settings)
