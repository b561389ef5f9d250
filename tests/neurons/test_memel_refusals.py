"""What insert_memel, remove_memel and inserted layers refuse, and what they say of it."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from neurons.memel_models import Around, Returning, bert, encoder, perceptron, tokens  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from ninscope.errors import RequestError  # noqa: E402
from ninscope.neurons.memel import insert_memel, remove_memel  # noqa: E402


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            "middle:7",
            "middle:7 of 6 attention layers or repeated blocks that BertForSequenceClassification has; give middle:1 to",
        ),
        ("middle:0", "middle:0 of 6 attention layers"),
        ("middle", "layers is 'middle'; \"middle:4\" was expected, or names of modules"),
        ("middle:-4", "layers is 'middle:-4'"),
        ([], 'layers is empty; give "middle:4", or names of modules'),
        ("bert.encoder.layer.2.atention", "matches no module of the model; near: bert.encoder.layer.2.attention, "),
        (
            ["bert.encoder.layer.2.attention", "nowhere.at.all"],
            "layer 'nowhere.at.all' matches no module of the model; near: ",
        ),
        (
            "attention",
            "layer 'attention' is 6 modules: bert.encoder.layer.0.attention, .* and 3 more; give the whole name",
        ),
        ("", "layer '' matches no module"),
        (
            "bert.encoder.layer",
            "layer bert.encoder.layer is a ModuleList, which is not passed as a whole; name modules inside",
        ),
    ],
)
def test_layers_that_are_not_there(layers, message):
    model = bert()
    keys = list(model.state_dict())
    with pytest.raises(RequestError, match=message):
        insert_memel(model, layers)
    assert list(model.state_dict()) == keys
    insert_memel(model, "middle:1")  # nothing is left of what failed


def test_a_name_of_no_middle():
    with pytest.raises(
        RequestError, match="middle:4 of 0 attention layers or repeated blocks that Around has; give names of"
    ):
        insert_memel(Around(nn.Linear(5, 5)))


def test_suffixes_have_one_meaning_or_none():
    model = bert()
    assert list(insert_memel(model, "layer.3.attention")) == ["bert.encoder.layer.3.attention"]


def test_twice_is_refused_and_so_is_taking_out_what_is_not_in():
    model = bert()
    insert_memel(model, "layer.3.attention")
    for inner in (model, model.bert, Around(model)):
        if inner is not model.bert:
            with pytest.raises(
                RequestError, match=f"MEmeL is in this {type(inner).__name__} already; remove_memel takes it out"
            ):
                insert_memel(inner, "layer.2.attention")
    with pytest.raises(RequestError, match="has something called memel already"):
        insert_memel(model.bert, "layer.3.attention")
    remove_memel(model)
    with pytest.raises(
        RequestError, match="no MEmeL was inserted into this BertForSequenceClassification; insert_memel does it"
    ):
        remove_memel(model)
    insert_memel(model, "layer.3.attention")


def test_settings_are_those_of_the_layer():
    model = bert()
    keys = list(model.state_dict())
    with pytest.raises(RequestError, match="method is 'inverted'; one of reversed"):
        insert_memel(model, method="inverted")
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_is_refused(use_reentrant):
    model = bert()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    with pytest.raises(RequestError, match="gradient checkpointing passes every batch twice"):
        insert_memel(model)
    model.gradient_checkpointing_disable()
    insert_memel(model)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    loss = model.train()(**tokens())[0].sum()
    with pytest.raises(
        RequestError, match=r"bert.encoder.layer.\d.attention: passed again while gradients are computed"
    ):
        loss.backward()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_around_a_layer_is_refused(use_reentrant):
    model = perceptron()
    insert_memel(model, "2")
    h = torch.randn(4, 8, requires_grad=True)
    out = checkpoint(model[2], h, use_reentrant=use_reentrant)
    with pytest.raises(
        RequestError, match=r"2: passed again while gradients are computed \(activation checkpointing\)"
    ):
        out.sum().backward()


@pytest.mark.parametrize(
    ("pack", "kind"),
    [
        (lambda out: None, "NoneType"),
        (lambda out: (out.argmax(-1), None), "tuple"),
        (lambda out: {"index": out.argmax(-1)}, "dict"),
        (lambda out: (out.sum(),), "tuple"),
        (lambda out: out.argmax(-1), "Tensor"),
    ],
)
def test_outputs_without_activations(pack, kind):
    model = Around(Returning(pack))
    insert_memel(model, "layer")
    with pytest.raises(RequestError, match=f"layer layer returns a {kind} without activations; take another layer"):
        model(torch.randn(4, 5))
    model.eval()(torch.randn(4, 5))


def test_activations_that_are_not_finite_are_of_a_layer_with_a_name():
    model = bert().train()
    insert_memel(model)
    with torch.no_grad():
        model.bert.encoder.layer[2].attention.self.value.weight[0] = float("nan")
    with pytest.raises(
        RequestError, match=r"bert.encoder.layer.2.attention: activations are not finite \(NaN or infinity\)"
    ):
        model(**tokens())


def test_layers_without_the_batch_in_front():
    for model, layer in ((Around(nn.GRU(5, 4)), "layer"), (encoder(), "layers.1")):
        for module in model.modules():
            if hasattr(module, "batch_first"):
                module.batch_first = False
        with pytest.raises(
            RequestError, match=f"layer {layer} is of batch_first=False, so its first dimension is not samples"
        ):
            insert_memel(model, layer)


def test_a_mask_of_other_tokens_than_the_activations():
    model = bert()
    insert_memel(model, ["bert.pooler", "classifier"])
    model.train()(**tokens())  # one vector a sample

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x, attention_mask):
            return self.layer(x[:, ::2])

    model = Pooled()
    insert_memel(model, "layer")
    message = r"layer: the attention mask is of shape \(3, 6\) and activations of \(3, 3, 4\), whose first two dimensions are not"
    with pytest.raises(RequestError, match=message):
        model(torch.randn(3, 6, 4), torch.ones(3, 6))


def test_a_sequence_that_ends_in_a_shared_module():
    shared = nn.ReLU()
    model = nn.Sequential(*(nn.Sequential(nn.Linear(5, 5), shared) for _ in range(3)))
    with pytest.raises(RequestError, match="the last module of layer 1 stands in other places of the model too"):
        insert_memel(model, "middle:1")


def test_one_module_is_not_taken_twice():
    model = nn.Sequential(nn.Sequential(nn.Linear(5, 5)), nn.Linear(5, 5))
    with pytest.raises(RequestError, match=r"layers 0 and 0\.0 end in one module; name one of them"):
        insert_memel(model, ["0", "0.0"])
