"""Behind which modules MEmeL can be: those that run, and run once; and which dimension of what they give counts features."""

import copy
import warnings

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
import transformers  # noqa: E402
from neurons.memel_models import SMALL, VISION, Around, encoder, images, perceptron, swin  # noqa: E402
from torch import nn  # noqa: E402

from ninscope.errors import RequestError  # noqa: E402
from ninscope.neurons.memel import insert_memel, remove_memel  # noqa: E402
from ninscope.neurons.memel.inserting import SILENT_PASSES  # noqa: E402


class Through(nn.Module):
    """A module, and then what is done with its output."""

    def __init__(self, module, then):
        super().__init__()
        self.module, self.then = module, then

    def forward(self, x):
        return self.then(self.module(x))


# --- which dimension counts features -------------------------------------------------------------------------------
def test_patches_of_convolutions_have_their_features_last():
    """Of a ViT of 16 features as many patches; of the Swin 64 patches of 8."""
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL, **VISION)).train()
    inserted = insert_memel(vit, ["vit.embeddings", "vit.embeddings.patch_embeddings"])
    vit(**images())
    assert inserted["vit.embeddings"].scale.count.tolist() == [3 * 17] * 16
    memel = inserted["vit.embeddings.patch_embeddings"]
    assert memel.scale.count.tolist() == [3 * 16] * 16
    torch.testing.assert_close(
        memel.scale.mean, vit.eval().vit.embeddings.patch_embeddings(**images()).mean((0, 1)), rtol=1e-4, atol=1e-6
    )
    model = swin().train()
    memel = insert_memel(model, "swin.embeddings.patch_embeddings")["swin.embeddings.patch_embeddings"]
    model(**images())
    assert memel.scale.count.tolist() == [3 * 64] * 8


@pytest.mark.parametrize(
    ("then", "samples_each"),
    [
        (lambda h: h, 36),
        (lambda h: h.flatten(2), 36),
        (lambda h: h.flatten(2).transpose(1, 2), 36),
        (lambda h: h.mean((2, 3)), 1),
        (lambda h: h.unflatten(2, (2, 3)), 36),
    ],
    ids=["images", "flat", "tokens", "pooled", "split"],
)
def test_of_what_convolutions_give_the_channels_are_found(then, samples_each):
    model = Around(Through(nn.Conv2d(3, 5, 3, padding=1), then))
    memel = insert_memel(model, ["layer"])["layer"]
    h = torch.randn(2, 3, 6, 6)
    model(h)
    assert memel.scale.count.tolist() == [2 * samples_each] * 5
    torch.testing.assert_close(memel.scale.mean, model.layer.module(h).mean((0, 2, 3)))
    copy.deepcopy(model)(h)


def test_channels_that_may_be_last_are_asked_for():
    """As many dimensions as a convolution gives, in another order; by its shape alone a wider image could look so."""
    model = Around(Through(nn.Conv1d(3, 5, 1), lambda h: h.transpose(1, 2)))
    insert_memel(model, ["layer"])
    message = r"layer: activations of shape \(2, 7, 5\) may count features in dimension 1 or in the last; give feature_dim, or"
    with pytest.raises(RequestError, match=message):
        model(torch.randn(2, 3, 7))
    remove_memel(model)
    memel = insert_memel(model, ["layer"], feature_dim=-1)["layer"]
    model(torch.randn(2, 3, 7))
    assert memel.scale.count.tolist() == [14] * 5


def test_an_image_as_wide_as_a_part_of_its_channels_is_an_image():
    """Of a dense block the last convolution gives a part; of pixels shuffled it gave more."""

    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.grown = nn.Conv2d(4, 6, 1)

        def forward(self, x):
            return torch.cat([x, self.grown(x)], 1)

    model = Around(Dense())
    memel = insert_memel(model, ["layer"])["layer"]
    model(torch.randn(2, 4, 6, 6))
    assert memel.scale.count.tolist() == [72] * 10
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 1), nn.PixelShuffle(2)))
    memel = insert_memel(model, ["0"])["0"]
    model(torch.randn(2, 3, 4, 4))
    assert memel.scale.count.tolist() == [128] * 2


def test_a_block_of_normalisations_counts_channels():
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Sequential(nn.BatchNorm2d(5), nn.ReLU()))
    memel = insert_memel(model, "1")["1"]
    model(torch.randn(2, 3, 4, 6))
    assert memel.scale.count.tolist() == [48] * 5


def test_positions_need_no_dimension_of_features():
    model = Around(nn.Sequential(nn.Conv1d(3, 4, 1), nn.Linear(7, 7)))
    memel = insert_memel(model, ["layer"], neurons="positions")["layer"]
    model(torch.randn(2, 3, 7))
    assert memel.scale.count.shape == (4, 7)


