"""[polysemanticity] by the command line: a DAG file without models, its table, what is made again, and what cannot be made."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tomli_w
from driving import COMMAND, artefacts, command, contents, killed_when, made, results

import ninscope
from ninscope.errors import RequestError
from ninscope.neurons.polysemanticity.correlations import polysemanticity_correlations
from ninscope.neurons.polysemanticity.slopes import polysemanticity_slopes
from ninscope_pipeline.figures import FigureTables
from ninscope_pipeline.opened_run import open_run
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.stages.laboratory.planning import LaboratoryStage, Pruning, ToySeed, Training
from ninscope_pipeline.stages.laboratory.polysemanticity import POLYSEMANTICITY
from ninscope_pipeline.stages.laboratory.section import PolysemanticitySection
from ninscope_pipeline.stages.laboratory.toy_data import stored_toy_data
from ninscope_pipeline.stages.laboratory.toy_pruning import stored_pruning
from ninscope_pipeline.stages.laboratory.toy_training import stored_training
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import ArtefactStore

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("torch_pruning", reason="torch-pruning is not installed")

SMALL = {
    "name": "small", "linear": False, "feature_layers": [3, 2], "inputs": 4, "outputs": 1, "sparsity": [0.3, 0.5],
    "observed": [4, 8, 4, 1], "epochs": 2, "samples_per_output": 20,
}  # fmt: skip
ASKED = {"seeds": [0], "dropout": [0.0, 0.5], "ratios": [0.1, 0.2], "rates": [1e-3]}
STAGES = ("toy_data", "toy_training", "toy_pruning", "polysemanticity")


def dag_of(path: Path, own=(SMALL,), name: str = "lab", **changes) -> Path:
    asked = {**ASKED, **changes, **({"own": list(own)} if own else {})}
    path.write_text(tomli_w.dumps({"name": name, "polysemanticity": asked}))
    return path


@pytest.fixture(scope="module", autouse=True)
def _models_in_this_process():
    """Torch is loaded here already; another process would take 3 s of CPU to load it again."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LaboratoryStage, "runs_models", False)
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def _rough_toy_data(monkeypatch):
    """Toy data that take a tenth of the time, for tests in which any will do."""
    monkeypatch.setattr("ninscope.neurons.polysemanticity.autoencoder.MIN_UPDATES", 100)
    monkeypatch.setattr("ninscope.neurons.polysemanticity.autoencoder.MIN_EPOCHS", 2)
    monkeypatch.setattr("ninscope.neurons.polysemanticity.feature_model.SEED_STEPS", 50)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("laboratory")


@pytest.fixture(scope="module")
def dag(place) -> Path:
    return dag_of(place / "lab.toml")


@pytest.fixture(scope="module")
def options(place) -> tuple:
    return "--runs-dir", place / "runs", "--workers", 1


@pytest.fixture(scope="module")
def told(dag, options, undrawn):
    """What the first run of the file says."""
    return command("run", dag, *options)


@pytest.fixture(scope="module")
def run(told, place) -> Path:
    assert (told.code, told.says) == (0, [])
    return place / "runs" / "lab"


@pytest.fixture(scope="module")
def rows(run) -> pd.DataFrame:
    return table(run)


def table(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "tables" / "polysemanticity.parquet")


# --- the table ----------------------------------------------------------------------------------------------------------
def test_every_network_has_a_row_a_layer_and_one_of_all(rows):
    revisions = ["epoch0", "epoch1", "epoch2"]
    for ratio in ("0.10", "0.20"):
        revisions += [f"pruned-{ratio}", f"retrained-{ratio}-rate-0.001"]
    assert rows["revision"].unique().tolist() == revisions
    assert rows["model"].unique().tolist() == ["small-seed0", "small-dropout-seed0"]
    assert set(rows["suite"]) == {"polysemanticity"}
    assert set(rows["status"]) == {"ok"}
    told = rows[rows["message"].str.contains("4 inputs keep ")]  # of the toy data, once a model
    assert told[["revision", "layer"]].to_numpy().tolist() == [["epoch0", "all"]] * 2
    for _, network in rows.groupby(["model", "revision"]):
        assert network["layer"].tolist() == ["all", "1", "2"]
        whole, *layers = network.to_dict("records")
        assert whole["neurons"] == sum(layer["neurons"] for layer in layers)
        assert whole["dead"] == sum(layer["dead"] for layer in layers)
        mean = sum(layer["P"] * layer["neurons"] for layer in layers) / whole["neurons"]
        assert whole["P"] == pytest.approx(mean, rel=1e-12)
    training = rows[rows["phase"] == "training"]
    assert (training["step"] == training["epoch"]).all()
    assert set(training["pruning_ratio"]) == {0.0}
    assert rows[rows["phase"] != "training"]["step"].isna().all()
    assert rows["loss"].notna().tolist() == (rows["layer"] == "all").tolist()


