"""Which of a batch is padding, where the model that MEmeL is in is not the one whose forward names a mask."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from neurons.memel_models import MODELS as REAL  # noqa: E402
from neurons.memel_models import bert, encoder, seq2seq, tokens  # noqa: E402
from torch import nn  # noqa: E402

from ninscope.neurons.memel import insert_memel  # noqa: E402
from ninscope.neurons.watching import watched  # noqa: E402

COUNTED = 7 + 5 + 3  # tokens of `tokens()` that are none of padding


class Passing(nn.Module):
    """Hands on whatever it is given."""

    def __init__(self, model):
        super().__init__()
        self.metric, self.model = nn.Identity(), model

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)


class Renaming(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, kept):
        return self.model(input_ids=ids, attention_mask=kept)


class Deriving(Renaming):
    """Which tokens are padding is known by their number."""

    def forward(self, ids):
        return super().forward(ids, (ids != 0).long())


def counts(inserted):
    return {memel.scale.count[0].item() for memel in inserted.values()}


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_wrapper_that_hands_on_whatever_it_is_given(by_name, depth):
    model, given = bert(), tokens()
    for _ in range(depth):
        model = Passing(model)
    inserted = insert_memel(model.train())
    model(**given) if by_name else model(given["input_ids"], given["attention_mask"])
    assert counts(inserted) == {COUNTED}
    model(given["input_ids"])  # the mask of one batch is not that of the next
    assert counts(inserted) == {COUNTED + 21}


@pytest.mark.parametrize("wrapper", [Renaming, Deriving])
def test_a_wrapper_with_arguments_of_its_own(wrapper):
    model, given = wrapper(bert()).train(), tokens()
    inserted = insert_memel(model)
    ids = given["input_ids"] * given["attention_mask"]
    model(*([ids, given["attention_mask"]] if wrapper is Renaming else [ids]))
    assert counts(inserted) == {COUNTED}


def test_a_wrapper_that_takes_the_mask_for_itself():
    class Taking(Passing):
        def forward(self, ids, **kwargs):
            return self.model(ids, kwargs["attention_mask"][:, None, None, :].bool())

    model, given = Taking(bert()).train(), tokens()
    inserted = insert_memel(model)
    model(given["input_ids"], attention_mask=given["attention_mask"])
    assert counts(inserted) == {COUNTED}


def test_a_wrapped_encoder_and_decoder():
    model = Passing(REAL["T5"][0]()).train()
    inserted = insert_memel(model)
    given = seq2seq()
    ids = given["input_ids"]
    model(input_ids=ids, attention_mask=given["attention_mask"], decoder_input_ids=ids)  # whose tokens have no mask
    for layer, memel in inserted.items():
        assert memel.scale.count[0] == (21 if ".decoder." in layer else 15)
        memel.scale.count.zero_()
    model(*(given[name] for name in ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")))
    for layer, memel in inserted.items():
        assert memel.scale.count[0] == (9 if ".decoder." in layer else 15)


def test_two_models_side_by_side_have_padding_of_their_own():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = bert(), bert()

        def forward(self, *batches):
            return self.one(**batches[0]).logits + self.other(**batches[1]).logits

    model, given = Both().train(), tokens()
    inserted = insert_memel(model, ["one.bert.encoder.layer.1.attention", "other.bert.encoder.layer.1.attention"])
    model(given, {"input_ids": given["input_ids"]})
    assert [memel.scale.count[0].item() for memel in inserted.values()] == [COUNTED, 21]


def test_torchs_own_masks_inside_a_model():
    model = Passing(encoder()).train()
    padding = torch.arange(6) >= torch.tensor([[6], [4], [1]])
    inserted = insert_memel(model, "middle:3")
    model(torch.randn(3, 6, 8), None, padding)
    assert counts(inserted) == {11}


class Crossing(nn.Module):
    """Self-attention, then attention to other tokens, then a matrix; masks of both are given by place."""

    def __init__(self):
        super().__init__()
        self.own = nn.MultiheadAttention(4, 1, batch_first=True)
        self.cross = nn.MultiheadAttention(4, 1, batch_first=True)
        self.matrix = nn.Linear(4, 4)

    def forward(self, x, padding, other, of_other):
        x = self.own(x, x, x, padding)[0]
        return self.matrix(self.cross(x, other, other, of_other)[0])


def test_a_mask_of_keys_is_none_of_queries():
    model = Crossing().train()
    inserted = insert_memel(model, ["own", "cross", "matrix"])
    padding, of_other = (
        torch.arange(6) >= torch.tensor([[6], [4], [1]]),
        torch.arange(8) >= torch.tensor([[8], [1], [2]]),
    )
    model(torch.randn(3, 6, 4), padding, torch.randn(3, 8, 4), of_other)
    assert counts(inserted) == {11}


def test_which_token_sees_which_is_no_padding():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Linear(4, 4)

        def forward(self, x, attention_mask):
            return self.matrix(attention_mask @ x)

    class Causal(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()

        def forward(self, x):
            return self.block(x, torch.tril(torch.ones(x.shape[1], x.shape[1])))

    model = Causal().train()
    inserted = insert_memel(model, "block")
    model(torch.randn(3, 6, 4))
    assert counts(inserted) == {18}


def test_a_layer_that_is_looked_at_has_it_too():
    model, given, seen = Passing(bert()).eval(), tokens(), []
    layers = {"third": model.model.bert.encoder.layer[3].attention}
    with watched(model, layers, lambda name, h, mask: seen.append(mask)):
        model(given["input_ids"], given["attention_mask"])
    assert torch.equal(seen[0], given["attention_mask"].bool())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Towers(nn.Module):
    """Text, of which some is padding, then images, then attention from these to that; and a head on the text."""

    def __init__(self):
        super().__init__()
        self.text, self.image = encoder(1), nn.Linear(8, 8)
        self.across = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Conv1d(8, 3, 1)

    def forward(self, text, padding, images):
        read = self.text(text, src_key_padding_mask=padding)
        seen, _ = self.across(self.image(images), read, read, key_padding_mask=padding)
        return self.head(read.transpose(1, 2)).sum() + seen.sum()


def test_a_mask_is_of_the_module_that_was_given_it():
    model, padding = Towers().train(), torch.arange(5) >= torch.tensor([[5], [3]])
    layers = ["text.layers.0.linear2", "image", "across", "head"]
    inserted = insert_memel(model, layers)
    model(torch.randn(2, 5, 8), padding, torch.randn(2, 4, 8))
    # Tokens of text that are none of padding; of images all, and of the queries; of the head what is not seen to be tokens.
    assert {name: memel.scale.count[0].item() for name, memel in inserted.items()} == dict(
        zip(layers, (8, 8, 8, 10), strict=True)
    )
