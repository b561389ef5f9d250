"""[[neurons]] by the command line: the table beside plain computations, what is taken again, what fails, and single neurons."""

import contextlib
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from driving import artefacts, command, contents, made, results, write_dag

import ninscope
from ninscope.errors import RequestError

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
import anndata
import torch
import transformers
from finetune_models import add_sections, write_prose
from finetune_models import made as made_model
from models_here import _models_in_this_process  # noqa: F401 (fixture)
from neuron_measures import EVERY, known_measures
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr

from ninscope.exact.layers import NodeValues
from ninscope.neurons.observatory.subject import Subject
from ninscope_pipeline.figures import FigureTables
from ninscope_pipeline.prepared_run import prepare
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.results import Results
from ninscope_pipeline.stages.measurements import nodes_frame
from ninscope_pipeline.stages.neurons import observing
from ninscope_pipeline.stages.neurons.places import correlation_rows, single_neurons
from ninscope_pipeline.stages.neurons.planning import KEPT, NEURONS
from ninscope_pipeline.stages.neurons.stage import NEURONS_STAGE
from ninscope_pipeline.storing.annotated import AnnotatedMatrix
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import ArtefactStore

pytestmark = pytest.mark.usefixtures("undrawn", "_small_measures")
WINDOW = 16
SECTION = {"text": "prose.txt", "window": WINDOW, "tokens": 4096, "tokenizer": "bytes", "batch_size": 16}
ONE = [{"suite": "tiny", "model": "tiny-0", "source": "tiny-0"}]
SEEDS = [{"suite": "tiny", "model": "tiny-{seed}", "source": "tiny-{seed}", "seeds": [0, 1]}]
KEYS = ["suite", "model", "revision"]
WHOLE = {"exact": True, "nodes_per_layer": "all", "samples": None}
PER_NODE = WHOLE | {"per_node": True}


@pytest.fixture(scope="module")
def _small_measures() -> Iterator[None]:
    with known_measures(*EVERY):
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Two seeds, of two revisions each, and a text."""
    folder = tmp_path_factory.mktemp("neurons")
    for seed in (0, 1):
        for step in (0, 4):
            made_model("neox", seed=10 * seed + step).save_pretrained(folder / f"tiny-{seed}" / f"step{step}")
    write_prose(folder)
    return folder


def dag_of(place: Path, name: str = "tiny", models=SEEDS, analysis=None, **section) -> Path:
    dag = write_dag(place / f"{name}.toml", models=models, **(analysis or {}))
    return add_sections(dag, neurons=SECTION | section)


def run_of(dag: Path, runs: Path, code: int = 0) -> Path:
    ended = command("run", dag, "--runs-dir", runs, "--workers", 1)
    assert ended.code == code, ended.err
    return runs / dag.stem


def table(run: Path, name: str = "neurons") -> pd.DataFrame:
    return pd.read_parquet(run / "tables" / f"{name}.parquet")


@contextlib.contextmanager
def counted_passes() -> Iterator[list[int]]:
    """How many batches go through any model meanwhile, one entry each."""
    passes: list[int] = []
    forward = Subject.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Subject, "forward", lambda self, batch: passes.append(batch.number) or forward(self, batch))
        yield passes


@pytest.fixture(scope="module")
def run(place, _small_measures, undrawn) -> Path:
    return run_of(dag_of(place, "whole", analysis=PER_NODE, neuron_values=True), place / "runs")


# --- the table beside plain computations ----------------------------------------------------------------------------------
def windows_of(place: Path) -> torch.Tensor:
    text = np.frombuffer((place / "prose.txt").read_bytes(), np.uint8)
    count = len(text) // WINDOW
    return torch.from_numpy(text[: count * WINDOW].reshape(count, WINDOW).astype(np.int64))


def plain(place: Path, seed: int, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(logits, activations of hidden neurons by layer) of a checkpoint on the text, by the library alone."""
    folder = place / f"tiny-{seed}" / f"step{step}"
    model = transformers.GPTNeoXForCausalLM.from_pretrained(folder).eval()
    hidden: dict[str, torch.Tensor] = {}
    for number, layer in enumerate(model.gpt_neox.layers):
        layer.mlp.act.register_forward_hook(lambda m, a, out, n=number: hidden.update({f"block{n}.m": out}))
    with torch.no_grad():
        return model(windows_of(place)).logits, hidden


