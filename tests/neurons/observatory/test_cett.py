"""CETT and PPL-1 % sparsity: networks whose spare neurons are known, and a plain twin."""

import math

import numpy as np
import pytest
import torch
from ablation_models import NEURONS, TOKENS, cycle, llama, neox
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons import look
from ninscope.neurons.observatory.examples import Examples
from ninscope.neurons.observatory.magnitudes import BINS, edges_of, loss_and_largest
from ninscope.neurons.observatory.measures.cett import Cett, _Sparse, error_curves, threshold_at
from ninscope.neurons.observatory.subject import Subject
from ninscope.neurons.observatory.truncation import add_errors


def subject_of(model: nn.Module) -> Subject:
    return Subject("the model", model, Examples("tokens", cycle(), batch_size=4))


def sparse_of(subject: Subject) -> tuple[_Sparse, dict[str, np.ndarray]]:
    leaving = {layer: subject.leaving(layer) for layer in subject.hidden_layers}
    weights = {layer: matrix.norm(dim=0) for layer, matrix in leaving.items()}
    largest = loss_and_largest(subject, weights)[1]
    curves = error_curves(subject, leaving, weights, largest)
    return _Sparse(subject, weights, largest, curves), curves


# --- the truth is known ---------------------------------------------------------------------------------------
def test_where_one_neuron_of_24_writes_sparsity_is_23_of_24() -> None:
    frame = look(neox("relu"), cycle(), "cett", controls="none").set_index(["layer", "measure"])["value"]
    assert frame["all", "cett"] == frame["block0.m", "cett"] == pytest.approx(1 - 1 / NEURONS, abs=1e-12)
    assert frame["all", "cett_sparsity_0.2"] == pytest.approx(1 - 1 / NEURONS, abs=1e-12)
    assert frame["all", "cett_loss_0.2"] == 0  # what was left out wrote nothing
    assert frame["all", "cett_loss_off"] > 1
    assert 0 < frame["all", "cett_value"] < 1


def test_neurons_that_write_nothing_are_half_at_cett_zero() -> None:
    model = neox("gelu", layers=2)
    subject = subject_of(model)
    sparse, curves = sparse_of(subject)
    shares, loss = sparse.at(0.0)
    assert loss == subject.mean_loss()
    for layer, share in shares.items():
        assert share.tolist() == [0.0] * TOKENS + [1.0] * (NEURONS - TOKENS)
        assert curves[layer][0] == 0
        assert curves[layer][-1] == 1


def test_a_model_that_loses_nothing_without_neurons_has_no_sparsity() -> None:
    torch.manual_seed(0)
    model = neox()
    model.apply(model._init_weights)  # as before training: nearly uniform
    frame = look(model, cycle(), "cett", controls="none").set_index(["layer", "measure"])["value"]
    assert abs(frame["all", "cett_loss_off"]) < math.log(1.01)
    assert frame[[("all", "cett"), ("block0.m", "cett"), ("all", "cett_value")]].isna().all()
    assert 0 < frame["all", "cett_sparsity_0.2"] < 1


def test_a_layer_that_writes_nothing_is_spared_as_a_whole() -> None:
    model = neox("gelu", layers=2)
    with torch.no_grad():
        model.gpt_neox.layers[1].mlp.dense_4h_to_h.weight.zero_()
    frame = look(model, cycle(), "cett", controls="none").set_index(["layer", "measure"])["value"]
    assert frame["block1.m", "cett"] == 1
    assert frame["block0.m", "cett"] < 1
    assert frame["all", "cett"] == pytest.approx((1 + frame["block0.m", "cett"]) / 2)


# --- a plain twin ---------------------------------------------------------------------------------------------
def naive_activations(model: nn.Module, matrices: list[nn.Module]) -> list[np.ndarray]:
    seen: list[list[np.ndarray]] = [[] for _ in matrices]
    handles = [
        matrix.register_forward_hook(
            lambda _, args, __, kept=kept: kept.append(args[0].detach().flatten(0, -2).numpy())
        )
        for matrix, kept in zip(matrices, seen, strict=True)
    ]
    with torch.no_grad():
        model(torch.from_numpy(cycle()))
    for handle in handles:
        handle.remove()
    return [np.concatenate(kept).astype(np.float64) for kept in seen]


def naive_loss(model: nn.Module, matrices: list[nn.Module], thresholds: list[float]) -> tuple[float, list[float]]:
    shares: list[list[float]] = [[] for _ in matrices]

    def without(matrix: nn.Module, threshold: float, kept: list[float]):
        norms = matrix.weight.detach().double().norm(dim=0)

        def hook(_: nn.Module, args: tuple) -> tuple:
            small = args[0].double().abs() * norms < threshold
            kept.append(small.double().mean().item())
            return (torch.where(small, 0, args[0]),)

        return matrix.register_forward_pre_hook(hook)

    handles = [without(*given) for given in zip(matrices, thresholds, shares, strict=True)]
    with torch.no_grad():
        logs = model(torch.from_numpy(cycle())).logits.double().log_softmax(-1)
    for handle in handles:
        handle.remove()
    targets = torch.from_numpy(cycle())[:, 1:, None]
    return -logs[:, :-1].gather(-1, targets).mean().item(), [kept[0] for kept in shares]


