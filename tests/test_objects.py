"""What a notebook meets: models in memory as sources, objects that show themselves, tables, plots and help."""

import inspect
import pydoc

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from suites import neox_tensors, write_checkpoint, write_suite

import ninscope
from ninscope.checkpoints.in_memory import REVISION
from ninscope.errors import CheckpointError, RequestError
from ninscope.parameters import MEANINGS, Parameters

MODEL = {"blocks": 1, "width": 16, "heads": 2}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_suite(tmp_path_factory.mktemp("objects") / "tiny", (0, 1, 8), **MODEL)


def pretrained(kind):
    """A tiny model of transformers with random weights."""
    import transformers

    torch.manual_seed(0)
    if kind == "neox":
        config = transformers.GPTNeoXConfig(
            vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
        )
        model = transformers.GPTNeoXForCausalLM(config)
    else:
        config = transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4
        )
        model = transformers.ViTModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    return model


def same(found, expected):
    assert (found.alpha0, found.width, found.nodes, found.edges) == (
        expected.alpha0, expected.width, expected.nodes, expected.edges,
    )  # fmt: skip
    np.testing.assert_array_equal(found.f, expected.f)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["neox", "vit"])
def test_a_module_is_measured_as_its_save_is(tmp_path, kind, dtype):
    """In transformers 5 modules of a ViT have other names than its file."""
    model = pretrained(kind).to(dtype)
    model.save_pretrained(tmp_path / "saved")
    same(ninscope.measure(model), ninscope.measure(str(tmp_path / "saved")))
    sampled = {"nodes_per_layer": 8, "samples": 2, "min_degree": 3}
    same(ninscope.measure(model, **sampled), ninscope.measure(str(tmp_path / "saved"), **sampled))


def test_a_module_that_is_wrapped_is_the_model_inside():
    model = pretrained("neox")
    for wrapped in (
        torch.compile(model, backend="eager"),
        torch.nn.DataParallel(model),
        torch.nn.DataParallel(torch.compile(model, backend="eager")),
    ):
        same(ninscope.measure(wrapped), ninscope.measure(model))


def test_a_state_dict_is_read_as_generic(tmp_path):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(32, 48), torch.nn.ReLU(), torch.nn.Linear(48, 24))
    tensors = {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
    saved = write_checkpoint(tmp_path / "saved", tensors, {"model_type": "mine"})
    expected = ninscope.measure(str(saved))
    for source in (module, module.state_dict(), tensors):
        same(ninscope.measure(source), expected)
    (row,) = ninscope.measure_all(module)
    assert (row.revision, row.spectrum.alpha0) == (REVISION, expected.alpha0)


def test_tied_tensors_count_once(tmp_path):
    module = torch.nn.ModuleDict({"a": torch.nn.Linear(32, 48), "b": torch.nn.Linear(32, 48)})
    module["b"].weight = module["a"].weight
    alone = {"a.weight": module["a"].weight.detach()}
    same(ninscope.measure(module), ninscope.measure(alone))


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (3, RequestError, "an object of type int is no source; give a path"),
        (torch.nn.Linear, RequestError, "an object of type type is no source"),
        ({"a": [1, 2]}, RequestError, "'a' of the state dict is no tensor but a list"),
        ({"a.weight": torch.zeros(2, 2, dtype=torch.int64)}, CheckpointError, "no tensor is a matrix"),
        (
            torch.nn.Linear(8, 8, device="meta"),
            CheckpointError,
            "tensor weight is on the device meta, where it has no val",
        ),
    ],
)
def test_what_is_no_model_is_refused(source, error, message):
    with pytest.raises(error, match=message):
        ninscope.measure(source)


def test_a_model_in_memory_has_one_revision():
    with pytest.raises(CheckpointError, match="a model in memory has no revision step3"):
        ninscope.measure(torch.nn.Linear(8, 8), "step3")


def test_home_is_expanded(suite, monkeypatch):
    monkeypatch.setenv("HOME", str(suite.parent))
    assert ninscope.measure("~/tiny", "step0").alpha0 == ninscope.measure(str(suite), "step0").alpha0
    assert ninscope.measure_all("~/tiny")[0].revision == "step0"
    assert len(ninscope.audit("~/tiny")) == 3


