"""MEmeL under torch.compile: no graph break, and what it does without."""

import copy
import itertools
import shutil

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from neurons.memel_models import bert, encoder, tokens  # noqa: E402

from ninscope.errors import RequestError  # noqa: E402
from ninscope.neurons.memel import MEmeL, insert_memel  # noqa: E402

# Inductor needs a C++ compiler; graph breaks, and the operator's own kernels, are the same with either.
BACKEND = "inductor" if shutil.which("g++") or shutil.which("clang++") else "aot_eager"
SELECTIONS = ["top-1", "top-3", {"fraction": 0.05}, {"threshold": 3.0}]


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch.compiler.reset()


def alike(first, second, **settings):
    for one, other in zip(first.buffers(), second.buffers(), strict=True):
        torch.testing.assert_close(one, other, **settings)


@pytest.mark.parametrize(
    ("select", "neurons", "method"),
    [
        *itertools.product(SELECTIONS, ["features", "positions"], ["reversed"]),
        ("top-1", "features", "naive_mean"), ("top-3", "positions", "naive_shift"),
    ],
    ids=str,
)  # fmt: skip
def test_a_layer_has_no_graph_breaks_and_does_what_it_does_without(rng, select, neurons, method):
    layer = MEmeL(method, select, late_start=2, neurons=neurons)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for step in range(4):
        h = torch.from_numpy(rng.normal(size=(4, 6, 5))).float()
        mask = torch.from_numpy(rng.random((4, 6)) < 0.8)
        one, other = h.clone().requires_grad_(), h.clone().requires_grad_()
        first, second = compiled(one, mask), twin(other, mask)
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)
        incoming = torch.from_numpy(rng.normal(size=h.shape)).float()
        first.backward(incoming)
        second.backward(incoming)
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0)
        assert torch.equal(first, h) == (step < 2)
    alike(layer, twin, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("select", "backend"), [("top-1", BACKEND), ({"fraction": 0.05}, "aot_eager")], ids=str)
@pytest.mark.slow
def test_a_model_with_padding_has_no_graph_breaks(select, backend):
    torch.manual_seed(0)
    model, given = bert(num_hidden_layers=2, hidden_dropout_prob=0, attention_probs_dropout_prob=0).train(), tokens()
    insert_memel(model, "middle:2", late_start=1, select=select)
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for _ in range(3):
        first, second = compiled(**given).logits, twin(**given).logits
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)
    first.sum().backward()
    second.sum().backward()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-2, atol=1e-3)
    alike(model, twin, rtol=1e-3, atol=1e-4)


class Wrapped(torch.nn.Module):
    """Padding is known inside alone, and features of patches by their shape."""

    def __init__(self):
        super().__init__()
        self.patches, self.encoder = Patches(), encoder(1)

    def forward(self, images, *padding):
        return self.encoder(self.patches(images), None, *padding)


class Patches(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 8, 2, 2)

    def forward(self, images):
        return self.convolution(images).flatten(2).transpose(1, 2)


def test_what_is_only_known_in_a_pass_breaks_no_graph():
    torch.manual_seed(0)
    model, h = Wrapped().train(), torch.randn(2, 3, 6, 6)
    inserted = insert_memel(model, ["patches", "encoder.layers.0.self_attn"], late_start=1)
    twin, padding = copy.deepcopy(model), torch.arange(9) >= torch.tensor([[9], [5]])
    for module in (*model.modules(), *twin.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        torch.testing.assert_close(compiled(h, padding), twin(h, padding), rtol=1e-4, atol=1e-5)
    alike(model, twin, rtol=1e-4, atol=1e-5)
    counted = {name: memel.scale.count.tolist() for name, memel in inserted.items()}
    assert counted == {"patches": [3 * 18] * 8, "encoder.layers.0.self_attn": [3 * 14] * 8}


def test_no_value_is_passed_over_that_is_not_finite():
    compiled = torch.compile(MEmeL(layer="block.3"), fullgraph=True, backend="aot_eager")
    compiled(torch.randn(4, 6, 5))
    h = torch.randn(4, 6, 5)
    h[1, 2, 3] = float("nan")
    with pytest.raises(RequestError, match=r"block.3: activations are not finite"):
        compiled(h)


def test_the_operator_keeps_what_torch_asks_of_one(rng):
    """Its shapes without values, and no output that is an input in disguise."""
    h = torch.from_numpy(rng.normal(size=(4, 6, 5))).float()
    operator = torch.ops.ninscope.scan_activations
    for largest, dim, neurons in ((1, 2, 5), (3, 2, 5), (0, 1, 6), (2, 1, 6), (1, 0, 30)):
        kept = torch.ones(4, 1, 30) > 0 if dim == 0 else torch.ones(4, 30 // neurons, 1) > 0
        torch.library.opcheck(operator, (h, kept, torch.zeros(neurons), torch.ones(neurons), dim, largest))
    finite = torch.ones(5, dtype=torch.float64)
    torch.library.opcheck(torch.ops.ninscope.checked_finite, (finite, finite, 4, "x"))
