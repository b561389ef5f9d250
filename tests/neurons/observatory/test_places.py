"""Where things are in a model: what is shown at each place must fit together as a transformer's parts do, family by family."""

import itertools
import re

import family_models
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from ninscope.errors import RequestError  # noqa: E402
from ninscope.neurons.observatory.examples import Examples  # noqa: E402
from ninscope.neurons.observatory.measure import (  # noqa: E402
    ATTENTION,
    CONTEXT,
    FEATURES,
    HIDDEN,
    KINDS,
    OUTPUT,
    RESIDUAL,
    VALUES,
    WRITTEN,
)
from ninscope.neurons.observatory.places import places_of  # noqa: E402
from ninscope.neurons.observatory.subject import Subject  # noqa: E402

IMAGES = {"vit", "swin", "clip_vision_model"}
# Every block adds what its two parts write to what it read, and nothing else.
ADDING = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "olmo", "smollm3", "ministral3", "gemma", "phi3", "vit", "opt")
FAMILIES = (
    *ADDING, "olmo2", "gemma2", "granite", "bert", "roberta", "distilbert", "swin", "mixtral", "olmoe", "qwen2_moe",
    "qwen3_moe-fused", "gpt_oss", "deepseek_v3", "falcon_h1", "llama4_text-step", "clip_text_model", "clip_vision_model",
    "gemma4_text",
)  # fmt: skip
MIXTURES = {"mixtral": 3, "olmoe": 4, "qwen2_moe": 3, "qwen3_moe-fused": 3, "gpt_oss": 3, "deepseek_v3": 4}


def subject_of(name: str) -> Subject:
    model = family_models.built(name)
    drawn = np.random.default_rng(0)
    if name in IMAGES:
        side = model.config.image_size
        return Subject(name, model, Examples("images", drawn.normal(size=(3, 3, side, side)).astype(np.float32)))
    return Subject(name, model, Examples("tokens", drawn.integers(3, 31, (3, 7))))


def shown(subject: Subject) -> dict:
    """The values at every place, by kind and layer, of one batch."""
    seen: dict = {}
    with subject.at_rest():
        subject.run(
            KINDS, lambda place, values, batch: seen.setdefault((place.kind, place.layer), (place, values.clone()))
        )
    return seen