def test_rows_are_in_order_and_whole(run):
    rows = table(run)
    assert rows["text"].unique().tolist() == ["prose"]
    assert rows[[*KEYS, "step"]].drop_duplicates().values.tolist() == [
        ["tiny", f"tiny-{seed}", f"step{step}", step] for seed in (0, 1) for step in (0, 4)
    ]
    last = rows[(rows["model"] == "tiny-0") & (rows["step"] == 4)]
    assert last[["measure", "layer", "control", "against", "status"]].values.tolist() == [
        ["classes", "all", "none", "", "unsupported"],
        *[["gap", "all", control, other, "ok"] for control in ("none", "shuffled") for other in ("start", "previous", "seed")],
        *[["logit", "all", control, "", "ok"] for control in ("none", "shuffled")],
        *[["size", f"block{n}.m", control, "", "ok"] for control in ("none", "shuffled") for n in (0, 1)],
        ["twin", "all", "none", "seed", "ok"],
    ]  # fmt: skip
    first = rows[(rows["model"] == "tiny-0") & (rows["step"] == 0)]
    assert first[first["measure"] == "gap"]["against"].tolist() == ["seed", "seed"]  # nothing is before the start
    assert rows[KEYS].dtypes.eq(pd.read_parquet(run / "tables" / "checkpoints.parquet")[KEYS].dtypes).all()


@pytest.mark.parametrize("step", [0, 4])
def test_numbers_are_those_of_the_library(run, place, step):
    rows = table(run).query("model == 'tiny-1' and step == @step and control == 'none'").set_index("measure")
    logits, hidden = plain(place, 1, step)
    assert rows.loc["logit", "value"] == pytest.approx(float(logits.abs().max()), rel=1e-5)
    for layer, h in hidden.items():
        size = h.flatten(0, 1).abs().double().mean(0).numpy()
        row = rows.loc["size"].set_index("layer").loc[layer]
        assert row["value"] == pytest.approx(size.mean(), rel=1e-6)
        np.testing.assert_allclose(
            row[["p05", "p25", "p50", "p75", "p95"]].to_numpy(float),
            np.quantile(size, [0.05, 0.25, 0.5, 0.75, 0.95]),
            rtol=1e-6,
        )
        assert row["count"] == 24
    seed = rows.loc[["gap"]].set_index("against").loc["seed"]
    apart = (logits - plain(place, 0, step)[0]).abs().double().mean()
    assert seed["value"] == pytest.approx(float(apart), rel=1e-5)
    assert seed["message"] == "over tiny-0"


def test_the_start_is_the_first_step_and_the_revision_before_that_of_the_run(place, tmp_path):
    made_model("neox", seed=8).save_pretrained(tmp_path / "tiny-0" / "step8")
    for step in (0, 4):
        shutil.copytree(place / "tiny-0" / f"step{step}", tmp_path / "tiny-0" / f"step{step}")
    write_prose(tmp_path)
    rows = table(run_of(dag_of(tmp_path, models=ONE, measures=["gap"], revisions=["step8"]), tmp_path / "runs"))
    logits = {step: plain(tmp_path, 0, step)[0] for step in (0, 4, 8)}
    found = rows[rows["control"] == "none"].set_index("against")["value"]
    assert found["start"] == pytest.approx(float((logits[8] - logits[0]).abs().double().mean()), rel=1e-5)
    assert found["previous"] == pytest.approx(float((logits[8] - logits[4]).abs().double().mean()), rel=1e-5)
    assert set(rows["revision"]) == {"step8"}


# --- single neurons -------------------------------------------------------------------------------------------------------
def test_single_neurons_beside_their_place_in_the_network(run, place):
    opened = ninscope.open_run(run)
    values = opened.neuron_values("tiny-0", 4, nodes=True)
    columns = [*KEYS, "step", "layer", "index", "unit", "size", "size/shuffled"]
    assert list(values)[: len(columns)] == columns
    _, hidden = plain(place, 0, 4)
    for layer, h in hidden.items():
        rows = values[values["layer"] == layer]
        assert rows["index"].tolist() == list(range(24))
        np.testing.assert_allclose(rows["size"], h.flatten(0, 1).abs().double().mean(0).numpy(), rtol=1e-6)
    nodes = opened.nodes("tiny-0", 4).set_index(["layer", "neuron"])
    for row in values.itertuples():
        assert row.dimension == nodes.loc[(row.layer, row.index), "dimension"]
        assert row.edges == nodes.loc[(row.layer, row.index), "edges"]
    assert set(values["unit"]) == {"neuron"}