def test_ratios_are_of_parameters_that_were_asked_for_and_that_are_gone(rows):
    before = 4 * 8 + 8 + 8 * 4 + 4 + 4 + 1
    for _, network in rows[rows["phase"] != "training"].groupby(["model", "revision"]):
        whole, first, second = network.to_dict("records")
        one, two = first["neurons"], second["neurons"]
        left = 4 * one + one + one * two + two + two + 1
        assert whole["pruning_ratio"] == pytest.approx(1 - left / before, rel=1e-12)
        assert whole["pruning_ratio"] >= whole["asked_ratio"]
        assert whole["pruning_ratio"] < whole["asked_ratio"] + 10 / before  # with no neuron more than that takes
        assert whole["neuron_ratio"] == pytest.approx(1 - (one + two) / 12, rel=1e-12)


def work_of(rows_of_model: pd.DataFrame) -> tuple[Training, Pruning]:
    section = PolysemanticitySection.model_validate(ASKED | {"own": [SMALL]})
    (experiment,) = section.chosen()
    training = Training(ToySeed(experiment, 0), float(rows_of_model["dropout"].iloc[0]))
    return training, Pruning(training, tuple(section.ratios), tuple(section.rates))


def naive_gradients(network, data) -> list[list[float]]:
    """By torch's autograd, neuron by neuron and feature by feature: 50 right Riemann steps from 0 to the unit vector."""
    layers = list(network.module())
    found = []
    for end in [number for number, layer in enumerate(layers) if isinstance(layer, torch.nn.ReLU)]:
        until = torch.nn.Sequential(data.encoder, *layers[: end + 1]).double()
        for neuron in range(layers[end - 1].out_features):
            gradients = []
            for feature in range(data.experiment.features):
                total = 0.0
                for number in range(1, 51):
                    point = torch.zeros(1, data.experiment.features, dtype=torch.float64)
                    point[0, feature] = number / 50
                    point.requires_grad_()
                    (gradient,) = torch.autograd.grad(until(point)[0, neuron], point)
                    total += float(gradient[0, feature])
                gradients.append(total / 50)
            found.append(gradients)
    return found


@pytest.mark.parametrize("revision", ["epoch2", "retrained-0.20-rate-0.001"])
def test_the_numbers_are_those_of_the_stored_networks(run, rows, revision):
    of_model = rows[rows["model"] == "small-dropout-seed0"]
    training, pruning = work_of(of_model)
    store = ArtefactStore(RunFolder(run))
    data = stored_toy_data(store, training.data)
    if revision == "epoch2":
        network = stored_training(store, training).networks[2]
    else:
        network = stored_pruning(store, pruning)[1].retrained[0].network
    gradients = np.abs(naive_gradients(network, data))
    largest = gradients.max(axis=1)
    live = largest > 0
    p = np.zeros(len(gradients))
    p[live] = gradients[live].sum(axis=1) / largest[live]
    shares = gradients[live] / gradients[live].sum(axis=1, keepdims=True)
    found = of_model[(of_model["revision"] == revision) & (of_model["layer"] == "all")].iloc[0]
    assert found["P"] == pytest.approx(p.mean(), rel=1e-9)
    assert found["dead"] == (~live).sum()
    assert found["D"] == pytest.approx(np.minimum(shares.sum(axis=0), 1).mean(), rel=1e-9)
    outputs = network.module()(torch.from_numpy(data.inputs[data.test])).detach().numpy()
    assert found["loss"] == pytest.approx(((outputs - data.outputs[data.test]) ** 2).mean(), rel=1e-5)


