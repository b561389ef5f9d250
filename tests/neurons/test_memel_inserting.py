"""insert_memel and remove_memel on real models of transformers and on plain ones: where it sits, what passes, what is left."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from neurons.memel_models import MODELS, PACKED, Around, Returning, bert, convolutional, encoder, perceptron, tokens  # noqa: E402
from torch import nn  # noqa: E402

from ninscope.errors import RequestError  # noqa: E402
from ninscope.neurons.memel import MEmeL, insert_memel, remove_memel  # noqa: E402


def outputs(model, given):
    torch.manual_seed(5)  # of dropout
    with torch.no_grad():
        return model(**given)[0]


def hooks(model):
    return [
        (name, *(len(getattr(module, f"_{kind}")) for kind in ("forward_hooks", "forward_pre_hooks", "backward_hooks")))
        for name, module in model.named_modules()
    ]


def after(module, wanted):
    """Calls of a module: its outputs as they are before MEmeL and after it."""
    module.register_forward_hook(lambda module, given, out: wanted.append(out), prepend=True)


# --- real models -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", MODELS)
def test_a_model_trains_with_it_and_is_itself_without(name):
    make, inputs, middle = MODELS[name]
    torch.manual_seed(0)
    model, given = make(), inputs()
    state, hooked, keys = copy.deepcopy(model.state_dict()), hooks(model), list(vars(model))
    evaluated, trained = outputs(model.eval(), given), outputs(model.train(), given)
    inserted = insert_memel(model, late_start=2)
    if middle:
        assert list(inserted) == middle
    assert torch.equal(outputs(model.eval(), given), evaluated)
    assert all(memel.scale.steps == 0 for memel in inserted.values())
    model.train()
    assert torch.equal(outputs(model, given), trained)  # a late start
    outputs(model, given)
    assert not torch.equal(outputs(model, given), trained)
    assert all(memel.scale.steps == 3 for memel in inserted.values())
    model(**given)[0].square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)
    assert torch.equal(outputs(model.eval(), given), evaluated)
    remove_memel(model)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(values, state[key]) for key, values in model.state_dict().items())
    assert hooks(model) == hooked
    assert list(vars(model)) == keys
    assert torch.equal(outputs(model.train(), given), trained)


@pytest.mark.parametrize("name", ["BERT", "GPT-NeoX", "GPT-2", "llama"])
@pytest.mark.parametrize("positional", [False, True])
def test_padding_of_text_is_known_to_every_layer(name, positional):
    make, inputs, _ = MODELS[name]
    torch.manual_seed(0)
    model, given = make().train(), inputs()
    inserted = insert_memel(model)
    if positional and name == "GPT-2":  # whose second argument is another one
        model(given["input_ids"], None, given["attention_mask"])
    elif positional:
        model(given["input_ids"], given["attention_mask"].float())
    else:
        model(**given)
    assert {memel.scale.count[0].item() for memel in inserted.values()} == {7 + 5 + 3}
    model(given["input_ids"])  # the mask of one batch is not that of the next
    assert {memel.scale.count[0].item() for memel in inserted.values()} == {7 + 5 + 3 + 3 * 7}


@pytest.mark.parametrize("name", ["T5", "BART"])
def test_encoder_and_decoder_have_padding_of_their_own(name):
    make, inputs, _ = MODELS[name]
    model, given = make().train(), inputs()
    inserted = insert_memel(model)
    model(**given)
    counts = {layer: memel.scale.count[0].item() for layer, memel in inserted.items()}
    assert set(counts.values()) == {15, 9}
    assert all(count == (9 if layer.startswith("decoder") else 15) for layer, count in counts.items())
    given.pop("decoder_attention_mask")
    given["decoder_input_ids"] = given["input_ids"]  # as many tokens as the encoder has, whose mask is not theirs
    model(**given)
    for layer, memel in inserted.items():
        assert memel.scale.count[0] == (9 + 21 if layer.startswith("decoder") else 15 + 15)


def test_a_mask_is_forgotten_where_a_forward_pass_fails():
    model, given = bert().train(), tokens()
    inserted = insert_memel(model)
    with pytest.raises(ValueError, match="batch"):
        model(**given, labels=torch.zeros(2, dtype=torch.long))
    model(given["input_ids"])
    assert {memel.scale.count[0].item() for memel in inserted.values()} == {15 + 21}


def test_bert_base_has_it_behind_attention_4_to_7():
    import transformers

    with torch.device("meta"):
        model = transformers.BertModel(transformers.BertConfig())
        assert list(insert_memel(model)) == [f"encoder.layer.{number}.attention" for number in (4, 5, 6, 7)]


def test_what_a_layer_returns_is_what_MEmeL_makes_of_it():
    """Of every output the next layer sees the activations with one value of each sample at its mean."""
    torch.manual_seed(0)
    model, given, before, behind = bert(hidden_dropout_prob=0).train(), tokens(), [], []
    memel = insert_memel(model, "encoder.layer.2.attention", late_start=1)["bert.encoder.layer.2.attention"]
    layer = model.bert.encoder.layer[2]
    after(layer.attention, before)
    layer.intermediate.register_forward_pre_hook(lambda module, arguments: behind.append(arguments[0]))
    for _ in range(2):
        mean = memel.scale.mean.clone()
        model(**given)
    changed = (before[1][0] != behind[1]).nonzero()
    assert torch.equal(before[0][0], behind[0])
    assert changed[:, 0].tolist() == [0, 1, 2]
    assert all(given["attention_mask"][sample, token] for sample, token, _ in changed)
    assert torch.equal(behind[1][tuple(changed.T)], mean[changed[:, 2]])


# --- plain torch -------------------------------------------------------------------------------------------------
def test_torchs_own_encoder_and_its_padding():
    torch.manual_seed(0)
    model, h = encoder().train(), torch.randn(3, 6, 8)
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[1, 4:] = True
    inserted = insert_memel(model, "middle:3")
    assert list(inserted) == [f"layers.{number}.self_attn" for number in (1, 2, 3)]
    model(h, src_key_padding_mask=padding)
    model(h[:, :3], torch.zeros(3, 3, dtype=torch.bool))  # which token sees which is no padding
    assert {memel.scale.count[0].item() for memel in inserted.values()} == {16 + 9}


def test_a_perceptron_by_names():
    torch.manual_seed(0)
    model, h = perceptron(), torch.randn(6, 5)
    inserted = insert_memel(model, ["2", "0"], late_start=1)
    assert list(inserted) == ["0", "2"]  # in the model's order
    model(h)
    out = model(h)
    twin = copy.deepcopy(model)
    remove_memel(twin)
    assert not torch.equal(out, twin(h))
    assert all(memel.scale.steps == 2 for memel in inserted.values())


def test_blocks_that_are_sequences_pass_it_once():
    """A child of an nn.Sequential would be passed as one of its modules, beside the hook."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Sequential(nn.Linear(5, 5), nn.Sequential(nn.Linear(5, 5), nn.Tanh())) for _ in range(4))
    )
    inserted = insert_memel(model, "middle:2")
    assert list(inserted) == ["1", "2"]
    h = torch.randn(6, 5)
    model(h)
    assert all(memel.scale.steps == 1 for memel in inserted.values())
    torch.testing.assert_close(inserted["1"].scale.mean, model[:2](h).mean(0))
    assert [len(block) for block in model] == [2] * 4