def test_single_neurons_are_an_anndata(run):
    values = ninscope.open_run(run).neuron_values("tiny-0", "step4")
    key = next(entry for entry in ninscope.open_run(run).plan["checkpoints"] if entry["revision"] == "step4")[
        "neurons prose"
    ]
    read = anndata.read_zarr(run / "store.zarr" / NEURONS / key / "annotated")
    np.testing.assert_array_equal(read.X, values[["size", "size/shuffled"]])
    assert read.obs["layer"].astype(str).tolist() == values["layer"].tolist()
    assert read.obs["index"].tolist() == values["index"].tolist()
    assert read.obs_names[25] == "block1.m/1"
    assert read.var.to_dict("index") == {
        "size": {"measure": "size", "control": "none", "against": ""},
        "size/shuffled": {"measure": "size", "control": "shuffled", "against": ""},
    }


def test_single_neurons_that_were_not_asked_for(place, tmp_path, run):
    opened = ninscope.open_run(run_of(dag_of(place, "lean", ONE, measures=["size"], revisions="last"), tmp_path))
    with pytest.raises(RequestError, match=r"no values of single neurons.*set neuron_values = true in \[\[neurons\]\]"):
        opened.neuron_values("tiny-0", "step4")
    with pytest.raises(RequestError, match="it has step0, step4"):
        ninscope.open_run(run).neuron_values("tiny-0", "step5")
    with pytest.raises(RequestError, match=r"were not measured on 'poetry'.*they were on prose"):
        ninscope.open_run(run).neuron_values("tiny-0", "step4", text="poetry")


def test_places_in_the_network_against_measures(run):
    """scipy's correlations of what a run says of its single neurons, and every pair once."""
    rows, opened = table(run, "neuron_places"), ninscope.open_run(run)
    assert rows[KEYS].drop_duplicates().values.tolist() == [
        ["tiny", f"tiny-{seed}", f"step{step}"] for seed in (0, 1) for step in (0, 4)
    ]
    columns = {"alpha": "dimension", "mean_distance": "average_weighted_degree", "degree": "edges"}
    assert set(rows["layer"]) == {"all", *opened.nodes("tiny-0", 4)["layer"].unique()} & {"all", "block0.m", "block1.m"}
    for (model, step, layer), found in rows.groupby(["model", "step", "layer"]):
        neurons = opened.neuron_values(model, int(step), nodes=True)
        neurons = neurons if layer == "all" else neurons[neurons["layer"] == layer]
        assert found[["place", "measure", "control", "against"]].values.tolist() == [
            [place, "size", control, ""] for place in columns for control in ("none", "shuffled")
        ]
        for row in found.itertuples():
            place, size = neurons[columns[row.place]], neurons["size" if row.control == "none" else "size/shuffled"]
            assert row.neurons == len(neurons) == (48 if layer == "all" else 24)
            if place.nunique() == 1:
                assert (row.status, row.message) == (
                    "unsupported",
                    f"all {len(neurons)} neurons are alike in the one or in the other",
                )
                assert math.isnan(row.correlation)
                continue
            assert row.correlation == pytest.approx(spearmanr(place, size).statistic)
            assert (row.status, row.message) == ("ok", "")
            assert -1 <= row.low <= row.high <= 1
    assert (rows["status"] == "ok").sum() >= 4 * 2 * 2
    assert set(rows["text"]) == {"prose"}


