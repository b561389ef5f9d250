"""MEmeL under torch.compile: no graph break, and what it does without."""

import copy
import shutil

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("torch._inductor.config", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from neurons.memel_models import bert, encoder, tokens  # noqa: E402

from ninscope.errors import RequestError  # noqa: E402
from ninscope.neurons.memel import MEmeL, insert_memel  # noqa: E402

pytestmark = pytest.mark.slow  # what compiles takes seconds to import, for the first of them

# Inductor needs a C++ compiler; graph breaks, and the operator's own kernels, are the same with either.
BACKEND = "inductor" if shutil.which("g++") or shutil.which("clang++") else "aot_eager"


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    """Nor are processes started to compile: importing torch in them takes longer than what they would compile. What the
    processor says it can is believed: trying it out compiles as much as the layers do.
    """
    torch.compiler.reset()
    with torch._inductor.config.patch({"compile_threads": 1, "cpp.vec_isa_ok": True}):
        yield


def alike(first, second, **settings):
    for ours, theirs in zip(first.buffers(), second.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, **settings)


# Every selection, every method and both kinds of neurons.
CASES = [
    ("top-1", "features", "naive_mean"),
    ("top-3", "positions", "naive_shift"),
    ({"fraction": 0.05}, "features", "reversed"),
    ({"threshold": 3.0}, "positions", "reversed"),
]


class Several(torch.nn.Module):
    """One layer of every case, side by side, so that one graph holds them all."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(
            MEmeL(method, select, late_start=2, neurons=neurons) for select, neurons, method in CASES
        )

    def forward(self, h, mask):
        return torch.stack([layer(h[number], mask) for number, layer in enumerate(self.layers)])


def test_layers_have_no_graph_breaks_and_do_what_they_do_without(rng):
    layers = Several()
    twin = copy.deepcopy(layers)
    compiled = torch.compile(layers, fullgraph=True, backend="aot_eager")
    for step in range(4):
        h = torch.from_numpy(rng.normal(size=(len(CASES), 4, 6, 5))).float()
        mask = torch.from_numpy(rng.random((4, 6)) < 0.8)
        ours, theirs = h.clone().requires_grad_(), h.clone().requires_grad_()
        first, second = compiled(ours, mask), twin(theirs, mask)
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)
        incoming = torch.from_numpy(rng.normal(size=h.shape)).float()
        first.backward(incoming)
        second.backward(incoming)
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)
        changed = [not torch.equal(first[number], h[number]) for number in range(len(CASES))]
        assert changed == [step >= 2] * len(CASES)
    alike(layers, twin, rtol=1e-6, atol=1e-6)


class Padded(torch.nn.Module):
    """The selection whose graph holds most, a fraction of what is no padding, behind a layer that is trained."""

    def __init__(self):
        super().__init__()
        self.linear, self.memel = torch.nn.Linear(5, 5), MEmeL(select={"fraction": 0.05}, late_start=1, shape=(5,))

    def forward(self, h, mask):
        return self.memel(self.linear(h), mask)


def test_compiled_code_does_what_the_layer_does(rng):
    torch.manual_seed(0)
    layer = Padded()
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend=BACKEND)
    for _ in range(3):
        h = torch.from_numpy(rng.normal(size=(4, 6, 5))).float()
        mask = torch.from_numpy(rng.random((4, 6)) < 0.8)
        first, second = compiled(h, mask), twin(h, mask)
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)
    first.square().sum().backward()
    second.square().sum().backward()
    torch.testing.assert_close(layer.linear.weight.grad, twin.linear.weight.grad, rtol=1e-4, atol=1e-5)
    alike(layer, twin, rtol=1e-5, atol=1e-6)


def test_a_model_with_padding_has_no_graph_breaks():
    torch.manual_seed(0)
    model = bert(num_hidden_layers=1, hidden_dropout_prob=0, attention_probs_dropout_prob=0).train()
    inputs = tokens()
    insert_memel(model, "middle:1", late_start=1, select={"fraction": 0.05}, shape=(16,))
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        first, second = compiled(**inputs).logits, twin(**inputs).logits
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)
    first.sum().backward()
    second.sum().backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-2, atol=1e-3)
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
    inserted = insert_memel(model, ["patches", "encoder.layers.0.self_attn"], late_start=1, shape=(8,))
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