# --- modules that run what is in them --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "layer", [nn.Sequential(), nn.Sequential(nn.Linear(5, 5), nn.Sequential())], ids=["it", "its end"]
)
def test_an_empty_sequence_is_refused(layer):
    """It would run MEmeL as its one module, beside the hook. ResNet's shortcuts are so."""
    model = Around(layer)
    with pytest.raises(
        RequestError, match=r"layer layer (is|ends in) an empty Sequential, .*; name the module before it"
    ):
        insert_memel(model, ["layer"])
    assert not any("memel" in name for name, _ in model.named_modules())


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Listed(nn.ModuleList):
    def forward(self, x):
        for module in self:
            x = module(x)
        return x


class Branches(nn.ModuleDict):
    def forward(self, x):
        return sum(module(x) for module in self.values())


@pytest.mark.parametrize(
    "block",
    [Residual(nn.Linear(5, 5), nn.Tanh()), Listed([nn.Linear(5, 5), nn.Tanh()]), Branches({"a": nn.Linear(5, 5), "b": nn.Tanh()})],
    ids=["sequence", "list", "dictionary"],
)  # fmt: skip
def test_lists_that_run_their_modules_have_it_once_and_behind_all_of_it(block):
    torch.manual_seed(0)
    model, h = Around(block), torch.randn(6, 5)
    plain = model(h)
    memel = insert_memel(model, ["layer"], late_start=1)["layer"]
    assert torch.equal(model(h), plain)
    assert memel.scale.steps == 1
    torch.testing.assert_close(memel.scale.mean, plain.mean(0))
    assert (model(h) != plain).sum(1).tolist() == [1] * 6
    assert len(block) == 2
    remove_memel(model)
    assert torch.equal(model(h), plain)


class Iterating(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Tanh()

    def forward(self, x):
        return sum(module(x) for module in self.children())


@pytest.mark.parametrize("training", [True, False])
def test_a_module_that_runs_all_its_children_is_refused_when_it_does(training):
    """In evaluation too: an identity among branches is one more branch."""
    model = Around(Iterating()).train(training)
    insert_memel(model, ["layer"])
    message = "layer layer runs all modules in it, and its MEmeL as one of them; take a module inside it, or the one around it"
    with pytest.raises(RequestError, match=message):
        model(torch.randn(4, 5))
    remove_memel(model)
    insert_memel(model, ["layer.second"])
    model(torch.randn(4, 5))


def test_what_was_taken_out_runs_by_itself():
    model = perceptron()
    memel = insert_memel(model, "2")["2"]
    remove_memel(model)
    assert memel(torch.randn(4, 8)).shape == (4, 8)


# --- modules that do not run -----------------------------------------------------------------------------------------
def test_a_layer_whose_weights_alone_are_used_is_told_of():
    model, h = encoder(2), torch.randn(3, 6, 8)
    insert_memel(model.eval(), [f"layers.{number}.self_attn.out_proj" for number in (0, 1)] + ["layers.0.linear1"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(SILENT_PASSES):
            model(h)  # which says nothing of training
        model.train()
        for _ in range(SILENT_PASSES - 1):
            model(h)
    message = (
        r"no MEmeL has run behind layers\.0\.self_attn\.out_proj, layers\.1\.self_attn\.out_proj in 10 training passes: the model "
        r"does not call .*; take another layer, such as layers\.0\.self_attn$"
    )
    with pytest.warns(UserWarning, match=message):
        model(h)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(h)  # once is enough
        remove_memel(model)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        insert_memel(model, "layers.0.self_attn")
        for _ in range(SILENT_PASSES):
            model(h)


class Branching(nn.Module):
    """Tasks that take turns, and layers that are passed over at random."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x, task="a"):
        return self.get_submodule(task)(x)


def test_a_layer_whose_turn_comes_later_is_none_of_those():
    model, h = Branching(), torch.randn(3, 5)
    inserted = insert_memel(model, ["a", "b"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(2 * SILENT_PASSES):
            model(h, "b" if number % 7 == 6 else "a")
    assert [int(memel.scale.steps) for memel in inserted.values()] == [18, 2]


class Dropping(nn.Module):
    """LayerDrop: blocks are passed over as they are named."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Around(nn.Linear(5, 5)) for _ in range(3))

    def forward(self, x, dropped=()):
        for number, block in enumerate(self.blocks):
            x = x if number in dropped else block(x)
        return x


def test_blocks_that_are_dropped_at_random_are_no_fault():
    model, h = Dropping(), torch.randn(3, 5)
    inserted = insert_memel(model, ["blocks.0", "blocks.1.layer", "blocks.2.layer"])
    model(h, dropped=(0, 1))
    model(h)
    model(h, dropped=(1, 2))
    assert [int(memel.scale.steps) for memel in inserted.values()] == [2, 1, 2]
