"""Alignment of seeds: against permutations made by hand, all permutations tried in turn, and losses computed step by step."""

import copy
import itertools
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
import transformers  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from ninscope.errors import CheckpointError, RequestError  # noqa: E402
from ninscope.neurons import look  # noqa: E402
from ninscope.neurons.observatory.examples import Examples  # noqa: E402
from ninscope.neurons.observatory.matching import assigned, by_weights  # noqa: E402
from ninscope.neurons.observatory.measures.alignment import Alignment  # noqa: E402
from ninscope.neurons.observatory.subject import Subject  # noqa: E402
from ninscope.neurons.observatory.symmetries import holding, symmetries_of, tensors_of  # noqa: E402

rng = np.random.default_rng(0)
SIZES = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
IMAGE = {name: SIZES[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}
LABELS = rng.integers(0, 3, 6)
TEXT = Examples("tokens", (np.arange(12) * np.arange(1, 7)[:, None] + np.arange(6)[:, None]) % 20, 4)
LABELLED = Examples("tokens", rng.integers(0, 20, (6, 12)), 4, labels=LABELS)
IMAGES = Examples("images", rng.standard_normal((6, 3, 32, 32)).astype(np.float32), 4, labels=LABELS)
ROWS = Examples("arrays", rng.standard_normal((40, 6)).astype(np.float32), 16, labels=rng.integers(0, 3, 40))


def rough(model, seed=0):
    """Every parameter and running mean away from its start, so that no bias is 0 and no gain 1."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer += torch.rand_like(buffer)
    return model.eval()


def neox():
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SIZES))


def gpt2():
    sizes = {"vocab_size": 20, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 16, "bos_token_id": 0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, eos_token_id=0))


def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED))


def olmo2():
    return transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**GROUPED))


def opt():
    sizes = {name: value for name, value in SIZES.items() if name != "intermediate_size"}
    return transformers.OPTForCausalLM(transformers.OPTConfig(**sizes, ffn_dim=24, word_embed_proj_dim=16))


def bert():
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES, num_labels=3))


def vit():
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(**IMAGE, image_size=32, patch_size=8, num_labels=3)
    )


def swin():
    sizes = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4], "window_size": 4}
    return transformers.SwinForImageClassification(transformers.SwinConfig(**sizes, num_labels=3))


def mixtral():
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**GROUPED, num_local_experts=3))


def perceptron(hidden=(5,), seed=0):
    torch.manual_seed(seed)
    sizes = [6, *hidden, 3]
    layers = [part for pair in itertools.pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def value_of(found, name, layer="all"):
    return next(fact.value for fact in found.facts if (fact.name, fact.layer) == (name, layer))


def aligned(model, other, examples, matching="weights"):
    ours, theirs = (Subject(name, one.eval(), examples) for name, one in (("a", model), ("b", other)))
    return Alignment(matching).found(ours, theirs)


# --- which permutations are free ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "examples", "kinds", "fixed"),
    [
        (neox, TEXT, "1 stream, 2 heads, 2 hidden", ""),
        (gpt2, TEXT, "1 stream, 2 heads, 2 hidden", ""),
        (llama, TEXT, "1 stream, 2 heads, 2 hidden", ""),
        (olmo2, TEXT, "1 stream, 2 heads, 2 hidden", ""),
        (opt, TEXT, "1 stream, 2 heads, 2 hidden", ""),
        (mixtral, TEXT, "1 stream, 2 heads, 0 hidden", ""),
        (bert, LABELLED, "1 stream, 2 heads, 2 hidden", r"bert.pooler.dense.bias|classifier.*"),
        (vit, IMAGES, "1 stream, 2 heads, 2 hidden", "classifier.bias"),
        (swin, IMAGES, "2 stream, 3 heads, 3 hidden", r"classifier.bias|.*relative_position_index"),
        (convolutions, IMAGES, "0 stream, 0 heads, 2 hidden", r"7.bias|1.num_batches_tracked"),
        (lambda: perceptron((5, 7)), ROWS, "0 stream, 0 heads, 2 hidden", "4.bias"),
    ],
    ids=["neox", "gpt2", "llama", "olmo2", "opt", "mixtral", "bert", "vit", "swin", "convolutions", "perceptron"],
)
@torch.no_grad()
def test_outputs_stay_under_all_permutations_that_are_found(make, examples, kinds, fixed):
    """fixed: the tensors in which nothing is permuted."""
    model = rough(make())
    one = Subject("a model", model, examples)
    batch = next(one.batches())
    symmetries = symmetries_of(one, batch)
    counts = [sum(word in group.kind for group in symmetries.groups) for word in ("stream", "heads", "hidden")]
    assert "{} stream, {} heads, {} hidden".format(*counts) == kinds
    assert symmetries.left_out == ()
    plain, before = one.outputs(batch), copy.deepcopy(model.state_dict())
    orders = {group.name: np.roll(np.arange(group.size), group.shared) for group in symmetries.groups}
    with holding(model, lambda name, own: symmetries.permuted(name, own, orders)):
        torch.testing.assert_close(one.outputs(batch), plain, rtol=1e-3, atol=1e-4)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name]) == bool(re.fullmatch(fixed, name)), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Weighted(nn.Module):
    """The second neuron of two counts twice, whatever the weights: no permutation is free. Those of the first layer are."""

    def __init__(self, free):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 4), nn.Linear(4, 5), nn.Linear(5, 3)
        self.scales = [1 if free else torch.arange(1.0, 5), torch.arange(1.0, 6)]

    def forward(self, x):
        h = torch.tanh(self.first(x)) * self.scales[0]
        return self.third(torch.tanh(self.second(h)) * self.scales[1])


def test_neurons_that_may_not_be_permuted_are_left_out_and_counted():
    found = aligned(Weighted(True), Weighted(True), ROWS)
    assert value_of(found, "alignment_left_out") == 1
    assert [fact.layer for fact in found.facts if fact.name == "alignment_moved"] == ["second.in", "all"]
    with pytest.raises(CheckpointError, match="no order of its neurons is known to be free"):
        aligned(Weighted(False), Weighted(False), ROWS)


# --- the assignment -------------------------------------------------------------------------------------------------
def test_the_assignment_is_the_best_of_all():
    of_units, of_shared = rng.standard_normal((6, 6)), rng.standard_normal((3, 3))
    best = max(itertools.permutations(range(6)), key=lambda p: sum(of_units[i, j] for i, j in enumerate(p)))
    assert assigned(of_units).tolist() == list(best)

    def value(p):
        pairs = [(p[2 * i] // 2, p[2 * i + 1] // 2) for i in range(3)]
        if any(one != other for one, other in pairs):
            return -np.inf
        return sum(of_units[i, j] for i, j in enumerate(p)) + sum(of_shared[i, j] for i, (j, _) in enumerate(pairs))

    assert assigned(of_units, of_shared).tolist() == list(max(itertools.permutations(range(6)), key=value))


def naive_match(a, b):
    """The order of the hidden neurons of b with the largest product of all weights with those of a: all orders in turn."""

    def product(p):
        p = list(p)
        pairs = [(a[0].weight, b[0].weight[p]), (a[0].bias, b[0].bias[p]), (a[2].weight, b[2].weight[:, p])]
        return sum((one * two).sum() for one, two in pairs)

    return list(max(itertools.permutations(range(5)), key=product))


def naive_point(a, b, p, share):
    """(mean cross-entropy, mean variance of the hidden neurons) of share * a + (1 - share) * b in the order p."""
    w, c, v, d = (share * x + (1 - share) * y for x, y in [
        (a[0].weight, b[0].weight[p]), (a[0].bias, b[0].bias[p]), (a[2].weight, b[2].weight[:, p]), (a[2].bias, b[2].bias),
    ])  # fmt: skip
    h = torch.clamp(torch.tensor(ROWS.values) @ w.T + c, min=0)
    logits = (h @ v.T + d).double()
    picked = logits[torch.arange(len(logits)), torch.tensor(ROWS.labels)]
    return float((logits.exp().sum(1).log() - picked).mean()), float(h.double().var(0, unbiased=False).mean())


@torch.no_grad()
def test_barrier_and_collapse_are_those_computed_step_by_step():
    a, b = (rough(perceptron(seed=seed), seed) for seed in (1, 2))
    for one in (a, b):
        one[0].weight *= 6  # far from the linear part of the loss
        one[2].weight *= 6
    found = aligned(a, b, ROWS)
    match = naive_match(a, b)
    assert value_of(found, "alignment_moved") == np.mean([i != j for i, j in enumerate(match)]) > 0
    for suffix, p in (("", match), ("_unaligned", list(range(5)))):
        points = [naive_point(a, b, p, share) for share in (0, 0.25, 0.5, 0.75, 1)]
        losses, variances = zip(*points, strict=True)
        barrier = max(losses) - (losses[0] + losses[-1]) / 2
        assert value_of(found, f"alignment_barrier{suffix}" if suffix else "alignment") == pytest.approx(
            barrier, rel=1e-5
        )
        collapse = variances[2] / ((variances[0] + variances[-1]) / 2)
        assert value_of(found, f"alignment_variance_collapse{suffix}", "2.in") == pytest.approx(collapse, rel=1e-5)
    units = [torch.cat([w[0].weight[i], w[0].bias[i, None], w[2].weight[:, j]]) for w, i, j in [
        (a, 3, 3), (b, match[3], match[3])
    ]]  # fmt: skip
    cosine = functional.cosine_similarity(*units, dim=0)
    similarity = next(one.values for one in found.values if one.name == "alignment_similarity")
    assert similarity[3] == pytest.approx(float(cosine), rel=1e-5)


# --- permutations made by hand --------------------------------------------------------------------------------------
def shuffled_neox(model):
    """The same function: hidden neurons, heads and the residual stream in another order, tensor by tensor."""
    torch.manual_seed(9)
    w = copy.deepcopy(model.state_dict())
    x = torch.randperm(16)
    for name in ("gpt_neox.embed_in.weight", "embed_out.weight", "lm_head.weight"):
        if name in w:
            w[name] = w[name][:, x]
    for name in list(w):
        if "norm" in name:
            w[name] = w[name][x]
    for block in range(2):
        stem = f"gpt_neox.layers.{block}."
        qkv, dense = stem + "attention.query_key_value.", stem + "attention.dense."
        up, down = stem + "mlp.dense_h_to_4h.", stem + "mlp.dense_4h_to_h."
        m, heads = torch.randperm(24), torch.randperm(4)
        c = (heads[:, None] * 4 + torch.arange(4)).flatten()
        rows = (heads[:, None] * 12 + torch.arange(12)).flatten()
        w[qkv + "weight"], w[qkv + "bias"] = w[qkv + "weight"][rows][:, x], w[qkv + "bias"][rows]
        w[dense + "weight"], w[dense + "bias"] = w[dense + "weight"][x][:, c], w[dense + "bias"][x]
        w[up + "weight"], w[up + "bias"] = w[up + "weight"][m][:, x], w[up + "bias"][m]
        w[down + "weight"], w[down + "bias"] = w[down + "weight"][x][:, m], w[down + "bias"][x]
    other = copy.deepcopy(model)
    other.load_state_dict(w)
    return other


@pytest.fixture(scope="module")
def trained():
    """A model that has learnt its text, without which no line between two models has a bump."""
    torch.manual_seed(0)
    model = neox()
    ids = torch.from_numpy(TEXT.values)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("matching", ["weights", "activations"])
def test_there_is_no_barrier_to_a_permuted_copy(trained, matching):
    other = shuffled_neox(trained)
    ids = torch.from_numpy(TEXT.values)
    with torch.no_grad():
        torch.testing.assert_close(other(input_ids=ids).logits, trained(input_ids=ids).logits, rtol=1e-3, atol=1e-3)
    found = aligned(trained, other, TEXT, matching)
    assert value_of(found, "alignment") == pytest.approx(0, abs=1e-5)
    assert value_of(found, "alignment_barrier_unaligned") > 0.5
    assert value_of(found, "alignment_similarity") == pytest.approx(1, abs=1e-6)
    assert value_of(found, "alignment_similarity_unaligned") < 0.5
    assert value_of(found, "alignment_moved") > 0.5
    assert value_of(found, "alignment_variance_collapse") == pytest.approx(1, abs=1e-5)
    assert value_of(found, "alignment_variance_collapse_unaligned") < 0.9
    layers = [fact.layer for fact in found.facts if fact.name == "alignment_moved"]
    assert layers == ["block0.x", "block0.c", "block0.m", "block1.c", "block1.m", "all"]
    assert {one.layer: one.unit for one in found.values}["block1.c"] == "head"


def test_a_model_is_aligned_with_itself(trained):
    found = aligned(trained, copy.deepcopy(trained), TEXT)
    assert value_of(found, "alignment_moved") == 0
    assert value_of(found, "alignment") == value_of(found, "alignment_barrier_unaligned") == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("make", [gpt2, llama, olmo2], ids=["transposed", "grouped heads", "norms of q and k"])
@torch.no_grad()
def test_weights_find_every_permutation(make):
    model = rough(make())
    one = Subject("a model", model, TEXT)
    symmetries = symmetries_of(one, next(one.batches()))
    ours = {name: tensor.clone() for name, tensor in tensors_of(model).items()}
    orders = {group.name: group.random(3) for group in symmetries.groups}
    theirs = {name: symmetries.permuted(name, tensor, orders) for name, tensor in ours.items()}
    found = by_weights(symmetries, ours, theirs)
    for group in symmetries.groups:  # the inverse
        assert np.array_equal(orders[group.name][found[group.name]], np.arange(group.size)), group.name
    assert all(torch.equal(symmetries.permuted(name, theirs[name], found), tensor) for name, tensor in ours.items())


# --- what it leaves, and what it refuses ----------------------------------------------------------------------------
def test_the_models_have_their_own_weights_afterwards(trained):
    other = rough(neox(), seed=4)
    before = [copy.deepcopy(model.state_dict()) for model in (trained, other)]
    aligned(trained, other, TEXT)
    for model, own in zip((trained, other), before, strict=True):
        assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match="stop"), holding(trained, lambda name, own: own + 1):
        raise ValueError("stop")
    assert all(torch.equal(tensor, before[0][name]) for name, tensor in trained.state_dict().items())


def test_look_compares_with_another_seed(trained):
    rows = look(trained, TEXT.values, ["alignment"], other={"second": shuffled_neox(trained)}, batch_size=4)
    assert set(rows["status"]) == {"ok"}
    assert set(rows["control"]) == {"none", "shuffled"}
    of_all = rows.query("layer == 'all' and control == 'none'").set_index("measure")["value"]
    assert of_all["alignment"] == pytest.approx(0, abs=1e-5)
    assert of_all["alignment_barrier_unaligned"] > 0.5


def test_bad_requests():
    with pytest.raises(RequestError, match="matching is 'x'"):
        Alignment("x")
    with pytest.raises(RequestError, match="has no other seed"):
        Alignment().found(Subject("a", perceptron(), ROWS))
    with pytest.raises(CheckpointError, match="a and b have other tensors"):
        aligned(perceptron((5,)), perceptron((6,)), ROWS)
    unlabelled = Examples("arrays", ROWS.values, 16)
    assert "no loss" in Alignment().objection(Subject("a", perceptron(), unlabelled))
    assert "named" in Alignment().objection(Subject("a", perceptron(), ROWS, layers=["1"]))
    assert Alignment().objection(Subject("a", perceptron(), ROWS)) is None
