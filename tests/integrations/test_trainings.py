"""Real trainings that are measured: transformers' Trainer, Lightning of both names, a loop of torch; small models, few steps.

Rows must be what `ninscope.measure` says of the checkpoints that the same training saved, and the training must not notice.
"""

import copy
import math
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("lightning")

import lightning.pytorch as lightning
import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, Trainer, TrainerCallback, TrainerState, TrainingArguments

import ninscope
from ninscope.errors import RequestError
from ninscope.integrations import EmergenceCallback, EmergenceMonitor, LightningEmergenceCallback
from ninscope.multifractal.emergence import emergence

pytestmark = pytest.mark.slow
STEPS, EVERY, TOKENS, LENGTH = 4, 2, 64, 8
QUIET = {
    "WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_ERROR_REPORTING": "false",
    "WANDB_DISABLE_GIT": "true", "WANDB_DISABLE_CODE": "true", "WANDB__DISABLE_STATS": "true",
}  # fmt: skip


def small_model():
    """Dropout draws random numbers, so that a training which was disturbed would end elsewhere."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=TOKENS,
        max_position_embeddings=LENGTH, hidden_dropout=0.1, attention_dropout=0.1,
    )  # fmt: skip
    return GPTNeoXForCausalLM(config)


class Texts(torch.utils.data.Dataset):
    def __init__(self, number=64):
        self.number = number

    def __len__(self):
        return self.number

    def __getitem__(self, number):
        tokens = torch.randint(0, TOKENS, (LENGTH,), generator=torch.Generator().manual_seed(number))
        return {"input_ids": tokens, "labels": tokens}


def trainer_of(folder, callbacks, report_to="none", model=None, **settings):
    arguments = {
        "max_steps": STEPS, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-2,
        "logging_steps": 2, "save_steps": EVERY, "use_cpu": True, "disable_tqdm": True, "report_to": report_to,
        "dataloader_pin_memory": False,
    } | settings  # fmt: skip
    args = TrainingArguments(output_dir=str(folder), **arguments)
    model = model if model is not None else small_model()
    return Trainer(model, args, train_dataset=Texts(), eval_dataset=Texts(8), callbacks=callbacks)


class Seen(TrainerCallback):
    """What another callback is told."""

    def __init__(self):
        self.logs, self.modes = [], []

    def on_log(self, args, state, control, logs, model=None, **kwargs):
        self.logs.append((state.global_step, sorted(logs), control.should_log))
        self.modes.append(model.training)


class Trained:
    """One training with everything about it, and what it left behind."""

    def __init__(self, folder):
        self.folder = folder
        self.callback = EmergenceCallback(every=EVERY, blocks=True, trust_unlike_counts=True)
        self.other = EmergenceCallback(every=3, log=[], controls=False, transfer="coth")
        self.seen = Seen()
        callbacks = [self.callback, self.other, self.seen]
        self.trainer = trainer_of(
            folder, callbacks, ["tensorboard", "wandb"], eval_strategy="steps", eval_steps=3, run_name="small"
        )
        self.trainer.train()
        self.weights = {name: values.clone() for name, values in self.trainer.model.state_dict().items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        patch.setenv("WANDB_DIR", str(folder))
        patch.setenv("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard"))
        found = Trained(folder)
        import wandb

        found.summary = dict(wandb.run.summary)
        wandb.finish()
        return found


def test_rows_of_the_trainer_are_those_of_its_checkpoints(trained):
    rows = trained.callback.rows
    assert [(row.step, row.status) for row in rows] == [(step, "ok") for step in range(0, STEPS + 1, EVERY)]
    start = ninscope.measure(small_model(), parts=["block"])
    assert (rows[0].alpha0, rows[0].width, rows[0].emergence) == (start.alpha0, start.width, 0)
    for row in rows[1:]:
        measured = ninscope.measure(trained.folder / f"checkpoint-{row.step}", parts=["block"])
        assert (row.alpha0, row.width) == (measured.alpha0, measured.width)
        assert row.emergence == emergence(measured, start)
        assert {name: part[:2] for name, part in row.parts.items()} == {
            name: (part.alpha0, part.width) for name, (part,) in measured.parts.items()
        }
        assert math.isfinite(row.controls["emergence_growth"])
    assert [row.step for row in trained.other.rows] == [0, 3, 4]
    assert trained.other.rows[0].alpha0 != rows[0].alpha0


def test_the_training_does_not_notice(trained, tmp_path):
    without = trainer_of(tmp_path, [], save_strategy="no", eval_strategy="steps", eval_steps=3)
    without.train()
    for name, values in without.model.state_dict().items():
        assert torch.equal(values, trained.weights[name]), name
    own = [{key: entry[key] for key in ("loss", "eval_loss", "step") if key in entry} for entry in logs_of(without)]
    beside = [
        {key: entry[key] for key in ("loss", "eval_loss", "step") if key in entry} for entry in logs_of(trained.trainer)
    ]
    assert own == beside
    assert set(trained.seen.modes) == {True, False}  # in evaluation, and else in training


def logs_of(trainer):
    """What the Trainer logged itself."""
    return [entry for entry in trainer.state.log_history if not any(key.startswith("ninscope") for key in entry)]


def test_the_trainer_logs_rows_in_its_history(trained):
    history = trained.trainer.state.log_history
    steps = [entry["step"] for entry in history]
    assert steps == sorted(steps)
    for row in trained.callback.rows:
        expected = {**row.values(), "step": row.step}
        (entry,) = [entry for entry in history if expected.items() <= entry.items()]
        assert set(entry) - set(expected) == {"epoch"}
    assert "train_runtime" in history[-1]
    for row in trained.other.rows:  # of the second callback, by names of their own
        assert sum(row.values("ninscope2").items() <= entry.items() for entry in history) == 1
    own = [keys for _, keys, _ in trained.seen.logs if any(key.startswith("ninscope") for key in keys)]
    assert len(own) == len(trained.callback.rows) + len(trained.other.rows)
    natural = [step for step, keys, _ in trained.seen.logs if "loss" in keys]
    assert natural == [2, 4]  # none was lost to a row's log before it


def test_tensorboard_has_the_rows(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (trained.folder / "tensorboard").glob("events*")
    found = EventAccumulator(str(events)).Reload()
    scalars = found.Scalars("train/ninscope/emergence")
    expected = [(row.step, pytest.approx(row.emergence, rel=1e-6)) for row in trained.callback.rows]
    assert [(scalar.step, scalar.value) for scalar in scalars] == expected
    assert "train/ninscope/block/block1/alpha0" in found.Tags()["scalars"]


def test_wandb_has_the_rows(trained):
    last = trained.callback.rows[-1]
    assert trained.summary["train/ninscope/emergence"] == last.emergence
    assert trained.summary["train/global_step"] == last.step
    (kept,) = (trained.folder / "wandb").glob("offline-run-*/*.wandb")
    content = kept.read_bytes()
    assert content.count(b"train/ninscope/emergence_growth") >= len(trained.callback.rows)


def test_the_run_folder_has_the_rows(trained):
    run = ninscope.open_run(trained.folder / "ninscope")
    emergences, controls = run.table("emergence"), run.table("controls").set_index("step")
    whole = emergences[emergences["part"] == "all"].set_index("step")
    assert whole.index.tolist() == [row.step for row in trained.callback.rows]
    for row in trained.callback.rows:
        assert tuple(whole.loc[row.step, ["alpha0", "width", "emergence"]]) == (row.alpha0, row.width, row.emergence)
        for name in ("emergence_growth", "emergence_fixed", "structure", "emergence_growth_low"):
            told = controls.loc[row.step, name]
            assert told == row.controls.get(name, told) or math.isnan(told)
        for name, part in row.parts.items():
            (found,) = emergences[(emergences["step"] == row.step) & (emergences["part"] == name)].itertuples()
            assert (found.alpha0, found.width, found.emergence) == part
    norms = run.table("weights").query("matrix == 'all'").set_index("step")["norm"]
    assert norms.to_dict() == {row.step: row.norm for row in trained.callback.rows}
    kurtosis = run.measured().set_index("step")["degree_kurtosis"]
    assert kurtosis.to_dict() == pytest.approx(
        {row.step: row.degree_kurtosis for row in trained.callback.rows}, rel=1e-14
    )


def test_a_resumed_training_goes_on_in_its_folder(trained, tmp_path):
    """With another callback object, from the checkpoint of step 2. So step 4 comes again, with other weights: the Trainer restores
    a GPT-NeoX without its head, which is no part of the network.
    """
    shutil.copytree(trained.folder / "ninscope", tmp_path / "ninscope")
    callback = EmergenceCallback(every=EVERY, blocks=True, trust_unlike_counts=True)
    trainer = trainer_of(tmp_path, [callback], save_steps=4)
    trainer.train(resume_from_checkpoint=str(trained.folder / "checkpoint-2"))
    assert [row.step for row in callback.rows] == [2, 4]
    first = trained.callback.rows[1]
    assert (callback.rows[0].alpha0, callback.rows[0].emergence) == (first.alpha0, first.emergence)
    assert callback.rows[0].controls == first.controls
    last, start = ninscope.measure(tmp_path / "checkpoint-4"), ninscope.measure(small_model())
    assert (callback.rows[1].alpha0, callback.rows[1].emergence) == (last.alpha0, emergence(last, start))
    assert math.isfinite(callback.rows[1].controls["emergence_growth"])
    rows = ninscope.open_run(tmp_path / "ninscope").table("emergence").query("part == 'all'").set_index("step")
    assert rows.index.tolist() == [0, 2, 4]
    assert rows.loc[4, "emergence"] == callback.rows[1].emergence != trained.callback.rows[2].emergence
    logged = [entry["step"] for entry in trainer.state.log_history if "ninscope/alpha0" in entry]
    assert logged == [0, 2, 2, 4]


def test_a_training_that_stops_early_is_measured_at_its_end(tmp_path):
    """The best model is loaded after that, and is not what is measured."""

    class Stops(TrainerCallback):
        def on_evaluate(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3
            state.best_model_checkpoint = str(tmp_path / "checkpoint-1") if state.global_step == 3 else None

    callback = EmergenceCallback(every=100, log=[], controls=False)
    trainer = trainer_of(
        tmp_path, [Stops(), callback], eval_strategy="steps", eval_steps=1, save_steps=1, load_best_model_at_end=True,
        learning_rate=5e-2,
    )  # fmt: skip
    trainer.train()
    assert [row.step for row in callback.rows] == [0, 3]
    last = ninscope.measure(tmp_path / "checkpoint-3")
    assert callback.rows[-1].alpha0 == last.alpha0
    assert ninscope.measure(tmp_path / "checkpoint-1").alpha0 != last.alpha0


def test_bad_news_in_the_middle_of_a_training(tmp_path, warned):
    """Weights that are NaN when they are measured, and a callback that fails where the row is logged."""

    class Breaks(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            self.weights = model.gpt_neox.layers[0].mlp.dense_h_to_4h.weight
            if state.global_step == 1:
                self.weights.data[3, 2] = math.nan

        def on_log(self, args, state, control, logs, **kwargs):
            if state.global_step == 2 and "ninscope/alpha0" in logs:
                raise KeyError("loss")

    class Repairs(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            breaks.weights.data.nan_to_num_(0.01)

    callback, breaks = EmergenceCallback(every=1, log=[], trust_unlike_counts=True, controls=False), Breaks()
    trainer_of(tmp_path, [breaks, callback, Repairs()], save_strategy="no", max_steps=3).train()
    assert [row.status for row in callback.rows] == ["ok", "nonfinite", "ok", "ok"]
    assert [math.isfinite(row.emergence) for row in callback.rows] == [True, False, True, True]
    assert len(warned) == 2
    assert (
        "step 1 was not measured (nonfinite): tensor gpt_neox.layers.0.mlp.dense_h_to_4h.weight holds NaN" in warned[0]
    )
    assert "step 2 could not be logged by the Trainer: KeyError: 'loss'" in warned[1]


def test_a_model_that_changes_its_shape():
    """Embeddings are no part of the network; an MLP is."""
    model = small_model()
    monitor = EmergenceMonitor(model, every=1, trust_unlike_counts=True)
    monitor.update(0)
    model.resize_token_embeddings(TOKENS + 8)
    with torch.no_grad():
        model.gpt_neox.layers[0].attention.dense.weight *= 1.5
    row = monitor.update(1)
    assert row.emergence != 0
    assert math.isfinite(row.controls["emergence_growth"])
    for layer in model.gpt_neox.layers:
        layer.mlp.dense_h_to_4h, layer.mlp.dense_4h_to_h = torch.nn.Linear(16, 40), torch.nn.Linear(40, 16)
    model.config.intermediate_size = 40
    row = monitor.update(2)
    assert "its tensors are wired otherwise than those of step0: no E" in row.message
    assert (math.isnan(row.emergence), math.isfinite(row.alpha0)) == (True, True)


def test_a_model_that_cannot_be_measured_trains_on(tmp_path, warned):
    class Scale(torch.nn.Module):
        """What has no matrix, but trains."""

        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, input_ids, labels):
            return {"loss": self.scale * input_ids.float().mean()}

    callback = EmergenceCallback(every=2, log=[])
    trainer_of(tmp_path, [callback], model=Scale(), save_strategy="no").train()
    assert {row.status for row in callback.rows} <= {"unsupported", "corrupt"}
    assert [row.step for row in callback.rows] == [0, 2, 4]
    assert len(warned) == 1


def test_a_model_that_is_not_made_yet(warned):
    with torch.device("meta"):
        monitor = EmergenceMonitor(small_model(), every=1)
    assert [monitor.update(step).status for step in range(2)] == ["unsupported", "unsupported"]
    assert len(warned) == 1


def test_a_loop_of_ones_own(tmp_path):
    """Nothing of torch is touched: the same weights, gradients, random numbers and settings as without."""

    def train(monitor):
        model = torch.nn.Sequential(
            torch.nn.Linear(12, 24), torch.nn.Dropout(0.2), torch.nn.ReLU(), torch.nn.Linear(24, 12)
        )
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        told = []
        for step in range(5):
            if monitor is not None:
                monitor = monitor if step else EmergenceMonitor(model, every=2, **monitor)
                before = [parameter.grad for parameter in model.parameters()]
                with torch.autocast("cpu", torch.bfloat16):
                    row = monitor.update(step)
                if row is not None:
                    torch.save(model.state_dict(), tmp_path / f"step{step}.bin")
                assert all(now.grad is was for now, was in zip(model.parameters(), before, strict=True))
            told.append((model.training, torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_rng_state()))
            model(torch.randn(8, 12)).square().mean().backward()
            optimizer.step()
        return model, told, monitor

    torch.manual_seed(1)
    plain, told, _ = train(None)
    torch.manual_seed(1)
    measured, same, monitor = train({"controls": True})
    for (*settings, state), (*others, other) in zip(told, same, strict=True):
        assert settings == others
        assert torch.equal(state, other)
    for mine, other in zip(plain.parameters(), measured.parameters(), strict=True):
        assert torch.equal(mine, other)
        assert torch.equal(mine.grad, other.grad)
    assert [row.step for row in monitor.rows] == [0, 2, 4]


# Lightning


class Network(lightning.LightningModule):
    """A model of transformers that Lightning trains."""

    def __init__(self):
        super().__init__()
        self.model = small_model()
        self.loss = torch.nn.CrossEntropyLoss()

    def training_step(self, batch, number):
        loss = self.model(**batch).loss
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-2)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(Texts(), 2)

    def on_train_batch_end(self, outputs, batch, number):
        step = self.trainer.global_step
        if number % 2 and step % EVERY == 0:
            self.model.save_pretrained(Path(self.trainer.default_root_dir) / f"checkpoint-{step}")


class TwoPlayers(lightning.LightningModule):
    """Two optimizers, of which the second steps in every other batch, and in every third batch neither does."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.first, self.second = torch.nn.Linear(8, 12), torch.nn.Linear(12, 8)
        self.stepped = []

    def training_step(self, batch, number):
        loss = self.second(self.first(batch["input_ids"].float() / TOKENS)).square().mean()
        optimizers = self.optimizers()
        stepping = [] if number % 3 == 2 else optimizers if number % 2 else optimizers[:1]
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in stepping:
            optimizer.step()
        self.stepped.append(len(stepping))

    def configure_optimizers(self):
        return [torch.optim.SGD(half.parameters(), 0.5) for half in (self.first, self.second)]

    def train_dataloader(self):
        return torch.utils.data.DataLoader(Texts(), 2)


