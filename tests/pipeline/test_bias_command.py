"""`ninscope bias`: a table or one JSON document, a figure, and one line where something is wrong."""

import json
import re

import numpy as np
import pytest
from damage import SHAPE, zeroed
from driving import command, process
from matplotlib.image import imread
from suites import neox_tensors, write_checkpoint, write_suite

import ninscope
from ninscope.report.bias_figure import bias_figure

pytestmark = pytest.mark.filterwarnings("error")

FEW = ("--nodes-per-layer", "4,8", "--samples", "2")
COLOURS = {"alpha0": "#2a6f97", "width": "#8d5524", "emergence": "#2d6a4f"}
KEYS = [
    "revision", "step", "method", "nodes_per_layer", "samples", "nodes", "alpha0", "alpha0_std", "width", "width_std",
    "emergence", "emergence_std", "message", "baseline", "warning",
]  # fmt: skip


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_suite(tmp_path_factory.mktemp("bias") / "tiny", (0, 2, 10), **SHAPE)


@pytest.fixture
def figure(tmp_path):
    return tmp_path / "X.png"


@pytest.fixture
def nothing_is_measured(monkeypatch):
    monkeypatch.setattr("ninscope.bias.sampling_bias", lambda *_, **__: pytest.fail("work was begun"))


def document(text):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def pixels_of(picture, colour):
    """In each third of the picture, from the top: how many pixels have exactly this colour."""
    wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    hit = (np.rint(picture[:, :, :3] * 255) == wanted).all(axis=2)
    return [int(third.sum()) for third in np.array_split(hit, 3)]


