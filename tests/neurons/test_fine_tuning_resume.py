"""Fine-tunes that are interrupted end in the very bits of those that are not, whatever state was left behind."""

import errno
import hashlib
import os
import pickle
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from finetune_models import Interrupted, Seen, assert_same_weights, base_of, made, recipe, text_task, tuned  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from ninscope.neurons.finetuning import saved, training  # noqa: E402
from ninscope.neurons.finetuning.recipe import METHODS  # noqa: E402
from ninscope.neurons.finetuning.saved import SavedState  # noqa: E402
from ninscope.neurons.finetuning.training import fine_tune  # noqa: E402


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def base(shared_folder):
    """With dropout of a fifth, so that every step draws random numbers."""
    return base_of(made("bert"), shared_folder / "bert")


@pytest.fixture(scope="module")
def task(shared_folder, base):
    return text_task(shared_folder, base)


@pytest.fixture(scope="module")
def whole(task, base, shared_folder):
    """The fine-tune of every method that nothing interrupts."""
    return {method: tuned(task, base, recipe(method), shared_folder / "states" / method) for method in METHODS}


@pytest.fixture
def often(monkeypatch):
    """A state after every update, not after half a minute."""
    monkeypatch.setattr(training, "SAVE_SECONDS", -1.0)


def only_state(folder):
    (path,) = folder.iterdir()
    return path


def interrupt(task, base, how, folder, at):
    """A fine-tune that ends after update `at`."""

    def stop(step, steps):
        if step == at:
            raise Interrupted

    with pytest.raises(Interrupted):
        fine_tune(task, base, how, Seen(), SavedState(folder), stop)


@pytest.mark.parametrize(
    ("method", "saved_at"),
    list(zip(METHODS, ["every step", "evaluations", "every step", "evaluations"], strict=True)),
)
def test_interrupted_twice_is_as_never(task, base, whole, method, saved_at, tmp_path, monkeypatch):
    if every_step := saved_at == "every step":
        monkeypatch.setattr(training, "SAVE_SECONDS", -1.0)
    evaluated, weights, done = tuned(task, base, recipe(method), tmp_path, stops=(4, 8))
    undisturbed, theirs, steps = whole[method]
    assert steps == list(range(1, 10))
    # The callback comes before the state is saved, so that the step itself is done again; else all since the evaluation.
    assert done == [*range(1, 5), *range(4, 9), 8, 9] if every_step else [*range(1, 5), *range(4, 9), *range(7, 10)]
    assert evaluated == undisturbed
    assert [evaluation["step"] for evaluation in evaluated] == [0, 3, 6, 9]
    assert_same_weights(weights[-1], theirs[-1])