def lightning_trainer(package, folder, callbacks, **settings):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    chosen = {"logger": False, "max_steps": STEPS, "accelerator": "cpu"} | quiet | settings
    return package.Trainer(default_root_dir=folder, callbacks=callbacks, **chosen)


def test_rows_of_lightning_are_those_of_its_checkpoints(tmp_path):
    """Two micro-batches a step; two loggers; a callback beside it with the same settings."""
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    loggers = [CSVLogger(tmp_path, "csv", ""), TensorBoardLogger(tmp_path, "tensorboard", "")]
    callbacks = [
        LightningEmergenceCallback(every=EVERY, log=[], trust_unlike_counts=True, controls=False) for _ in range(2)
    ]
    torch.manual_seed(3)
    network = Network()
    start = ninscope.measure(network.model)
    lightning_trainer(
        lightning, tmp_path, callbacks, logger=loggers, accumulate_grad_batches=2, log_every_n_steps=2
    ).fit(network)
    for callback in callbacks:
        assert [(row.step, row.status) for row in callback.rows] == [(step, "ok") for step in (0, 2, 4)]
        for row in callback.rows[1:]:
            measured = ninscope.measure(tmp_path / f"checkpoint-{row.step}")
            assert (row.alpha0, row.width) == (measured.alpha0, measured.width)
            assert row.emergence == emergence(measured, start)
    import pandas as pd
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = pd.read_csv(tmp_path / "csv" / "metrics.csv", float_precision="round_trip").dropna(
        subset=["ninscope/alpha0"]
    )
    assert dict(zip(metrics["step"], metrics["ninscope/alpha0"], strict=True)) == {
        row.step: row.alpha0 for row in callbacks[0].rows
    }
    scalars = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("ninscope/alpha0")
    assert [scalar.step for scalar in scalars] == [0, 2, 4]
    assert "ninscope2/alpha0" in metrics


