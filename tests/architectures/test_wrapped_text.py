"""Text models beside models of images, against the real library: they are read as the text model by itself is."""

import json

import numpy as np
import pytest
from family_configs import CONFIGS, LLAMA
from family_models import GEMMA4, GROUPED

import ninscope
from ninscope.architectures import architecture_of
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXT = GROUPED | {"head_dim": 10}
IMAGES = {
    "hidden_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 30,
    "image_size": 8,
    "patch_size": 4,
}
# By model_type: the classes of both models, the text model's settings, and others.
REAL = {
    "gemma3": ("Gemma3", "Gemma3ForCausalLM", TEXT, {"vision_config": IMAGES, "mm_tokens_per_image": 4}),
    "mistral3": (
        "Mistral3",
        "MistralForCausalLM",
        TEXT | {"model_type": "mistral"},
        {"vision_config": IMAGES | {"model_type": "pixtral", "head_dim": 10}},
    ),
    "mistral3-ministral": (
        "Mistral3",
        "Ministral3ForCausalLM",
        TEXT | {"model_type": "ministral3"},
        {"vision_config": IMAGES | {"model_type": "pixtral", "head_dim": 10}},
    ),
    "gemma4": (
        "Gemma4",
        "Gemma4ForCausalLM",
        GEMMA4,
        {"vision_config": IMAGES | {"head_dim": 10, "num_key_value_heads": 2}, "audio_config": None},
    ),
}


@pytest.fixture(scope="module", params=REAL)
def both(request, tmp_path_factory):
    """(the model of text and images, its text model by itself), and where each is saved."""
    name, alone, text, others = REAL[request.param]
    torch.manual_seed(5)
    config = getattr(transformers, f"{name}Config")(text_config=text, **others)
    whole = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.normal_(0, 0.1)
    inner = getattr(transformers, alone)(whole.config.text_config)
    inner.model.load_state_dict(whole.model.language_model.state_dict())
    folder = tmp_path_factory.mktemp(request.param)
    whole.save_pretrained(folder / "whole")
    inner.save_pretrained(folder / "text")
    return whole, inner, folder


def test_the_text_model_is_read_as_by_itself(both):
    whole, _, folder = both
    found, alone = ninscope.measure(folder / "whole"), ninscope.measure(folder / "text")
    assert (found.alpha0, found.width, found.nodes, found.edges) == (
        alone.alpha0,
        alone.width,
        alone.nodes,
        alone.edges,
    )
    np.testing.assert_array_equal(found.f, alone.f)
    assert found.message == "left out: all but the text model"
    config = json.loads((folder / "whole" / "config.json").read_text())
    architecture = architecture_of(config, open_source(folder / "whole").open("whole").tensors)
    assert architecture.family == config["model_type"] == whole.config.model_type


def test_in_memory_it_is_the_same(both):
    whole, _, folder = both
    assert ninscope.measure(whole).alpha0 == ninscope.measure(folder / "whole").alpha0
    assert ninscope.measure(whole.model).alpha0 == ninscope.measure(folder / "whole").alpha0


def test_gemma3_may_leave_out_what_the_library_has():
    """As the published configurations do."""
    inner = {name: size for name, size in LLAMA.items() if not name.endswith("heads")} | {"head_dim": 6}
    stated = {"num_attention_heads": 8, "num_key_value_heads": 4}
    left_out, whole = ({"model_type": "gemma3", "text_config": text} for text in (inner, inner | stated))
    assert architecture_of(left_out).digest == architecture_of(whole).digest
    real = transformers.Gemma3TextConfig()
    assert {name: getattr(real, name) for name in stated} == stated


@pytest.mark.parametrize("family", ["gemma3", "gemma4", "mistral3"])
def test_a_text_config_that_is_none_is_refused(family):
    with pytest.raises(CheckpointError, match="text_config is None; the text model's settings were expected"):
        architecture_of({"model_type": family})


def test_over_another_text_model_it_is_generic(tmp_path, both):
    whole, _, folder = both
    config = json.loads((folder / "whole" / "config.json").read_text())
    config["text_config"]["model_type"] = "mine"
    tensors = open_source(folder / "whole").open("whole").tensors
    architecture = architecture_of(config, tensors)
    assert architecture.family == "generic"
    assert architecture.note.startswith(
        f"model_type '{whole.config.model_type} over mine' is not a known family; read as gen"
    )


@pytest.mark.parametrize("states", [True, False])
def test_packed_gpt_oss_is_refused_with_what_to_do(states):
    """Its tensors as the published files name them."""
    config = CONFIGS["gpt_oss"] | ({"quantization_config": {"quant_method": "mxfp4"}} if states else {})
    names = [
        f"model.layers.0.mlp.experts.{part}_proj_{kind}"
        for part in ("gate_up", "down")
        for kind in ("blocks", "scales")
    ]
    with pytest.raises(CheckpointError) as refused:
        architecture_of(config, {name: Packed(name) for name in names})
    told = "its weights are quantised (mxfp4)" if states else "shows that the weights are quantised"
    assert told in str(refused.value)
    assert "tensor model.layers.0.mlp.experts.gate_up_proj_blocks" in str(refused.value)
    assert str(refused.value).endswith("load it with transformers' Mxfp4Config(dequantize=True) and save it")


class Packed:
    """A tensor of bytes."""

    dtype, shape = "U8", (3, 24, 2, 16)

    def __init__(self, name):
        self.name = name