def test_values_of_heads_and_measures_of_too_few_neurons():
    """Heads have no place of their own; what no neuron has is told."""
    nodes = nodes_frame({"a.m": NodeValues(*(np.arange(4.0) for _ in range(4)))})
    matrix = AnnotatedMatrix(
        np.array([[1.0, np.nan, np.nan, np.nan], [3, np.nan, 1, np.nan], [2, np.nan, 2, np.nan], [5, np.nan, np.nan, np.nan]]
                 + [[np.nan, 7.0, np.nan, np.nan]] * 4),
        [str(number) for number in range(8)],
        ["size", "sink", "few", "none/seed"],
        {"layer": ["a.m"] * 8, "index": np.array([0, 1, 2, 3] * 2), "unit": ["neuron"] * 4 + ["head"] * 4},
        {"measure": ["size", "sink", "few", "none"], "control": ["none"] * 4, "against": ["", "", "", "seed"]},
    )  # fmt: skip
    rows = (
        pd.DataFrame(correlation_rows(matrix, nodes)).query("place == 'alpha' and layer == 'all'").set_index("measure")
    )
    assert rows.index.tolist() == ["size", "few", "none"]
    assert rows.loc["size", ["neurons", "correlation", "status"]].tolist() == [4, pytest.approx(0.8), "ok"]
    assert rows.loc["few", "message"] == "2 neurons have both, and a correlation needs 3"
    assert rows.loc["none", ["message", "against"]].tolist() == [
        "0 neurons have both, and a correlation needs 3",
        "seed",
    ]
    assert rows.loc[["few", "none"], "status"].tolist() == ["unsupported"] * 2


def test_places_are_there_where_both_are_asked_for_whatever_is_stored(place, tmp_path):
    """The exact analysis of before, which has single neurons, is used as it is; the table is of what is asked."""
    asked = {"measures": ["size"], "neuron_values": True, "revisions": "last"}
    run = run_of(dag_of(place, "asked", ONE, PER_NODE, **asked), tmp_path)
    first = contents(run / "tables")
    assert set(table(run, "neuron_places")["revision"]) == {"step4"}
    with counted_passes() as passes:
        for analysis, changes in ((WHOLE, {}), (PER_NODE, {"neuron_values": False})):
            run_of(dag_of(place, "asked", ONE, analysis, **asked | changes), tmp_path)
            assert table(run, "neuron_places").empty
            assert not table(run).empty
    assert passes  # of the results without single neurons, which are others
    run_of(dag_of(place, "asked", ONE, PER_NODE, **asked), tmp_path)
    assert contents(run / "tables") == first


# --- what is taken again --------------------------------------------------------------------------------------------------
def test_a_second_run_does_nothing(run, place):
    before = results(run)
    with counted_passes() as passes:
        ended = command("run", place / "whole.toml", "--runs-dir", place / "runs", "--workers", 1)
    assert "nothing to run" in ended.out
    assert results(run) == before
    assert passes == []


def test_one_measure_more_costs_that_measure_alone(place, tmp_path):
    with counted_passes() as of_logit:
        alone = run_of(dag_of(place, "alone", ONE, measures=["logit"]), tmp_path)
    run_of(dag_of(place, "more", ONE, measures=["size"]), tmp_path)
    before = artefacts(tmp_path / "more")
    with counted_passes() as passes:
        more = run_of(dag_of(place, "more", ONE, measures=["size", "logit"]), tmp_path)
    assert len(passes) == len(of_logit) > 0
    assert made(before, artefacts(more))[KEPT] == 2 * 2
    of_both = table(more)
    pd.testing.assert_frame_equal(
        of_both[of_both["measure"] == "logit"].reset_index(drop=True), table(alone).reset_index(drop=True)
    )
    with counted_passes() as passes:  # and one less costs nothing
        run_of(dag_of(place, "more", ONE, measures=["logit"]), tmp_path)
    assert passes == []
    cleaned = command("clean", more)
    assert cleaned.code == 0
    assert len(artefacts(more)[KEPT]) == 2 * 2
    assert artefacts(more)[KEPT] == artefacts(alone)[KEPT]