def test_steps_of_several_optimizers_are_batches_that_changed_weights(tmp_path):
    """And a training that is resumed counts on."""
    callback, network = LightningEmergenceCallback(every=2, log=[], controls=False), TwoPlayers()
    trainer = lightning_trainer(lightning, tmp_path, [callback], max_steps=-1, max_epochs=1, limit_train_batches=10)
    trainer.fit(network)
    changed = sum(stepped > 0 for stepped in network.stepped)
    assert (sum(network.stepped), changed) == (11, 7)
    assert trainer.global_step == 11
    assert [row.step for row in callback.rows] == [0, 2, 4, 6, 7]
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["EmergenceCallback"]
    assert state == {"steps": 7, "optimizer_steps": 11}
    again = LightningEmergenceCallback(every=2, log=[], controls=False)
    lightning_trainer(
        lightning, tmp_path, [again], max_steps=-1, max_epochs=2, limit_train_batches=10
    ).fit(TwoPlayers(), ckpt_path=tmp_path / "last.ckpt")  # fmt: skip
    assert [row.step for row in again.rows] == [7, 8, 10, 12, 14]
    assert again.rows[0].alpha0 == callback.rows[-1].alpha0


def test_pytorch_lightning_by_its_other_name(tmp_path, warned):
    """Whose classes are others; the model by its name, and by one that is not there."""
    other = pytest.importorskip("pytorch_lightning")
    callbacks = [
        LightningEmergenceCallback(every=1, log=[], module="second", controls=False),
        LightningEmergenceCallback(every=1, log=[], module="third.part"),
    ]
    assert all(
        isinstance(callback, lightning.Callback) and isinstance(callback, other.Callback) for callback in callbacks
    )

    class Other(other.LightningModule):
        def __init__(self):
            super().__init__()
            self.second = torch.nn.Linear(8, 12)

        def training_step(self, batch, number):
            return self.second(batch["input_ids"].float()).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 1e-4)

        train_dataloader = TwoPlayers.train_dataloader

    lightning_trainer(other, tmp_path, callbacks, max_steps=2).fit(Other())
    assert [(row.step, row.status) for row in callbacks[0].rows] == [(0, "ok"), (1, "ok"), (2, "ok")]
    assert callbacks[1].rows == []
    assert warned == ["ninscope: nothing is measured: module 'third.part': Other has no such attribute; it has second"]


