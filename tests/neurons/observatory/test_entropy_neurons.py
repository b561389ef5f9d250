"""Entropy neurons: one that is planted, and a plain twin that runs the model with the norm's scale as it was."""

import copy

import numpy as np
import pytest
import torch
from ablation_models import NEURONS, TOKENS, WIDTH, cycle, llama, neox
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.olmo.modeling_olmo import OlmoLayerNorm

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons import look
from ninscope.neurons.observatory.confidence import Directions, constant_logits, entropy_and_loss, tail
from ninscope.neurons.observatory.examples import Examples
from ninscope.neurons.observatory.final_norm import FinalNorm, final_norm_of
from ninscope.neurons.observatory.measures.entropy_neurons import EXAMINED, EntropyNeurons, candidates_of
from ninscope.neurons.observatory.subject import Subject

PLANTED = NEURONS - 1


def subject_of(model: nn.Module) -> Subject:
    return Subject("the model", model, Examples("tokens", cycle(), batch_size=4), seed=3)


def planted(family: str) -> nn.Module:
    """One neuron that is on for half of the tokens and writes, strongly, what no token's row of the unembedding sees."""
    model = neox("gelu") if family == "neox" else llama()
    block = model.gpt_neox.layers[0] if family == "neox" else model.model.layers[0]
    enters = [block.mlp.dense_h_to_4h] if family == "neox" else [block.mlp.gate_proj, block.mlp.up_proj]
    leaves = block.mlp.dense_4h_to_h if family == "neox" else block.mlp.down_proj
    torch.manual_seed(1)
    with torch.no_grad():
        leaves.weight[:TOKENS, TOKENS:PLANTED] = 0.3 * torch.randn(TOKENS, PLANTED - TOKENS)
        for matrix in enters:
            matrix.weight[TOKENS:PLANTED] = 0.3 * torch.randn(PLANTED - TOKENS, WIDTH)
            matrix.weight[PLANTED, : TOKENS // 2] = 1.0
        leaves.weight[TOKENS, PLANTED], leaves.weight[TOKENS + 1, PLANTED] = (
            3.0,
            -3.0,
        )  # 0 for all logits, 0 in the mean
    return model


# --- the truth is known ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["neox", "llama"])
def test_the_planted_neuron_acts_through_the_scale_alone(family: str) -> None:
    model = planted(family)
    frame = look(model, cycle(), "entropy_neurons", controls="none").set_index(["layer", "measure"])
    value = frame["value"]
    assert value["all", "entropy_neurons"] == value["block0.m", "entropy_neurons"] == 1
    assert frame.loc[("all", "entropy_neurons"), "count"] == NEURONS
    assert value["block0.m", "entropy_neurons_scale"] == pytest.approx(1, abs=1e-4)
    assert value["block0.m", "entropy_neurons_entropy_size"] > 0.05
    assert value["block0.m", "entropy_neurons_random_scale"] < 0.6
    # the more of it, the longer the stream, the less sure is the model
    sweep = [value["block0.m", f"entropy_neurons_{name}"] for name in ("at_0", "at_half", "at_most")]
    assert sweep[0] < sweep[1] < sweep[2]
    assert sweep[2] > 0
    found = EntropyNeurons().found(subject_of(model))
    values = {one.name: one.values for one in found.values}
    assert values["entropy_neurons_variance"][PLANTED] == pytest.approx(0, abs=1e-8)
    assert values["entropy_neurons_norm"][PLANTED] == pytest.approx(3 * 2**0.5)
    assert np.flatnonzero(np.isfinite(values["entropy_neurons_entropy"])).tolist() == [PLANTED]


def test_without_a_candidate_effects_are_unknown_and_random_neurons_are_measured() -> None:
    frame = look(neox(noise=0.3), cycle(), "entropy_neurons", controls="none").set_index("measure")
    assert (frame.loc["entropy_neurons", "value"] == 0).all()
    assert np.isnan(frame.loc["entropy_neurons_entropy", "value"])
    assert frame.loc["entropy_neurons_entropy", "count"] == 0
    assert frame.loc["entropy_neurons_random_entropy_size", "count"] == EXAMINED
    assert frame.loc["entropy_neurons_random_entropy_size", "value"] > 0
    assert {fact.name for fact in EntropyNeurons().found(subject_of(neox(noise=0.3))).facts} == set(
        EntropyNeurons.facts
    )


# --- a plain twin ---------------------------------------------------------------------------------------------
def naive_run(model: nn.Module, family: str, neuron: int | None, value: float, scales: torch.Tensor | None = None):
    """Entropy and loss at every position that has a next token; scales: of the final norm, kept."""
    block = model.gpt_neox.layers[0] if family == "neox" else model.model.layers[0]
    matrix = block.mlp.dense_4h_to_h if family == "neox" else block.mlp.down_proj
    norm = model.gpt_neox.final_layer_norm if family == "neox" else model.model.norm
    kept = {}

    def fix(_: nn.Module, args: tuple) -> tuple:
        hidden = args[0].clone()
        kept["hidden"] = args[0].flatten(0, -2)
        if neuron is not None:
            hidden[..., neuron] = value
        return (hidden,)

    def normed(_: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
        stream = args[0] - args[0].mean(-1, keepdim=True) if family == "neox" else args[0]
        epsilon = norm.eps if family == "neox" else norm.variance_epsilon
        kept["scales"] = (stream.square().mean(-1, keepdim=True) + epsilon).sqrt()
        if scales is None:
            return None
        return stream / scales * norm.weight + (norm.bias if family == "neox" else 0)

    handles = [matrix.register_forward_pre_hook(fix), norm.register_forward_hook(normed)]
    with torch.no_grad():
        logs = model(torch.from_numpy(cycle())).logits.log_softmax(-1)[:, :-1]
    for handle in handles:
        handle.remove()
    entropy = -(logs.exp() * logs).sum(-1)
    loss = -logs.gather(-1, torch.from_numpy(cycle())[:, 1:, None])[..., 0]
    return entropy, loss, kept


@pytest.mark.parametrize("family", ["neox", "llama"])
def test_twin(family: str) -> None:
    model = planted(family)
    torch.manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # also gains, biases and the head
            parameter.add_((0.05 if "norm" in name or "head" in name else 0.01) * torch.randn(parameter.shape))
    found = EntropyNeurons().found(subject_of(model))
    facts = {fact.name: fact.value for fact in found.facts}
    values = {one.name: one.values for one in found.values}
    candidates = np.flatnonzero(np.isfinite(values["entropy_neurons_entropy"]))
    assert candidates.tolist() == [PLANTED]
    double = copy.deepcopy(model).double()
    entropy, loss, kept = naive_run(double, family, None, 0.0)
    mean, largest = kept["hidden"][:, PLANTED].mean().item(), kept["hidden"][:, PLANTED].max().item()
    fixed = naive_run(double, family, PLANTED, mean)
    frozen = naive_run(double, family, PLANTED, mean, kept["scales"])
    assert facts["entropy_neurons_entropy"] == pytest.approx((fixed[0] - entropy).mean().item(), abs=1e-6)
    assert facts["entropy_neurons_entropy_size"] == pytest.approx((fixed[0] - entropy).abs().mean().item(), abs=1e-6)
    assert facts["entropy_neurons_loss"] == pytest.approx((fixed[1] - loss).mean().item(), abs=1e-6)
    through = 1 - ((frozen[1] - loss).abs().mean() / (fixed[1] - loss).abs().mean()).item()
    assert 0.5 < through < 0.999
    assert facts["entropy_neurons_scale"] == pytest.approx(through, abs=1e-5)
    for name, part in (("at_0", 0.0), ("at_half", 0.5), ("at_most", 1.0)):
        moved = naive_run(double, family, PLANTED, part * largest)[0] - entropy
        assert facts[f"entropy_neurons_{name}"] == pytest.approx(moved.mean().item(), abs=1e-6)


def test_random_neurons_by_the_same_twin() -> None:
    model = planted("neox")
    subject = subject_of(model)
    facts = {fact.name: fact.value for fact in EntropyNeurons().found(subject).facts}
    double = copy.deepcopy(model).double()
    entropy, _, kept = naive_run(double, "neox", None, 0.0)
    means = kept["hidden"].mean(0)
    moved = [
        (naive_run(double, "neox", neuron, means[neuron].item())[0] - entropy).mean().item()
        for neuron in range(NEURONS)
    ]
    # eight of the 23 others: their mean lies between the means of the eight least and the eight most
    others = np.sort(np.delete(moved, PLANTED))
    assert others[:8].mean() - 1e-6 <= facts["entropy_neurons_random_entropy"] <= others[-8:].mean() + 1e-6
    again = {fact.name: fact.value for fact in EntropyNeurons().found(subject).facts}
    assert again == pytest.approx(facts, nan_ok=True, abs=0)


# --- parts ----------------------------------------------------------------------------------------------------
def test_variances_and_null_shares_of_loops() -> None:
    draw = np.random.default_rng(0)
    weights, rows = draw.normal(size=(4, 6)), draw.normal(size=(9, 4))
    centred = rows - rows.mean(0)
    cosines = [[row @ w / np.linalg.norm(row) / np.linalg.norm(w) for row in centred] for w in weights.T]
    found, columns = Directions.of(torch.from_numpy(rows).float()), torch.from_numpy(weights).float()
    assert found.logit_variances(columns).numpy() == pytest.approx(np.var(cosines, axis=1), abs=1e-6)
    directions = np.linalg.svd(centred)[2][-2:]
    shares = np.linalg.norm(directions @ weights, axis=0) / np.linalg.norm(weights, axis=0)
    assert found.null_shares(columns, 2).numpy() == pytest.approx(shares, abs=1e-6)


@pytest.mark.parametrize("family", ["neox", "llama"])
def test_the_planted_neuron_lies_in_the_null_space(family: str) -> None:
    subject = subject_of(planted(family))
    shares = Directions.of(subject.unembedding()).null_shares(subject.leaving("block0.m"), WIDTH - TOKENS + 1)
    assert shares[PLANTED].item() == pytest.approx(1, abs=1e-6)
    assert shares[:PLANTED].max() < 0.6


def test_entropy_and_loss_are_torchs() -> None:
    logits = 30 * torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 3, 6, 1, 1])
    entropy, loss = entropy_and_loss(logits, targets)
    assert torch.allclose(entropy, torch.distributions.Categorical(logits=logits).entropy(), atol=1e-5)
    assert torch.allclose(loss, nn.functional.cross_entropy(logits, targets, reduction="none"), atol=1e-5)


