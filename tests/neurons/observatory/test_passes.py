"""One pass for all measures, what fails in it, comparisons, and `look`; by measures that are made for it here."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import family_models  # noqa: E402
from torch import nn  # noqa: E402

import ninscope  # noqa: E402
from ninscope.errors import CheckpointError, RequestError  # noqa: E402
from ninscope.neurons.observatory import registry  # noqa: E402
from ninscope.neurons.observatory.examples import Examples, batch_for, token_windows  # noqa: E402
from ninscope.neurons.observatory.measure import (  # noqa: E402
    ATTENTION,
    HIDDEN,
    LABELS,
    NEXT_TOKENS,
    PREVIOUS,
    RESIDUAL,
    SEED,
    START,
    Fact,
    Found,
    NeuronValues,
    OwnMeasure,
    StreamedComparison,
    StreamedMeasure,
    Tally,
    averaged,
    distribution,
)
from ninscope.neurons.observatory.passes import observe  # noqa: E402
from ninscope.neurons.observatory.subject import Subject  # noqa: E402


class Mean(Tally):
    def __init__(self, name):
        self.name, self.sums, self.counts = name, {}, {}

    def see(self, place, values, batch):
        self.sums[place.layer] = self.sums.get(place.layer, 0) + values.double().sum().item()
        self.counts[place.layer] = self.counts.get(place.layer, 0) + values.numel()

    def found(self):
        return Found(tuple(Fact(self.name, layer, total / self.counts[layer]) for layer, total in self.sums.items()))


class MeanHidden(StreamedMeasure):
    name = title = "mean_hidden"
    source, facts, reads = "none", {"mean_hidden": "a mean"}, frozenset({HIDDEN})

    def tally(self, subject):
        return Mean(self.name)


class MeanResidual(MeanHidden):
    name = title = "mean_residual"
    facts, reads = {"mean_residual": "a mean"}, frozenset({RESIDUAL})


class MeanAttention(MeanHidden):
    name = title = "mean_attention"
    facts, reads = {"mean_attention": "a mean"}, frozenset({ATTENTION})


class NeedsLabels(MeanHidden):
    name = title = "needs_labels"
    facts, needs = {"needs_labels": "a mean"}, frozenset({LABELS})


class Difference(StreamedComparison):
    name = title = "difference"
    source, facts, reads, compared_with = "none", {"difference": "a mean"}, frozenset({HIDDEN}), (START, SEED)

    def tally(self, subject, other):
        class Off(Mean):
            def see(self, place, values, other, batch):
                Mean.see(self, place, (values - other).abs(), batch)

        return Off("difference")


class Loss(OwnMeasure):
    name = title = "loss"
    source, facts, needs = "none", {"loss": "nats"}, frozenset({NEXT_TOKENS})

    def found(self, subject, other=None):
        return Found((Fact("loss", "all", subject.mean_loss()),))


MEASURES = [MeanHidden(), MeanResidual(), Loss()]


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(1).integers(3, 31, (6, 7))


def subject(tokens, name="llama", batch_size=4) -> Subject:
    return Subject(name, family_models.built(name), Examples("tokens", tokens, batch_size))


def counted(model) -> list:
    calls: list = []
    model.register_forward_hook(lambda *_: calls.append(1))
    return calls


def values_of(observations) -> dict:
    return {
        (fact.name, fact.layer, one.against): fact.value
        for one in observations
        if one.found
        for fact in one.found.facts
    }


def test_all_streamed_measures_share_one_pass(tokens):
    at = subject(tokens)
    at.has  # noqa: B018  which looks at the first window twice
    calls = counted(at.model)
    observe(at, [MeanHidden(), MeanResidual(), MeanAttention()])
    assert len(calls) == at.examples.batch_count == 2
    observe(at, [Loss()])
    assert len(calls) == 4


def test_values_are_those_of_all_examples_whatever_the_batch(tokens):
    found = [values_of(observe(subject(tokens, batch_size=size), MEASURES)) for size in (1, 4, 6)]
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5)
    hidden: list = []
    model = family_models.built("llama")
    model.model.layers[0].mlp.down_proj.register_forward_pre_hook(lambda module, given: hidden.append(given[0]))
    labels = torch.from_numpy(tokens)
    with torch.no_grad():
        loss = model(labels, labels=labels).loss.item()
    assert found[0]["mean_hidden", "block0.m", ""] == pytest.approx(hidden[0].mean().item(), rel=1e-5)
    assert found[0]["loss", "all", ""] == pytest.approx(loss, rel=1e-5)


def test_a_layer_that_overflows_is_named_and_other_measures_go_on(tokens):
    at = subject(tokens)
    with torch.no_grad():
        at.model.model.layers[1].mlp.up_proj.weight[3] = float("nan")
    first, second, third = observe(at, [MeanHidden(), MeanAttention(), Loss()])
    assert first.status == "nonfinite"
    assert str(first.error) == "block1.m: hidden values are NaN or infinite"
    assert second.status == "ok"
    assert third.status == "nonfinite"


def test_float16_that_ends_is_said_to():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).half()
    with torch.no_grad():
        model[0].weight.fill_(6e4)
    at = Subject("half", model, Examples("arrays", np.ones((1, 2))))
    (seen,) = observe(at, [MeanHidden()])
    assert "float16 ends at 65504; take dtype float32 or bfloat16" in str(seen.error)


def test_large_values_whose_sum_overflows_are_finite(tokens):
    at = Subject("large", nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), Examples("arrays", np.ones((9, 2))))
    with torch.no_grad():
        at.model[0].weight.fill_(1.5e38)
    (seen,) = observe(at, [MeanHidden()])
    assert seen.status == "ok"


def test_what_a_model_or_its_examples_do_not_have_is_told(tokens):
    plain = Subject("plain", nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), Examples("arrays", np.ones((1, 2))))
    attention, labels, loss = observe(plain, [MeanAttention(), NeedsLabels(), Loss()])
    assert str(attention.error) == "mean_attention: plain has no attention that is known"
    assert (
        str(labels.error)
        == "needs_labels: it needs labels, and plain has none on these examples; give labels (`label` in a DAG file)"
    )
    assert str(loss.error).startswith("loss: it needs next tokens, and plain has none on these examples; give a causal")
    assert {one.status for one in (attention, labels, loss)} == {"unsupported"}
    rwkv = subject(tokens, "rwkv")
    (seen,) = observe(rwkv, [MeanAttention()])
    assert str(seen.error) == "mean_attention: the model shows no attention while it runs"


def test_encoders_predict_no_next_tokens(tokens):
    assert NEXT_TOKENS in subject(tokens).has
    encoder = subject(tokens, "bert")
    with torch.no_grad():
        for parameter in encoder.model.parameters():  # so that it hardly looks at other tokens
            parameter.mul_(0.01)
    assert NEXT_TOKENS not in encoder.has


def test_comparisons_are_made_with_what_they_allow(tokens):
    at, other = subject(tokens), subject(tokens, "llama")
    with torch.no_grad():
        other.model.model.layers[0].mlp.up_proj.weight.mul_(2)
    opened: list = []

    def opener(name, model):
        return lambda: opened.append(name) or model

    others = {START: opener("s", other), PREVIOUS: opener("p", other), "seed3": opener("3", subject(tokens))}
    found = values_of(observe(at, [Difference()], others=others))
    assert opened == ["s", "3"]  # it does not compare with the step before
    assert found["difference", "block0.m", START] > 0
    assert found["difference", "block0.m", "seed3"] == 0


def test_a_comparison_on_shuffled_tokens_shows_both_the_same_ones(tokens):
    at = subject(tokens)
    found = values_of(observe(at, [Difference()], "shuffled", {START: lambda: subject(tokens)}))
    assert set(found.values()) == {0.0}


def test_an_other_that_cannot_be_had_fails_its_comparisons_alone(tokens):
    def missing():
        raise CheckpointError("missing", "step0 is gone")

    first, second = observe(subject(tokens), [MeanHidden(), Difference()], others={START: missing})
    assert (first.status, second.status, str(second.error)) == ("ok", "missing", "step0 is gone")


def test_shuffling_keeps_what_there_is_and_is_the_same_each_time(tokens):
    examples = Examples("tokens", tokens, bos=True)
    shuffled = examples.shuffled(3)
    assert np.array_equal(np.sort(shuffled.values[:, 1:].ravel()), np.sort(tokens[:, 1:].ravel()))
    assert np.array_equal(shuffled.values[:, 0], tokens[:, 0])
    assert not np.array_equal(shuffled.values, tokens)
    assert np.array_equal(shuffled.values, examples.shuffled(3).values)
    assert not np.array_equal(shuffled.values, examples.shuffled(4).values)
    images = Examples("images", np.random.default_rng(0).normal(size=(2, 3, 4, 5)))
    mixed = images.shuffled(0).values
    pixels = {tuple(pixel) for pixel in images.values[0].reshape(3, -1).T}
    assert {tuple(pixel) for pixel in mixed[0].reshape(3, -1).T} == pixels
    columns = Examples("arrays", np.arange(20.0).reshape(10, 2)).shuffled(0).values
    assert np.array_equal(np.sort(columns, 0), np.arange(20.0).reshape(10, 2))


def test_windows_of_text():
    assert token_windows(range(10), 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert token_windows(range(10), 4, bos=99).tolist() == [[99, 0, 1, 2], [99, 3, 4, 5], [99, 6, 7, 8]]
    with pytest.raises(
        RequestError, match="the text has 3 tokens, and a window needs 4; give more text or a smaller window"
    ):
        token_windows(range(3), 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tokens", np.zeros(3, int)), r"examples have shape \[3\]"),
        (("tokens", np.zeros((0, 3), int)), "at least one is needed"),
        (("tokens", np.full((1, 2), -1)), "tokens must be whole numbers from 0"),
        (("arrays", np.full((1, 2), np.nan)), "examples hold NaN or infinity"),
        (("tokens", np.zeros((2, 2), int), 1, np.zeros(3, int)), r"labels have shape \[3\], and there are 2 samples"),
    ],
)
def test_examples_that_make_no_sense(arguments, message):
    with pytest.raises(RequestError, match=message):
        Examples(*arguments)


def test_batches_are_smaller_where_outputs_are_many():
    assert batch_for(128, 256) == batch_for(128, None) == 16
    assert batch_for(128, 50304) == 2
    assert batch_for(4096, 256_000) == 1


def test_tokens_beyond_the_vocabulary_are_refused():
    with pytest.raises(
        RequestError, match="the text has token 31, and its vocabulary ends at 30; choose the tokenizer"
    ):
        subject(np.full((1, 4), 31))


def test_what_the_model_cannot_take_is_refused():
    at = Subject("narrow", nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), Examples("arrays", np.ones((1, 2))))
    with pytest.raises(RequestError, match=r"narrow cannot be run on these examples .*; give what it takes"):
        observe(at, [MeanHidden()])


def test_a_mean_over_seeds():
    first, second = (
        Found((Fact("m", "l", value, (value,) * 5, 4),), (NeuronValues("m", "l", np.array([value, 0.0])),))
        for value in (1.0, 3.0)
    )
    both = averaged([first, second])
    assert both.facts == (Fact("m", "l", 2.0, (2.0,) * 5, 4),)
    assert both.values[0].values.tolist() == [2.0, 0.0]
    with pytest.raises(ValueError, match="nothing to average"):
        averaged([])


def test_a_distribution_leaves_out_what_is_not_known():
    fact, (kept,) = distribution("m", "l", np.array([1.0, 3.0, np.nan]))
    assert (fact.value, fact.count, fact.quantiles[2]) == (2.0, 2, 2.0)
    assert len(kept.values) == 3
    empty, _ = distribution("m", "l", np.array([np.nan]))
    assert np.isnan(empty.value)
    assert empty.count == 0


# --- look ---------------------------------------------------------------------------------------------------
def test_look_at_a_live_model(tokens):
    model = family_models.built("mixtral").train()
    table = ninscope.neurons.look(model, tokens, ["experts"])
    assert list(table.columns[:4]) == ["layer", "measure", "control", "value"]
    assert set(table["control"]) == {"none", "shuffled"}
    shares = (
        table[(table["measure"] == "experts") & (table["control"] == "none")]
        .groupby(table["layer"].str[:6])["value"]
        .sum()
    )
    assert shares.tolist() == pytest.approx([1.0, 1.0])
    assert model.training


def test_experts_without_tokens_are_counted_and_have_no_row(tokens):
    model = family_models.built("mixtral")
    with torch.no_grad():  # scores follow from the first two rows alone, whose difference is large
        for block in model.model.layers:
            block.mlp.gate.weight.zero_()
    table = ninscope.neurons.look(model, tokens, ["experts"], controls="none")
    unrouted = table.set_index("measure").loc["experts_unrouted"]
    assert (unrouted["value"], unrouted["count"]) == (2.0, 6)  # of three equal ones the first two are chosen
    assert "block0.e2.m" not in set(table["layer"])


def test_look_at_everything_says_what_cannot_be_measured(tokens):
    table = ninscope.neurons.look(family_models.built("llama"), tokens, "all", controls=["none"])
    row = table.set_index("measure").loc["experts"]
    assert (row["status"], row["message"]) == (
        "unsupported",
        "experts: the model has no experts that tokens are sent to",
    )
    assert np.isnan(row["value"])
    assert set(table["status"]) >= {"unsupported"}


def test_look_at_text(tokens, tmp_path):
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**family_models.TEXT | {"vocab_size": 256}))
    registry._MEASURES["mean_hidden"] = MeanHidden()
    try:
        text = "the quick brown fox " * 3
        of_text = ninscope.neurons.look(model, text, ["mean_hidden"], window=8)
        of_bytes = ninscope.neurons.look(model, np.frombuffer(text.encode(), np.uint8), ["mean_hidden"], window=8)
        assert of_text.equals(of_bytes)
        model.save_pretrained(tmp_path / "step0")
        assert ninscope.neurons.look(tmp_path / "step0", text, ["mean_hidden"], window=8).equals(of_text)
    finally:
        del registry._MEASURES["mean_hidden"]
    with pytest.raises(RequestError, match="the model has no tokenizer of its own here; give tokenizer"):
        ninscope.neurons.look(family_models.built("llama"), "text", "all")


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((nn.ReLU(), np.ones((1, 2))), {"measures": ["ded"]}, r"measure 'ded' is not known"),
        ((nn.ReLU(), np.ones((1, 2))), {"measures": []}, "no measure is named"),
        ((nn.ReLU(), np.ones((1, 2))), {"controls": ["random"]}, "control 'random' is none of none, shuffled"),
        ((7, np.ones((1, 2))), {}, "the model is a int; give a torch module, a folder"),
        ((nn.Linear(2, 2), object()), {}, "object is no text, and no numbers that a model could take"),
        ((nn.Linear(2, 2), np.ones((1, 2))), {"labels": ["a"]}, "labels are classes, whole numbers from 0"),
        ((nn.Linear(2, 2), np.ones((1, 2))), {"revision": "step0"}, "revision belongs to a source"),
        ((nn.Linear(2, 2), np.ones((1, 2))), {"dtype": "int8"}, "dtype is 'int8'; one of float32, bfloat16, float16"),
    ],
)
def test_look_refuses(arguments, settings, message):
    with pytest.raises(RequestError, match=message):
        ninscope.neurons.look(*arguments, **settings)


def test_a_measure_that_was_named_and_cannot_be_had_is_an_error(tokens):
    with pytest.raises(RequestError, match="experts: the model has no experts"):
        ninscope.neurons.look(family_models.built("llama"), tokens, ["experts"])


def test_a_comparison_without_another_model_is_told(tokens):
    (seen,) = observe(subject(tokens), [Difference()], others={PREVIOUS: lambda: subject(tokens)})
    assert str(seen.error) == "difference: it compares with another model (start, seed), and none was given; give other"


def test_the_registry_refuses_names_that_are_taken():
    with pytest.raises(ValueError, match="the name 'experts' is taken"):
        registry.register(type("Twice", (MeanHidden,), {"name": "experts", "facts": {"experts": ""}}))


def test_plans_need_no_torch():
    import subprocess
    import sys

    code = "import sys; from ninscope.neurons.observatory.registry import measures; print(len(measures()), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    number, torch_is_there = done.stdout.split()
    assert int(number) >= 1
    assert torch_is_there == "False"
