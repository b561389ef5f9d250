"""The sampling bias of a checkpoint: what `measure` finds with samples of every size, and with every neuron, in one table."""

import numpy as np
import pandas as pd
import pytest
from suites import neox_tensors, write_checkpoint, write_suite

import ninscope
from ninscope.bias import COLUMNS
from ninscope.errors import CheckpointError, NinscopeError, RequestError
from ninscope.exact import bands

pytestmark = pytest.mark.filterwarnings("error")

SHAPE = {"blocks": 2, "width": 24, "heads": 3}
ASKED = {"samples": 3, "seed": 5, "min_degree": 3}
PLAIN = {"q": np.linspace(-2, 2, 9), "min_degree": 3}
DOWN = "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """Steps 0, 2 and 10, of which the last by name is step 2; other weights at each."""
    return write_suite(tmp_path_factory.mktemp("bias") / "suite", (0, 2, 10), **SHAPE)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("bias") / "final", neox_tensors(**SHAPE, seed=3))


def broken(place, *cells):
    """A suite whose step 0 holds NaN in these cells of a matrix."""
    write_suite(place, (0, 2), **SHAPE)
    tensors = neox_tensors(**SHAPE, seed=0)
    for cell in cells:
        tensors[DOWN][cell] = np.nan
    write_checkpoint(place / "step0", tensors)
    return place


def same(first, second):
    pd.testing.assert_frame_equal(first, second, check_exact=True)


@pytest.mark.parametrize(
    "asked",
    [
        ASKED,
        {"samples": 1},
        {"samples": 2, "transfer": "coth", "max_distance": 40.5, **PLAIN},
        {"samples": 2, "transfer": "neg_log", "derivative": "forward", **PLAIN},
    ],
)
def test_every_row_is_a_measurement(suite, asked):
    """Of both checkpoints, so E as well; the sampled rows to the last digits, the exact one to the last bit."""
    found = ninscope.sampling_bias(suite, "step2", nodes_per_layer=[12, 22], **asked)
    assert found["nodes_per_layer"].tolist() == [12, 22, pd.NA]
    sampling = {name: asked[name] for name in ("samples", "seed") if name in asked}
    others = {name: value for name, value in asked.items() if name not in sampling}
    for row in found.itertuples():
        how = {"exact": True} if row.method == "exact" else {"nodes_per_layer": row.nodes_per_layer, **sampling}
        now, start = (ninscope.measure(suite, step, **how, **others) for step in ("step2", "step0"))
        assert (row.nodes, row.samples) == (now.nodes, len(now.samples))
        of_samples = [ninscope.emergence(*pair) for pair in zip(now.samples, start.samples, strict=True)]
        expected = {
            "alpha0": now.alpha0,
            "alpha0_std": now.alpha0_std,
            "width": now.width,
            "width_std": now.width_std,
            "emergence": ninscope.emergence(now, start),
            "emergence_std": np.std(of_samples, ddof=1) if len(of_samples) > 1 else np.nan,
        }
        for name, value in expected.items():
            exactly = row.method == "exact"
            tolerance = {"rel": 0, "abs": 0} if exactly else {"rel": 1e-12, "abs": 1e-13}
            assert getattr(row, name) == pytest.approx(value, nan_ok=True, **tolerance), name
        assert row.message == now.message


def test_the_table_says_what_it_is_of(suite):
    found = ninscope.sampling_bias(suite, "step10", nodes_per_layer=[4, 9], **ASKED)
    assert {name: str(dtype) for name, dtype in found.dtypes.items()} == {n: str(d) for n, d in COLUMNS.items()}
    assert found["revision"].tolist() == ["step10"] * 3
    assert found["step"].tolist() == [10] * 3
    assert found["method"].tolist() == ["sampled", "sampled", "exact"]
    assert found["samples"].tolist() == [3, 3, 1]
    assert found["nodes"].tolist() == [15 * 4, 15 * 9, 13 * 24 + 2 * 96]
    assert found["message"].tolist() == [""] * 3
    spreads = found[["alpha0_std", "width_std", "emergence_std"]]
    assert spreads.iloc[:2].gt(0).all(axis=None)
    assert spreads.iloc[2].isna().all()


def test_the_last_revision_by_step_unless_named(suite):
    same(ninscope.sampling_bias(suite, nodes_per_layer=[4], **ASKED),
         ninscope.sampling_bias(suite, "step10", [4], 3, 5, min_degree=3))  # fmt: skip
    named = ninscope.sampling_bias(suite, "step2", nodes_per_layer=[4], **ASKED)
    assert (named["revision"][0], named["step"][0]) == ("step2", 2)


def test_step_0_is_its_own_start(suite):
    found = ninscope.sampling_bias(suite, "step0", nodes_per_layer=[4, 8], **ASKED)
    assert found["emergence"].tolist() == [0, 0, 0]
    assert found["emergence_std"].tolist()[:2] == [0, 0]
    assert found["message"].tolist() == [""] * 3


def test_a_single_checkpoint_has_no_emergence_and_it_is_said(single):
    found = ninscope.sampling_bias(single, nodes_per_layer=[4, 8], **ASKED)
    assert found["revision"].tolist() == ["final"] * 3
    assert found[["step", "emergence", "emergence_std"]].isna().all(axis=None)
    assert found[["alpha0", "width"]].notna().all(axis=None)
    assert found["message"].str.startswith("no E: there is no usable step0 to compare with; ").tolist() == [True] * 3
    same(found, ninscope.sampling_bias(str(single), "final", nodes_per_layer=[4, 8], **ASKED))


def test_a_single_checkpoint_that_is_step_0(tmp_path):
    folder = write_checkpoint(tmp_path / "step0", neox_tensors(**SHAPE, seed=3))
    found = ninscope.sampling_bias(folder, nodes_per_layer=[4], **ASKED)
    assert found["emergence"].tolist() == [0, 0]
    assert found["step"].tolist() == [0, 0]


def test_numbers_of_neurons_in_any_order_are_measured_once(suite):
    expected = ninscope.sampling_bias(suite, nodes_per_layer=[4, 8], **ASKED)
    assert expected["nodes_per_layer"].tolist()[:2] == [4, 8]
    for asked in ((4, 8, 8, 4), np.array([8, 4, 4]), range(4, 9, 4), [np.int64(8), 4]):
        same(ninscope.sampling_bias(suite, nodes_per_layer=asked, **ASKED), expected)


def test_more_neurons_than_there_are_is_the_whole_network(suite):
    """24 is all of most layers, 96 all of every layer; there is nothing left to choose, so samples do not differ."""
    found = ninscope.sampling_bias(suite, nodes_per_layer=[24, 96, 10_000], **ASKED)
    assert found["nodes"].tolist() == [15 * 24, 504, 504, 504]
    assert found["method"].tolist() == ["sampled"] * 3 + ["exact"]
    for at in (1, 2):
        for name in ("alpha0", "width", "emergence"):
            assert found[name][at] == pytest.approx(found[name][3], rel=1e-12)
            assert found[f"{name}_std"][at] == pytest.approx(0, abs=1e-14)
    assert found["width_std"][0] > 0


@pytest.mark.parametrize(
    ("shape", "sizes", "steps"),
    [((1, 24, 3), [16, 32, 64], (0, 2)), ((1, 16, 2), [16, 32], (2,)), ((1, 4, 2), [], (0, 2)), ((1, 4, 2), [], (2,))],
)
def test_doubled_until_the_largest_layer_is_reached(tmp_path, steps, shape, sizes):
    """Which may be at once: then the whole network alone is measured."""
    for step in steps:
        write_checkpoint(tmp_path / f"step{step}", neox_tensors(*shape, seed=step))
    found = ninscope.sampling_bias(tmp_path, samples=2, min_degree=2)
    assert found["nodes_per_layer"].tolist() == [*sizes, pd.NA]
    now, *start = (ninscope.measure(tmp_path, f"step{step}", exact=True, min_degree=2) for step in reversed(steps))
    assert found["alpha0"].iloc[-1] == now.alpha0
    assert found["emergence"].iloc[-1] == pytest.approx(ninscope.emergence(now, *(start or [None])), nan_ok=True, rel=0)


def test_sampling_does_change_what_is_measured(tmp_path):
    """docs/method.md#sampling: alpha0 grows with the number of neurons taken."""
    folder = write_checkpoint(tmp_path / "final", neox_tensors(1, 128, 4, seed=1, dtype=np.float32))
    found = ninscope.sampling_bias(folder, nodes_per_layer=[16, 32, 64], samples=6)
    alpha0, spread = found["alpha0"].to_numpy(), found["alpha0_std"].to_numpy()
    assert (np.diff(alpha0[:3]) > np.maximum(spread[:2], spread[1:3])).all()