def test_a_training_begins_alike_with_dropout_and_without(rows):
    start = rows[rows["revision"] == "epoch0"].drop(columns=["model", "dropout"])
    without, dropped = (group.reset_index(drop=True) for _, group in start.groupby(np.arange(len(start)) // 3))
    assert without.equals(dropped)


# --- what is said -------------------------------------------------------------------------------------------------------
def test_the_words_at_the_end_say_what_was_made(told, run):
    assert (
        "lab: 2 models of its own\nslope of P on pruning, retrained at 0.001: 2 slopes are not told apart from 0.\n"
        in told.out
    )
    assert ".table('polysemanticity')" in told.out
    assert "checkpoint" not in told.out
    status = command("status", run)
    assert status.code == 0
    assert "lab: finished; 2 models of its own" in status.out
    assert "own models" in command("runs", "--runs-dir", run.parent).out
    with pytest.raises(
        RequestError, match="no checkpoints to draw; its models are its own, in the table 'polysemanticity', and"
    ):
        ninscope.open_run(run).plot()


def test_a_run_without_checkpoints_is_opened_asked_compared_and_put_on_a_page(run, place):
    opened = open_run(run)
    assert opened.facts()["models"] == 2
    assert opened.facts()["checkpoints"] == 0
    assert opened.table("checkpoints").empty
    with pytest.raises(RequestError, match="it has no checkpoints to draw; its models are its own"):
        opened.plot(model="small-seed0")
    asked = opened.query(
        "SELECT model, count(*) AS n FROM polysemanticity WHERE phase = 'training' GROUP BY model ORDER BY model"
    )
    assert asked["n"].tolist() == [9, 9]
    page = place / "lab.html"
    assert command("report", run, "--out", page).code == 0
    assert "there are no checkpoints" in page.read_text()
    assert command("clean", run, "--dry-run").out.endswith("would remove nothing; 0 bytes\n")


def test_its_figures_are_drawn_from_its_tables(run):
    tables = {name: open_run(run).table(name) for name in open_run(run).tables}
    name, figure = next(POLYSEMANTICITY.figures(FigureTables(tables)))
    assert name == "polysemanticity-small-training.png"
    assert figure.axes
    empty = {table: rows.iloc[:0] for table, rows in tables.items()}
    assert list(POLYSEMANTICITY.figures(FigureTables(empty))) == []


def test_slopes_and_correlations_are_made_of_the_table(run, rows):
    for name, make in (("slopes", polysemanticity_slopes), ("correlations", polysemanticity_correlations)):
        stored = pd.read_parquet(run / "tables" / f"polysemanticity_{name}.parquet")
        assert stored[["model", "revision", "step"]].isna().all(axis=None)
        expected = make(rows)
        assert len(expected)
        pd.testing.assert_frame_equal(stored[list(expected)], expected, check_dtype=False)


# --- what is made again -------------------------------------------------------------------------------------------------
def test_a_second_run_does_nothing(dag, options, run):
    before = results(run)
    assert command("run", dag, *options, "--dry-run").would_run == []
    again = command("run", dag, *options)
    assert (again.code, again.says) == (0, [])
    assert "nothing to run" in again.out
    assert results(run) == before


def listed(path: Path, options, **changes) -> dict[str, int]:
    """How many jobs of each stage would run."""
    would = [stage for stage, _ in command("run", dag_of(path, **changes), *options, "--dry-run").would_run]
    return {stage: would.count(stage) for stage in STAGES}


@pytest.mark.parametrize(
    ("changes", "jobs"),
    [
        ({"seeds": [0, 1]}, (1, 2, 2, 4)),
        ({"ratios": [0.1, 0.2, 0.3]}, (0, 0, 2, 2)),
        ({"rates": [1e-3, 1e-2]}, (0, 0, 2, 2)),
        ({"dropout": [0.0, 0.2]}, (0, 1, 1, 2)),
        ({"dropout": [0.0], "ratios": [], "rates": []}, (0, 0, 0, 0)),
        ({"own": (SMALL | {"observed": [4, 6, 1]},)}, (0, 2, 2, 4)),
        ({"own": (SMALL | {"sparsity": [0.2, 0.5]},)}, (1, 2, 2, 4)),
        ({"own": (SMALL, SMALL | {"name": "other"})}, (1, 2, 2, 4)),
        ({"suite": "mine"}, (0, 0, 0, 0)),
    ],
)
@pytest.mark.usefixtures("run")
def test_what_is_there_is_used_again(tmp_path, options, changes, jobs):
    assert listed(tmp_path / "lab.toml", options, **changes) == dict(zip(STAGES, jobs, strict=True))


@pytest.mark.usefixtures("_rough_toy_data")
def test_a_seed_that_is_added_leaves_the_others_as_they_are(tmp_path, place, run, rows):
    """In a copy of the run, so that other tests find it as it was."""
    import shutil

    shutil.copytree(run, tmp_path / "lab")
    before = artefacts(run)
    ended = command("run", dag_of(place / "two.toml", seeds=[0, 1]), "--runs-dir", tmp_path, "--workers", 1)
    assert (ended.code, ended.says) == (0, [])
    assert "lab: 4 models of its own" in ended.out
    assert made(before, artefacts(tmp_path / "lab")) == {
        "toy_data": 1,
        "toy_training": 2,
        "toy_pruning": 2,
        "polysemanticity": 4,
    }
    both = table(tmp_path / "lab")
    pd.testing.assert_frame_equal(both[both["seed"] == 0].reset_index(drop=True), rows)
    assert not both[both["seed"] == 1]["P"].reset_index(drop=True).equals(rows["P"])
    words = " ".join(ninscope.compare_runs(run, tmp_path / "lab").words)
    assert "checkpoint" not in words
    assert "Table polysemanticity: 42 rows in both, 42 only in B; those in both have the same numbers." in words


# --- what cannot be made ------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("_rough_toy_data")
def test_a_training_that_diverges_and_a_ratio_too_large_have_rows_and_the_others_go_on(tmp_path, undrawn):
    wild = SMALL | {"name": "wild", "learning_rate": 1e30}
    narrow = SMALL | {"name": "narrow", "observed": [4, 12, 2, 1]}
    dag = dag_of(tmp_path / "lab.toml", (wild, narrow), dropout=[0.0], ratios=[0.05, 0.8])
    ended = command("run", dag, "--runs-dir", tmp_path, "--workers", 1)
    assert ended.code == 1
    rows = table(tmp_path / "lab")
    of_wild, of_narrow = (rows[rows["experiment"] == name].set_index("revision") for name in ("wild", "narrow"))
    assert of_wild.loc["epoch0", "status"].tolist() == ["ok"] * 3
    failed = of_wild[of_wild["status"] != "ok"]
    assert set(failed["status"]) == {"nonfinite"}
    assert set(failed["layer"]) == {"all"}
    assert {"epoch1", "epoch2", "pruned-0.05", "retrained-0.80-rate-0.001"} <= set(failed.index)
    assert failed.loc["epoch2", "message"] == "the loss or a weight is not finite from epoch 1 on"
    assert failed.loc["pruned-0.05", "message"] == "its training diverged at epoch 1, so it was not pruned"
    assert set(of_narrow.loc[["epoch2", "pruned-0.05", "retrained-0.05-rate-0.001"], "status"]) == {"ok"}
    for revision in ("pruned-0.80", "retrained-0.80-rate-0.001"):
        assert of_narrow.loc[revision, "status"] == "refused"
        assert re.search(
            r"pruning_ratio 0.8 would remove all neurons of a hidden layer; the largest possible is 0\.\d+",
            of_narrow.loc[revision, "message"],
        )
    assert f"polysemanticity/wild-seed0 epoch1: nonfinite: {failed.loc['epoch1', 'message']}" in ended.says
    again = command("run", dag, "--runs-dir", tmp_path, "--workers", 1)
    assert (again.code, again.says) == (1, ended.says)
    assert "nothing to run" in again.out
    assert command("status", tmp_path / "lab").code == 1


@pytest.mark.usefixtures("_rough_toy_data")
def test_toy_data_that_cannot_be_made_fail_alone(tmp_path, undrawn):
    deep = SMALL | {"name": "deep", "linear": True, "feature_layers": [24] * 50, "samples_per_output": 1}
    dag = dag_of(tmp_path / "lab.toml", (deep, SMALL), dropout=[0.0], ratios=[], rates=[])
    ended = command("run", dag, "--runs-dir", tmp_path, "--workers", 1)
    assert ended.code == 1
    (line,) = ended.says
    assert line.startswith(
        "polysemanticity/deep-seed0 training: nonfinite: toy data of deep are not finite: the weights of its 50"
    )
    rows = table(tmp_path / "lab").groupby("experiment")["status"].agg(set).to_dict()
    assert rows == {"deep": {"nonfinite"}, "small": {"ok"}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"experiments": ["L3"]}, r"experiments: there is no experiment 'L3'.*the thesis has L1, L2, N1, N2, N3, N4"),
        ({"experiments": ["l1"]}, r"there is no experiment 'l1'; did you mean 'L1'\?"),
        ({"experiments": [], "own": ()}, r"experiments is empty, and there is no \[\[polysemanticity.own\]\]"),
        ({"experiments": ["L1", "L1"]}, r"experiments: a value is listed twice"),
        ({"ratios": [0.2, 0.1]}, r"ratios: the values do not ascend"),
        ({"ratios": [0.1, 0.1]}, r"ratios: a value is listed twice"),
        ({"ratios": [0.0]}, r"ratios.1: Input should be greater than 0 \(it is 0.0\)"),
        ({"ratios": [1.0]}, r"ratios.1: Input should be less than 1"),
        ({"ratios": [0.5, 0.95]}, r"ratios: small without 0.95 of its parameters has a hidden layer without neurons; the largest "
                                  r"ratio that may be possible is 0.888"),
        ({"ratios": []}, r"ratios and rates: one is empty and the other is not"),
        ({"rates": [0.0]}, r"rates.1: Input should be greater than 0"),
        ({"rates": [float("inf")]}, r"rates.1: Input should be"),
        ({"dropout": [1.0]}, r"dropout.1: Input should be less than 1"),
        ({"dropout": []}, r"dropout: List should have at least 1 item"),
        ({"seeds": [-1]}, r"seeds.1: Input should be greater than or equal to 0"),
        ({"seeds": [0, 0]}, r"seeds: a value is listed twice, 0; list each"),
        ({"seed": [0]}, r"polysemanticity.seed: no such key; did you mean 'seeds'\?"),
        ({"own": [SMALL | {"name": "L1"}]}, r"own.1: L1 is one of the thesis' experiments; give this one another name"),
        ({"own": [SMALL | {"name": "all"}]}, r"own.1: the name 'all' is one that tables or figures have a use for"),
        ({"own": [SMALL | {"name": "correlations"}]}, r"own.1: the name 'correlations' is one that tables or figures"),
        ({"own": [SMALL | {"name": "small-"}]}, r"own.1: the name 'small-' is one that tables or figures have a use for"),
        ({"own": [SMALL | {"epochs": 10**6, "observed": [4, 99, 1]}]}, r"own.1: the weights of every epoch are kept, which would"),
        ({"own": [SMALL | {"observed": [4, 1, 1, 1]}]}, r"small has one neuron in every hidden layer, of which none can go"),
        ({"own": [SMALL | {"features": 6}]}, r"own.1: experiment small: feature_layers has 5 neurons and features is 6"),
        ({"own": [SMALL | {"observed": [3, 8, 1]}]}, r"own.1: experiment small: observed is \[3, 8, 1\]"),
        ({"own": [SMALL | {"epoch": 3}]}, r"polysemanticity.own.1.epoch: no such key; did you mean 'epochs'\?"),
        ({"own": [SMALL, SMALL]}, r"own: two experiments have the name 'small'; rename one"),
        ({"own": [SMALL | {"name": "a/b"}]}, r"own.1.name: give letters, digits, .* \(it is 'a/b'\)"),
        ({"own": [SMALL | {"sparsity": 0.5}]}, r"own.1.sparsity: a list was expected, in square brackets \(it is 0.5\)"),
        ({"experiments": ["small"]}, r"no experiment 'small'.*others stand in .* and run without being listed here"),
        ({"own": [SMALL, SMALL | {"name": "small-dropout"}]}, r"the model polysemanticity/small-dropout-seed0 is listed twice"),
    ],
)  # fmt: skip
def test_a_wrong_section_is_refused_in_one_line(tmp_path, changes, says):
    with pytest.raises(RequestError, match=says):
        load_dag(dag_of(tmp_path / "lab.toml", **changes))