def test_without_a_norm_logits_are_the_product_itself() -> None:
    draw = torch.Generator().manual_seed(0)
    stream, rows, bias = (torch.randn(shape, generator=draw) for shape in ((5, 3), (4, 3), (4,)))
    norm = FinalNorm(False, 0.0, scaled=False)
    assert torch.equal(tail(stream, rows, norm), stream @ rows.T)
    constant, off = constant_logits(stream, stream @ rows.T + bias, rows, norm)
    assert torch.allclose(constant, bias, atol=1e-6)
    assert off < 1e-5


@pytest.mark.parametrize("width", [8, 9])
@pytest.mark.parametrize("epsilon", [1e-5, 1e-6, 1e-12])
@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm, LlamaRMSNorm])
def test_norms_are_known_by_what_they_do(kind, epsilon: float, width: int) -> None:
    norm = kind(width, eps=epsilon)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(torch.randn(width))
    found = final_norm_of(norm, width)
    assert found is not None
    assert found.centred == (kind is nn.LayerNorm)
    assert found.epsilon == pytest.approx(epsilon, rel=1e-3, abs=1e-12)
    assert torch.allclose(found.gain, norm.weight, atol=1e-5)


def test_norms_of_other_libraries_shapes() -> None:
    gemma = final_norm_of(Gemma2RMSNorm(6, eps=1e-6), 6)  # its gain is 1 + weight
    olmo = final_norm_of(OlmoLayerNorm(6), 6)  # no gain, and an epsilon of its own
    assert (gemma.centred, olmo.centred) == (False, True)
    assert torch.allclose(gemma.gain, torch.ones(6), atol=1e-5)
    assert torch.allclose(olmo.gain, torch.ones(6), atol=1e-5)
    assert olmo.epsilon == pytest.approx(1e-5, rel=1e-3)
    assert final_norm_of(nn.BatchNorm1d(6).eval(), 6) is None


