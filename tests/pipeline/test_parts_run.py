"""Parts of a network in a run: each part's E is that of its own spectra, beside the whole's and never in its stead."""

import math
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from driving import artefacts, command, contents, write_dag
from suites import neox_tensors, write_checkpoint, write_suite

import ninscope
from ninscope.architectures import DEFAULT_READING
from ninscope.multifractal.emergence import emergence_interval
from ninscope.report.parts_figure import groupings_of, parts_figure
from ninscope_pipeline.figures import draw
from ninscope_pipeline.request.analyses import AnalysisSection
from ninscope_pipeline.request.dagfile import EmergenceSection
from ninscope_pipeline.stages.emergence import EMERGENCE, EmergenceWork, SpectrumAtStep, emergence_key
from ninscope_pipeline.stages.exact import EXACT, exact_key
from ninscope_pipeline.stages.network import network_key
from ninscope_pipeline.stages.nulls import NullsSection, nulls_key
from ninscope_pipeline.stages.spectra import SPECTRA, spectra_key
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import ArtefactStore
from ninscope_pipeline.tables import all_tables

pytestmark = pytest.mark.usefixtures("undrawn")

STEPS = (0, 1, 8)
SHAPE = {"blocks": 2, "width": 16, "heads": 2}
PARTS = ["block", "kind", "layer"]
EXPECTED = [
    "block/block0", "block/block1", "kind/attention", "kind/mlp",
    *(f"layer/block{block}.{layer}" for block in (0, 1) for layer in "xcam"),
]  # fmt: skip
ASKED = {"exact": True, "q": [-2.0, -1.0, 0.0, 1.0, 2.0]}
MEASURED = {"min_degree": 3, "q": np.array(ASKED["q"])}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a suite and its finished runs, with parts ("runs"), and with parts by pieces ("pieces")."""
    place = tmp_path_factory.mktemp("parts")
    write_suite(place / "weights", STEPS, **SHAPE)
    for runs, changes in (
        ("bare", {}),
        ("runs", {"parts": PARTS}),
        ("pieces", {"parts": PARTS, "execution": {"part_bytes": 6000}}),
    ):
        dag = write_dag(place / "tiny.toml", Path("weights"), **ASKED | changes)
        ended = command("run", dag, "--runs-dir", place / runs)
        assert (ended.code, ended.says) == (0, [])
    return place


def table(place: Path, runs: str = "runs", name: str = "emergence") -> pd.DataFrame:
    return ninscope.open_run(place / runs / "tiny").table(name)


def test_rows_of_parts_follow_those_of_the_whole(finished):
    rows = table(finished)
    for _, group in rows.groupby(["step", "method"]):
        assert group["part"].tolist() == ["all", *EXPECTED]
    bare = table(finished, "bare")
    assert set(bare["part"]) == {"all"}
    pd.testing.assert_frame_equal(rows[rows["part"] == "all"].reset_index(drop=True), bare, check_exact=True)


@pytest.mark.parametrize("method", ["sampled", "exact"])
def test_a_part_is_compared_with_the_same_part_of_the_start(finished, method):
    asked = {"exact": True} if method == "exact" else {"nodes_per_layer": 12, "samples": 3}
    measured = {
        step: ninscope.measure(finished / "weights", f"step{step}", parts=PARTS, **asked, **MEASURED) for step in STEPS
    }
    rows = table(finished).query("method == @method").set_index(["part", "step"])
    for part in EXPECTED:
        start = measured[0].part(part)
        for step in STEPS:
            now, row = measured[step].part(part), rows.loc[part, step]
            values = [now.alpha0, now.alpha0_std, now.width, now.width_std, now.r2_mass_mean, now.r2_partition]
            names = ["alpha0", "alpha0_std", "width", "width_std", "r2_mass_mean", "r2_partition"]
            np.testing.assert_array_equal(row[names].astype(float), values)
            expected = now.width / start.width * math.log(start.alpha0 / now.alpha0)
            assert row["emergence"] == pytest.approx(expected, rel=1e-12)
            assert row["warning"] == now.warning
            if method == "sampled":
                pairs = [np.array([[s.alpha0, s.width] for s in one.samples]) for one in (now, start)]
                assert (row["emergence_low"], row["emergence_high"]) == emergence_interval(*pairs, replicates=100)


def test_pieces_of_a_checkpoint_give_the_same_parts(finished):
    assert contents(finished / "pieces" / "tiny" / "tables") == contents(finished / "runs" / "tiny" / "tables")


def test_parts_have_keys_of_their_own_and_without_them_keys_stay(finished):
    bare, with_parts = (artefacts(finished / runs / "tiny") for runs in ("bare", "runs"))
    assert bare["nin"] == with_parts["nin"]
    for stage in ("spectra", "exact", "emergence"):
        assert not bare[stage] & with_parts[stage]


def test_keys_are_those_of_before_where_nothing_later_is_asked():
    """Keys that a run of an earlier version stored: whoever changes one without need has everything computed again."""
    asked = {"exact": True, "seed": 7, "max_distance": 120.0}
    both = AnalysisSection(**asked).methods()
    digests = defaultdict(lambda: str(len(digests)), {DEFAULT_READING.key: "b" * 64})
    one = SimpleNamespace(
        content_sha256="a" * 64, kind="local", wiring=lambda reading: SimpleNamespace(digest=digests[reading.key])
    )
    assert spectra_key("c" * 32, both["sampled"]) == "816145add36fcc7ad6856e4e260c94be"
    assert exact_key(one, both["exact"], True) == "18513c94d4585e3acb44ce007e9eaa65"
    assert nulls_key("d" * 32, NullsSection()) == "663111c18f6baa42428bd76ff1042a1e"
    history = (
        SpectrumAtStep("step0", 0, "e" * 32, "", "ok"), SpectrumAtStep("step1", 1, "f" * 32, "no", "duplicate"),
    )  # fmt: skip
    work = EmergenceWork("exact", history, EmergenceSection(), ("suite", "model"), ("default", "exact"))
    assert emergence_key(work) == "0f64f72367069e0a213490df80f0c813"
    keys = set()
    for changes in ({}, {"parts": ["block"]}, {"wiring": "parallel"}):
        parameters = AnalysisSection(**asked | changes).methods()
        of_network = network_key(one, parameters["sampled"])
        keys |= {exact_key(one, parameters["exact"], True), of_network}
        keys.add(spectra_key(of_network, parameters["sampled"]))
    assert len(keys) == 3 + 2 + 3  # parts are no matter of the sampled network


def test_the_layout_of_stored_parts_changes_with_their_versions(finished):
    """As test_stored_layouts_change_with_their_versions, of what is there only where parts are asked for."""
    store = ArtefactStore(RunFolder(finished / "runs" / "tiny"))
    columns = ["alpha0", "width", "nodes", "edges", "r2_mass_mean", "r2_partition"]
    for stage, version, samples in (("spectra", SPECTRA.version, 3), ("exact", EXACT.version, 1)):
        stored = store.read(stage, store.keys(stage)[0])
        assert (stage, version) in (("spectra", 3), ("exact", 3))
        assert stored.attributes["part_columns"] == columns
        assert stored.attributes["part_names"] == EXPECTED
        assert stored.arrays["part_values"].shape == (samples, len(EXPECTED), len(columns))
    stored = store.read("emergence", store.keys("emergence")[0])
    assert EMERGENCE.version == 3
    assert stored.arrays["part_values"].shape == (len(STEPS), len(EXPECTED), stored.arrays["values"].shape[1])


def test_a_part_without_spectrum_says_so_and_spoils_no_other(tmp_path):
    """The weights of block 1 are all 0, at the start or later."""
    write_suite(tmp_path / "weights", (0, 1), **SHAPE)
    tensors = neox_tensors(**SHAPE, seed=3)
    for name in tensors:
        if ".layers.1." in name and name.endswith("weight"):
            tensors[name][:] = 0
    write_checkpoint(tmp_path / "weights" / "step2", tensors)
    changes = {"nodes_per_layer": "all", "samples": None, "parts": ["block"], "trust_unlike_counts": True}
    asked = write_dag(tmp_path / "tiny.toml", Path("weights"), **changes)
    assert command("run", asked, "--runs-dir", tmp_path / "runs").code == 0
    rows = table(tmp_path).query("step == 2").set_index("part")
    assert rows.loc["block/block1", "message"] == "no E: this checkpoint has no spectrum (of this part)"
    assert rows["emergence"].isna().to_dict() == {"all": False, "block/block0": False, "block/block1": True}


@pytest.mark.parametrize(
    ("parts", "says"),
    [(["head"], "parts is .* a list of block, kind, layer was expected"), ("block", r"analysis\.parts")],
)
def test_parts_that_are_none_are_refused(tmp_path, parts, says):
    (tmp_path / "weights").mkdir()
    ended = command("run", write_dag(tmp_path / "x.toml", Path("weights"), parts=parts), "--runs-dir", tmp_path)
    assert ended.code == 2
    (line,) = ended.says
    assert pd.Series([line]).str.contains(says).all(), line


# The figure.


def test_there_is_a_figure_where_there_are_parts(finished):
    names = {runs: set(draw({name: table(finished, runs, name) for name in all_tables()})) for runs in ("bare", "runs")}
    assert names["runs"] - names["bare"] == {"weights-parts.png"}


def cells(axes) -> np.ndarray:
    (mesh,) = axes.collections
    return np.ma.filled(mesh.get_array(), np.nan)


def test_the_heat_map_shows_every_part_at_its_step(finished):
    rows = table(finished)
    rows.loc[(rows["part"] == "block/block0") & (rows["step"] == 8), "emergence"] = math.nan
    assert groupings_of(rows) == PARTS
    whole, blocks = parts_figure(rows, "m").axes[0], parts_figure(rows, "m").axes[2]
    exact = rows[rows["method"] == "exact"].set_index(["part", "step"])["emergence"]
    np.testing.assert_array_equal(cells(whole), [[exact["all", step] for step in STEPS]])
    assert [label.get_text() for label in blocks.get_yticklabels()] == ["block0", "block1"]
    expected = [[exact[f"block/block{block}", step] for step in STEPS] for block in (0, 1)]
    np.testing.assert_array_equal(cells(blocks), expected)
    assert math.isnan(cells(blocks)[0, 2])


def test_of_a_hundred_layers_not_all_are_named():
    rows = pd.DataFrame(
        [{"part": f"layer/block{n}.x", "step": step, "method": "sampled", "emergence": n * step, "alpha0": 1.0}
         for step in STEPS for n in range(100)]
    )  # fmt: skip
    axes = parts_figure(rows.astype({"step": "Int64"}), "m").axes
    assert cells(axes[2]).shape == (100, 3)
    assert 20 < len(axes[2].get_yticklabels()) <= 73  # in 7 inches, of size 6
