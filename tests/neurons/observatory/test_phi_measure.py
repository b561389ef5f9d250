"""phi as a measure: the numbers of `phi_of_layers` on the same halves, and those of loops over values."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from labelled_subjects import facts_of, refusal, seen, subject_of, values_of  # noqa: E402

from ninscope.errors import CheckpointError  # noqa: E402
from ninscope.neurons.observatory.measure import HIDDEN, Batch, Place  # noqa: E402
from ninscope.neurons.observatory.registry import measures  # noqa: E402
from ninscope.neurons.phi import CountedPhi, phi_of_layers  # noqa: E402

SUMMARY = {
    "phi": "mean", "phi_p50": "p50", "phi_p90": "p90", "phi_p99": "p99", "phi_p999": "p999", "phi_largest": "largest",
    "phi_largest_mean": "largest_mean",
}  # fmt: skip


def naive(history, new, epsilon=0.01):
    """[rows, neurons] of both: phi of every new value, float64."""
    mean = history.mean(0)
    variance = ((history - mean) ** 2).sum(0) / (len(history) - 1)
    scale = variance + epsilon * variance.mean()
    return (new - mean) ** 2 / scale


@pytest.mark.parametrize("threads", [1, 2])
def test_the_numbers_are_those_of_phi_of_layers_and_of_loops(rng, threads):
    torch.set_num_threads(threads)
    features = (rng.normal(size=(30, 6, 9)) ** 3 + 50).astype(np.float32)
    subject = subject_of(features, None, batch=4)  # eight batches, the last of two samples
    found = {name: fact for (name, layer), fact in facts_of(subject, "phi").items() if layer != "all"}
    batches = [torch.from_numpy(features[first : first + 4]) for first in range(0, 30, 4)]
    model = subject.model
    module = phi_of_layers(model, {"0": model[0]}, model, batches[:4], batches[4:])["0"].summary()
    for name, part in SUMMARY.items():
        assert found[name].value == pytest.approx(getattr(module, part), rel=1e-6), name
    phi = naive(features[:16].reshape(-1, 9).astype(float), features[16:].astype(float))
    assert found["phi"].value == pytest.approx(phi.mean(), rel=1e-4)
    assert found["phi_largest_mean"].value == pytest.approx(phi.reshape(14, -1).max(1).mean(), rel=1e-4)
    assert (found["phi"].count, found["phi_p99"].count) == (9, phi.size)
    of_neurons = values_of(subject, "phi")["phi"]
    assert of_neurons == pytest.approx(phi.mean((0, 1)), rel=1e-4)
    assert found["phi"].quantiles[2] == pytest.approx(np.median(of_neurons), rel=1e-12)


def test_a_rare_loud_neuron_has_the_largest_phi_of_the_tail(rng):
    """Means are near 1 for both kinds of neurons; the planted one is on for one token in fifty."""
    features = rng.normal(size=(40, 50, 4))
    features[:, :, 2] = 0
    features[:, 7, 2] = 1
    subject = subject_of(features, None, batch=20)
    found = {name: fact.value for (name, layer), fact in facts_of(subject, "phi").items() if layer != "all"}
    # p (1 - p) with p = 1/50, beside the other three neurons' variance of 1.
    variance = 0.02 * 0.98
    expected = 0.98**2 / (variance + 0.01 * (3 + variance) / 4)
    assert found["phi_largest_mean"] == pytest.approx(expected, rel=0.05)
    means = values_of(subject, "phi")["phi"]
    assert means[[0, 1, 3]] == pytest.approx([1, 1, 1], abs=0.15)
    assert means[2] == pytest.approx(variance / (variance + 0.01 * (3 + variance) / 4), rel=0.02)


def test_all_layers_together(rng):
    tally = measures()["phi"].tally(subject_of(np.ones((4, 3)), None, batch=2))
    parts = rng.normal(size=(2, 2, 3, 5, 4)).astype(np.float32)  # layer, batch, samples, tokens, neurons
    for number in (0, 1):
        for layer in (0, 1):
            tally.see(Place(HIDDEN, f"h{layer}"), torch.from_numpy(parts[layer, number]), Batch(number, 3 * number, {}))
    facts = {(fact.name, fact.layer): fact for fact in tally.found().facts}
    phi = [naive(h[0].reshape(-1, 4).astype(float), h[1].reshape(-1, 4).astype(float)) for h in parts]
    assert facts["phi", "all"].value == pytest.approx(np.mean(phi), rel=1e-5)
    assert facts["phi", "all"].count == 120
    assert facts["phi_p90", "all"].value == pytest.approx(np.quantile(phi, 0.9, method="inverted_cdf"), rel=3e-4)


def test_experts_have_no_samples_and_may_be_idle(rng):
    tally = measures()["phi"].tally(subject_of(np.ones((4, 3)), None, batch=2))

    def show(layer, number, rows):
        tally.see(Place(HIDDEN, layer, routed=True), torch.from_numpy(rows), Batch(number, 2 * number, {}))

    first, second = rng.normal(size=(2, 1, 6, 4)).astype(np.float32)
    show("e0.m", 0, first)
    show("e0.m", 1, second)
    show("e0.m", 1, second[:, :0])
    show("e1.m", 0, first)
    show("e2.m", 1, second)
    facts = {(fact.name, fact.layer): fact for fact in tally.found().facts}
    assert {layer for _, layer in facts} == {"e0.m", "all"}
    assert not any(name == "phi_largest_mean" for name, _ in facts)
    assert facts["phi", "e0.m"].value == pytest.approx(
        naive(first[0].astype(float), second[0].astype(float)).mean(), rel=1e-5
    )


def test_experts_that_are_all_idle_in_a_half():
    tally = measures()["phi"].tally(subject_of(np.ones((4, 3)), None, batch=2))
    tally.see(Place(HIDDEN, "e0.m", routed=True), torch.ones(1, 3, 2), Batch(1, 2, {}))
    with pytest.raises(CheckpointError, match="no hidden layer is used in both halves of the batches") as error:
        tally.found()
    assert error.value.status == "unsupported"


def test_half_precision_and_torchs_own_way_give_the_same(rng):
    values = torch.from_numpy(rng.normal(size=(2, 3, 4, 5))).half()
    by_kernel, by_torch = CountedPhi("h"), CountedPhi("h")
    for counted in (by_kernel, by_torch):
        counted.learn(values[0])
    by_kernel.look(values[1])
    phi = by_torch._scale.phi(values[1].float())
    by_torch._sums, by_torch.values = by_torch._add(phi), phi.numel()
    first, second = (counted.distribution().summary() for counted in (by_kernel, by_torch))
    assert first.counts.tolist() == second.counts.tolist()
    assert (first.p50, first.p999, first.largest, first.values) == (second.p50, second.p999, second.largest, 60)
    assert first.mean == pytest.approx(second.mean, rel=1e-6)
    assert by_kernel.of_neurons() == pytest.approx(by_torch.of_neurons(), rel=1e-6)


def test_a_distribution_may_be_asked_for_twice(rng):
    torch.set_num_threads(2)
    counted = CountedPhi("h")
    values = torch.from_numpy(rng.normal(size=(2, 4, 3, 5))).float()
    counted.learn(values[0])
    for number in (1, 2):
        counted.look(values[1])
        for _ in range(2):
            summary = counted.distribution().summary()
            assert (summary.values, summary.counts.sum()) == (60 * number, 60 * number)


def test_phi_that_is_not_finite_is_told():
    tally = measures()["phi"].tally(subject_of(np.ones((4, 3)), None, batch=2))
    history = torch.tensor([[[0.0], [1e-12], [2e-12]]])
    tally.see(Place(HIDDEN, "h"), history, Batch(0, 0, {}))
    with pytest.raises(CheckpointError, match="h: activations, or their phi, are not finite") as error:
        tally.see(Place(HIDDEN, "h"), torch.full((1, 2, 1), 3e19), Batch(1, 2, {}))
    assert error.value.status == "nonfinite"


def test_one_batch_is_refused(rng):
    subject = subject_of(rng.normal(size=(6, 3)), None, batch=6)
    assert "it needs two batches or more, the first half as history" in refusal(subject, "phi")
    assert seen(subject, "phi").status == "unsupported"