def test_candidates_are_large_and_of_small_variance_the_clearest_first() -> None:
    norms = np.array([1.0, 1, 1, 1, 1, 1, 5, 2, 1, 3])
    variances = np.array([4.0, 4, 4, 4, 0.1, 4, 1, 0.01, 4, 4])
    assert candidates_of(norms, variances).tolist() == [7, 6]  # 4 is small, 9 is not of small variance
    assert candidates_of(np.zeros(3), np.full(3, np.nan)).tolist() == []


# --- other models ---------------------------------------------------------------------------------------------
def test_refused_where_logits_are_computed_otherwise() -> None:
    config = Gemma2Config(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=TOKENS,
    )
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(config).eval()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(20)
    with pytest.raises(CheckpointError, match="cannot be told apart"):
        EntropyNeurons().found(subject_of(model))


def test_refused_with_another_norm() -> None:
    model = neox()
    model.gpt_neox.final_layer_norm = nn.BatchNorm1d(WIDTH).eval()
    subject = Subject("the model", model, Examples("tokens", cycle(1), batch_size=1))
    assert "BatchNorm1d, does not divide" in str(EntropyNeurons().objection(subject))


def test_refused_for_a_classifier() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(RequestError, match="it needs next tokens"):
        look(model, np.ones((4, 6), np.float32), "entropy_neurons", labels=np.arange(4) % 3)


def test_bfloat16_gives_nearly_the_same() -> None:
    model = planted("neox")
    whole = {fact.name: fact.value for fact in EntropyNeurons().found(subject_of(model)).facts}
    half = {fact.name: fact.value for fact in EntropyNeurons().found(subject_of(model.bfloat16())).facts}
    assert half["entropy_neurons"] == 1
    assert half["entropy_neurons_entropy"] == pytest.approx(whole["entropy_neurons_entropy"], abs=0.02)
    assert half["entropy_neurons_scale"] == pytest.approx(1, abs=1e-3)