def test_convolutions_have_their_neurons_in_dimension_1():
    model = convolutional()
    inserted = insert_memel(model, ["2", "4"])
    model(torch.randn(3, 3, 16, 16))
    assert inserted["2"].scale.mean.shape == (4,)
    assert inserted["2"].scale.count.tolist() == [3 * 12 * 12] * 4
    assert inserted["4"].scale.mean.shape == (2,)
    remove_memel(model)
    assert insert_memel(model, "2", feature_dim=-1)["2"].scale.feature_dim == -1


def test_blocks_of_convolutions_and_matrices_must_say_where_features_are():
    """As ConvNeXt's: the last matrix counts channels last, and the block's output has them in dimension 1."""
    model = Around(nn.Sequential(nn.Conv2d(3, 4, 3), Around(nn.Linear(4, 4), lambda h: h.movedim(-1, 1))))
    with pytest.raises(RequestError, match=r"has convolutions and matrices.*; give feature_dim, or take layers"):
        insert_memel(model, ["layer"])
    assert insert_memel(model, ["layer"], feature_dim=1)["layer"].scale.feature_dim == 1


def test_recurrent_layers_return_their_state_beside():
    torch.manual_seed(0)
    model = Around(nn.GRU(5, 4, batch_first=True), lambda out: out[0])
    memel = insert_memel(model, "layer", late_start=0)["layer"]
    h = torch.randn(3, 6, 5)
    first, second = model(h), model(h)
    assert memel.scale.count.tolist() == [36] * 4
    assert (first != second).flatten(1).sum(1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", PACKED)
def test_activations_are_found_in_whatever_a_layer_returns(kind):
    torch.manual_seed(0)
    pack, unpack = PACKED[kind]
    layer = Returning(pack)
    model, h = Around(layer, unpack), torch.randn(4, 5)
    plain = type(layer(h))
    memel = insert_memel(model, ["layer"], late_start=1)["layer"]
    assert torch.equal(model(h), layer.linear(h))
    packed = layer(h)
    assert type(packed) is plain
    changed = unpack(packed) != layer.linear(h)
    assert changed.sum(1).tolist() == [1] * 4
    assert memel.scale.steps == 2
    if kind == "tuple":
        assert packed[0] is None
        assert torch.equal(packed[2], layer.linear(h) + 1)


# --- with the model ----------------------------------------------------------------------------------------------
def test_it_is_saved_moved_and_switched_with_the_model():
    model = bert()
    inserted = insert_memel(model.eval())
    assert not any(memel.training for memel in inserted.values())
    model.train().to(torch.bfloat16)
    model(**tokens())
    assert {memel.scale.mean.dtype for memel in inserted.values()} == {torch.float32}
    assert model.state_dict()["bert.encoder.layer.1.attention.memel.scale.mean"].any()
    assert not any("memel" in name for name, _ in model.named_parameters())


def test_a_copy_has_its_own():
    torch.manual_seed(0)
    model, given = bert(hidden_dropout_prob=0, attention_probs_dropout_prob=0).train(), tokens()
    insert_memel(model, late_start=0)
    model(**given)
    twin = copy.deepcopy(model)
    model(**given)
    kept = [module.scale.steps.item() for module in twin.modules() if isinstance(module, MEmeL)]
    assert kept == [1] * 4
    twin(**given)
    assert all(torch.equal(values, twin.state_dict()[key]) for key, values in model.state_dict().items())
    remove_memel(twin)
    assert not any(isinstance(module, MEmeL) for module in twin.modules())
    assert sum(isinstance(module, MEmeL) for module in model.modules()) == 4
    model(**given)
