"""Models made from a configuration and tensors: the same outputs as the library's own, whole bodies, heads that fit."""

import pytest
import torch
from tasks_data import base_of, made
from transformers import BertForSequenceClassification, GPTNeoXForSequenceClassification

from ninscope.errors import RequestError
from ninscope.neurons.tasks.base_models import PURPOSES, blueprint, classifier, load, load_classifier
from ninscope.neurons.tasks.task import Base

TEXT, IMAGE, LANGUAGE = "text classification", "image classification", "causal language modelling"
PAIR = ("LABEL_0", "LABEL_1")


def classified(base, classes=PAIR, purpose=TEXT, seed=0, numbered=False, **changes):
    torch.manual_seed(seed)
    return load_classifier(classifier(base, purpose, classes, changes), numbered)


def inputs_of(model):
    generator = torch.Generator().manual_seed(5)
    if (size := getattr(model.config, "image_size", None)) is not None:
        return {"pixel_values": torch.rand(2, model.config.num_channels, size, size, generator=generator)}
    return {"input_ids": torch.randint(1, 256, (1, 9), generator=generator)}


@pytest.mark.parametrize(
    ("name", "purpose"),
    [
        ("gpt_neox", LANGUAGE),
        ("gpt2", LANGUAGE),
        ("gpt_neox-classifier", TEXT),
        ("bert-classifier", TEXT),
        ("vit", IMAGE),
        ("swin", IMAGE),
    ],
)
@pytest.mark.parametrize("hub_names", [True, False])
def test_a_saved_model_says_what_it_said(tmp_path, name, purpose, hub_names):
    model = made(name)
    model.save_pretrained(tmp_path / "named", save_original_format=hub_names)
    base = base_of(model, tmp_path / "base")
    if not hub_names:
        from safetensors.torch import load_file

        base = Base("base", base.config, load_file(tmp_path / "named" / "model.safetensors"))
    ours = load(blueprint(base, LANGUAGE)) if purpose == LANGUAGE else classified(base, purpose=purpose)
    assert type(ours) is type(model)
    inputs = inputs_of(model)
    with torch.no_grad():
        assert torch.equal(ours(**inputs).logits, model(**inputs).logits)
    assert not ours.training


@pytest.mark.parametrize("name", ["gpt_neox", "gpt_neox-bare", "bert", "bert-bare", "gpt2"])
def test_a_body_gets_a_new_head(tmp_path, name):
    """What goes into the head is what the body says, of a checkpoint of the bare body and of one with another head."""
    model = made(name)
    ours = classified(base_of(model, tmp_path), pad_token_id=0)
    inputs = inputs_of(model)
    with torch.no_grad():
        bare = model.base_model if model.base_model is not model else model
        ours_body = getattr(ours, ours.base_model_prefix)
        assert torch.equal(ours_body(**inputs).last_hidden_state, bare(**inputs).last_hidden_state)
        assert ours(**inputs).logits.shape == (1, 2)


def test_half_precision_becomes_float32(tmp_path):
    base = base_of(made("gpt_neox").half(), tmp_path)
    assert base.config["dtype"] == "float16"
    wide = Base("wide", base.config, {name: tensor.float() for name, tensor in base.tensors.items()})
    model = load(blueprint(wide, LANGUAGE))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.gpt_neox.embed_in.weight, wide.tensors["gpt_neox.embed_in.weight"])


