"""Recipes that make no sense, learning rates by hand, and fine-tunes that cannot go on: one line that names what is wrong."""

import math

import numpy as np
import pytest

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.finetuning.recipe import Recipe

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from finetune_models import Seen, assert_same_weights, base_of, made, recipe, text_task  # noqa: E402

from ninscope.neurons.finetuning import training  # noqa: E402
from ninscope.neurons.finetuning.bases import base_of as base_of_checkpoint  # noqa: E402
from ninscope.neurons.finetuning.looking import look_at  # noqa: E402
from ninscope.neurons.finetuning.saved import SavedState  # noqa: E402
from ninscope.neurons.finetuning.training import device_of, fine_tune, history_of  # noqa: E402


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("refusals")


@pytest.fixture(scope="module")
def base(shared_folder):
    return base_of(made("bert"), shared_folder / "bert")


@pytest.fixture(scope="module")
def task(shared_folder, base):
    return text_task(shared_folder, base)


def run(task, base, how, folder):
    return fine_tune(task, base, how, Seen(), SavedState(folder))


# --- recipes ------------------------------------------------------------------------------------------------
def test_learning_rates_by_hand():
    """Ten updates of which the first two rise: a half and all of it, then eight that fall by an eighth each."""
    how = Recipe("none", learning_rate=8.0e-3, warmup=0.2)
    found = [how.rate(step, 10) for step in range(10)]
    assert found == pytest.approx([4e-3, 8e-3, 8e-3, 7e-3, 6e-3, 5e-3, 4e-3, 3e-3, 2e-3, 1e-3])


@pytest.mark.parametrize(
    ("warmup", "steps", "wanted"),
    [(0.0, 4, [1, 0.75, 0.5, 0.25]), (1.0, 4, [0.25, 0.5, 0.75, 1]), (0.1, 1, [1]), (0.5, 3, [0.5, 1, 1])],
)
def test_learning_rates_at_the_edges(warmup, steps, wanted):
    how = Recipe("none", learning_rate=1.0, warmup=warmup)
    assert [how.rate(step, steps) for step in range(steps)] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("every", "steps", "wanted"),
    [(None, 7, [0, 7]), (3, 7, [0, 3, 6, 7]), (7, 7, [0, 7]), (9, 7, [0, 7]), (1, 2, [0, 1, 2])],
)
def test_evaluations(every, steps, wanted):
    assert Recipe("none", evaluate_every=every).evaluations(steps) == wanted


def test_updates_of_epochs_count_the_smaller_batch():
    assert Recipe("none", epochs=3, batch_size=32).updates(65) == 9
    assert Recipe("none", epochs=3, batch_size=32).updates(64) == 6
    assert Recipe("none", epochs=3, steps=5).updates(64) == 5


@pytest.mark.parametrize(
    ("size", "train_size", "steps", "wanted"),
    [
        (32, 65, None, 1),
        (32, 64, None, 32),
        (32, 65, 2, 32),
        (32, 65, 3, 1),
        (32, 5, 1, 5),
        (1, 7, 1, 1),
        (8, 30, 4, 6),
    ],
)
def test_the_smallest_batch(size, train_size, steps, wanted):
    assert Recipe("none", batch_size=size, steps=steps).smallest_batch(train_size) == wanted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "reverse"}, "method is 'reverse'; one of none, naive_mean"),
        ({"device": "mps"}, "device is 'mps'; one of cpu, cuda"),
        ({"precision": "fp16"}, "precision is 'fp16'"),
        ({"steps": 0}, "steps is 0; a whole number from 1"),
        ({"steps": True}, "steps is True"),
        ({"epochs": 0}, "epochs is 0"),
        ({"seed": -1}, "seed is -1; a whole number from 0"),
        ({"seed": 2**31}, "seed is 2147483648"),
        ({"batch_size": 1.5}, "batch_size is 1.5"),
        ({"threads": 5000}, "threads is 5000; a whole number from 1 to 1024"),
        ({"evaluate_every": 0}, "evaluate_every is 0"),
        ({"learning_rate": math.nan}, "learning_rate is nan; a number from 0 to 1"),
        ({"learning_rate": "1e-5"}, "learning_rate is '1e-5'"),
        ({"warmup": -0.1}, "warmup is -0.1"),
        ({"weight_decay": math.inf}, "weight_decay is inf"),
        ({"clip": -1}, "clip is -1"),
    ],
    ids=str,
)
def test_recipes_that_make_no_sense(changes, message):
    with pytest.raises(RequestError, match=message):
        Recipe(**{"method": "none"} | changes)


