"""Fine-tuning does what its recipe says, told by loops of plain torch; what methods and seeds share; tasks of every kind."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ninscope
from ninscope.checkpoints.source import open_source
from ninscope.neurons.finetuning.recipe import METHODS
from ninscope.parameters import Parameters

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from finetune_models import (  # noqa: E402
    Seen,
    assert_same_weights,
    base_of,
    convgru,
    made,
    recipe,
    text_task,
    tuned,
    write_prose,
)
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import BertForSequenceClassification  # noqa: E402

from ninscope.neurons.finetuning.bases import analyse_with, save_model  # noqa: E402
from ninscope.neurons.finetuning.bases import base_of as base_of_checkpoint  # noqa: E402
from ninscope.neurons.finetuning.saved import SavedState  # noqa: E402
from ninscope.neurons.finetuning.training import fine_tune  # noqa: E402
from ninscope.neurons.memel.inserting import insert_memel  # noqa: E402
from ninscope.neurons.tasks.forecast_settings import ForecastSettings  # noqa: E402
from ninscope.neurons.tasks.settings import ImageSettings, LanguageSettings  # noqa: E402


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fine-tuning")


@pytest.fixture(scope="module")
def still(shared_folder):
    """Without dropout: what a plain loop does can be compared."""
    nothing = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return base_of(made("bert", **nothing), shared_folder / "still")


@pytest.fixture(scope="module")
def headless(shared_folder):
    """Without a classifier, which fine-tuning draws."""
    return base_of(made("bert").bert, shared_folder / "headless")


@pytest.fixture(scope="module")
def task(shared_folder, still):
    return text_task(shared_folder, still)


class Batches:
    """A task that notes the examples of its batches."""

    def __init__(self, task):
        self.task, self.examples = task, []

    def __getattr__(self, name):
        return getattr(self.task, name)

    def batch(self, examples):
        self.examples.append(examples.tolist())
        return self.task.batch(examples)


def tuned_with_batches(task, base, how, folder):
    """(evaluations, states of the model, the examples of every update): evaluations draw batches too, which are left out."""
    noted, updates = Batches(task), []
    evaluated, weights, _ = tuned(noted, base, how, folder, stepped=lambda step: updates.append(noted.examples[-1]))
    return evaluated, weights, updates


# --- against a loop of plain torch --------------------------------------------------------------------------
def rate_of(step, steps, peak, warmup):
    """Rises linearly to its peak in warmup * steps updates, then falls linearly to 0 after the last."""
    rising = int(np.ceil(warmup * steps))
    return peak * (step + 1) / rising if step < rising else peak * (steps - step) / (steps - rising)


def test_without_memel_it_is_plain_training(task, still, tmp_path):
    how = recipe("none", weight_decay=0.3, clip=0.5, warmup=0.25)
    _, weights, batches = tuned_with_batches(task, still, how, tmp_path)
    model = BertForSequenceClassification.from_pretrained(still.folder).train()
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.3}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.999), eps=1e-8)
    for step, examples in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step, 9, 3e-3, 0.25)
        batch = task.batch(np.array(examples))
        optimizer.zero_grad()
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    theirs = model.state_dict()
    for name, value in weights[-1].items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6)
    start = load_file(still.folder / "model.safetensors")
    moved = max(float((weights[-1][name] - start[name]).abs().max()) for name in start)
    assert moved > 1e-2  # far more than what is tolerated above


def test_with_memel_it_is_plain_training_of_a_model_with_it(task, still, tmp_path):
    how = recipe("reversed", select={"top_k": 3})
    _, weights, batches = tuned_with_batches(task, still, how, tmp_path)
    model = BertForSequenceClassification.from_pretrained(still.folder).train()
    insert_memel(model, "middle:1", method="reversed", select={"top_k": 3}, late_start=2, forget=3)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}])
    for step, examples in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step, 9, 3e-3, 0.1)
        optimizer.zero_grad()
        model(**task.batch(np.array(examples))).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    theirs = model.state_dict()
    assert weights[-1].keys() == theirs.keys()
    for name, value in weights[-1].items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6)


# --- the order of examples ----------------------------------------------------------------------------------
def test_every_pass_is_a_permutation_and_its_last_batch_is_smaller(task, still, tmp_path):
    _, _, batches = tuned_with_batches(task, still, recipe("none"), tmp_path)
    assert [len(batch) for batch in batches] == [8, 8, 4] * 3
    passes = [[example for batch in batches[first : first + 3] for example in batch] for first in (0, 3, 6)]
    assert all(sorted(examples) == list(range(20)) for examples in passes)
    assert len({tuple(examples) for examples in passes}) == 3
    assert all(examples != sorted(examples) for examples in passes)


def test_epochs_are_passes(task, still, tmp_path):
    how = recipe("none", steps=None, epochs=2, evaluate_every=None)
    assert how.updates(task.train_size) == 6
    evaluated, _, done = tuned(task, still, how, tmp_path)
    assert done == list(range(1, 7))
    assert [evaluation["step"] for evaluation in evaluated] == [0, 6]


def test_methods_of_one_seed_share_head_order_and_start(task, headless, tmp_path):
    starts, batches, heads = {}, {}, {}
    pairs = [*((method, 0) for method in METHODS), ("none", 1), ("reversed", 1)]
    for method, seed in pairs:
        how = recipe(method, seed=seed, steps=3)
        evaluated, weights, batches[method, seed] = tuned_with_batches(
            task, headless, how, tmp_path / f"{method}{seed}"
        )
        starts[method, seed] = evaluated[0]
        heads[method, seed] = weights[0]["classifier.weight"]
    for method, seed in pairs:
        assert starts[method, seed] == starts["none", seed]
        assert batches[method, seed] == batches["none", seed]
        assert torch.equal(heads[method, seed], heads["none", seed])
    assert batches["none", 0] != batches["none", 1]
    assert not torch.equal(heads["none", 0], heads["none", 1])
    assert starts["none", 0] != starts["none", 1]


def test_dropout_is_of_the_seed_and_the_step(task, shared_folder, tmp_path):
    """Even where the examples are the same: one batch of all of them."""
    base = base_of(made("bert"), tmp_path / "bert")
    hows = [recipe("none", seed=seed, batch_size=20, steps=2, evaluate_every=2) for seed in (0, 0, 1)]
    ends = [tuned(task, base, how, tmp_path / str(number))[0][-1]["alpha0"] for number, how in enumerate(hows)]
    assert ends[0] == ends[1] != ends[2]


def test_the_callers_random_numbers_and_threads_do_not_matter(task, headless, tmp_path):
    torch.manual_seed(1)
    first = tuned(task, headless, recipe("reversed", steps=3), tmp_path / "a")[0]
    torch.manual_seed(2)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert tuned(task, headless, recipe("reversed", steps=3), tmp_path / "b")[0] == first
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_two_at_once_in_one_process_are_as_one_after_the_other(task, shared_folder, tmp_path):
    base = base_of(made("bert"), tmp_path / "bert")
    hows = [recipe("none", seed=seed, steps=4, evaluate_every=2) for seed in (0, 1)]
    alone = [tuned(task, base, how, tmp_path / f"alone{how.seed}")[0] for how in hows]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda how: tuned(task, base, how, tmp_path / f"{how.seed}")[0], hows))
    assert together == alone


# --- the weights that are analysed --------------------------------------------------------------------------
def test_before_the_first_update_the_analysis_is_that_of_the_base(shared_folder, tmp_path):
    base = base_of(made("neox"), shared_folder / "neox")
    train, held_out = write_prose(shared_folder)
    task = LanguageSettings(train, held_out, context=16, tokenizer="bytes").task(base)
    how = recipe("reversed", steps=2, evaluate_every=1)
    evaluated = fine_tune(task, base, how, analyse_with(Parameters()), SavedState(tmp_path))
    measured = ninscope.measure(base.folder, exact=True)
    assert (evaluated[0].alpha0, evaluated[0].width) == (measured.alpha0, measured.width)
    assert evaluated[2].alpha0 != measured.alpha0


def test_after_it_the_analysis_is_that_of_the_saved_weights(task, still, tmp_path):
    """By what save_pretrained writes of a model without MEmeL that has these weights."""
    seen = Seen()
    network = analyse_with(Parameters())

    def both(model):
        seen(model)
        return network(model)

    evaluated = fine_tune(task, still, recipe("reversed"), both, SavedState(tmp_path / "states"))
    own = {name: value for name, value in seen.weights[-1].items() if "memel" not in name}
    assert len(own) < len(seen.weights[-1])  # statistics there were
    model = BertForSequenceClassification.from_pretrained(still.folder)
    model.load_state_dict(own)
    model.save_pretrained(tmp_path / "step9")
    measured = ninscope.measure(tmp_path / "step9", exact=True)
    assert (evaluated[-1].alpha0, evaluated[-1].width) == (measured.alpha0, measured.width)


def test_statistics_of_memel_are_not_among_the_weights(still, tmp_path):
    model = BertForSequenceClassification.from_pretrained(still.folder)
    insert_memel(model, "middle:2")
    save_model(model, tmp_path)
    saved, before = load_file(tmp_path / "model.safetensors"), load_file(still.folder / "model.safetensors")
    assert saved.keys() == before.keys()
    assert all(torch.equal(saved[name], before[name]) for name in saved)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "float32"])
def test_a_base_has_the_stored_values_as_float32(tmp_path, dtype):
    model = made("neox").to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "step3")
    base = base_of_checkpoint(open_source(tmp_path).open("step3"), "it", tmp_path, None)
    stored = load_file(tmp_path / "step3" / "model.safetensors")
    assert base.tensors.keys() == stored.keys()
    for name, value in stored.items():
        assert base.tensors[name].dtype == torch.float32
        assert torch.equal(base.tensors[name], value.float())


def test_a_base_is_not_changed_by_training(task, still, tmp_path):
    before = {name: value.clone() for name, value in still.tensors.items()}
    tuned(task, still, recipe("none", steps=2), tmp_path)
    assert_same_weights(still.tensors, before)


# --- every kind of task -------------------------------------------------------------------------------------
def language(name):
    def make(folder):
        base = base_of(made(name), folder / name)
        train, held_out = write_prose(folder)
        return LanguageSettings(train, held_out, context=16, tokenizer="bytes").task(base), base

    return make


def images(name):
    def make(folder):
        base = base_of(made(name, num_labels=2), folder / name)
        rng = np.random.default_rng(4)
        for split, count in (("train", 9), ("val", 4)):
            for label in ("dark", "light"):
                (folder / "images" / split / label).mkdir(parents=True)
                for number in range(count):
                    pixels = rng.integers(0, 128, (8, 8), np.uint8) + np.uint8(128 if label == "light" else 0)
                    Image.fromarray(pixels).save(folder / "images" / split / label / f"{number}.png")
        return ImageSettings(folder / "images").task(base), base

    return make


def forecasts(folder):
    base = base_of(convgru(), folder / "convgru")
    sizes = {"height": 8, "width": 8, "input_frames": 2, "output_frames": 2, "train_size": 12, "held_out_size": 4}
    return ForecastSettings(**sizes, blobs=1).task(base), base


def texts(name):
    def make(folder):
        base = base_of(made(name), folder / name)
        return text_task(folder, base), base

    return make


# Every kind of model once, every kind of task in both precisions (language in float32: see the analysis of the base above).
KINDS = {
    "text, BERT": (texts("bert"), ["accuracy"], "float32"),
    "text, NeoX": (texts("neox"), ["accuracy"], "bf16"),
    "language, NeoX": (language("neox"), ["loss", "perplexity"], "bf16"),
    "images, ViT": (images("vit"), ["accuracy"], "float32"),
    "images, Swin": (images("swin"), ["accuracy"], "bf16"),
    "forecasts, ConvGRU": (forecasts, ["b_mae", "b_mse"], "float32"),
    "forecasts, ConvGRU, bf16": (forecasts, ["b_mae", "b_mse"], "bf16"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task_is_learned_from_and_resumed(kind, tmp_path):
    make, metrics, precision = KINDS[kind]
    task, base = make(tmp_path)
    how = recipe("reversed", steps=4, evaluate_every=2, late_start=1, precision=precision)
    evaluated, weights, _ = tuned(task, base, how, tmp_path / "whole")
    assert [list(evaluation["metrics"]) for evaluation in evaluated] == [metrics] * 3
    assert all(np.isfinite(list(evaluation["metrics"].values())).all() for evaluation in evaluated)
    phis = [evaluation["phi"] for evaluation in evaluated]
    assert all(phi["values"] > 0 and phi["p50"] < phi["p99"] for phi in phis)
    assert len({phi["mean"] for phi in phis}) == 3
    again, others, done = tuned(task, base, how, tmp_path / "interrupted", stops=(3,))
    assert done == [1, 2, 3, 3, 4]
    assert again == evaluated
    assert_same_weights(others[-1], weights[-1])