def test_one_own_experiment_in_single_brackets(tmp_path):
    file = dag_of(tmp_path / "lab.toml")
    file.write_text(file.read_text().replace("[[polysemanticity.own]]", "[polysemanticity.own]"))
    with pytest.raises(
        RequestError, match=r"polysemanticity.own: there may be several, so write \[\[polysemanticity.own\]\]"
    ):
        load_dag(file)


def test_experiments_of_the_thesis_are_all_six_unless_some_are_named_or_there_are_own_ones():
    def names(**section) -> list[str]:
        return [experiment.name for experiment in PolysemanticitySection.model_validate(section).chosen()]

    assert names() == ["L1", "L2", "N1", "N2", "N3", "N4"]
    assert names(experiments=["N1"]) == ["N1"]
    assert names(own=[SMALL]) == ["small"]
    assert names(experiments=["N1"], own=[SMALL]) == ["N1", "small"]


def test_a_file_beside_models_that_takes_one_of_their_names_is_refused(tmp_path):
    dag = dag_of(tmp_path / "lab.toml")
    dag.write_text(dag.read_text() + '\n[[models]]\nsuite = "polysemanticity"\nmodel = "small-seed0"\nsource = "x"\n')
    with pytest.raises(RequestError, match="the model polysemanticity/small-seed0 is listed twice"):
        load_dag(dag)


