"""`neuron_measures` of [polysemanticity] by the command line: its tables, what is made again, what cannot be measured."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tomli_w
from driving import artefacts, command, made, results

from ninscope.errors import RequestError
from ninscope.neurons.polysemanticity.neuron_correlations import polysemanticity_neuron_correlations
from ninscope_pipeline.figures import FigureTables
from ninscope_pipeline.opened_run import open_run
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.stages.laboratory.planning import LaboratoryStage
from ninscope_pipeline.stages.laboratory.section import PolysemanticitySection
from ninscope_pipeline.stages.laboratory.toy_neurons import TOY_NEURONS_STAGE
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import ArtefactStore

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("torch_pruning", reason="torch-pruning is not installed")

SMALL = {
    "name": "small", "linear": False, "feature_layers": [3, 2], "inputs": 4, "outputs": 1, "sparsity": [0.3, 0.5],
    "observed": [4, 9, 6, 1], "epochs": 3, "samples_per_output": 30,
}  # fmt: skip
ASKED = {"seeds": [0, 1], "dropout": [0.0], "ratios": [0.1], "rates": [1e-3]}
MEASURED = {"neuron_measures": ["dormant", "phi", "universal"], "neuron_epochs": 2}


def dag_of(path: Path, own=(SMALL,), **changes) -> Path:
    path.write_text(tomli_w.dumps({"name": "lab", "polysemanticity": {**ASKED, **changes, "own": list(own)}}))
    return path


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """Torch is loaded here already, and any toy data will do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LaboratoryStage, "runs_models", False)
        patch.setattr("ninscope.neurons.polysemanticity.autoencoder.MIN_UPDATES", 100)
        patch.setattr("ninscope.neurons.polysemanticity.autoencoder.MIN_EPOCHS", 2)
        patch.setattr("ninscope.neurons.polysemanticity.feature_model.SEED_STEPS", 50)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("neurons")


@pytest.fixture(scope="module")
def options(place) -> tuple:
    return "--runs-dir", place / "runs", "--workers", 1


@pytest.fixture(scope="module")
def before(place, options, undrawn) -> dict:
    """What is stored of a run that does not ask for neurons."""
    ended = command("run", dag_of(place / "plain.toml"), *options)
    assert (ended.code, ended.says) == (0, [])
    run = place / "runs" / "lab"
    assert pd.read_parquet(run / "tables" / "polysemanticity_neurons.parquet").empty
    return artefacts(run)


@pytest.fixture(scope="module")
def run(place, options, before) -> Path:
    ended = command("run", dag_of(place / "lab.toml", **MEASURED), *options)
    assert (ended.code, ended.says) == (0, [])
    return place / "runs" / "lab"


@pytest.fixture(scope="module")
def rows(run) -> pd.DataFrame:
    return pd.read_parquet(run / "tables" / "polysemanticity_neurons.parquet")


def test_asking_for_neurons_makes_them_alone_and_a_second_run_does_nothing(place, options, before, run):
    new = made(before, artefacts(run))
    assert {stage: number for stage, number in new.items() if number} == {"toy_neurons": 4}
    stored = results(run)
    again = command("run", place / "lab.toml", *options)
    assert (again.code, again.says) == (0, [])
    assert "nothing to run" in again.out
    assert results(run) == stored


def test_networks_of_the_epochs_that_are_asked_for_and_of_the_last_have_rows(rows):
    assert rows["revision"].unique().tolist() == [
        "epoch0",
        "epoch2",
        "epoch3",
        "pruned-0.10",
        "retrained-0.10-rate-0.001",
    ]
    assert rows["model"].unique().tolist() == ["small-seed0", "small-seed1"]
    names = {"dormant", "dormant_score", "phi", "universal", "universal_rho", "universal_best", "universal_baseline"}
    assert set(rows["measure"]) == names | {"input_weight"}
    for _, network in rows.groupby(["model", "revision"]):
        assert network["layer"].unique().tolist() == ["all", "1", "2"]
        assert not network.duplicated(["layer", "measure"]).any()
    assert rows[rows["layer"] == "all"]["spearman_P"].isna().all()