def test_a_run_that_ends_on_the_way_goes_on_from_there(place, tmp_path, monkeypatch):
    """It dies over the last result of the first control; what is stored at the end is byte for byte the same."""
    undisturbed = run_of(
        dag_of(place, "once", ONE, measures=["size", "gap"], neuron_values=True, revisions="last"), tmp_path / "a"
    )
    whole = observing.taken_results

    def dies(store, work, check):
        write, controls = store.write, []

        def until_the_second(stage, key, artefact):
            write(stage, key, artefact)
            controls.append(key)
            if len(controls) == 3:
                raise MemoryError("killed")

        store.write = until_the_second
        return whole(store, work, check)

    monkeypatch.setattr("ninscope_pipeline.stages.neurons.stage.taken_results", dies)
    run = run_of(
        dag_of(place, "once", ONE, measures=["size", "gap"], neuron_values=True, revisions="last"),
        tmp_path / "b",
        code=1,
    )
    assert artefacts(run).get(NEURONS) is None
    told = table(run)
    assert told[told["status"] == "failed"]["measure"].isna().all()
    assert set(told[told["status"] == "ok"]["measure"]) == {"gap", "size"}  # what was kept is told
    monkeypatch.undo()
    with counted_passes() as passes:
        run_of(
            dag_of(place, "once", ONE, measures=["size", "gap"], neuron_values=True, revisions="last"), tmp_path / "b"
        )
    with counted_passes() as of_all:
        run_of(
            dag_of(place, "once", ONE, measures=["size", "gap"], neuron_values=True, revisions="last"), tmp_path / "c"
        )
    assert 0 < len(passes) < len(of_all)
    for part in ("tables", f"store.zarr/{NEURONS}", f"store.zarr/{KEPT}"):
        assert contents(run / part) == contents(undisturbed / part), part


def test_damaged_results_are_taken_again(place, tmp_path):
    run = run_of(dag_of(place, "damaged", ONE, measures=["size"]), tmp_path)
    before, rows = contents(run / "store.zarr" / KEPT), table(run)
    for key in artefacts(run)[NEURONS]:
        (run / "store.zarr" / NEURONS / key / "zarr.json").write_bytes(b"{}")
    with counted_passes() as passes:  # put together from what is kept
        run_of(dag_of(place, "damaged", ONE, measures=["size"]), tmp_path)
    assert passes == []
    for key in artefacts(run)[KEPT]:
        file = run / "store.zarr" / KEPT / key / "numbers" / "c" / "0" / "0"
        file.write_bytes(file.read_bytes()[::-1])
    run_of(dag_of(place, "damaged", ONE, measures=["size", "logit"]), tmp_path)
    run_of(dag_of(place, "damaged", ONE, measures=["size"]), tmp_path)
    pd.testing.assert_frame_equal(table(run), rows)
    assert before.items() <= contents(run / "store.zarr" / KEPT).items()


# --- what cannot be measured, and what fails ------------------------------------------------------------------------------
def test_what_does_not_apply_is_told_and_is_no_failure(run):
    rows = table(run)
    told = rows[rows["measure"] == "classes"]
    assert set(told["status"]) == {"unsupported"}
    assert told["message"].str.fullmatch("classes: it needs labels, .*").all()
    assert "0 checkpoints not ok" in command("status", run).out


def test_what_was_named_and_does_not_apply_is_a_failure(place, tmp_path):
    dag = dag_of(place, "named", ONE, measures=["classes", "size"])
    ended = command("run", dag, "--runs-dir", tmp_path, "--workers", 1)
    assert ended.code == 1
    lines = [line for line in ended.says if "classes" in line]
    assert len(lines) == 2
    assert lines[0].startswith("tiny/tiny-0 step0 prose classes none: unsupported: classes: it needs labels")
    rows = table(tmp_path / "named")
    assert set(rows[rows["measure"] == "size"]["status"]) == {"ok"}


def of_one_seed(place: Path, folder: Path) -> list[dict]:
    """A copy of the first seed, to be damaged."""
    shutil.copytree(place / "tiny-0", folder / "tiny")
    write_prose(folder)
    return [{"suite": "tiny", "model": "tiny", "source": "tiny"}]