@pytest.mark.parametrize("name", FAMILIES)
def test_parts_of_a_block_fit_together(name):
    """Attention times values is the context; hidden neurons times the weights that leave them is what the MLP writes."""
    subject = subject_of(name)
    seen = shown(subject)
    assert seen.keys() == {(place.kind, place.layer) for place in subject.places_of(*KINDS)}
    attentions = [layer for kind, layer in seen if kind == ATTENTION]
    hidden = [layer for kind, layer in seen if kind == HIDDEN and (WRITTEN, layer) in seen]
    assert attentions
    for layer in attentions if name != "gemma4_text" else ():  # which normalises values before they are summed
        pattern = seen[ATTENTION, layer][1]
        place, values = seen[VALUES, layer.removesuffix("c") + "v"]
        n, heads, positions, _ = pattern.shape
        assert heads == seen[CONTEXT, layer][0].heads == seen[ATTENTION, layer][0].heads
        assert heads == subject.model.config.num_attention_heads or name == "swin"
        parted = values.reshape(n, positions, place.heads, -1).repeat_interleave(heads // place.heads, 2)
        summed = torch.einsum("nhij,njhd->nihd", pattern, parted).flatten(2)
        torch.testing.assert_close(seen[CONTEXT, layer][1].reshape(summed.shape), summed, atol=1e-5, rtol=1e-5)
    for layer in hidden if not name.startswith("llama4") else ():  # whose routed part is added into the same memory
        written = seen[HIDDEN, layer][1] @ subject.leaving(layer).T
        torch.testing.assert_close(written, seen[WRITTEN, layer][1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ADDING)
def test_the_residual_stream_is_what_parts_add_up_to(name):
    seen = shown(subject_of(name))
    stream = [values for (kind, _), (_, values) in seen.items() if kind == RESIDUAL]
    layers = [layer for kind, layer in seen if kind == RESIDUAL]
    assert layers == ["block0.x", "block1.x", "output.x"]
    for number, (before, after) in enumerate(itertools.pairwise(stream)):
        added = seen[WRITTEN, f"block{number}.c"][1] + seen[WRITTEN, f"block{number}.m"][1]
        torch.testing.assert_close(before + added, after, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [*FAMILIES, "qwen3_moe", "granitemoe", "mixtral-fused"])
def test_the_residual_stream_is_what_enters_and_leaves_blocks(name):
    """What the library itself gives as hidden states, before the last norm."""
    subject = subject_of(name)
    blocks = [
        module
        for module in subject.model.modules()
        if re.search(r"(Layer|Block)$", type(module).__name__)
        and any(re.search(r"(Attention|SelfOutput)$", type(part).__name__) for part in module.modules())
    ]
    blocks = [module for module in blocks if not any(module in list(other.modules())[1:] for other in blocks)]
    entered: list = []
    handles = [
        module.register_forward_pre_hook(
            lambda module, args, kwargs: entered.append((*args, *kwargs.values())[0].detach().clone()), with_kwargs=True
        )
        for module in blocks
    ]
    left: list = []
    handles.append(
        blocks[-1].register_forward_hook(
            lambda module, args, output: left.append(
                (output[0] if isinstance(output, tuple) else output).detach().clone()
            )
        )
    )
    seen = shown(subject)
    for handle in handles:
        handle.remove()
    stream = {layer: values for (kind, layer), (_, values) in seen.items() if kind == RESIDUAL}
    assert list(stream)[-1] == "output.x"
    for values, expected in zip(stream.values(), [*entered, *left], strict=True):
        assert torch.equal(values.reshape(expected.shape), expected)


def test_blocks_of_gpt_neox_add_their_parts_side_by_side():
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**family_models.TEXT)).eval()
    seen = shown(Subject("neox", model, Examples("tokens", np.arange(14).reshape(2, 7))))
    added = seen[WRITTEN, "block0.c"][1] + seen[WRITTEN, "block0.m"][1]
    torch.testing.assert_close(seen[RESIDUAL, "block0.x"][1] + added, seen[RESIDUAL, "block1.x"][1])
    logits = seen[FEATURES, "features"][1] @ model.get_output_embeddings().weight.T
    torch.testing.assert_close(logits, seen[OUTPUT, "output"][1])


@pytest.mark.parametrize(("name", "count"), MIXTURES.items())
def test_each_expert_shows_the_tokens_that_it_was_sent(name, count):
    subject = subject_of(name)
    seen = shown(subject)
    experts = [place for place in subject.places_of(HIDDEN) if place.routed]
    blocks = {place.block for place in experts}
    assert len(experts) == count * len(blocks)
    chosen = subject.model.config.num_experts_per_tok
    for block in blocks:
        rows = sum(
            seen[HIDDEN, one.layer][1].shape[1] for one in experts if one.block == block and (HIDDEN, one.layer) in seen
        )
        assert rows == 3 * 7 * chosen


def test_an_expert_shows_what_its_weights_make_of_its_tokens():
    """Of a mixture in which every token goes to every expert."""
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    sizes = family_models.TEXT | {"num_key_value_heads": 2, "num_local_experts": 2, "num_experts_per_tok": 2}
    model = MixtralForCausalLM(MixtralConfig(**sizes)).eval()
    subject = Subject("mixtral", model, Examples("tokens", np.arange(14).reshape(2, 7)))
    seen = shown(subject)
    read: list = []
    router = model.model.layers[0].mlp.gate
    handle = router.register_forward_pre_hook(lambda module, given: read.append(given[0].reshape(-1, 24)))
    shown(subject)
    handle.remove()
    for expert in range(2):
        gate, up = subject.entering(f"block0.e{expert}.m")
        expected = nn.functional.silu(read[0] @ gate.T) * (read[0] @ up.T)
        values = seen[HIDDEN, f"block0.e{expert}.m"][1][0]
        in_order = (
            values[values.sum(1).argsort()],
            expected[expected.sum(1).argsort()],
        )  # the library sorts them by choice
        torch.testing.assert_close(*in_order, atol=1e-6, rtol=1e-5)


