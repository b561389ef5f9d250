"""The monitor of a plain loop, on weights that are arrays: rows against what `ninscope.measure` says, and every trouble."""

import copy
import logging
import math
import random
import shutil
import sys
import threading
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

import ninscope
from ninscope.checkpoints.saved_pieces import open_pieces, save_pieces
from ninscope.errors import RequestError
from ninscope.integrations import EmergenceMonitor, MonitorRow, recording, steps, troubles
from ninscope.integrations.reading import OpenedModel, network_of, open_model, tensors_of
from ninscope.integrations.recording import Recording
from ninscope.integrations.settings import checked_settings
from ninscope.integrations.steps import Steps
from ninscope.integrations.troubles import Troubles
from ninscope.multifractal.emergence import emergence
from ninscope.ranks import ALONE

SIZES = (20, 24, 16)


@pytest.fixture
def weights(rng):
    """A chain of layers, as a state dict."""
    return {
        f"layers.{number}.weight": (rng.standard_normal(shape) * 0.3).astype(np.float32)
        for number, shape in enumerate(zip(SIZES[1:], SIZES, strict=False))
    }


class FolderOfTheTest:
    """In place of `ninscope_pipeline.live`: it keeps what it is given, and fails when it is told to."""

    def __init__(self):
        self.results, self.requests, self.calls = [], [], []
        self.start, self.contents, self.fails = None, {}, {}

    fit_name = staticmethod(lambda text: text.replace(" ", "-"))
    norms_alone = staticmethod(lambda *values: values)

    def LiveRequest(self, **fields):
        self.requests.append(SimpleNamespace(**fields))
        return self.requests[-1]

    def LiveResult(self, **fields):
        return SimpleNamespace(**fields)

    def LiveRun(self, folder, request):
        self._do("open")
        return SimpleNamespace(
            baseline=self.start,
            contents=self.contents,
            add=self._add,
            finish=lambda: self._do("finish"),
            close=lambda: self._do("close"),
        )

    def _add(self, result):
        self._do("add")
        self.results.append(result)

    def _do(self, what):
        self.calls.append(what)
        if what in self.fails:
            raise self.fails[what]

    def next_session(self):
        """What another session finds."""
        first = self.results[0]
        rms = {name: rms for name, (_, _, rms, _) in first.norms.items() if name != "all"}
        self.start = SimpleNamespace(
            step=first.step,
            revision=f"step{first.step}",
            measurement=first.measurement,
            rms=rms,
            content=first.content,
        )
        self.contents = {result.step: result.content for result in self.results}


@pytest.fixture
def kept(monkeypatch):
    folder = FolderOfTheTest()
    monkeypatch.setattr(recording, "import_module", lambda name: folder)
    return folder


def train(weights, rng, share=0.05):
    """One step: every weight moves, in place."""
    for values in weights.values():
        values += (rng.standard_normal(values.shape) * share).astype(values.dtype)


def test_rows_are_what_measure_says(weights, rng):
    monitor = EmergenceMonitor(weights, every=2, blocks=True, q=np.arange(-2, 2.5, 0.5), max_distance=12)
    measured = {}
    for step in range(5):
        row = monitor.update(step)
        assert (row is None) == bool(step % 2)
        if row is not None:
            asked = {"parts": ("block",), "q": np.arange(-2, 2.5, 0.5), "max_distance": 12}
            measured[step] = ninscope.measure(weights, **asked), row
        train(weights, rng)
    assert [row.step for row in monitor.rows] == [0, 2, 4]
    start, _ = measured[0]
    for step, (measurement, row) in measured.items():
        assert row.ok
        assert row.revision == f"step{step}"
        assert (row.alpha0, row.width) == (measurement.alpha0, measurement.width)
        assert row.warning == measurement.warning
        assert row.emergence == emergence(measurement, start)
        assert row.emergence == row.controls["emergence"]
        for name, (part,) in measurement.parts.items():
            assert (row.parts[name].alpha0, row.parts[name].width) == (part.alpha0, part.width)
            assert row.parts[name].emergence == emergence(part, start.parts[name][0])
        assert row.degree_kurtosis == pytest.approx(
            np.mean([layer.kurtosis for layer in measurement.layers]), rel=1e-14
        )
        assert row.seconds > 0
    assert measured[2][0].alpha0 != start.alpha0