def test_history_is_of_all_of_a_sorted_file():
    """Not of its first labels: batches from a permutation, the same every time."""
    batches = [batch.tolist() for batch in history_of(1000, 16, 4)]
    assert [len(batch) for batch in batches] == [16] * 4
    numbers = [number for batch in batches for number in batch]
    assert len(set(numbers)) == 64
    assert min(numbers) < 250
    assert max(numbers) >= 750
    assert batches == [batch.tolist() for batch in history_of(1000, 16, 4)]
    assert sorted(number for batch in history_of(10, 4, 8) for number in batch) == list(range(10))


# --- what cannot go on --------------------------------------------------------------------------------------
class Spoiled:
    """A task whose model or loss is spoiled."""

    def __init__(self, task, loss=None, output=None):
        self.task, self._loss, self._output = task, loss, output

    def __getattr__(self, name):
        return getattr(self.task, name)

    def model(self, base):
        model = self.task.model(base)
        if self._output is not None:
            model.bert.encoder.layer[0].attention.register_forward_hook(self._output)
        return model

    def loss(self, model, batch):
        loss = self.task.loss(model, batch)
        return loss if self._loss is None or not model.training else self._loss(model, loss)


def test_a_loss_that_is_no_number(task, base, tmp_path):
    spoiled = Spoiled(task, loss=lambda model, loss: loss * math.inf)
    with pytest.raises(
        CheckpointError, match=r"update 1: the loss is not finite; lower the learning rate \(0.003\)"
    ) as found:
        run(spoiled, base, recipe("none"), tmp_path)
    assert found.value.status == "nonfinite"


def test_a_gradient_that_is_no_number(task, base, tmp_path):
    """The root of nothing: the loss is as it was, and has no slope."""
    spoiled = Spoiled(task, loss=lambda model, loss: loss + (model.classifier.weight.sum() * 0).sqrt())
    with pytest.raises(CheckpointError, match="update 1: the gradient is not finite; lower the learning") as found:
        run(spoiled, base, recipe("none"), tmp_path)
    assert found.value.status == "nonfinite"


def nan_at(number, training):
    """A forward hook that makes a layer's output NaN at one of its passes in training, or of those outside of it."""
    passes = []

    def spoil(module, arguments, output):
        if module.training != training:
            return None
        passes.append(1)
        return (output[0] * math.nan, *output[1:]) if len(passes) == number else None

    return spoil


@pytest.mark.parametrize("method", ["naive_mean", "naive_shift", "reversed"])
def test_activations_that_are_no_numbers_in_training(task, base, tmp_path, method):
    spoiled = Spoiled(task, output=nan_at(3, training=True))
    with pytest.raises(
        CheckpointError, match=r"update 3: bert\.encoder\.layer\.0\.attention: activations are not"
    ) as found:
        run(spoiled, base, recipe(method), tmp_path)
    assert found.value.status == "nonfinite"


@pytest.mark.parametrize("method", ["none", "reversed"])
@pytest.mark.parametrize("number", [1, 3, 4])
def test_activations_that_are_no_numbers_in_an_evaluation(task, base, tmp_path, method, number):
    """Three passes are of the history, and the fourth is what phi and the scores are of."""
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.0\.attention: activations are not finite") as found:
        run(Spoiled(task, output=nan_at(number, training=False)), base, recipe(method), tmp_path)
    assert found.value.status == "nonfinite"


def test_weights_that_are_no_numbers(tmp_path):
    from ninscope.checkpoints.source import open_source

    model = made("neox")
    with torch.no_grad():
        model.gpt_neox.final_layer_norm.bias[3] = math.inf
    model.save_pretrained(tmp_path / "step1")
    with pytest.raises(CheckpointError, match=r"final_layer_norm\.bias holds NaN or infinity") as found:
        base_of_checkpoint(open_source(tmp_path).open("step1"), "it", None, None)
    assert found.value.status == "nonfinite"