def assert_drawn(path, panels=tuple(COLOURS)):
    """A PNG, mostly white, whose panels hold the lines of their own colour and of no other."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    picture = imread(path)
    assert picture.shape[2] in (3, 4)
    assert min(picture.shape[:2]) > 600
    ink = (picture[:, :, :3] < 0.99).any(axis=2).mean()
    assert 0.005 < ink < 0.3
    for number, (name, colour) in enumerate(COLOURS.items()):
        found = pixels_of(picture, colour)
        assert (found[number] > 300) == (name in panels)
        assert sum(found) == found[number]


def test_json_is_one_document_and_nothing_else(suite, figure):
    ended = command("bias", suite, *FEW, "--figure", figure, "--json")
    assert (ended.code, ended.err) == (0, "")
    found = document(ended.out)
    assert list(found) == ["source", "rows"]
    assert found["source"] == str(suite)
    assert [list(row) for row in found["rows"]] == [KEYS] * 3
    table = ninscope.sampling_bias(suite, nodes_per_layer=[4, 8], samples=2)
    for row, expected in zip(found["rows"], table.astype(object).to_dict("records"), strict=True):
        for name, value in expected.items():
            assert row[name] == (value if value == value and value is not None and value != "" else None)
    last = found["rows"][-1]
    assert (last["method"], last["nodes_per_layer"], last["samples"], last["alpha0_std"]) == ("exact", None, 1, None)
    assert_drawn(figure)


def test_the_table_names_every_number_of_neurons_and_the_figure(suite, figure):
    ended = command("bias", suite, "--revision", "step2", *FEW, "--seed", "3", "--figure", figure)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1] == f"figure: {figure}"
    assert "step2" in ended.out
    table = ninscope.sampling_bias(suite, "step2", [4, 8], 2, 3)
    shown = [line.split("│")[1:-1] for line in ended.out.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row[:2]] for row in shown] == [["4", "32"], ["8", "64"], ["all", "176"]]
    for row, expected in zip(shown, table.itertuples(), strict=True):
        for cell, name in zip(row[2:], ("alpha0", "width", "emergence"), strict=True):
            value, spread = getattr(expected, name), getattr(expected, f"{name}_std")
            said = "-" if np.isnan(value) else f"{value:.4f}"
            assert cell.strip() == said + ("" if np.isnan(spread) else f" ± {spread:.4f}")
    assert_drawn(figure)


@pytest.mark.slow
def test_a_process_measures_and_draws(suite, figure, tmp_path, monkeypatch):
    """Through the real command, in its own folder, where the figure goes unless another is named; the bytes are the same."""
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.chdir(own)
    here = command("bias", suite, *FEW, "--json")
    assert (here.code, here.err) == (0, "")
    assert list(own.iterdir()) == []  # with --json only where it is asked for
    drawn = process("bias", suite, *FEW, cwd=own)
    assert drawn.code == 0
    assert drawn.out.splitlines()[-1] == "figure: bias.png"
    assert [path.name for path in own.iterdir()] == ["bias.png"]
    assert document(command("bias", suite, *FEW, "--json", "--figure", figure).out) == document(here.out)
    assert (own / "bias.png").read_bytes() == figure.read_bytes()
    assert b"Software" not in figure.read_bytes()


def test_a_figure_that_cannot_be_written_is_told_of_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = command("bias", "./absent", "--figure", "no/such/X.png")
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("ninscope: no/such/X.png: cannot write there")
    assert list(tmp_path.iterdir()) == []


def test_sizes_are_doubled_unless_named(suite, figure):
    ended = command("bias", suite, "--samples", "2", "--figure", figure, "--json")
    assert [row["nodes_per_layer"] for row in document(ended.out)["rows"]] == [16, 32, None]
    assert [row["samples"] for row in document(ended.out)["rows"]] == [2, 2, 1]
    assert_drawn(figure)


def test_a_network_too_small_for_any_sample(tmp_path, figure):
    """16 neurons in its largest layer: the whole network alone, as lines."""
    suite = write_suite(tmp_path / "suite", (0, 4), 1, blocks=1, width=16, heads=2, intermediate=16)
    ended = command("bias", suite, "--figure", figure, "--json")
    assert (ended.code, ended.err) == (0, "")
    (row,) = document(ended.out)["rows"]
    assert (row["method"], row["samples"]) == ("exact", 1)
    assert_drawn(figure)


def test_the_figure_shows_the_numbers_of_the_table(suite):
    """Means at the number of neurons on a log axis, bars of one deviation, and the whole network from side to side."""
    table = ninscope.sampling_bias(suite, nodes_per_layer=[4, 8, 14], samples=3, min_degree=3)
    panels = bias_figure(table, "any").axes
    assert len(panels) == 3
    for axes, name in zip(panels, COLOURS, strict=True):
        (bars,) = axes.containers
        points, _, (strokes,) = bars
        np.testing.assert_allclose(points.get_xdata(), np.log2([4, 8, 14]), rtol=1e-15)
        assert points.get_ydata().tolist() == table[name].tolist()[:3]
        halves = [np.ptp(stroke[:, 1]) / 2 for stroke in strokes.get_segments()]
        np.testing.assert_allclose(halves, table[f"{name}_std"][:3], rtol=1e-9)
        whole = [line for line in axes.lines if list(line.get_ydata()) == [table[name][3]] * 2]
        assert [line.get_label() for line in whole] == ["whole network"]
    assert [label.get_text() for label in panels[2].get_xticklabels()] == ["4", "8", "14"]


def said_in_panels(table):
    return [" ".join(text.get_text() for text in axes.texts) for axes in bias_figure(table, "any").axes]


def test_a_single_checkpoint_has_an_empty_panel_that_says_why(tmp_path, figure):
    folder = write_checkpoint(tmp_path / "final", neox_tensors(**SHAPE, seed=1))
    ended = command("bias", folder, "--nodes-per-layer", "12,14", "--samples", "2", "--figure", figure)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count("no E: there is no usable step0 to compare with") == 1
    assert_drawn(figure, ["alpha0", "width"])
    said = said_in_panels(ninscope.sampling_bias(folder, nodes_per_layer=[12], samples=2))
    assert said[:2] == ["", ""]
    assert "no E: there is no usable step0 to compare with" in said[2]


def test_step_0_has_no_emergence_to_draw(suite, figure):
    ended = command("bias", suite, "--revision", "step0", *FEW, "--figure", figure, "--json")
    assert [row["emergence"] for row in document(ended.out)["rows"]] == [0, 0, 0]
    assert_drawn(figure, ["alpha0", "width"])
    said = said_in_panels(ninscope.sampling_bias(suite, "step0", [4], 2))
    assert said[:2] == ["", ""]
    assert "step0 is what E compares with" in said[2]


def test_a_network_without_edges_is_said_to_be_one(tmp_path, figure):
    """Nothing to draw is no error, and nothing to warn of."""
    folder = write_checkpoint(tmp_path / "step0", zeroed(0))
    ended = command("bias", folder, *FEW, "--figure", figure, "--json")
    assert (ended.code, ended.err) == (0, "")
    rows = document(ended.out)["rows"]
    assert [row["alpha0"] for row in rows] == [None] * 3
    assert all("no node has enough edges" in row["message"] for row in rows)
    assert_drawn(figure, [])


def test_a_name_with_signs_is_shown_as_it_is(tmp_path, figure):
    """As markup and as mathematics such a name would be changed, or refused."""
    folder = write_checkpoint(tmp_path / "[red]a$b_$^c", neox_tensors(**SHAPE, seed=1))
    ended = command("bias", folder, *FEW, "--figure", figure)
    assert (ended.code, ended.err) == (0, "")
    assert "[red]a$b_$^c" in ended.out
    assert_drawn(figure, ["alpha0", "width"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("SUITE --nodes-per-layer 4,x", "^--nodes-per-layer is '4,x'; give numbers separated by commas"),
        ("SUITE --nodes-per-layer 4,", "^--nodes-per-layer is '4,'"),
        ("SUITE --nodes-per-layer all", "^--nodes-per-layer is 'all'"),
        ("SUITE --nodes-per-layer 4.5", "^--nodes-per-layer is '4.5'"),
        ("SUITE --nodes-per-layer 4,0", r"^nodes_per_layer is \[4, 0\]; a list of integers from 1"),
        ("SUITE --nodes-per-layer -4", r"^nodes_per_layer is \[-4\]"),
        ("SUITE --samples 0", "^samples is 0"),
        ("SUITE --samples many", "^Invalid value for '--samples'"),
        ("SUITE --seed -1", "^seed is -1"),
        ("SUITE --figures X.png", "No such option.*--figures"),
        ("./absent", r"^\./absent: no such folder"),
        ("absent", "^absent: no such folder, and not a Hub repository id"),
        ("empty", "^empty: no checkpoint and no revision folders"),
        ("", "(?i)missing argument.*source"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(suite, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    ended = command("bias", *arguments.replace("SUITE", str(suite)).split())
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("ninscope: ")
    assert re.search(says, line.removeprefix("ninscope: "))


@pytest.mark.parametrize("place", ["absent/X.png", ".", "file/X.png", "/proc/ninscope.png"])
def test_a_figure_that_cannot_be_written_is_refused_before_the_work(
    suite, tmp_path, monkeypatch, nothing_is_measured, place
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    ended = command("bias", suite, *FEW, "--figure", place)
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert re.search(
        rf"^ninscope: {re.escape(place)}: cannot write there \(.+\); give another file with --figure$", line
    )


def test_a_bad_checkpoint_is_exit_code_1_and_one_line(tmp_path, figure):
    folder = write_suite(tmp_path / "tiny", (0, 2), **SHAPE)
    (folder / "step2" / "model.safetensors").write_bytes(b"no")
    ended = command("bias", folder, *FEW, "--figure", figure, "--json")
    assert (ended.code, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("ninscope: step2/model.safetensors: ")


@pytest.mark.parametrize("arguments", [("./absent",), ("SUITE", "--samples", "0"), ("SUITE", "--revision", "step3")])
def test_what_was_not_measured_leaves_no_figure(suite, tmp_path, monkeypatch, arguments):
    """No empty file where there was none; and a figure of before as it was."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "before.png").write_bytes(b"of before")
    asked = [argument.replace("SUITE", str(suite)) for argument in arguments]
    for name in ("before.png", "X.png"):
        ended = command("bias", *asked, "--figure", name)
        assert ended.code in (1, 2)
        assert len(ended.err.splitlines()) == 1
    assert (tmp_path / "before.png").read_bytes() == b"of before"
    assert not (tmp_path / "X.png").exists()