def naive_curve(values: np.ndarray, matrix: np.ndarray) -> list[tuple[float, float]]:
    """(threshold, CETT) at sixteenths of octaves below the largest ||n_i||, first the one of what is 0."""
    norms = np.abs(values) * np.linalg.norm(matrix, axis=0)
    octave = 2.0 ** math.floor(math.log2(norms.max()))
    first = octave / 16 * (math.floor(norms.max() / (octave / 16)) + 1)
    edges = [first]
    while len(edges) < 16 * 24:
        below = edges[-1]
        power = 2.0 ** math.floor(math.log2(below))
        edges.append(below - (power if below > power else power / 2) / 16)
    curve = []
    for edge in [1e-45, *reversed(edges)]:
        left = np.where(norms < edge, values, 0) @ matrix.T
        whole = values @ matrix.T
        curve.append((edge, float(np.mean(np.linalg.norm(left, axis=1) / np.linalg.norm(whole, axis=1)))))
    return curve


def naive_threshold(curve: list[tuple[float, float]], cett: float) -> float:
    highest, _before = 0.0, 0.0
    for number, (edge, error) in enumerate(curve):
        if max(highest, error) > cett:
            low = curve[number - 1][0]
            return low if number == 1 else low * (edge / low) ** ((cett - highest) / (error - highest))
        highest, _before = max(highest, error), edge
    return math.inf


def naive_cett(model: nn.Module, matrices: list[nn.Module]) -> tuple[float, list[float]]:
    values = naive_activations(model, matrices)
    curves = [
        naive_curve(part, matrix.weight.detach().double().numpy())
        for part, matrix in zip(values, matrices, strict=True)
    ]
    dense = naive_loss(model, matrices, [0.0] * len(matrices))[0]
    low, high = 0.0, 1.0
    while high - low > 0.001:
        middle = (low + high) / 2
        loss = naive_loss(model, matrices, [naive_threshold(curve, middle) for curve in curves])[0]
        low, high = (middle, high) if math.exp(loss - dense) <= 1.01 else (low, middle)
    return low, naive_loss(model, matrices, [naive_threshold(curve, low) for curve in curves])[1]


@pytest.mark.parametrize("family", ["neox", "llama"])
def test_twin(family: str) -> None:
    if family == "neox":
        model = neox("gelu", layers=2, noise=0.1, writes=1.0)
        matrices = [layer.mlp.dense_4h_to_h for layer in model.gpt_neox.layers]
    else:
        model = llama(noise=0.1)
        matrices = [layer.mlp.down_proj for layer in model.model.layers]
    value, shares = naive_cett(model, matrices)
    frame = look(model, cycle(), "cett", controls="none").set_index(["layer", "measure"])["value"]
    assert 0.01 < value < 0.99
    assert min(shares) > 0.1
    assert frame["all", "cett_value"] == pytest.approx(value, abs=1e-9)
    assert [frame[f"block{number}.m", "cett"] for number in range(len(shares))] == pytest.approx(shares, abs=1e-6)
    assert frame["all", "cett"] == pytest.approx(np.mean(shares), abs=1e-6)


def published_threshold(values: np.ndarray, matrix: np.ndarray, cett: float) -> float:
    """The public code's search: equal steps up to the 99 % quantile of ||n_i||, halved."""
    norms = np.abs(values) * np.linalg.norm(matrix, axis=0)
    grid = np.linspace(norms.min(), np.quantile(norms, 0.99), 4096)
    whole = np.linalg.norm(values @ matrix.T, axis=1)
    left, right = 0, len(grid) - 1
    while left < right:
        middle = (left + right) // 2
        error = np.mean(np.linalg.norm(np.where(norms > grid[middle], 0, values) @ matrix.T, axis=1) / whole)
        left, right = (left, middle) if error > cett else (middle + 1, right)
    return grid[left - 1]


def test_sparsity_at_a_fixed_cett_is_nearly_the_published_codes() -> None:
    model = neox("gelu", layers=2, noise=0.2)
    matrices = [layer.mlp.dense_4h_to_h for layer in model.gpt_neox.layers]
    values = naive_activations(model, matrices)
    limits = [
        published_threshold(part, matrix.weight.detach().double().numpy(), 0.2)
        for part, matrix in zip(values, matrices, strict=True)
    ]
    loss, shares = naive_loss(model, matrices, limits)
    frame = look(model, cycle(), "cett", controls="none").set_index(["layer", "measure"])["value"]
    assert frame["all", "cett_sparsity_0.2"] == pytest.approx(np.mean(shares), abs=0.01)
    dense = naive_loss(model, matrices, [0.0, 0.0])[0]
    assert frame["all", "cett_loss_0.2"] == pytest.approx(loss - dense, abs=0.01)