def test_where_rows_go_unless_a_folder_is_named(tmp_path):
    """To a folder of the trainer's; of each trial of a search to another, and of a trial run of Lightning to none."""
    args = TrainingArguments(output_dir=str(tmp_path), report_to="none")
    states = [
        TrainerState(),
        *(TrainerState(is_hyper_param_search=True, trial_params={"rate": rate}) for rate in (1, 2)),
    ]
    folders = [EmergenceCallback()._monitor_of(args, state, torch.nn.Linear(8, 8))._settings.folder for state in states]
    assert folders[0] == tmp_path / "ninscope"
    assert len(set(folders)) == 3
    assert all(folder.parent == tmp_path and folder.name.startswith("ninscope-") for folder in folders[1:])
    for is_trial, folder in ((False, tmp_path / "ninscope"), (True, None)):
        trainer = SimpleNamespace(fast_dev_run=is_trial, default_root_dir=str(tmp_path))
        monitor = LightningEmergenceCallback()._monitor_of(trainer, torch.nn.Sequential(torch.nn.Linear(8, 8)))
        assert monitor._settings.folder == folder
        named = LightningEmergenceCallback(log=tmp_path / "mine")._monitor_of(trainer, torch.nn.Linear(8, 8))
        assert named._settings.folder == tmp_path / "mine"