def test_a_row_says_why_not_to_trust_it():
    weights = {"weight": np.full((20, 20), 0.1, np.float32) * np.arange(1, 21, dtype=np.float32)}
    row = EmergenceMonitor(weights, every=1, controls=False).update(0)
    assert row.warning == ninscope.measure(weights).warning
    assert "warning the largest f is at q = -3" in repr(row)


def test_a_monitor_shows_itself(weights):
    monitor = EmergenceMonitor(weights, every=2)
    assert repr(monitor) == "<EmergenceMonitor: model state-dict, every 2, rows 0>"
    row = monitor.update(4)
    assert repr(monitor).startswith(
        f"<EmergenceMonitor: model state-dict, every 2, rows 1, step 4, alpha0 {row.alpha0:.4g}"
    )


def test_norms_and_controls_are_those_of_the_stage(weights, rng):
    """By `exact.controls`, of weights that were copied; norms by numpy."""
    from ninscope.checkpoints.in_memory import in_memory_source
    from ninscope.exact.control_columns import Against, control_columns
    from ninscope.exact.controls import Start, control_readings
    from ninscope.networks.neuron_network import neuron_network
    from ninscope.parameters import Parameters
    from ninscope.weights.counting import network_weights

    monitor = EmergenceMonitor(weights, every=1, seed=3)
    before = copy.deepcopy(weights)
    monitor.update(0)
    train(weights, rng)
    row = monitor.update(1)
    total = math.sqrt(sum(float(np.square(values, dtype=np.float64).sum()) for values in weights.values()))
    assert row.norm == pytest.approx(total, rel=1e-14)
    now, start = (neuron_network(in_memory_source(held).open("in memory")) for held in (weights, before))
    parameters = Parameters("all")
    readings, note = control_readings(
        now, network_weights(now).rms, parameters, Start(start, network_weights(start).rms, "step0"), 3
    )
    against = Against(ninscope.measure(before), "step0", 0.95)
    expected = control_columns(ninscope.measure(weights), against, readings, note)
    assert {**row.controls, "message": ""} == {**expected, "message": ""}
    assert {"emergence_growth", "emergence_fixed", "structure"} <= row.controls.keys()


def test_what_is_logged(weights, rng):
    logged = []
    monitor = EmergenceMonitor(weights, every=1, log=lambda values, step: logged.append((step, values)), blocks=True)
    monitor.update(0)
    train(weights, rng)
    row = monitor.update(1)
    assert [step for step, _ in logged] == [0, 1]
    _, values = logged[1]
    assert values["ninscope/alpha0"] == row.alpha0
    assert values["ninscope/emergence_growth"] == row.controls["emergence_growth"]
    (block, part), *_ = row.parts.items()
    assert values[f"ninscope/{block}/emergence"] == part.emergence
    assert all(type(value) is float and math.isfinite(value) for value in values.values())
    assert logged[0][1]["ninscope/emergence"] == 0
    assert "E 0" in repr(monitor.rows[0])
    assert MonitorRow(3, "step3", "nonfinite").values() == {}


def test_without_controls_there_are_none(weights, rng):
    monitor = EmergenceMonitor(weights, every=1, controls=False)
    monitor.update(0)
    train(weights, rng)
    row = monitor.update(1)
    assert row.controls == {}
    assert row.emergence != 0
    assert "ninscope/structure" not in row.values()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every is 0; an integer from 1"),
        ({"every": 2.5}, "every is 2.5; an integer"),
        ({"every": True}, "every is True"),
        ({"log": 7}, r"log is 7; a folder, a function log\(values, step\), or a list of these was expected"),
        ({"log": ["a", "b"]}, r"log names 2 folders \(a, b\); give one"),
        ({"log": ""}, "log is ''; name a folder for this run"),
        ({"log": "~nobody-is-called-so/run"}, "name a folder for this run"),
        ({"blocks": "yes"}, "blocks is 'yes'; True or False was expected"),
        ({"seed": -1}, "seed is -1; an integer from 0"),
        ({"evry": 4}, "unknown parameter evry; did you mean 'every'"),
        ({"max_distanse": 4}, "unknown parameter max_distanse; did you mean 'max_distance'"),
        ({"samples": 4}, "samples is no parameter of a monitor, which measures every neuron"),
        ({"layers_crossed": 2}, "layers_crossed is no parameter of a monitor"),
        ({"transfer": "linear"}, "transfer is 'linear'; one of"),
        ({"parts": ["heads"]}, r"parts is \['heads'\]; a list of block, kind, layer was expected"),
        ({"parts": "block", "blocks": True}, "parts is 'block'; a list"),
    ],
)
def test_a_wrong_request_raises_when_the_monitor_is_made(weights, arguments, message):
    with pytest.raises(RequestError, match=message):
        EmergenceMonitor(weights, **arguments)


