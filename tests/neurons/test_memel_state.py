"""MEmeL's state and numbers: saved and resumed, cast, under autocast, in any number of threads, within memory."""

import copy
import io
import tracemalloc

import numpy as np
import pytest
from modes import JIT

torch = pytest.importorskip("torch", reason="torch is not installed")
from safetensors.torch import load, save  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from ninscope.errors import RequestError  # noqa: E402
from ninscope.neurons.memel import MEmeL, MonosemanticScale  # noqa: E402

SELECTIONS = ["top-1", "top-7", {"fraction": 0.1}, {"threshold": 3.0}]


def drawn(rng, *shape):
    return torch.from_numpy(rng.normal(size=shape)).float()


def same_state(one, other):
    return all(torch.equal(first, second) for first, second in zip(one.buffers(), other.buffers(), strict=True))


def by_torch(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# --- saved, loaded, copied ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("stored", [by_torch, lambda state: load(save(state))], ids=["torch", "safetensors"])
@pytest.mark.parametrize("select", SELECTIONS, ids=str)
@pytest.mark.parametrize("neurons", ["features", "positions"])
def test_a_resumed_layer_is_the_uninterrupted_one_bit_for_bit(rng, neurons, select, stored):
    settings = {"late_start": 3, "select": select, "neurons": neurons, "forget": 4}
    batches = [drawn(rng, 4, 6, 5) for _ in range(9)]
    whole, first, second = (MEmeL(**settings) for _ in range(3))
    wanted = [whole(batch) for batch in batches]
    found = [first(batch) for batch in batches[:2]]
    second.load_state_dict(stored(first.state_dict()))
    found += [second(batch) for batch in batches[2:]]
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert same_state(whole, second)


def test_the_state_is_four_buffers():
    layer = MEmeL()
    assert not list(layer.parameters())
    layer(torch.randn(4, 6, 5))
    wanted = {
        "mean": (torch.float32, (5,)),
        "variance": (torch.float32, (5,)),
        "count": (torch.int64, (5,)),
        "steps": (torch.int64, ()),
    }
    assert {name: (buffer.dtype, tuple(buffer.shape)) for name, buffer in layer.scale.state_dict().items()} == wanted


def test_a_state_without_batches_starts_again(rng):
    used, fresh = MonosemanticScale(), MonosemanticScale()
    used(drawn(rng, 4, 5))
    used.load_state_dict(fresh.state_dict())
    assert used.steps == used.mean.numel() == 0
    used(drawn(rng, 4, 7))


def test_a_state_of_other_neurons_is_refused(rng):
    first, second = MonosemanticScale(), MonosemanticScale()
    first(drawn(rng, 4, 5))
    second(drawn(rng, 4, 7))
    with pytest.raises(RuntimeError, match=r"size mismatch for mean"):
        second.load_state_dict(first.state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*variance"):
        second.load_state_dict({name: values for name, values in second.state_dict().items() if name != "variance"})


def test_a_shape_that_is_given_is_there_at_once(rng):
    layer = MEmeL(shape=(5,))
    assert layer.scale.mean.shape == (5,)
    layer(drawn(rng, 4, 5))
    with pytest.raises(RequestError, match=r"activations have \(7,\) neurons"):
        layer(drawn(rng, 4, 7))


def test_a_copy_goes_its_own_way(rng):
    layer = MEmeL(late_start=1)
    layer(drawn(rng, 4, 5))
    twin, h = copy.deepcopy(layer), drawn(rng, 4, 5)
    assert torch.equal(layer(h), twin(h))
    assert same_state(layer, twin)
    twin(h)
    assert (layer.scale.steps, twin.scale.steps) == (2, 3)


# --- types -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16, torch.float64])
def test_casting_a_model_does_not_round_its_statistics(rng, cast):
    model = torch.nn.Sequential(torch.nn.Linear(5, 5), MEmeL())
    model(drawn(rng, 40, 5))
    before = [buffer.clone() for buffer in model[1].buffers()]
    model.to(cast)
    assert model[0].weight.dtype == cast
    assert [buffer.dtype for buffer in model[1].buffers()] == [torch.float32, torch.float32, torch.int64, torch.int64]
    assert all(torch.equal(one, other) for one, other in zip(model[1].buffers(), before, strict=True))
    assert model(drawn(rng, 40, 5).to(cast)).dtype == cast


@pytest.mark.parametrize(
    ("dtype", "select", "method"),
    [  # every type with every selection; methods take turns, so that each meets all types and all selections
        (dtype, select, ("reversed", "naive_mean", "naive_shift")[(row + column) % 3])
        for row, dtype in enumerate((torch.float64, torch.float32, torch.bfloat16, torch.float16))
        for column, select in enumerate(SELECTIONS)
    ],
    ids=str,
)
def test_output_and_gradient_are_of_the_inputs_type(rng, dtype, select, method):
    layer = MEmeL(method, late_start=0, select=select)
    for _ in range(3):
        h = drawn(rng, 4, 6, 5).to(dtype).requires_grad_()
        out = layer(h)
        out.backward(torch.ones_like(out))
        assert (out.dtype, out.shape, out.device) == (dtype, h.shape, h.device)
        assert h.grad.dtype == dtype
    assert not torch.equal(out, h)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("select", SELECTIONS, ids=str)
def test_under_autocast_statistics_are_of_float32(rng, dtype, select):
    """What a linear layer gives under autocast is rounded; statistics are those of the rounded values, in full."""
    torch.manual_seed(0)
    linear, layer, twin = torch.nn.Linear(5, 6), MEmeL(late_start=1, select=select), MEmeL(late_start=1, select=select)
    for step in range(3):
        x = drawn(rng, 30, 4, 5)
        with torch.autocast("cpu", dtype):
            h = linear(x)
            out = layer(h)
        assert h.dtype == out.dtype == dtype
        wanted = twin(h.detach().float())
        assert torch.equal(out, wanted.to(dtype))
        assert torch.equal(out, h) == (step == 0)
        out.float().sum().backward()
    for one, other in zip(layer.buffers(), twin.buffers(), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


# --- threads -----------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not JIT, reason="too many values for plain Python")
@pytest.mark.parametrize(
    ("neurons", "select", "dtype"),
    [  # float32 by the kernels and, where more than one a sample is selected, by torch; other types by torch
        ("features", "top-1", torch.float32), ("positions", "top-1", torch.float32), ("features", "top-7", torch.float32),
        ("positions", {"threshold": 3.0}, torch.float32), ("features", {"fraction": 0.1}, torch.bfloat16),
        ("positions", "top-7", torch.bfloat16), ("features", {"threshold": 3.0}, torch.bfloat16),
    ],
    ids=str,
)  # fmt: skip
def test_no_bit_depends_on_the_number_of_threads(rng, neurons, select, dtype):
    batches = [drawn(rng, 16, 40, 256).to(dtype) for _ in range(3)]  # 163840 values
    runs = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        layer = MEmeL(late_start=1, select=select, neurons=neurons)
        runs.append(([layer(batch) for batch in batches], layer))
    (alone, first), *others = runs
    for outs, layer in others:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(outs, alone, strict=True))
        assert same_state(layer, first)
    assert not torch.equal(alone[2], batches[2])


# --- memory ------------------------------------------------------------------------------------------------------
def allocations(work):
    """(largest single allocation, most held at once beyond what was there) in bytes, of torch's allocator and, on top, of Python
    and numpy."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    tracemalloc.start()
    try:
        work()
        python = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    changes = [
        event.extra_fields.alloc_size
        for event in _memory_events(found.profiler.kineto_results.experimental_event_tree())
    ]
    held = np.cumsum(changes)
    return max(*changes, python), int(held.max()) + python


def _memory_events(tree):
    found, waiting = [], list(tree)
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        if event.tag == torch._C._profiler._EventType.Allocation:
            found.append(event)
    return sorted(found, key=lambda event: event.start_time_ns)


def test_allocations_are_seen():
    largest, held = allocations(lambda: torch.ones(1000) + torch.ones(20000)[:1000].clone())
    assert largest == 80000
    assert 84000 < held < 120000
    assert allocations(lambda: (torch.ones(1), np.ones(100000)))[0] > 800000


@pytest.mark.skipif(not JIT, reason="too many values for plain Python")
@pytest.mark.parametrize(
    ("shape", "neurons", "select", "padded"),
    [  # every pair of two settings
        ([(64, 32, 96), (200, 1000)][(row + column) % 2], neurons, select, (row // 2 + column) % 2 == 1)
        for row, select in enumerate(SELECTIONS)
        for column, neurons in enumerate(("features", "positions"))
    ],
    ids=str,
)
def test_no_allocation_is_larger_than_two_copies_of_the_input(rng, shape, neurons, select, padded):
    """And no more than four copies are held at once, of which two are the output and its gradient; numbers are small beside."""
    layer = MEmeL(late_start=0, select=select, neurons=neurons)
    h, mask = drawn(rng, *shape).requires_grad_(), torch.ones(shape[:-1]) if padded else None
    incoming = torch.ones_like(h)

    def step():
        layer(h, mask).backward(incoming)
        h.grad = None

    for _ in range(2):
        step()
    largest, held = allocations(step)
    size = h.numel() * h.element_size()
    assert size <= largest <= 2 * size
    assert held <= 4 * size


def test_statistics_take_the_same_memory_after_any_number_of_steps(rng):
    layer, sizes = MEmeL(select="top-3"), set()
    for _ in range(12):
        layer(drawn(rng, 4, 6, 5))
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        sizes.add((sum(buffer.untyped_storage().nbytes() for buffer in layer.buffers()), len(file.getvalue())))
    assert sizes == {(2 * 5 * 4 + 5 * 8 + 8, sizes.copy().pop()[1])}