def test_a_callback_goes_to_processes_that_are_started():
    callback = LightningEmergenceCallback(every=3, log="somewhere", module="model", q=np.arange(-2, 3))
    again = pickle.loads(pickle.dumps(callback))
    assert type(again) is type(callback)
    assert again._settings.every == 3
    assert again._settings.parameters.q.tolist() == [-2, -1, 0, 1, 2]


def test_a_callback_that_has_measured_can_be_copied_and_sent(trained):
    """As that of a Trainer which a search of hyperparameters hands to other processes."""
    for again in (copy.deepcopy(trained.callback), pickle.loads(pickle.dumps(trained.callback))):
        assert (again.rows, again._settings.every) == ([], EVERY)
    assert trained.callback.rows


def test_a_module_that_holds_its_monitor_can_be_copied(tmp_path, warned):
    """As an average of weights is, or a module that goes to another process."""
    model = torch.nn.Sequential(torch.nn.Linear(12, 24), torch.nn.Linear(24, 12))
    model.monitor = EmergenceMonitor(model, every=1, log=tmp_path / "mine")
    model.monitor.update(0)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(model.monitor)._model):
        assert again.monitor._model is again is not model
        assert again.monitor.rows == []
        row = again.monitor.update(0)
        assert (row.alpha0, row.width) == (model.monitor.rows[0].alpha0, model.monitor.rows[0].width)
    assert len(warned) == 3
    assert "another monitor of this process writes there" in warned[0]
    model.monitor.finish()