def test_no_split_changes_a_bit(suite, monkeypatch):
    expected = ninscope.sampling_bias(suite, nodes_per_layer=[4, 8, 30], workers=1, **ASKED)
    for band_bytes, workers in ((100, 5), (3000, 2), (10**9, None)):
        monkeypatch.setattr(bands, "BAND_BYTES", band_bytes)
        same(ninscope.sampling_bias(suite, nodes_per_layer=[4, 8, 30], workers=workers, **ASKED), expected)


def test_seeds_choose_other_neurons_and_leave_the_whole_network(suite):
    first, second = (ninscope.sampling_bias(suite, nodes_per_layer=[8], samples=2, seed=seed) for seed in (0, 1))
    same(first, ninscope.sampling_bias(suite, nodes_per_layer=[8], samples=2))
    assert first["alpha0"][0] != second["alpha0"][0]
    same(first.iloc[1:], second.iloc[1:])


def test_without_counted_nodes_values_are_missing_and_it_is_said(suite):
    """Four neurons a layer have at most 12 edges: none has more than 12, but all of the whole network have."""
    found = ninscope.sampling_bias(suite, nodes_per_layer=[4], samples=2, min_degree=12)
    values = ["alpha0", "alpha0_std", "width", "width_std", "emergence", "emergence_std"]
    assert found[values].iloc[0].isna().all()
    assert found["message"][0].startswith(
        "2 of 2 samples: no node has enough edges within the distance bounds: alpha0 and width are missing"
    )
    assert "no E: step0 has no spectrum" in found["message"][0]
    assert found[["alpha0", "width", "emergence"]].iloc[1].notna().all()
    assert found["message"][1] == ""