def test_its_p_is_that_of_the_table_polysemanticity_and_single_neurons_are_stored(run, rows):
    keys = ["model", "revision", "layer"]
    degrees = ["P", "P_live", "P_samples"]
    whole = pd.read_parquet(run / "tables" / "polysemanticity.parquet").set_index(keys)[degrees]
    own = rows[rows["measure"] == "input_weight"].set_index(keys)[degrees]
    expected = whole.loc[own.index].astype(float)
    pd.testing.assert_frame_equal(own.astype(float), expected, rtol=1e-12)
    store = ArtefactStore(RunFolder(run))
    seen = []
    for job in sorted((run / "store.zarr" / "toy_neurons").iterdir()):
        if job.is_dir():
            stored = store.read("toy_neurons", job.name)
            sizes = [sum(layers) for layers in stored.attributes["neurons"]]
            assert stored.arrays["values"].shape == (len(stored.attributes["measures"]), sum(sizes))
            ends = np.cumsum(sizes)[:-1]
            seen += [float(part.mean()) for part in np.split(stored.arrays["P"], ends)]
    of_networks = rows[(rows["measure"] == "input_weight") & (rows["layer"] == "all")]["P"]
    assert sorted(seen) == pytest.approx(sorted(of_networks), rel=1e-12)


def test_correlations_are_made_of_the_table_and_the_figure_of_them(run, rows):
    stored = pd.read_parquet(run / "tables" / "polysemanticity_neuron_correlations.parquet")
    assert stored[["model", "revision", "step"]].isna().all(axis=None)
    expected = polysemanticity_neuron_correlations(rows)
    assert {"neurons", "networks"} == set(expected["over"])
    pd.testing.assert_frame_equal(stored[list(expected)], expected, check_dtype=False)
    tables = {name: open_run(run).table(name) for name in open_run(run).tables}
    ((name, figure),) = TOY_NEURONS_STAGE.figures(FigureTables(tables))
    assert name == "polysemanticity-neurons.png"
    (title,) = [
        text for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if "Which" in text.get_text()
    ]
    assert "without dropout, 2 seeds" in title.get_text()
    empty = {table: rows.iloc[:0] for table, rows in tables.items()}
    assert list(TOY_NEURONS_STAGE.figures(FigureTables(empty))) == []


@pytest.mark.parametrize(
    ("changes", "jobs"),
    [
        ({"seeds": [0, 1, 2]}, 2),
        ({"neuron_epochs": 1}, 2),
        ({"neuron_measures": ["phi"]}, 4),
        ({"neuron_measures": []}, 0),
        ({"ratios": [], "rates": []}, 0),
    ],
)
@pytest.mark.usefixtures("run")
def test_what_is_there_is_used_again(tmp_path, options, changes, jobs):
    would = command("run", dag_of(tmp_path / "lab.toml", **(MEASURED | changes)), *options, "--dry-run").would_run
    assert [stage for stage, _ in would].count("toy_neurons") == jobs


def test_a_training_that_diverges_has_rows_and_the_others_go_on(tmp_path, undrawn):
    wild = SMALL | {"name": "wild", "learning_rate": 1e30, "epochs": 1}
    dag = dag_of(tmp_path / "lab.toml", (wild,), seeds=[0], ratios=[], rates=[], neuron_measures="all")
    assert command("run", dag, "--runs-dir", tmp_path, "--workers", 1).code == 1
    rows = pd.read_parquet(tmp_path / "lab" / "tables" / "polysemanticity_neurons.parquet")
    assert set(rows[rows["revision"] == "epoch0"]["status"]) == {"ok"}
    assert "universal" not in set(rows["measure"])
    (failed,) = rows[rows["revision"] == "epoch1"].to_dict("records")
    assert (failed["status"], failed["layer"]) == ("nonfinite", "all")
    assert failed["message"] == "the loss or a weight is not finite from epoch 1 on"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"neuron_measures": ["dormat"]}, r"'dormat' is no measure of the neurons of these networks; did you mean 'dormant'\?.*"
                                          r"some of dead, dormant, hash_encoding, lazy, phi, universal, or \"all\""),
        ({"neuron_measures": ["sinks"]}, r"'sinks' is no measure of the neurons of these networks"),
        ({"neuron_measures": ["phi", "phi"]}, r"neuron_measures: a value is listed twice, 'phi'"),
        ({"neuron_measures": ["universal"], "seeds": [0]}, r"universal compares a network with that of another seed, and seeds "
                                                           r"has one; add a seed, or leave universal out"),
        ({"neuron_epochs": 0}, r"neuron_epochs: Input should be greater than or equal to 1"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_in_one_line(tmp_path, changes, says):
    with pytest.raises(RequestError, match=says):
        load_dag(dag_of(tmp_path / "lab.toml", **changes))


def test_all_measures_are_those_that_apply():
    def measures(**section) -> tuple[str, ...]:
        return PolysemanticitySection.model_validate(section).measures

    assert measures() == ()
    assert measures(neuron_measures="all") == ("dead", "dormant", "hash_encoding", "lazy", "phi", "universal")
    assert measures(neuron_measures="all", seeds=[3]) == ("dead", "dormant", "hash_encoding", "lazy", "phi")