def objects(suite):
    measured = ninscope.measure(str(suite), "step1")
    rows = ninscope.measure_all(str(suite))
    graph = ninscope.network(str(suite), "step1", nodes_per_layer=8)
    return [
        measured, measured.samples[0], rows, rows[1], graph, Parameters(min_degree=3),
        ninscope.heavy_tail(np.arange(1, 200)), ninscope.box_covering(nx.cycle_graph(20), trials=1),
    ]  # fmt: skip


def test_every_object_shows_itself(suite):
    for thing in objects(suite):
        shown = repr(thing)
        assert type(thing).__name__ in shown
        assert "array(" not in shown
        assert len(shown) < 2000
        assert "<table" in thing._repr_html_()
    measured = ninscope.measure(str(suite), "step1")
    assert repr(measured).startswith(
        f"<Measurement: method exact, alpha0 {measured.alpha0:.4g}, width {measured.width:.4g}"
    )
    assert repr(Parameters()) == "<Parameters: all defaults>"
    assert repr(Parameters(min_degree=3)) == "<Parameters: min_degree 3>"


def test_html_escapes_what_strangers_name(suite, tmp_path):
    folder = write_checkpoint(tmp_path / "<script>", neox_tensors(seed=0, **MODEL))
    assert "<script>" not in ninscope.measure_all(str(folder))._repr_html_()
    assert "<script>" not in ninscope.measure_all(str(folder))[0]._repr_html_()


def test_rows_become_a_frame(suite):
    rows = ninscope.measure_all(str(suite), parts=["kind"])
    frame = rows.to_frame()
    whole = frame[frame["part"] == "all"]
    assert whole["alpha0"].tolist() == [row.spectrum.alpha0 for row in rows]
    assert whole["emergence"].tolist() == [row.emergence for row in rows]
    assert len(frame) == sum(1 + len(row.parts) for row in rows)
    assert str(frame.dtypes["step"]) == "Int64"
    assert ninscope.measured_rows.MeasuredRows().to_frame().empty


def test_plots_are_drawn_where_one_says(suite):
    axes = Figure().add_subplot()
    measured = ninscope.measure(str(suite), "step1")
    assert measured.plot(axes, label="mine") is axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), measured.f)
    rows = ninscope.measure_all(str(suite))
    for value in ("emergence", "alpha0", "width"):
        drawn = rows.plot(Figure().add_subplot(), value)
        np.testing.assert_array_equal(drawn.lines[0].get_ydata(), rows.to_frame()[value])
    with pytest.raises(RequestError, match="value is 'alpha'; one of emergence, alpha0, width"):
        rows.plot(axes, "alpha")
    with pytest.raises(RequestError, match="no revision states a step"):
        ninscope.measure_all(torch.nn.Linear(8, 8)).plot(axes)


@pytest.mark.parametrize("function", ["measure", "measure_all"])
def test_help_lists_every_parameter_with_its_default_and_meaning(function):
    text = pydoc.plain(pydoc.render_doc(getattr(ninscope, function)))
    assert set(MEANINGS) == set(Parameters.__dataclass_fields__)
    for name, meaning in MEANINGS.items():
        assert meaning in text
        default = "-3, -2.9, ..., 3" if name == "q" else repr(getattr(Parameters(), name))
        assert f"{name} (default {default}): " in text
    assert set(MEANINGS) < set(inspect.signature(getattr(ninscope, function)).parameters)


def test_tables_of_nodes_agree_on_names(suite):
    nodes = ninscope.network(str(suite), "step1", nodes_per_layer="all").nodes
    assert {"edges", "average_weighted_degree"} < set(nodes.columns)
    assert "degree" not in nodes
    assert ninscope.Parameters is Parameters
    assert isinstance(ninscope.measure_all(str(suite)), list)
    assert isinstance(pd.DataFrame(nodes), pd.DataFrame)


def test_progress_is_shown_where_it_is_asked_for(suite, monkeypatch, capsys):
    from ninscope import progress

    monkeypatch.setattr(progress, "LINE_SECONDS", 0.001)
    ninscope.measure_all(str(suite), progress=True, workers=1)
    ninscope.audit(str(suite), progress=True)
    assert f"measuring {suite}: " in capsys.readouterr().err
    ninscope.measure_all(str(suite))
    assert capsys.readouterr().err == ""