def test_without_torch_pruning_the_plan_says_what_to_install(dag, options, monkeypatch):
    find = "ninscope_pipeline.stages.laboratory.planning.find_spec"
    monkeypatch.setattr(find, lambda name: None if name == "torch_pruning" else object())
    ended = command("run", dag, *options, "--dry-run")
    assert (ended.code, ended.says) == (
        2,
        [
            "[polysemanticity] trains and prunes networks, and torch-pruning is not installed; install it: "
            "pip install 'ninscope[polysemanticity]'"
        ],
    )


def test_what_prunes_nothing_needs_no_torch_pruning(tmp_path, options, monkeypatch):
    find = "ninscope_pipeline.stages.laboratory.planning.find_spec"
    monkeypatch.setattr(find, lambda name: None if name == "torch_pruning" else object())
    dag = dag_of(tmp_path / "lab.toml", name="unpruned", ratios=[], rates=[])
    ended = command("run", dag, *options, "--dry-run")
    assert (ended.code, ended.says) == (0, [])
    assert "would run: toy_training small seed 0 dropout 0.5" in ended.out


def test_results_of_models_that_a_run_made_are_not_replaced_unasked(tmp_path, options, run):
    other = tmp_path / "lab.toml"
    model = {"suite": "s", "model": "m", "source": str(Path(__file__).parents[2] / "data" / "stdlib-neox-67k")}
    other.write_text(
        tomli_w.dumps({"name": "lab", "models": [model | {"revisions": ["step0"]}], "analysis": {"samples": 2}})
    )
    ended = command("run", other, *options)
    assert ended.code == 2
    (line,) = ended.says
    assert "holds results of polysemanticity/small-dropout-seed0 from the run itself and 1 more" in line


# --- kills --------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_killed_in_the_middle_is_as_never(dag, run, tmp_path):
    """The whole command, as soon as a training is stored; then the same command in this process."""
    runs = tmp_path / "runs"
    words = [*COMMAND, "run", str(dag), "--runs-dir", str(runs), "--workers", "1"]
    killed_when(words, tmp_path / "out.txt", lambda: bool(list(runs.glob("lab/checksums/toy_training/*.json"))))
    assert (
        "not finished; run the same command again to continue; 2 models of its own"
        in command("status", runs / "lab").out
    )
    assert command("run", dag, "--runs-dir", runs, "--dry-run").would_run
    ended = command("run", dag, "--runs-dir", runs, "--workers", "2")
    assert (ended.code, ended.says) == (0, [])
    for part in ("tables", *(f"store.zarr/{stage}" for stage in STAGES)):
        assert contents(runs / "lab" / part) == contents(run / part), part