def test_a_mean_is_over_the_samples_that_have_a_spectrum(tmp_path):
    """As `measure` has it: of two neurons a layer, with six edges at most, some samples have none."""
    place = write_suite(tmp_path, (0, 2), blocks=1, width=24, heads=3)
    asked = {"samples": 20, "min_degree": 5}
    found = ninscope.sampling_bias(place, "step2", nodes_per_layer=[2], **asked)
    now, start = (ninscope.measure(place, step, nodes_per_layer=2, **asked) for step in ("step2", "step0"))
    assert 0 < sum(np.isnan(sample.alpha0) for sample in now.samples) < 20
    for name in ("alpha0", "alpha0_std", "width", "width_std"):
        assert found[name][0] == pytest.approx(getattr(now, name), rel=1e-12)
    assert found["emergence"][0] == pytest.approx(ninscope.emergence(now, start), rel=1e-12)
    pairs = [ninscope.emergence(*pair) for pair in zip(now.samples, start.samples, strict=True)]
    assert found["emergence_std"][0] == pytest.approx(np.nanstd(pairs, ddof=1), rel=1e-12)
    assert found["message"][0]


@pytest.mark.parametrize("sizes", [[], [0], [-4], [4, 0], ["x"], "x", "12", [True], [4, False], [2.0], [None], [[4]]])
def test_senseless_numbers_of_neurons_are_refused(suite, sizes):
    with pytest.raises(RequestError, match=r"nodes_per_layer is .*; a list of integers from 1 to 100000 was expected"):
        ninscope.sampling_bias(suite, nodes_per_layer=sizes)


