"""Parametrised weights of a module in memory: bit for bit what removing the parametrization leaves, and nothing changes."""

import warnings

import pytest
from held_models import assert_equal, in_memory, on_disk
from own_parametrizations import LowRank, Symmetric

import ninscope
from ninscope.checkpoints.held_pieces import held_pieces
from ninscope.checkpoints.in_memory import REVISION, in_memory_source
from ninscope.checkpoints.in_memory.computed import Computation
from ninscope.errors import CheckpointError
from ninscope.exact.bands import BAND_BYTES

torch = pytest.importorskip("torch")
old = torch.nn.utils
new = torch.nn.utils.parametrizations
parametrize = torch.nn.utils.parametrize
prune = __import__("torch.nn.utils.prune", fromlist=["prune"])


class Widened(torch.nn.Module):
    """Another shape; it looks at its numbers, which tensors without values have not."""

    def forward(self, weight):
        return torch.cat((weight, weight)) if float(weight.abs().max()) > 0 else weight


class Noisy(torch.nn.Module):
    """Counts how often it was asked in a buffer, in its own tensor, and in random numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("asked", torch.zeros(1))
        self.plain = torch.zeros(1)

    def forward(self, weight):
        self.asked += 1
        self.plain += 1
        weight.clamp_(-1, 1)
        return weight + torch.rand_like(weight) * self.asked


def registered(parametrization, **options):
    def change(module):
        parametrize.register_parametrization(module, "weight", parametrization(), **options)
        return module

    return change


def pruned_twice(module):
    prune.random_unstructured(module, "weight", amount=0.2)
    return prune.l1_unstructured(module, "weight", amount=0.3)


SQUARE, LINEAR = (torch.nn.Linear, 20, 20), (torch.nn.Linear, 24, 20)
CONVOLUTION, TURNED = (torch.nn.Conv2d, 20, 16, 3), (torch.nn.ConvTranspose1d, 12, 16, 5)
# What is done to a module, and to which.
PARAMETRISED = {
    "weight_norm": (new.weight_norm, LINEAR),
    "weight_norm of all": (lambda module: new.weight_norm(module, dim=None), CONVOLUTION),
    "spectral_norm": (new.spectral_norm, LINEAR),
    "spectral_norm of a transposed convolution": (new.spectral_norm, TURNED),
    "orthogonal": (new.orthogonal, LINEAR),
    "two of them": (lambda module: new.spectral_norm(new.weight_norm(module)), LINEAR),
    "of a bias too": (lambda module: new.weight_norm(new.weight_norm(module), "bias"), LINEAR),
    "one's own": (registered(Symmetric), SQUARE),
    "of two tensors": (registered(LowRank), SQUARE),
    "of another shape": (registered(Widened, unsafe=True), LINEAR),
    "that changes itself": (registered(Noisy), LINEAR),
    "old weight_norm": (lambda module: old.weight_norm(module), LINEAR),
    "old weight_norm of a recurrence": (
        lambda module: old.weight_norm(module, "weight_hh_l0"),
        (torch.nn.LSTM, 24, 20),
    ),
    "old spectral_norm": (lambda module: old.spectral_norm(module), CONVOLUTION),
    "pruned": (lambda module: prune.l1_unstructured(module, "weight", amount=0.3), LINEAR),
    "pruned twice": (pruned_twice, LINEAR),
}


def made(name, dtype=torch.float32):
    """A model with a module of a case, whose own tensors are not those it began with, in training mode."""
    change, (kind, *sizes) = PARAMETRISED[name]
    torch.manual_seed(len(name))
    with warnings.catch_warnings(), torch.no_grad():  # copies are made of leaves alone
        warnings.simplefilter("ignore", FutureWarning)
        module = change(kind(*sizes))
    with torch.no_grad():
        for part in module.parameters():
            part.add_(torch.randn_like(part) * 0.1)
    return torch.nn.ModuleDict({"first": torch.nn.Linear(20, 24), "up": module}).to(dtype)


def saved(model, folder):
    """Of the model itself: a copy of it would have its class, which removing changes."""
    with torch.random.fork_rng(), torch.no_grad():
        module = model["up"]
        for name in list(getattr(module, "parametrizations", ())):
            parametrize.remove_parametrizations(module, name)
        for hook in list(module._forward_pre_hooks.values()):
            remover = {"WeightNorm": old.remove_weight_norm, "SpectralNorm": old.remove_spectral_norm}
            remover.get(type(hook).__name__, prune.remove)(module, getattr(hook, "name", None) or hook._tensor_name)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if not name.startswith("again")}
    torch.save(state, folder / "model.pt")
    return folder / "model.pt"


@pytest.mark.parametrize("name", PARAMETRISED)
def test_the_weight_is_what_removing_would_leave(tmp_path, name):
    """In training and in evaluation, where spectral_norm is another weight."""
    for training in (True, False):
        model = made(name).train(training)
        found = in_memory(model)
        assert_equal(found, on_disk(saved(model, tmp_path)))


@pytest.mark.parametrize("name", ["spectral_norm", "old weight_norm", "one's own"])
def test_of_narrow_types(tmp_path, name):
    """And so is what is measured of it."""
    for dtype in (torch.bfloat16, torch.float16):
        model = made(name, dtype)
        found, measured = in_memory(model), ninscope.measure(model, min_degree=0)
        assert_equal(found, on_disk(saved(model, tmp_path)))
        expected = ninscope.measure(tmp_path / "model.pt", min_degree=0)
        assert (measured.alpha0, measured.width, measured.edges) == (expected.alpha0, expected.width, expected.edges)


def test_where_and_when_it_is_measured_makes_no_difference(tmp_path):
    """Under autocast products would be rounded; what is cached may be old, and is kept by the id of an object."""
    model = made("of two tensors")
    expected = in_memory(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equal(in_memory(model), expected)
    with parametrize.cached():
        before = model["up"].weight.detach().clone()
        with torch.no_grad():
            model["up"].parametrizations.weight.original0.add_(1)
        cached = dict(parametrize._cache)
        found = in_memory(model)
        assert dict(parametrize._cache) == cached
        assert torch.equal(model["up"].weight, before)
    assert_equal(found, on_disk(saved(model, tmp_path)))
    assert found != expected


def test_a_copy_under_another_name_is_computed_once(tmp_path):
    """One module in two places."""
    model = made("weight_norm")
    model["again"] = model["up"]
    tensors = in_memory_source(model).open(REVISION).tensors
    assert tensors["again.weight"].file is tensors["up.weight"].file
    found = ninscope.measure(model, min_degree=0)
    assert found.alpha0 == ninscope.measure(saved(model, tmp_path), min_degree=0).alpha0


@pytest.mark.parametrize("name", PARAMETRISED)
def test_none_is_computed_to_know_its_shape_but_where_only_that_tells(monkeypatch, name):
    computed = []
    monkeypatch.setattr(Computation, "results", lambda self: computed.append(self.name) or {"": torch.zeros(20, 24)})
    in_memory_source(made(name))
    assert bool(computed) == (name in ("of two tensors", "of another shape"))


class Counted(torch.nn.Module):
    asked = 0

    def forward(self, weight):
        if not weight.is_meta:
            Counted.asked += 1
        return weight * 2


def test_each_is_computed_once_in_a_measure_whatever_its_bands():
    rows = 2 * BAND_BYTES // (4 * 512)
    model = torch.nn.ModuleList(torch.nn.Linear(512, rows if number == 1 else 64, bias=False) for number in range(4))
    for module in model:
        parametrize.register_parametrization(module, "weight", Counted())
    Counted.asked = 0
    source = in_memory_source(model)
    assert Counted.asked == 0
    checkpoint = source.open(REVISION)
    for name, tensor in checkpoint.tensors.items():
        for first in range(0, tensor.shape[0], 1000):
            ranges = tensor.ranges_of_span(first, min(first + 1000, tensor.shape[0])).ranges
            tensor.file.read_ranges(ranges)
        assert Counted.asked == 1 + int(name[0]), name
    (piece,) = held_pieces(checkpoint.tensors["1.weight"])
    assert piece.shape == (rows, 512)
    Counted.asked = 0
    ninscope.measure(model)
    assert Counted.asked == 4


class TestRefused:
    def test_what_cannot_be_computed(self):
        class Broken(torch.nn.Module):
            def forward(self, weight):
                return weight

        model = torch.nn.Sequential(registered(Broken)(torch.nn.Linear(8, 8)))

        def broken(self, weight):
            raise RuntimeError("no\nweight")

        Broken.forward = broken
        match = (
            r"^tensor 0\.weight cannot be computed \(RuntimeError: no\\x0aweight\); remove the parametrization \(torch"
        )
        with pytest.raises(CheckpointError, match=match) as no:
            ninscope.measure(model)
        assert no.value.status == "unsupported"

    def test_what_is_of_another_shape_than_it_was(self):
        class Growing(torch.nn.Module):
            times = 1

            def forward(self, weight):
                return torch.cat([weight] * self.times)

        model = torch.nn.Sequential(registered(Growing)(torch.nn.Linear(8, 8)))
        model[0].parametrizations.weight[0].times = 2
        match = r"tensor 0\.weight is computed as torch\.float32 \[16, 8\], and torch\.float32 \[8, 8\] was expected; remove"
        with pytest.raises(CheckpointError, match=match):
            ninscope.measure(model)

    def test_what_lies_on_several_ranks(self):
        """The class of what ranks share is told by its name."""
        shared = type("DTensor", (torch.Tensor,), {})
        model = torch.nn.Sequential(new.weight_norm(torch.nn.Linear(8, 8)))
        held = model[0].parametrizations.weight
        held._parameters["original1"] = held.original1.detach().as_subclass(shared)
        match = r"tensor 0\.weight is computed from tensors that lie on several ranks; remove the .*, or gather them$"
        with pytest.raises(CheckpointError, match=match):
            ninscope.measure(model)

    def test_what_has_no_values(self):
        model = torch.nn.Sequential(new.weight_norm(torch.nn.Linear(8, 8))).to("meta")
        with pytest.raises(
            CheckpointError, match=r"tensor 0\.weight is on the device meta, where it has no values; load"
        ):
            ninscope.measure(model)

    def test_a_state_dict_tells_only_what_it_holds(self):
        model = made("weight_norm")
        assert in_memory_source(model.state_dict()).held.keys() == model.state_dict().keys()
        assert ninscope.measure(model.state_dict(), min_degree=0).edges == ninscope.measure(model, min_degree=0).edges