def changed(folder: Path, name: str, value: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[0] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_checkpoint_with_nan_is_told_and_the_others_go_on(place, tmp_path):
    models = of_one_seed(place, tmp_path)
    changed(tmp_path / "tiny" / "step0", "gpt_neox.layers.0.mlp.dense_4h_to_h.weight", float("nan"))
    run = run_of(dag_of(tmp_path, models=models, measures=["size", "gap"]), tmp_path / "runs", code=1)
    rows = table(run).fillna({"measure": ""})
    start = rows[rows["step"] == 0]
    assert start[["measure", "layer", "status"]].values.tolist() == [["", "all", "nonfinite"]]
    assert "mlp.dense_4h_to_h.weight holds NaN" in start["message"].item()
    after = rows[rows["step"] == 4]
    assert set(after[after["measure"] == "size"]["status"]) == {"ok"}
    compared = after[after["measure"] == "gap"]
    assert set(compared["status"]) == {"nonfinite"}
    assert compared["message"].str.startswith("tiny step0: tensor gpt_neox.layers.0").all()
    stored = results(run)
    run_of(dag_of(tmp_path, models=models, measures=["size", "gap"]), tmp_path / "runs", code=1)
    assert results(run) == stored


def test_activations_that_overflow_name_their_layer(place, tmp_path):
    """What reads other places goes on."""
    models = of_one_seed(place, tmp_path)
    changed(tmp_path / "tiny" / "step4", "gpt_neox.layers.1.mlp.dense_h_to_4h.bias", 1e30)
    changed(tmp_path / "tiny" / "step4", "gpt_neox.layers.1.mlp.dense_4h_to_h.weight", 1e30)
    run = run_of(dag_of(tmp_path, models=models, measures=["size", "logit"]), tmp_path / "runs", code=1)
    rows = table(run).query("step == 4")
    assert set(rows[rows["measure"] == "size"]["status"]) == {"ok"}
    broken = rows[rows["measure"] == "logit"]
    assert set(broken["status"]) == {"nonfinite"}
    assert broken["message"].str.contains("output: output values are NaN or infinite").all()


def test_models_that_read_no_text_are_told_and_the_others_go_on(place, tmp_path):
    models = of_one_seed(place, tmp_path)
    made_model("swin").save_pretrained(tmp_path / "swin" / "step0")
    models.append({"suite": "tiny", "model": "swin", "source": "swin"})
    dag = dag_of(tmp_path, models=models, analysis=PER_NODE, measures=["size"], neuron_values=True)
    run = run_of(dag, tmp_path / "runs", code=1)
    rows, places = table(run), table(run, "neuron_places")
    told = rows[rows["model"] == "swin"]
    assert told["status"].tolist() == ["unsupported"]
    of_places = places[places["model"] == "swin"]
    assert of_places[["status", "message"]].values.tolist() == told[["status", "message"]].values.tolist()
    assert of_places[["place", "measure", "correlation"]].isna().all(axis=None)
    assert "vocab_size" in told["message"].item()
    assert set(rows[rows["model"] == "tiny"]["status"]) == {"ok"}


def test_images_have_classes(place, tmp_path):
    made_model("swin").save_pretrained(tmp_path / "swin" / "step0")
    dag = write_dag(tmp_path / "seen.toml", models=[{"suite": "seen", "model": "swin", "source": "swin"}])
    images = {"dataset": "digits", "samples": 20}
    add_sections(dag, neurons={"images": images, "batch_size": 10, "measures": ["classes", "size"]})
    rows = table(run_of(dag, tmp_path / "runs"))
    assert rows["text"].unique().tolist() == ["digits"]
    assert rows[rows["measure"] == "classes"]["value"].tolist() == [10.0]
    assert set(rows[rows["measure"] == "size"]["control"]) == {"none", "shuffled"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there_is_refused(place, tmp_path):
    ended = command(
        "run",
        dag_of(place, "gpu", ONE, measures=["size"], device="cuda", revisions="last"),
        "--runs-dir",
        tmp_path,
        "--workers",
        1,
    )
    assert ended.code == 2
    assert "cuda" in ended.err


def test_files_that_change_meanwhile(place, tmp_path, monkeypatch):
    """Nothing of other examples than those of the key is kept."""
    models = of_one_seed(place, tmp_path)
    dag = dag_of(tmp_path, models=models, measures=["size"])
    whole = observing.taken_results

    def changes(store, work, check):
        (tmp_path / "prose.txt").write_text("other words " * 40)
        return whole(store, work, check)

    monkeypatch.setattr("ninscope_pipeline.stages.neurons.stage.taken_results", changes)
    ended = command("run", dag, "--runs-dir", tmp_path / "runs", "--workers", 1)
    assert ended.code == 2
    assert "its examples, or files of its model, have changed since the run began" in ended.err
    assert KEPT not in artefacts(tmp_path / "runs" / "tiny")


def test_main_numbers_over_training(run):
    """What [correlations] follows: the main number of a measure, of the model or the mean over layers."""
    from ninscope_pipeline.stages.checkpoint_measures import series_of_measures

    rows = table(run)
    further = rows[(rows["measure"] == "logit")].assign(measure="logit_further", value=7.0)
    in_layers = rows[(rows["measure"] == "logit")].assign(layer="block0.m", value=99.0)
    other_text = rows.assign(text="later", value=-1.0)
    every = series_of_measures([NEURONS_STAGE], {NEURONS: pd.concat([rows, further, in_layers, other_text])})
    series = {one.measure: one.values for one in every if one.model == "tiny-0"}
    assert set(series) == {
        "neurons/logit", "neurons/size", "neurons_from_start/gap", "neurons_from_last/gap", "neurons_over_seeds/gap",
        "neurons_over_seeds/twin",
    }  # fmt: skip
    own = rows[(rows["model"] == "tiny-0") & (rows["control"] == "none")]
    for step in (0, 4):
        at = own[own["step"] == step].set_index("measure")["value"]
        assert series["neurons/size"][step] == pytest.approx(at.loc["size"].mean())
        assert series["neurons/logit"][step] == at.loc["logit"]


def test_what_is_the_same_is_taken_once(place, tmp_path):
    """At the second revision the start is the revision before: the other model runs once a control."""
    with counted_passes() as passes:
        run = run_of(dag_of(place, "same", ONE, measures=["gap"], revisions="last"), tmp_path)
    batches = -(-len(windows_of(place)) // 16)
    assert sum(number > 0 for number in passes) == 2 * 2 * (batches - 1)  # the first one is looked at before, too
    assert len(artefacts(run)[KEPT]) == 2
    values = table(run).set_index(["control", "against"])["value"]
    assert values["none", "start"] == values["none", "previous"]
    assert values["none", "start"] != values["shuffled", "start"]


def test_figures_are_of_each_text_and_each_model(run, place):
    """Single neurons are drawn where the results are at hand: `draw(tables)` does without."""
    tables = {path.stem: pd.read_parquet(path) for path in (run / "tables").glob("*.parquet")}
    places = [f"tiny-{seed}--prose-neuron-places" for seed in (0, 1)]
    of_tables = [
        "prose-neurons.png", *(f"{name}-over-training.png" for name in places),
        "tiny-0--prose-neurons-map.png", "tiny-1--prose-neurons-map.png",
    ]  # fmt: skip
    assert [name for name, _ in NEURONS_STAGE.figures(FigureTables(tables))] == of_tables
    request = prepare(load_dag(place / "whole.toml"), place / "runs").plan.request
    drawn = dict(NEURONS_STAGE.figures(FigureTables(tables, Results(request, ArtefactStore(RunFolder(run))))))
    assert set(drawn) == {*of_tables, *(f"{name}.png" for name in places)}
    points = drawn[f"{places[1]}.png"].axes[1].collections[0].get_offsets()
    values = ninscope.open_run(run).neuron_values("tiny-1", 4, nodes=True)
    np.testing.assert_array_equal(points, values[["average_weighted_degree", "size"]])
    assert drawn[f"{places[1]}.png"].get_suptitle().startswith("tiny-1 step4, prose: ")
    failed = {name: tables[name].assign(status="nonfinite") for name in (NEURONS, "neuron_places")}
    assert list(NEURONS_STAGE.figures(FigureTables(tables | failed))) == []


def test_a_run_draws_with_its_results_at_hand(place, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("ninscope_pipeline.figures.draw", lambda *given: seen.append(given) or {})
    asked = {"measures": ["size"], "neuron_values": True, "revisions": "last"}
    run = run_of(dag_of(place, "drawn", ONE, PER_NODE, **asked), tmp_path)
    ((tables, _, results),) = seen
    pd.testing.assert_frame_equal(tables["neuron_places"], table(run, "neuron_places"), check_dtype=False)
    values = single_neurons(results, "tiny", "tiny-0", "step4", "prose")
    expected = ninscope.open_run(run).neuron_values("tiny-0", "step4", nodes=True)
    pd.testing.assert_frame_equal(values, expected.drop(columns=[*KEYS, "step"]))
    assert single_neurons(results, "tiny", "tiny-0", "step0", "prose") is None  # no [[neurons]] of it
    assert single_neurons(results, "tiny", "tiny-0", "step4", "poetry") is None