def test_the_new_head_comes_from_the_global_generator(tmp_path):
    base = base_of(made("bert"), tmp_path)
    first, same, other = (classified(base, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.classifier.weight, same.classifier.weight)
    assert torch.equal(first.bert.pooler.dense.weight, same.bert.pooler.dense.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert torch.equal(first.bert.encoder.layer[1].output.dense.weight, other.bert.encoder.layer[1].output.dense.weight)


def test_training_a_model_leaves_its_base_alone(tmp_path):
    base = base_of(made("gpt2"), tmp_path)
    before = {name: tensor.clone() for name, tensor in base.tensors.items()}
    model = load(blueprint(base, LANGUAGE))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(base.tensors[name], before[name]) for name in before)
    assert model.lm_head.weight is model.transformer.wte.weight  # tied, as the configuration says


def test_buffers_of_earlier_versions_are_no_layers(tmp_path):
    base = base_of(made("gpt_neox"), tmp_path)
    base.tensors["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 8, 8)
    base.tensors["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(3)
    assert load(blueprint(base, LANGUAGE)).gpt_neox.layers[1].mlp.dense_h_to_4h.weight.shape == (40, 24)


def test_wrong_tensors_are_refused(tmp_path):
    whole = base_of(made("gpt_neox"), tmp_path)
    lost = "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"

    def loaded(tensors, **changes):
        return load(blueprint(Base("base", whole.config | changes, tensors), LANGUAGE))

    with pytest.raises(RequestError, match=rf"^base lacks {lost}; give a whole checkpoint"):
        loaded({name: tensor for name, tensor in whole.tensors.items() if name != lost})
    with pytest.raises(RequestError, match=r"lacks .*, .*, .* and 21 more;"):
        loaded({name: tensor for name, tensor in whole.tensors.items() if "layers" not in name})
    with pytest.raises(RequestError, match=rf"tensor {lost} has the shape \[3, 3\], and config.json says \[24, 40\]"):
        loaded(whole.tensors | {lost: torch.zeros(3, 3)})
    with pytest.raises(
        RequestError, match=r"tensor gpt_neox.layers.1\S+ belongs to a layer that its config.json does not have"
    ):
        loaded(whole.tensors, num_hidden_layers=1)


def test_impossible_sizes_are_refused_before_memory_is_taken(tmp_path):
    base = base_of(made("gpt_neox"), tmp_path)

    def of(**changes):
        return blueprint(Base("base", base.config | changes, base.tensors), LANGUAGE)

    with pytest.raises(RequestError, match=r"config.json says 1000000000 layers, and there are 28 tensors"):
        of(num_hidden_layers=10**9)
    with pytest.raises(RequestError, match=r"config.json describes \d{12,} numbers, and its tensors hold \d{5}$"):
        of(hidden_size=24 * 10**5)


def test_wrong_kinds_are_refused(tmp_path):
    base = base_of(made("vit"), tmp_path)

    def of(purpose=TEXT, **changes):
        return blueprint(Base("base", base.config | changes, base.tensors), purpose)

    assert of(IMAGE, auto_map={"AutoModel": "code.Model"}, attn_implementation="stranger/kernels") is not None
    with pytest.raises(RequestError, match=r"base is a vit model, which is none for text classification"):
        of()
    with pytest.raises(RequestError, match=r"model_type 'mine' is none that transformers knows; choose another base"):
        of(model_type="mine")
    with pytest.raises(RequestError, match=r"needs code of its own \(auto_map\), which is not run"):
        of(model_type="mine", auto_map={"AutoModel": "code.Model"})
    with pytest.raises(RequestError, match="base is an encoder with a decoder, for which there is no task"):
        of(model_type="t5")
    with pytest.raises(
        RequestError, match="base: its configuration has no vocab_size; choose a base that reads tokens"
    ):
        assert of(model_type="canine", hidden_size=12, num_attention_heads=2, num_hash_buckets=16).vocabulary
    with pytest.raises(RequestError, match="model_type None"):
        of(model_type=None)
    with pytest.raises(RequestError, match="base is quantised; give the checkpoint"):
        of(IMAGE, quantization_config={"quant_method": "gptq"})
    with pytest.raises(RequestError, match=r"base: its configuration is invalid \("):
        of(IMAGE, hidden_size="wide")
    with pytest.raises(RequestError, match="base: no model can be made of its configuration"):
        of(IMAGE, hidden_act="no such function")


def test_another_attention_implementation_is_not_taken_from_a_file(tmp_path):
    base = base_of(made("vit"), tmp_path)
    plain = blueprint(base, IMAGE).config._attn_implementation
    for key in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
        plan = blueprint(Base("base", base.config | {key: "stranger/kernels"}, base.tensors), IMAGE)
        assert plan.config._attn_implementation == plain
        assert "stranger" not in str(plan.config.to_dict())


# --- heads --------------------------------------------------------------------------------------------------
def test_a_head_that_fits_is_used(tmp_path):
    names = {"id2label": {0: "BAD", 1: "good"}, "label2id": {"BAD": 0, "good": 1}}
    base = base_of(made("bert-classifier", **names), tmp_path)
    model = classified(base, ("bad", "Good"))
    assert torch.equal(model.classifier.weight, base.tensors["classifier.weight"])
    assert torch.equal(classified(base, (0, 1), numbered=True).classifier.weight, base.tensors["classifier.weight"])


def test_a_head_that_does_not_fit_is_refused(tmp_path):
    names = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    base = base_of(made("gpt_neox-classifier", **names), tmp_path)
    with pytest.raises(
        RequestError, match=r"base has a head score.weight of shape \[2, 24\], and 3 labels need \[3, 24\]"
    ):
        classified(base, ("bad", "good", "fair"))
    with pytest.raises(
        RequestError, match=r"head for the labels \['bad', 'good'\], and the data have \['good', 'bad'\]"
    ):
        classified(base, ("good", "bad"))


def test_names_without_a_head_do_not_matter(tmp_path):
    names = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    assert classified(base_of(made("gpt_neox", **names), tmp_path), ("x", "y", "z")).score.weight.shape == (3, 24)


def test_a_head_for_tokens_is_not_one_for_texts(tmp_path):
    """Both are called classifier.weight; config.json says which it is."""
    base = base_of(made("bert-classifier"), tmp_path, architectures=["BertForTokenClassification"])
    model = classified(base)
    assert not torch.equal(model.classifier.weight, base.tensors["classifier.weight"])
    assert torch.equal(model.bert.pooler.dense.weight, base.tensors["bert.pooler.dense.weight"])


def test_classes_are_those_asked_for(tmp_path):
    for name, kind in (("bert", BertForSequenceClassification), ("gpt_neox", GPTNeoXForSequenceClassification)):
        model = classified(base_of(made(name), tmp_path / name), ("a", "b", "c"))
        assert type(model) is kind
        assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert set(PURPOSES) == {TEXT, IMAGE, LANGUAGE}