def test_methods_and_dropout_make_a_difference(task, base, whole, tmp_path):
    """Otherwise the test above would hold for a fine-tune that does nothing."""
    ends = {method: evaluated[-1]["alpha0"] for method, (evaluated, _, _) in whole.items()}
    assert len(set(ends.values())) == len(METHODS)
    still = base_of(made("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), tmp_path / "still")
    assert tuned(task, still, recipe("none"), tmp_path / "states")[0][-1]["alpha0"] != ends["none"]


def test_a_fine_tune_that_has_ended_only_reads_its_state(task, base, whole, tmp_path):
    tuned(task, base, recipe("reversed"), tmp_path)
    evaluated, weights, done = tuned(task, base, recipe("reversed"), tmp_path)
    assert (evaluated, weights, done) == (whole["reversed"][0], [], [])


@pytest.mark.parametrize("part", ["optimizer.", "model.", "memel"])
def test_all_of_a_state_is_needed(task, base, whole, tmp_path, often, monkeypatch, part):
    """Moments of the optimizer, weights and statistics of MEmeL: a state without one of them ends elsewhere."""
    load = SavedState.load

    def emptied(self):
        state = load(self)
        if state is None:
            return None
        step, tensors, facts = state
        return step, {name: value * 0 if part in name else value for name, value in tensors.items()}, facts

    monkeypatch.setattr(SavedState, "load", emptied)
    evaluated, _, _ = tuned(task, base, recipe("reversed"), tmp_path, stops=(5,))
    same = [ours == theirs for ours, theirs in zip(evaluated, whole["reversed"][0], strict=True)]
    assert same == [True, True, False, False]


# --- what lies on the disk ----------------------------------------------------------------------------------
def test_moments_are_what_the_optimizer_had(task, base, tmp_path, often):
    """After one update AdamW's first moment is a tenth of the gradient, its second a thousandth of its square."""
    interrupt(task, base, recipe("none"), tmp_path, 2)
    state = load_file(only_state(tmp_path))
    first = {name: value for name, value in state.items() if name.startswith("optimizer.exp_avg.")}
    assert {name.removeprefix("optimizer.exp_avg.") for name in first} == set(base.tensors)
    assert all(float(value) == 1 for name, value in state.items() if name.startswith("optimizer.step."))
    for name, moment in first.items():
        squares = state[name.replace("exp_avg", "exp_avg_sq")].double()
        np.testing.assert_allclose((10 * moment.double()) ** 2, 1000 * squares, rtol=1e-4, atol=1e-12)


def test_no_pickle_is_written_or_read(task, base, whole, tmp_path, often, monkeypatch):
    def refused(*arguments, **settings):
        raise AssertionError("a pickle")

    for module, names in (
        (pickle, ("dump", "dumps", "load", "loads", "Pickler", "Unpickler")),
        (torch, ("save", "load")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, refused)
    evaluated, _, _ = tuned(task, base, recipe("reversed"), tmp_path, stops=(5,))
    assert evaluated == whole["reversed"][0]
    assert load_file(only_state(tmp_path))


def truncated(path):
    path.write_bytes(path.read_bytes()[:-7])


def altered(path):
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(bytes(content))


def emptied(path):
    path.write_bytes(b"")


def renamed(path):
    """The state of one step, called that of a later one."""
    path.rename(path.with_name(f"8-{'0' * 64}.safetensors"))


def replaced(path):
    """A whole file of its name's digest that is no state."""
    other = path.with_name("other")
    save_file({"x": torch.zeros(2)}, other)
    digest = hashlib.sha256(other.read_bytes()).hexdigest()
    other.rename(path.with_name(f"8-{digest}.safetensors"))
    path.unlink()


@pytest.fixture(scope="module")
def states(task, base, shared_folder):
    """Folders with the state after 2 and after 5 updates of a fine-tune that was interrupted one update later."""
    folders = [shared_folder / "interrupted at 3", shared_folder / "interrupted at 6"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "SAVE_SECONDS", -1.0)
        for folder, at in zip(folders, (3, 6), strict=True):
            interrupt(task, base, recipe("reversed"), folder, at)
    return folders


@pytest.mark.parametrize("damage", [truncated, altered, emptied, renamed, replaced])
def test_a_damaged_state_is_not_taken(states, tmp_path, damage):
    shutil.copytree(states[0], tmp_path, dirs_exist_ok=True)
    assert SavedState(tmp_path).load()[0] == 2
    damage(only_state(tmp_path))
    assert SavedState(tmp_path).load() is None


def test_without_a_whole_state_a_fine_tune_begins_anew(task, base, whole, states, tmp_path):
    shutil.copytree(states[0], tmp_path, dirs_exist_ok=True)
    truncated(only_state(tmp_path))
    evaluated, weights, done = tuned(task, base, recipe("reversed"), tmp_path)
    assert done[0] == 1
    assert evaluated == whole["reversed"][0]
    assert_same_weights(weights[-1], whole["reversed"][1][-1])


def test_of_two_states_the_further_whole_one_is_taken(task, base, whole, states, tmp_path):
    """A process that dies between writing one and clearing the other away leaves both."""
    for folder in states:
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    assert SavedState(tmp_path).load()[0] == 5
    truncated(tmp_path / only_state(states[1]).name)
    evaluated, _, done = tuned(task, base, recipe("reversed"), tmp_path)
    assert done[0] == 3
    assert evaluated == whole["reversed"][0]


def test_a_state_of_another_model_is_not_taken(task, base, whole, tmp_path, often):
    """An earlier version of a library may have named parameters otherwise."""
    other = base_of(made("bert", num_hidden_layers=1), tmp_path / "other")
    interrupt(task, other, recipe("reversed"), tmp_path / "states", 5)
    evaluated, weights, done = tuned(task, base, recipe("reversed"), tmp_path / "states")
    assert done[0] == 1
    assert evaluated == whole["reversed"][0]
    assert_same_weights(weights[-1], whole["reversed"][1][-1])


def test_a_state_that_is_cut_short_leaves_no_other_name(tmp_path, monkeypatch):
    """Written beside and renamed: a full disk leaves the state of before."""
    states = SavedState(tmp_path)
    states.save(1, {"x": torch.ones(3)}, {})
    monkeypatch.setattr("pathlib.Path.rename", lambda self, to: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(OSError, match="no space"):
        states.save(2, {"x": torch.zeros(3)}, {})
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["1"]
    step, tensors, facts = states.load()
    assert (step, tensors["x"].tolist(), facts) == (1, [1, 1, 1], {})


def test_states_that_another_process_clears_meanwhile_are_none(tmp_path, monkeypatch):
    """Two runs of one folder come to the end of a fine-tune one after the other."""
    states, write = SavedState(tmp_path / "states"), saved.save_file

    def cleared(at):
        def save(*arguments):
            if at == "before":
                states.clear()
            write(*arguments)
            if at == "after":
                states.clear()

        return save

    for at in ("before", "after"):
        states.save(1, {"x": torch.ones(3)}, {})
        with monkeypatch.context() as patched:
            patched.setattr(saved, "save_file", cleared(at))
            states.save(2, {"x": torch.ones(3)}, {})
        assert states.load() is None
        assert not (tmp_path / "states").exists()


def test_what_the_file_system_refuses_is_an_error_of_the_system(tmp_path):
    """A run tells a full disk by the number of the error; the library that writes has errors of its own."""
    states = SavedState(tmp_path)
    states.save(1, {"x": torch.ones(3)}, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as found:
            states.save(2, {"x": torch.ones(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found.value.errno == errno.EFBIG
    assert states.load()[0] == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_memory_that_tensors_share_is_no_matter(tmp_path):
    """Tied weights, a part of one, a transposed one and one without values, in a file that others may read as any other."""
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": whole, "b": whole, "c": whole[1], "d": whole.T, "e": torch.zeros(0, 2), "f": torch.zeros(0)}
    SavedState(tmp_path).save(4, tensors, {"x": [1]})
    step, found, facts = SavedState(tmp_path).load()
    assert (step, facts, set(found)) == (4, {"x": [1]}, set(tensors))
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    (tmp_path / "other").touch()
    assert next(tmp_path.glob("4-*")).stat().st_mode == (tmp_path / "other").stat().st_mode


def memory(name: str) -> float:
    """VmHWM, the peak since it was last forgotten, or VmRSS, what is in memory now, in MB."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) / 1024


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux forgets a process's peak")
def test_a_state_is_not_in_memory_twice(tmp_path):
    """Saving needs no more memory than there is, and loading takes it once more."""
    tensors = {str(number): torch.ones(8 * 2**20) for number in range(4)}
    states = SavedState(tmp_path)

    def further(work) -> tuple[float, object]:
        Path("/proc/self/clear_refs").write_text("5")
        before = memory("VmRSS")
        result = work()
        return memory("VmHWM") - before, result

    to_save, _ = further(lambda: states.save(2, tensors, {}))
    to_load, (step, loaded, _) = further(states.load)
    to_read, sums = further(lambda: [float(value.sum()) for value in loaded.values()])
    assert (step, sums) == (2, [8 * 2**20] * 4)
    assert to_save < 40  # MB, of 128
    assert max(to_load, to_read) < 170


def test_what_is_saved_is_the_model_s_own_memory(task, base, tmp_path):
    """No copy of all of it beforehand."""
    handed = {}

    class Noting(SavedState):
        def save(self, step, tensors, facts):
            handed.update({name: tensor.data_ptr() for name, tensor in tensors.items()})
            super().save(step, tensors, facts)

    class Seeing(Seen):
        def __call__(self, model):
            self.own = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
            return super().__call__(model)

    seen = Seeing()
    fine_tune(task, base, recipe("none", steps=1), seen, Noting(tmp_path))
    assert {name: handed[f"model.{name}"] for name in seen.own} == seen.own
    assert any(name.startswith("optimizer.") for name in handed)