@pytest.mark.parametrize("make", [EmergenceCallback, LightningEmergenceCallback])
def test_a_wrong_request_of_a_callback(make):
    with pytest.raises(RequestError, match="every is 0"):
        make(every=0)
    with pytest.raises(RequestError, match=r"every is a Linear; .*a callback is given the model by its trainer"):
        make(torch.nn.Linear(4, 4))
    with pytest.raises(RequestError, match="unknown parameter blocs; did you mean 'blocks'"):
        make(blocs=True)
    with pytest.raises(RequestError, match="module is 3; the name of an attribute"):
        LightningEmergenceCallback(module=3)


@pytest.mark.parametrize(
    ("make", "hook", "other"),
    [
        (EmergenceCallback, "setup", "for Lightning there is ninscope.integrations.LightningEmergenceCallback"),
        (LightningEmergenceCallback, "on_init_end", "Trainer there is ninscope.integrations.EmergenceCallback"),
    ],
)
def test_a_callback_of_the_other_library_is_named(make, hook, other):
    with pytest.raises(AttributeError, match=f"no attribute '{hook}': .*{other}"):
        getattr(make(), hook)


def test_a_callback_that_was_attached_knows_where_to_log(tmp_path, warned):
    """And one that is called by nobody that hands values round says so."""
    trainer = trainer_of(tmp_path, [], max_steps=1, save_strategy="no")
    callback = EmergenceCallback(every=1, log=[], controls=False).attach(trainer)
    assert sum(other is callback for other in trainer.callback_handler.callbacks) == 1
    callback.attach(trainer)
    assert sum(other is callback for other in trainer.callback_handler.callbacks) == 1
    callback.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)
    assert "ninscope/alpha0" in trainer.state.log_history[0]
    lost = EmergenceCallback(every=1, log=[], controls=False)
    lost.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)
    assert [row.step for row in lost.rows] == [0]
    assert ["callback.attach(trainer)" in text for text in warned] == [True]