def test_curve_is_the_error_of_each_threshold() -> None:
    model = neox("gelu", layers=2, noise=0.2)
    matrices = [layer.mlp.dense_4h_to_h for layer in model.gpt_neox.layers]
    curves = sparse_of(subject_of(model))[1]
    for curve, values, matrix in zip(curves.values(), naive_activations(model, matrices), matrices, strict=True):
        expected = naive_curve(values, matrix.weight.detach().double().numpy())
        assert curve == pytest.approx([error for _, error in expected], abs=1e-6)


@pytest.mark.parametrize("kernel", [add_errors, add_errors.py_func], ids=["compiled", "plain"])
def test_kernel(kernel) -> None:
    draw = np.random.default_rng(1)
    values, weights = draw.normal(size=(5, 7)).astype(np.float32), draw.normal(size=(7, 3)).astype(np.float32)
    values[2] = 0  # nothing is written: no error
    bins = draw.integers(0, 4, (5, 7)).astype(np.int32)
    sums = np.ones(4)
    kernel(values, bins, weights, sums)
    for number in range(4):
        left = np.where(bins <= number, values, 0).astype(np.float64) @ weights
        whole = np.linalg.norm(values.astype(np.float64) @ weights, axis=1)
        errors = np.divide(np.linalg.norm(left, axis=1), whole, out=np.zeros(5), where=whole > 0)
        assert sums[number] == pytest.approx(1 + errors.sum(), abs=1e-5)


def test_sparsity_and_thresholds_grow_with_cett() -> None:
    sparse, curves = sparse_of(subject_of(neox("gelu", layers=2, noise=0.2)))
    steps = np.linspace(0, 1, 9)
    shares = [np.mean([part.mean() for part in sparse.at(step)[0].values()]) for step in steps]
    assert np.all(np.diff(shares) >= 0)
    assert shares[-1] == 1
    for layer, curve in curves.items():
        thresholds = [threshold_at(step, sparse.edges[layer], curve) for step in steps]
        assert np.all(np.diff(thresholds[:-1]) >= 0)
        assert thresholds[-1] == np.inf


def test_a_curve_that_falls_is_crossed_where_it_is_first_reached() -> None:
    edges = edges_of(1.0)
    curve = np.zeros(BINS)
    curve[10:20], curve[20:30], curve[30:] = 0.5, 0.1, 1.0
    assert threshold_at(0.25, edges, curve) == pytest.approx(math.sqrt(edges[9] * edges[10]))
    assert threshold_at(0.5, edges, curve) == pytest.approx(edges[29])


# --- other models ---------------------------------------------------------------------------------------------
def classifier() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[2].weight[:, ::2] = 0
    return model


def test_of_a_classifier_the_loss_is_that_of_labels() -> None:
    model = classifier()
    inputs = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    with torch.no_grad():
        logits = model(torch.from_numpy(inputs))
    labels = logits.argmax(1).numpy()
    frame = look(model, inputs, "cett", labels=labels, controls="none").set_index(["layer", "measure"])["value"]
    off = nn.functional.cross_entropy(model[2].bias.expand(40, 3), torch.from_numpy(labels))
    whole = nn.functional.cross_entropy(logits, torch.from_numpy(labels))
    assert frame["all", "cett_loss_off"] == pytest.approx((off - whole).item(), abs=1e-6)
    assert 0.5 <= frame["all", "cett"] < 1


def test_refused_without_a_loss() -> None:
    with pytest.raises(RequestError, match="predicts neither next tokens nor labels"):
        look(classifier(), np.ones((4, 6), np.float32), "cett")


def test_refused_for_experts() -> None:
    config = MixtralConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=TOKENS,
        num_local_experts=2,
    )
    with pytest.raises(RequestError, match="activations of experts cannot be changed"):
        look(MixtralForCausalLM(config), cycle(), "cett")


def test_refused_for_named_modules() -> None:
    with pytest.raises(RequestError, match="none whose activations can be changed"):
        look(neox(), cycle(), "cett", layers=["gpt_neox.layers.0.mlp.act"])


def test_a_convolution_has_no_columns_of_neurons() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.Flatten(), nn.Linear(4, 2)
    )
    images = np.random.default_rng(0).normal(size=(5, 1, 6, 6)).astype(np.float32)
    examples = Examples("images", images, labels=np.array([0, 1, 0, 1, 1]))
    with pytest.raises(CheckpointError, match="only linear layers are measured"):
        Cett().found(Subject("the model", model, examples))


def test_activations_that_are_not_finite_are_named() -> None:
    model = neox(layers=2)
    with torch.no_grad():
        model.gpt_neox.layers[1].mlp.dense_h_to_4h.bias[3] = math.nan
    with pytest.raises(CheckpointError, match=r"block1\.m: hidden values are NaN or infinite"):
        Cett().found(subject_of(model))


def test_fourteen_passes() -> None:
    model, batches = neox(noise=0.1), []
    subject = subject_of(model)
    assert subject.predicts is not None
    handle = model.register_forward_hook(lambda *_: batches.append(1))
    Cett().found(subject)
    handle.remove()
    assert len(batches) == 14 * subject.examples.batch_count