@pytest.mark.parametrize("sizes", [[2**63], [4, 10**30]])
def test_numbers_beyond_any_layer_are_refused(suite, sizes):
    with pytest.raises(RequestError, match="nodes_per_layer is "):
        ninscope.sampling_bias(suite, nodes_per_layer=sizes, samples=1)


@pytest.mark.parametrize("sizes", [4, 0, True, 2.5, np.int64(4)])
def test_a_number_that_is_no_list_is_refused(suite, sizes):
    with pytest.raises(RequestError, match=r"nodes_per_layer is .*; a list of integers from 1 to 100000 was expected"):
        ninscope.sampling_bias(suite, nodes_per_layer=sizes)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"samples": 0}, "samples is 0; an integer from 1"),
        ({"samples": True}, "samples is True"),
        ({"samples": "x"}, "samples is 'x'"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"sample": 3}, r"unknown parameter sample; did you mean 'samples'\?; known: "),
        ({"exact": True}, "unknown parameter exact"),
        ({"radii": {"log": 20}}, "logarithmic radii depend on the sample; .* is measured on integer radii"),
        ({"radii": "wide"}, "radii is 'wide'"),
        ({"per_node": True}, "only the exact measurement knows single nodes; leave out per_node"),
        ({"q": [1.0]}, "q must be 2 to"),
        ({"transfer": "tanh"}, "transfer is 'tanh'"),
        ({"max_distance": 1}, "max_distance is 1"),
        ({"min_degree": -1}, "min_degree is -1"),
    ],
)
def test_bad_parameters_are_refused_before_anything_is_read(asked, says):
    with pytest.raises(RequestError, match=says):
        ninscope.sampling_bias("/no/such/folder", nodes_per_layer=[4], **asked)


def test_a_source_that_is_not_there(tmp_path, suite):
    with pytest.raises(RequestError, match="no such folder"):
        ninscope.sampling_bias(tmp_path / "nothing", nodes_per_layer=[4])
    with pytest.raises(RequestError, match="no checkpoint and no revision folders"):
        ninscope.sampling_bias(tmp_path, nodes_per_layer=[4])
    with pytest.raises(NinscopeError, match="no revision step3 in it"):
        ninscope.sampling_bias(suite, "step3", nodes_per_layer=[4])


@pytest.mark.parametrize("bad", ["step0", "step2"])
def test_a_checkpoint_that_cannot_be_read_is_named(tmp_path, bad):
    place = write_suite(tmp_path / "suite", (0, 2), **SHAPE)
    (place / bad / "model.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=f"{bad}/model.safetensors") as raised:
        ninscope.sampling_bias(place, "step2", nodes_per_layer=[4], samples=2)
    assert raised.value.status == "corrupt"


def test_a_step_0_that_is_not_finite_is_named(tmp_path):
    """Whoever asks for step 2 is told that it is step 0 which holds the NaN."""
    place = broken(tmp_path / "suite", (3, 5))
    with pytest.raises(CheckpointError, match=r"step0.*holds NaN or infinity, first at row 3, column 5") as raised:
        ninscope.sampling_bias(place, "step2", nodes_per_layer=[4], samples=2)
    assert raised.value.status == "nonfinite"


@pytest.mark.parametrize("workers", [1, 3])
def test_the_first_nan_of_a_tensor_is_where_it_is_said_to_be(tmp_path, workers):
    """Also where no sample holds that one, and every sample another."""
    place = broken(tmp_path / "suite", (0, 1), (slice(2, None), slice(3, None)))
    with pytest.raises(CheckpointError, match="first at row 0, column 1;"):
        ninscope.measure(place, "step0", exact=True)
    with pytest.raises(CheckpointError, match="first at row 0, column 1;"):
        ninscope.sampling_bias(place, "step0", nodes_per_layer=[4, 12, 20], samples=3, workers=workers)