def test_a_module_of_no_known_family_has_the_layers_that_its_matrices_read():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    inputs = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    seen = shown(Subject("perceptron", model, Examples("arrays", inputs)))
    first = model[1](model[0](torch.from_numpy(inputs)))
    torch.testing.assert_close(seen[HIDDEN, "2.in"][1], first[:, None])
    torch.testing.assert_close(seen[HIDDEN, "4.in"][1], model[3](model[2](first))[:, None])
    assert [layer for kind, layer in seen if kind == HIDDEN] == ["2.in", "4.in"]


def test_channels_of_convolutions_are_neurons_and_pixels_positions():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)
    )
    images = np.random.default_rng(0).normal(size=(2, 3, 6, 5)).astype(np.float32)
    seen = shown(Subject("convolutions", model, Examples("images", images)))
    expected = model[1](model[0](torch.from_numpy(images)))
    values = seen[HIDDEN, "2.in"][1]
    assert values.shape == (2, 4 * 3, 8)
    torch.testing.assert_close(values[1, 1 * 3 + 2], expected[1, :, 1, 2])


def test_a_first_convolution_that_is_no_part_of_the_network_hides_no_layer():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(6, 2))
    assert places_of(model).hidden_layers == ("2.in", "4.in")


def test_named_modules_are_hidden_layers():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    assert places_of(model, ["1"]).hidden_layers == ("1",)
    with pytest.raises(RequestError, match=r"layer 'relu' is no module of the model; it has 0, 1, 2"):
        places_of(model, ["relu"])
    with pytest.raises(RequestError, match="names of modules were expected, each once"):
        places_of(model, ["1", "1"])
    with pytest.raises(RequestError, match=r"the model is a str; a torch\.nn\.Module was expected"):
        places_of("model")


def test_near_names_of_modules_are_told():
    with pytest.raises(RequestError, match=r"did you mean 'model\.layers\.0\.mlp\.act_fn'\?"):
        places_of(family_models.built("llama"), ["model.layers.0.mlp.actfn"])


def test_changed_activations_change_what_is_written_and_are_put_back():
    subject = subject_of("llama")
    before = shown(subject)
    seen: dict = {}
    with subject.at_rest(), subject.changed({"block1.m": lambda h: h * 0}):
        subject.run(KINDS, lambda place, values, batch: seen.setdefault((place.kind, place.layer), values.clone()))
    assert not seen[WRITTEN, "block1.m"].any()
    torch.testing.assert_close(seen[WRITTEN, "block0.m"], before[WRITTEN, "block0.m"][1])
    after = shown(subject)
    assert all(torch.equal(after[key][1], before[key][1]) for key in before)
    with (
        pytest.raises(RequestError, match=r"layer 'block7\.m' is none whose activations can be changed"),
        subject.changed({"block7.m": abs}),
    ):
        pass


def test_a_model_is_afterwards_as_it_was():
    model = family_models.built("mixtral")
    model.train()
    model.model.layers[0].eval()
    attention, experts = model.config._attn_implementation, model.config._experts_implementation
    shown(Subject("mixtral", model, Examples("tokens", np.arange(14).reshape(2, 7))))
    assert (model.config._attn_implementation, model.config._experts_implementation) == (attention, experts)
    assert model.training
    assert not model.model.layers[0].training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_encoder_with_a_decoder_is_refused():
    with pytest.raises(RequestError, match="t5 is an encoder with a decoder, which nothing here runs"):
        subject_of("t5")


def test_a_model_that_describes_nothing_is_told_to_name_modules():
    with pytest.raises(RequestError, match=r"where its neurons are is not known .*; name modules in layers"):
        places_of(nn.Sequential(nn.ReLU()))


def test_unembedding_has_the_final_norm_folded_in():
    """Logits follow from the last state and it, but for the norm's scale and a shift that all tokens share."""
    for name in ("llama", "gpt2", "gemma", "olmo"):
        subject = subject_of(name)
        norm = subject.places.final_norm()
        with torch.no_grad():
            for gain in norm.parameters():
                gain.copy_(torch.rand(24) + 0.5 if gain.all() else gain)
        seen = shown(subject)
        state, logits = seen[RESIDUAL, "output.x"][1], seen[OUTPUT, "output"][1]
        centred = state - state.mean(-1, keepdim=True) if name in ("gpt2", "olmo") else state
        scale = torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-6)
        torch.testing.assert_close(state @ subject.unembedding().T / scale, logits, atol=1e-4, rtol=1e-4)