def test_a_gpu_that_is_absent(task, base, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(RequestError, match='device is "cuda", and torch finds no GPU here; take "cpu"'):
        run(task, base, recipe("none", device="cuda"), tmp_path)
    assert device_of("cpu") == torch.device("cpu")


@pytest.mark.parametrize("method", ["none", "reversed"])
def test_layers_that_are_not_there(task, base, tmp_path, method):
    with pytest.raises(
        RequestError, match=r"layer .encoder\.layr\.1. matches no module of the model; near: .*encoder\.layer"
    ):
        run(task, base, recipe(method, layers=("encoder.layr.1",)), tmp_path)
    with pytest.raises(RequestError, match="middle:3 of 2 attention layers"):
        run(task, base, recipe(method, layers="middle:3"), tmp_path)


def test_a_layer_that_never_runs(shared_folder, tmp_path):
    """It is there, and this task's model has no use for it: no statistics, and nothing that MEmeL could do."""
    base = base_of(made("bert"), shared_folder / "whole")
    idle = Spoiled(text_task(shared_folder, base))
    plain = idle.task.model

    def with_idle(base):
        model = plain(base)
        model.idle = torch.nn.Linear(2, 2)
        return model

    idle.model = with_idle
    with pytest.raises(RequestError, match="layer idle gives no activations on these examples; take another layer"):
        run(idle, base, recipe("reversed", layers=("idle",)), tmp_path)


class Normalised(torch.nn.Module):
    """A head behind a layer that normalises over the batch, and over `places` values a channel of each example."""

    def __init__(self, head, places):
        super().__init__()
        self.head, self.places, self.passes = head, places, 0
        self.norm = torch.nn.BatchNorm1d(head.in_features // places)

    def forward(self, features):
        self.passes += self.training
        return self.head(self.norm(features.reshape(len(features), -1, self.places)).flatten(1))


class OverBatches(Spoiled):
    def __init__(self, task, places):
        super().__init__(task)
        self.places = places

    def model(self, base):
        model = self.task.model(base)
        model.classifier = self.head = Normalised(model.classifier, self.places)
        return model


@pytest.mark.parametrize(("size", "steps"), [(19, None), (19, 2), (1, 1)])
def test_a_batch_of_one_cannot_be_normalised_over(task, base, tmp_path, size, steps):
    """Twenty examples; it is said before the first update, not when training comes to the batch."""
    spoiled = OverBatches(task, 1)
    with pytest.raises(
        RequestError,
        match=rf"^batch_size is {size}, by which 20 training examples leave a batch of one, and layer classifier\.norm "
        r"normalises over batches, which takes two values a channel; take another batch_size$",
    ):
        run(spoiled, base, recipe("none", batch_size=size, steps=steps, epochs=1), tmp_path)
    assert spoiled.head.passes == 0


@pytest.mark.parametrize(("size", "steps", "places"), [(18, 2, 1), (19, 1, 1), (19, 2, 2)])
def test_batches_that_can_be_normalised_over(task, base, tmp_path, size, steps, places, monkeypatch):
    """The last of two, none that training comes to, and of one with two values a channel; to look changes nothing."""
    how, seen = recipe("none", batch_size=size, steps=steps, evaluate_every=None), Seen()
    fine_tune(OverBatches(task, places), base, how, seen, SavedState(tmp_path / "looked"))
    assert any("norm.running_mean" in name for name in seen.weights[-1])
    monkeypatch.setattr(training._Run, "check_smallest_batch", lambda self: None)
    unseen = Seen()
    fine_tune(OverBatches(task, places), base, how, unseen, SavedState(tmp_path / "not"))
    assert_same_weights(seen.weights[-1], unseen.weights[-1])


def test_frozen_statistics_need_no_batch(task, base, tmp_path):
    class Frozen(OverBatches):
        def model(self, base):
            model = super().model(base)
            self.head.norm.train = lambda mode=True: self.head.norm
            self.head.norm.training = False
            return model

    run(Frozen(task, 1), base, recipe("none", batch_size=19, steps=2), tmp_path)


def test_positions_need_batches_of_one_length(shared_folder, base, tmp_path):
    with pytest.raises(RequestError, match="pad all batches to one length, or take neurons = 'features'"):
        run(text_task(shared_folder, base), base, recipe("reversed", neurons="positions"), tmp_path / "longest")
    padded = text_task(shared_folder, base, padding="max_length")
    evaluated = run(padded, base, recipe("reversed", neurons="positions", steps=2), tmp_path / "padded")
    assert all(np.isfinite(one.phi.mean) for one in evaluated)


def test_settings_of_memel_that_make_no_sense(task, base, tmp_path):
    with pytest.raises(RequestError, match="top-1"):
        run(task, base, recipe("reversed", select="largest"), tmp_path)


# --- looking, without training ------------------------------------------------------------------------------
class How:
    layers, neurons, epsilon, history, batch_size, threads, device = "all", "features", 0.01, 8, 8, 1, "cpu"


def test_looking_is_what_a_fine_tune_starts_with(task, base, tmp_path):
    seen = look_at(task, base, How())
    assert list(seen) == ["bert.encoder.layer.0.attention", "bert.encoder.layer.1.attention", "all"]
    (start, *_) = run(task, base, recipe("none", layers="all", steps=1), tmp_path)
    assert start.as_json()["phi"] == {**vars(seen["all"]), "counts": seen["all"].counts.tolist()}


def test_looking_refuses_what_is_no_number(task, base):
    for number in (1, 4):
        with pytest.raises(CheckpointError, match="activations are not finite") as found:
            look_at(Spoiled(task, output=nan_at(number, training=False)), base, How())
        assert found.value.status == "nonfinite"