@pytest.mark.parametrize("model", [None, 3, "gpt2", dict])
def test_what_is_no_model(model):
    with pytest.raises(RequestError, match="is no model; give a torch module, or a state dict"):
        EmergenceMonitor(model)


def test_an_optimizer_is_no_model():
    """Though it has a state dict."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD(torch.nn.Linear(4, 4).parameters(), lr=0.1)
    with pytest.raises(RequestError, match="of type SGD is no model; give a torch module"):
        EmergenceMonitor(optimizer)
    with pytest.raises(RequestError, match="of type SGD is no source; give a path"):
        ninscope.measure(optimizer)


def test_a_callback_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "ninscope.integrations.trainer", raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"EmergenceCallback is for the Trainer .* 'ninscope\[training\]'"):
        from ninscope.integrations import EmergenceCallback  # noqa: F401


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("runs/mine", "mine"),
        ("runs/big/ninscope", "big"),
        ("runs/big/ninscope-0123", "big-0123"),
        ("a/ninscope2", "ninscope2"),
    ],
)
def test_a_run_in_the_folder_of_a_trainer_is_called_after_that(weights, kept, tmp_path, folder, name):
    monitor = EmergenceMonitor(weights, every=1, log=tmp_path / folder, controls=False)
    monitor.update(0)
    monitor.finish()
    assert [request.name for request in kept.requests] == [name]


def test_a_step_is_measured_once(weights):
    monitor = EmergenceMonitor(weights, every=2, controls=False)
    assert monitor.update(2) is not None
    assert monitor.update(2) is None
    assert monitor.update(np.int64(3)) is None
    assert monitor.update(np.int64(4)) is not None
    assert monitor.has_measured(4)
    assert monitor.measure(5).step == 5
    assert [row.step for row in monitor.rows] == [2, 4, 5]


def test_steps_that_come_again_are_measured_again(weights, rng):
    """A training that goes on from an earlier checkpoint: the newest row counts."""
    monitor = EmergenceMonitor(weights, every=1)
    checkpoint = None
    for step in range(4):
        monitor.update(step)
        if step == 1:
            checkpoint = copy.deepcopy(weights)
        train(weights, rng)
    before = {row.step: row for row in monitor.rows}
    for name, values in checkpoint.items():
        weights[name][...] = values
    again = monitor.update(1)
    assert (again.status, again.alpha0, again.emergence) == ("ok", before[1].alpha0, before[1].emergence)
    train(weights, rng)
    assert monitor.update(2).alpha0 != before[2].alpha0
    assert sorted(row.step for row in monitor.rows) == [0, 1, 2, 3]
    assert next(row for row in monitor.rows if row.step == 3) is before[3]


@pytest.mark.parametrize("step", [-1, 2.0, "4", None])
def test_what_is_no_step_is_told_once(weights, warned, step):
    monitor = EmergenceMonitor(weights, every=1, controls=False)
    assert monitor.update(step) is None
    assert monitor.measure(step) is None
    assert warned == [f"ninscope: step {step!r} is not measured; an integer from 0 on was expected"]


def test_nan_in_the_middle_of_a_run(weights, rng, warned):
    monitor = EmergenceMonitor(weights, every=1)
    monitor.update(0)
    weights["layers.1.weight"][2, 3] = np.nan
    for step in (1, 2):
        row = monitor.update(step)
        assert row.status == "nonfinite"
        assert "tensor layers.1.weight holds NaN or infinity, first at row 2, column 3" in row.message
        assert math.isnan(row.alpha0)
        assert row.values() == {}
    weights["layers.1.weight"][2, 3] = 0.1
    train(weights, rng)
    row = monitor.update(3)
    assert (row.status, math.isfinite(row.emergence)) == ("ok", True)
    assert len(warned) == 1
    assert "step 1 was not measured (nonfinite)" in warned[0]


def test_the_first_step_that_can_be_measured_is_the_baseline(weights, rng):
    weights["layers.0.weight"][0, 0] = np.inf
    monitor = EmergenceMonitor(weights, every=1)
    assert monitor.update(0).status == "nonfinite"
    weights["layers.0.weight"][0, 0] = 0.2
    assert monitor.update(1).emergence == 0
    train(weights, rng)
    assert monitor.update(2).emergence not in (0, math.nan)


def test_weights_that_do_not_move(weights, rng):
    """A warm-up whose first rate is 0, or a frozen model: nothing is wrong, and the row says so."""
    monitor = EmergenceMonitor(weights, every=1)
    monitor.update(0)
    row = monitor.update(1)
    assert (row.status, row.emergence) == ("ok", 0)
    assert "the same weights as step0" in row.message
    assert row.controls["emergence_growth"] == row.controls["emergence_fixed"] == 0
    weights["layers.1.weight"][0, 0] = np.nextafter(weights["layers.1.weight"][0, 0], np.float32(9))
    assert "the same weights" not in monitor.update(2).message
    assert "the same weights as step2" in monitor.update(3).message
    assert monitor.rows[3].emergence == monitor.rows[2].emergence


def test_a_model_without_weights_is_told_once(warned):
    monitor = EmergenceMonitor({}, every=1)
    rows = [monitor.update(step) for step in (0, 1)]
    assert {row.status for row in rows} <= {"unsupported", "corrupt"}
    assert len(warned) == 1


def test_matrices_that_change_their_shape(weights, rng):
    """Resized embeddings of a model of no known family: its neurons are others."""
    monitor = EmergenceMonitor(weights, every=1)
    monitor.update(0)
    weights["layers.0.weight"] = (rng.standard_normal((24, 22)) * 0.3).astype(np.float32)
    row = monitor.update(1)
    assert row.status == "ok"
    assert "its tensors are wired otherwise than those of step0: no E" in row.message
    assert math.isnan(row.emergence)
    assert math.isfinite(row.alpha0)
    assert row.controls["structure"] == row.values()["ninscope/structure"]


def test_whatever_else_goes_wrong_is_a_row(weights, monkeypatch, warned):
    monitor = EmergenceMonitor(weights, every=1)
    monkeypatch.setattr(steps, "look_at", lambda *_: 1 / 0)
    row = monitor.update(0)
    assert (row.status, row.message) == ("failed", "ZeroDivisionError: division by zero")

    def full(*_):
        raise MemoryError

    monkeypatch.setattr(steps, "look_at", full)
    assert monitor.update(1).message == "there is not enough memory to measure it"
    assert len(warned) == 1


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_passes(weights, monkeypatch, interrupt):
    def stopped(*_):
        raise interrupt

    monitor = EmergenceMonitor(weights, every=1, log=lambda values, step: stopped())
    with pytest.raises(interrupt):
        monitor.update(0)
    monkeypatch.setattr(steps, "look_at", stopped)
    with pytest.raises(interrupt):
        monitor.update(1)


def test_an_interrupt_of_compiled_code_passes(weights, monkeypatch):
    def stopped(*_):
        raise SystemError("CPUDispatcher returned a result with an exception set") from KeyboardInterrupt()

    monkeypatch.setattr(steps, "look_at", stopped)
    with pytest.raises(KeyboardInterrupt):
        EmergenceMonitor(weights, every=1).update(0)


def test_random_numbers_of_python_go_on(weights, tmp_path, monkeypatch):
    """What is loaded for a folder draws some."""

    def drawing(name):
        random.random()
        return import_module(name)

    monkeypatch.setattr(recording, "import_module", drawing)
    state = random.getstate()
    monitor = EmergenceMonitor(weights, every=1, log=[tmp_path / "mine", lambda values, step: random.random()])
    monitor.update(0)
    monitor.finish()
    after = random.getstate()
    random.setstate(state)
    random.random()  # of the function alone, which is the training's
    assert random.getstate() == after


def test_a_logger_that_fails_is_told_once(weights, rng, warned):
    seen = []

    def fails(values, step):
        raise OSError("no connection")

    monitor = EmergenceMonitor(weights, every=1, log=[fails, lambda values, step: seen.append(step)], controls=False)
    for step in range(3):
        monitor.update(step)
        train(weights, rng)
    assert seen == [0, 1, 2]
    assert warned == ["ninscope: the function that values are logged with failed at step 0: OSError: no connection"]


def test_who_handles_warnings_may_fail(weights):
    handler = logging.Handler()
    handler.emit = lambda record: 1 / 0
    troubles.LOGGER.addHandler(handler)
    try:
        assert EmergenceMonitor({}, every=1).update(0).status != "ok"
    finally:
        troubles.LOGGER.removeHandler(handler)


# The run folder


def test_what_the_folder_is_given(weights, rng, kept, tmp_path):
    with EmergenceMonitor(weights, every=2, log=tmp_path / "mine", snapshot=True, seed=5) as monitor:
        monitor.update(0)
        train(weights, rng)
        row = monitor.update(2)
        weights["layers.0.weight"][0, 0] = np.nan
        monitor.update(4)
    (request,) = kept.requests
    assert (request.name, request.model, request.every, request.seed) == ("mine", "state-dict", 2, 5)
    assert (request.controls, request.snapshot, request.parameters.exact) == (True, True, True)
    first, second, third = kept.results
    assert [result.step for result in kept.results] == [0, 2, 4]
    assert second.measurement.alpha0 == row.alpha0
    assert set(second.readings) == {"unit", "shuffled", "fixed", "growth"}
    assert set(first.readings) == {"unit", "shuffled"}
    assert second.norms["all"][:2] == (480 + 384, row.norm)
    values = weights["layers.1.weight"].astype(np.float64)
    name = next(name for name, (number, *_) in second.norms.items() if number == values.size)
    measured = [np.sqrt((values**2).sum()), np.sqrt((values**2).mean()), values.mean()]
    np.testing.assert_allclose(second.norms[name][1:], measured, rtol=1e-13)
    assert second.parameters_count == sum(values.size for values in weights.values())
    edges = {name: counts.histogram.shape for name, counts in second.counts.items()}
    assert set(edges) == {layer.name for layer in second.network.source_layers}
    assert {int(bins.sum()) for bins in second.totals.values()} == {480, 384}
    assert (third.step, third.status, third.message) == (4, "nonfinite", monitor.rows[-1].message)
    assert not hasattr(third, "measurement")
    assert (len(second.content), second.content != first.content) == (64, True)
    assert kept.calls == ["open", "add", "add", "add", "finish"]
    assert list((tmp_path / "mine" / "baseline").iterdir())


def test_a_training_that_fails_has_not_ended(weights, kept, tmp_path):
    def train_and_fail():
        with EmergenceMonitor(weights, log=tmp_path / "mine", controls=False) as monitor:
            monitor.update(0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train_and_fail()
    assert kept.calls == ["open", "add", "close"]


def test_a_second_session_goes_on_from_the_first_row(weights, rng, kept, tmp_path):
    first = EmergenceMonitor(weights, every=1, log=tmp_path / "mine")
    first.update(0)
    train(weights, rng)
    rows = [first.update(1)]
    first.finish()
    kept.next_session()
    second = EmergenceMonitor(weights, every=1, log=tmp_path / "mine")
    rows.append(second.update(1))
    assert rows[0].controls == rows[1].controls
    assert rows[0].emergence == rows[1].emergence != 0
    assert (rows[0].message, rows[0].status) == (rows[1].message, rows[1].status)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: [path.unlink() for path in folder.iterdir()],
            "baseline: the weights of the baseline are not all there",
        ),
        (lambda folder: [path.write_bytes(b"x" * 9) for path in folder.iterdir()], "not a safetensors file"),
        (
            lambda folder: save_pieces(folder, changed(open_pieces(folder))),
            "not the weights of step0, with which the run",
        ),
    ],
)
def test_without_the_weights_of_the_baseline_there_is_no_growth(weights, rng, kept, tmp_path, warned, damage, message):
    first = EmergenceMonitor(weights, every=1, log=tmp_path / "mine")
    first.update(0)
    train(weights, rng)
    before = first.update(1)
    first.finish()
    kept.next_session()
    damage(tmp_path / "mine" / "baseline")
    second = EmergenceMonitor(weights, every=1, log=tmp_path / "mine")
    rows = [second.update(1)]
    train(weights, rng)
    rows.append(second.update(2))
    for row in rows:
        assert "no growth: " in row.message
        assert "emergence_growth" not in row.controls
    assert rows[0].controls["emergence_fixed"] == before.controls["emergence_fixed"]
    assert rows[0].emergence == before.emergence
    assert len(warned) == 1
    assert message in warned[0]
    assert "E goes on, its control by growth does not" in warned[0]


def changed(saved):
    """The tensors that were kept, twice as large."""
    from ninscope.checkpoints.held_pieces import held_pieces
    from ninscope.checkpoints.in_memory import in_memory_source

    held = {name: 2 * piece.values for name, tensor in saved.tensors.items() for piece in held_pieces(tensor)}
    return in_memory_source(held).open("in memory").tensors


def test_a_baseline_that_vanishes_while_it_is_mapped_is_not_read(weights, rng, kept, tmp_path):
    monitor = EmergenceMonitor(weights, every=1, log=tmp_path / "mine")
    monitor.update(0)
    train(weights, rng)
    for path in (tmp_path / "mine" / "baseline").iterdir():
        path.unlink()
    row = monitor.update(1)
    assert "no growth: " in row.message
    assert "are gone" in row.message
    assert row.controls["emergence_fixed"] != 0
    assert row.emergence != 0


@pytest.mark.parametrize("what", ["open", "add", "finish"])
def test_a_folder_that_fails_is_told_once(weights, rng, kept, tmp_path, warned, what):
    kept.fails[what] = OSError(28, "No space left on device")
    monitor = EmergenceMonitor(weights, every=1, log=tmp_path / "mine")
    for step in range(3):
        assert monitor.update(step).ok
        train(weights, rng)
    monitor.finish()
    monitor.finish()
    assert len(monitor.rows) == 3
    assert len(warned) == 1
    assert "No space left on device" in warned[0]
    assert str(tmp_path / "mine") in warned[0]


def test_a_row_that_could_not_be_written_keeps_none_of_the_others_away(weights, rng, kept, tmp_path, warned):
    monitor = EmergenceMonitor(weights, every=1, log=tmp_path / "mine", controls=False)
    for step in range(4):
        kept.fails = {"add": OSError(28, "No space left on device")} if step in (1, 2) else {}
        monitor.update(step)
        train(weights, rng)
    assert [result.step for result in kept.results] == [0, 3]
    assert len(warned) == 1
    assert "the row of step 1 could not be written, later ones are tried: OSError: [Errno 28]" in warned[0]


def test_a_folder_that_refuses_is_left(weights, rng, kept, tmp_path, warned):
    monitor = EmergenceMonitor(weights, every=1, log=tmp_path / "mine", controls=False)
    kept.fails = {"add": RequestError("holds a training of another model"), "close": OSError("gone")}
    for step in range(3):
        assert monitor.update(step).ok
        train(weights, rng)
    assert kept.calls == ["open", "add", "close"]
    assert len(warned) == 1
    assert "no rows are written there: holds a training of another model; the training goes on" in warned[0]


@pytest.mark.parametrize("controls", [True, False])
def test_another_training_does_not_go_on_in_a_folder(weights, rng, kept, tmp_path, warned, controls):
    """Its first row comes at the step of the baseline, with other weights."""
    first = EmergenceMonitor(weights, every=1, log=tmp_path / "mine", controls=controls)
    first.update(0)
    first.finish()
    kept.next_session()
    before = [path.read_bytes() for path in (tmp_path / "mine").rglob("*.safetensors")]
    train(weights, rng)
    second = EmergenceMonitor(weights, every=1, log=tmp_path / "mine", controls=controls)
    assert (second.update(0).status, second.rows[0].emergence) == ("ok", 0)
    train(weights, rng)
    row = second.update(1)
    assert row.emergence != 0
    assert ("emergence_growth" in row.controls) == controls
    assert len(kept.results) == 1
    assert [path.read_bytes() for path in (tmp_path / "mine").rglob("*.safetensors")] == before
    assert len(warned) == 1
    assert "its step0 has other weights, so it holds another training; this one needs a new folder" in warned[0]


def test_the_same_weights_as_in_an_earlier_session(weights, rng, kept, tmp_path):
    first = EmergenceMonitor(weights, every=1, log=tmp_path / "mine")
    first.update(0)
    train(weights, rng)
    first.update(1)
    first.finish()
    kept.next_session()
    second = EmergenceMonitor(weights, every=1, log=tmp_path / "mine")
    assert "the same weights" not in second.update(1).message
    row = second.update(2)
    assert (row.status, row.emergence) == ("ok", second.rows[0].emergence)
    assert "the same weights as step1" in row.message
    assert set(kept.results[-1].readings) == {"unit", "shuffled", "fixed", "growth"}


def test_a_folder_in_which_the_baseline_cannot_be_kept(weights, rng, kept, tmp_path, warned):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "baseline").write_text("in the way")
    monitor = EmergenceMonitor(weights, every=1, log=tmp_path / "mine")
    monitor.update(0)
    train(weights, rng)
    assert math.isfinite(monitor.update(1).controls["emergence_growth"])  # from copies in memory
    assert len(kept.results) == 2
    assert len(warned) == 1
    assert "mine/baseline: the weights of the baseline are not kept there" in warned[0]


def test_two_monitors_do_not_write_one_folder(weights, kept, tmp_path, warned):
    first = EmergenceMonitor(weights, every=1, log=tmp_path / "mine", controls=False)
    second = EmergenceMonitor(weights, every=1, log=tmp_path / "there" / ".." / "mine", controls=False)
    first.update(0)
    assert second.update(0).ok
    assert len(kept.results) == 1
    assert len(warned) == 1
    assert "another monitor of this process writes there; give this one a folder of its own (log)" in warned[0]
    first.finish()
    third = EmergenceMonitor(weights, every=1, log=tmp_path / "mine", controls=False)
    third.update(0)
    assert len(kept.results) == 2


def test_a_folder_that_cannot_be_made(weights, rng, tmp_path, warned):
    (tmp_path / "file").write_text("in the way")
    monitor = EmergenceMonitor(weights, every=1, log=tmp_path / "file" / "mine")
    assert monitor.update(0).ok
    train(weights, rng)
    assert math.isfinite(monitor.update(1).controls["emergence_growth"])
    monitor.finish()
    assert len(warned) == 1
    assert "no rows are written there: " in warned[0]
    assert "the training goes on" in warned[0]


def test_a_folder_that_vanishes(weights, rng, tmp_path, warned):
    monitor = EmergenceMonitor(weights, every=1, log=tmp_path / "mine")
    monitor.update(0)
    shutil.rmtree(tmp_path / "mine")
    for step in (1, 2):
        train(weights, rng)
        row = monitor.update(step)
        assert math.isfinite(row.emergence)
        assert "no growth: " in row.message
    monitor.finish(ended=False)
    assert len(warned) == 1
    assert "mine/baseline/rank0-of-1.safetensors: the weights of the baseline are gone" in warned[0]


def test_a_folder_of_another_experiment_is_left_as_it_is(weights, tmp_path, warned):
    first = EmergenceMonitor(weights, every=1, log=tmp_path / "mine", controls=False)
    first.update(0)
    first.finish(ended=False)
    before = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    second = EmergenceMonitor(weights, every=1, log=tmp_path / "mine", controls=False, transfer="coth")
    assert second.update(0).ok
    assert len(warned) == 1
    assert "holds a training that was measured with" in warned[0]
    assert {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()} == before


# Several ranks


class Threads:
    """Ranks that are threads of this process."""

    def __init__(self, count):
        self.count, self._barrier, self._given = count, threading.Barrier(count, timeout=60), {}
        self._local = threading.local()

    def enter(self, number):
        self._local.number = number
        return self

    @property
    def number(self):
        return self._local.number

    def added(self, arrays, error=None):
        self._given[self.number] = (arrays, error)
        self._barrier.wait()
        given = [self._given[number] for number in range(self.count)]
        self._barrier.wait()
        for _, raised in given:
            if raised is not None:
                raise raised
        return [sum(of_rank[1:], start=of_rank[0]) for of_rank in zip(*(arrays for arrays, _ in given), strict=True)]


def spread_steps(weights_of_steps, folder, count, monkeypatch, damage=lambda number: None):
    """Rows of rank 0, of a model whose rows lie on several ranks; what each rank returned.

    weights_of_steps: state dicts by step.
    """
    ranks, rows, returned = Threads(count), [], []
    monkeypatch.setattr(steps, "makes_rows", lambda model: ranks.number == 0)

    def piece(weights, parameters):
        opened = open_model(weights, parameters)
        pieces = shares_of(opened.network, ranks.number, count)
        return OpenedModel(network_of(opened.network, pieces), opened.parameters_count, ranks)

    monkeypatch.setattr(steps, "open_model", piece)
    settings = checked_settings(
        1,
        folder,
        {"blocks": True, "controls": True, "snapshot": True, "trust_unlike_counts": False, "seed": 0},
        {},
    )

    def work(number):
        ranks.enter(number)
        damage(number)
        found = Troubles()
        of_rank = Steps(settings, Recording(settings, "Model", found), found)
        for step, weights in weights_of_steps.items():
            row, result = of_rank.measured(weights, MonitorRow(step, f"step{step}"))
            (rows if number == 0 else returned).append(row)
            if number == 0:
                of_rank._recording.add(row, result)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rows, returned


def shares_of(network, number, count):
    """What one of several ranks holds: rows, of unlike numbers, of every matrix."""
    from ninscope.checkpoints.held_pieces import HeldPiece
    from ninscope.checkpoints.saved_pieces import SavedPieces, _tensor

    tensors = {}
    for name, tensor in tensors_of(network).items():
        values, _ = tensor.rows(np.arange(tensor.shape[0]))
        cuts = [0, *(tensor.shape[0] * 2 // 3 + cut for cut in range(count - 1)), tensor.shape[0]]
        first, last = cuts[number], cuts[number + 1]
        piece = HeldPiece((first, 0), values[first:last])
        tensors[name] = _tensor(name, tensor.dtype, tensor.shape, [piece], True)
    return SavedPieces(tensors)


def test_a_model_on_several_ranks_has_the_rows_of_one(weights, rng, kept, tmp_path, monkeypatch):
    """Without a folder, with a new one, and with one that an earlier session of other ranks began."""
    states = {0: copy.deepcopy(weights)}
    train(weights, rng)
    states[1] = copy.deepcopy(weights)
    train(weights, rng)
    states[2] = weights
    alone = [EmergenceMonitor(states[0], every=1, blocks=True)]
    for step, state in states.items():
        alone[0]._model = state
        alone[0].update(step)
    expected = [
        (row.step, row.status, row.message, row.alpha0, row.emergence, row.controls, row.norm) for row in alone[0].rows
    ]

    def same(rows, number):
        told = [(row.step, row.status, row.message, row.alpha0, row.emergence, row.controls, row.norm) for row in rows]
        assert told == expected[-number:]
        assert [row.parts for row in rows] == [row.parts for row in alone[0].rows[-number:]]

    rows, returned = spread_steps(states, None, 2, monkeypatch)
    same(rows, 3)
    assert [row.alpha0 for row in returned if not math.isnan(row.alpha0)] == []
    rows, _ = spread_steps(states, tmp_path / "mine", 3, monkeypatch)
    same(rows, 3)
    assert len(list((tmp_path / "mine" / "baseline").iterdir())) == 3
    kept.next_session()
    later = {step: states[step] for step in (1, 2)}
    rows, _ = spread_steps(later, tmp_path / "mine", 2, monkeypatch)
    same(rows, 2)
    rows, _ = spread_steps(
        later, tmp_path / "mine", 2, monkeypatch,
        lambda number: number or (tmp_path / "mine/baseline/rank1-of-3.safetensors").unlink(missing_ok=True),
    )  # fmt: skip
    assert [row.emergence for row in rows] == [row.emergence for row in alone[0].rows[1:]]
    assert all("no growth: " in row.message and "emergence_growth" not in row.controls for row in rows)


def test_of_a_model_that_every_process_has_whole_rank_0_measures(weights, monkeypatch):
    monkeypatch.setattr(steps, "makes_rows", lambda model: False)
    monkeypatch.setattr("ninscope.integrations.monitor.makes_rows", lambda model: False)
    logged = []
    monitor = EmergenceMonitor(weights, every=1, log=lambda values, step: logged.append(step))
    assert monitor.update(0) is None
    assert monitor.rows == logged == []
    assert open_model(weights, monitor._settings.parameters).ranks is ALONE
