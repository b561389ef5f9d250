"""ninscope.compare: two checkpoints beside each other, against definitions, and what cannot be compared."""

import math
from pathlib import Path

import numpy as np
import pytest
from naive_weights import change, neox_matrices
from suites import NeoxTensors, neox_tensors, write_checkpoint, write_config, write_suite, written

import ninscope
from ninscope.errors import CheckpointError, RequestError

ROOT = Path(__file__).parents[1]
SHAPE = {"blocks": 2, "width": 16, "heads": 2}
SAMPLED = {"nodes_per_layer": 8, "samples": 3, "min_degree": 3}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_suite(tmp_path_factory.mktemp("compared") / "tiny", (0, 8), **SHAPE)


@pytest.fixture(scope="module")
def comparison(suite):
    return ninscope.compare(suite / "step0", suite, revision_b=8)


def told(comparison):
    return " ".join(comparison.words)


def value_of(comparison, topic, name):
    frame = comparison.to_frame()
    (row,) = frame[(frame["topic"] == topic) & (frame["name"] == name)].to_dict("records")
    return row["a"], row["b"], row["difference"]


def test_the_page_shows_what_is_printed():
    page = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    shown = page.split("```text\n")[1].split("```")[0].splitlines()
    source = ROOT / "data" / "stdlib-neox-500k"
    assert shown[2:] == ninscope.compare(source, source, "step0", "step4000").words
    alpha0 = next(text for text in shown if text.startswith("alpha0 is "))
    before, now = (part.split(" in ")[0] for part in alpha0.removeprefix("alpha0 is ").split(" and "))
    turned = ninscope.compare(source / "step4000", source / "step0").words
    assert f"alpha0 is {now} in A and {before} in B; the intervals do not overlap." in turned


def test_values_are_those_of_measure_and_emergence(suite, comparison):
    a, b = (ninscope.measure(suite, revision) for revision in ("step0", "step8"))
    assert not comparison.same
    for name in ("alpha0", "width"):
        values = getattr(a, name), getattr(b, name)
        assert value_of(comparison, "spectrum", name) == (*values, values[1] - values[0])
        assert value_of(comparison, "spectrum", f"{name}_low")[:2] == (a.interval()[name][0], b.interval()[name][0])
    assert value_of(comparison, "emergence", "emergence")[1] == ninscope.emergence(b, a)
    row = ninscope.measure_all(suite)[1]
    assert value_of(comparison, "emergence", "emergence")[1] == row.emergence
    assert value_of(comparison, "checkpoint", "step")[:2] == (0, 8)
    assert value_of(comparison, "model", "parameters")[2] == 0


def test_matrices_are_those_of_the_definition(suite, comparison):
    tensors = [
        {name: array.astype(np.float64) for name, array in neox_tensors(seed=seed, **SHAPE).items()} for seed in (0, 8)
    ]
    before, now = (neox_matrices(stored, 2, 2) for stored in tensors)
    details = comparison.details().set_index("matrix")
    assert details.index[-1] == "all"
    assert set(details.index) == {*now, "all"}
    for name in now:
        expected = change(now[name], before[name])
        assert details.loc[name, "distance"] == pytest.approx(expected["distance"], rel=1e-12)
        assert details.loc[name, "sign_flips"] == pytest.approx(expected["sign_flips"], rel=1e-12)
        assert details.loc[name, "norm_a"] == pytest.approx(np.linalg.norm(before[name]), rel=1e-12)
        assert details.loc[name, "norm_b"] == pytest.approx(np.linalg.norm(now[name]), rel=1e-12)
    distances = details["distance"][:-1]
    assert distances.is_monotonic_decreasing
    assert f"Most changed, by distance over the norm in A: {distances.index[0]} (" in told(comparison)


def test_the_words_say_what_differs(comparison):
    words = comparison.words
    assert words[0] == "The weights differ."
    assert words[1].startswith("Both are read as gpt_neox: 15 node layers,")
    assert any(text.startswith("alpha0 is ") and "in A and" in text and "overlap" in text for text in words)
    assert any(text.startswith("E of B against A is ") and "(interval from" in text for text in words)
    assert any(text.startswith("The norm of all weights is ") for text in words)


def test_a_comparison_shows_itself(comparison):
    lines = repr(comparison).splitlines()
    assert lines[0].startswith("Comparison of A, ")
    assert lines[1:] == comparison.words
    assert "<table" in comparison._repr_html_()
    frame = comparison.to_frame()
    assert list(frame.columns) == ["topic", "name", "a", "b", "difference"]
    assert frame["difference"].dtype == np.float64
    assert (comparison.a.endswith("step0"), comparison.b.endswith("tiny step8")) == (True, True)


def test_the_same_thing_twice(suite):
    comparison = ninscope.compare(suite, suite, 0, "step0")
    assert comparison.same
    assert comparison.words[0].startswith("A and B are the same: their weight files have one sha256 (")
    assert not any("differ" in text or "E of B" in text for text in comparison.words)
    frame = comparison.to_frame()
    assert (frame["difference"].dropna() == 0).all()
    assert (comparison.details()["distance"] == 0).all()


def test_the_same_weights_in_other_files(tmp_path):
    tensors = neox_tensors(seed=0, **SHAPE)
    tensors["gpt_neox.layers.0.attention.dense.weight"][:] = 0  # of a matrix of zeros no distance is defined
    folders = [write_checkpoint(tmp_path / str(shards), tensors, shards=shards) for shards in (1, 3)]
    comparison = ninscope.compare(*folders)
    assert comparison.same
    assert comparison.words[0].startswith("A and B have the same weights, though their files differ")
    other = NeoxTensors(tensors, tensors.config)
    name = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"
    other[name] = tensors[name] * np.float16(2)
    comparison = ninscope.compare(folders[0], write_checkpoint(tmp_path / "other", other))
    assert not comparison.same
    assert comparison.words[0] == "The weights differ; 11 matrices are the same in both."
    (name, distance) = comparison.details().iloc[0][["matrix", "distance"]]
    assert (name, distance) == ("block1.a -> block1.m", pytest.approx(1))


def test_the_same_files_that_are_read_as_two_networks(tmp_path):
    tensors = neox_tensors(seed=0, **SHAPE)
    folders = [write_checkpoint(tmp_path / name, tensors) for name in ("a", "b")]
    write_config(folders[1], tensors.config | {"num_attention_heads": 4})
    comparison = ninscope.compare(*folders)
    assert not comparison.same
    assert comparison.words[0].startswith("The weight files are the same (sha256 ")
    assert value_of(comparison, "model", "num_attention_heads")[:2] == (2, 4)
    text = told(comparison)
    assert "num_attention_heads 2 and 4" in text
    assert "There is no E of B against A: the networks are wired otherwise." in text
    assert "No matrix that both have changed (without 6 matrices that A has not in the same shape)." in text
    assert "Most changed" not in text


def test_other_sizes_have_no_e_and_no_changes(suite, tmp_path):
    other = write_suite(tmp_path / "wide", (0,), blocks=1, width=32, heads=2)
    comparison = ninscope.compare(suite / "step0", other)
    text = told(comparison)
    assert "The models are built otherwise (A and B): parameters" in text
    assert "hidden_size 16 and 32" in text
    assert "num_hidden_layers 2 and 1" in text
    assert "There is no E of B against A: the networks are wired otherwise." in text
    assert "The matrices cannot be compared: A has no matrix of the same shape." in text
    assert math.isnan(value_of(comparison, "emergence", "emergence")[1])
    details = comparison.details().set_index("matrix")
    assert details.loc["block1.x -> block1.q", "message"] == "B has no such matrix"
    assert math.isnan(details.loc["block1.x -> block1.q", "norm_b"])


def test_two_families(suite, tmp_path):
    rng = np.random.default_rng(0)
    config = {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 16, "n_layer": 1, "n_head": 2, "n_inner": 64,
    }  # fmt: skip
    shapes = {"attn.c_attn": (16, 48), "attn.c_proj": (16, 16), "mlp.c_fc": (16, 64), "mlp.c_proj": (64, 16)}
    tensors = {
        f"transformer.h.0.{name}.weight": rng.standard_normal(shape).astype(np.float32) * 0.1
        for name, shape in shapes.items()
    }
    comparison = ninscope.compare(suite / "step0", write_checkpoint(tmp_path / "gpt2", tensors, config))
    assert "family gpt_neox and gpt2" in told(comparison)
    assert "hidden_size 16 and none" in told(comparison)
    assert "the networks are wired otherwise (gpt_neox and gpt2)" in told(comparison)


def test_models_of_two_places_have_an_e_where_the_training_is_one(suite, tmp_path):
    elsewhere = write_suite(tmp_path / "elsewhere", (8,), **SHAPE)
    comparison = ninscope.compare(suite / "step0", elsewhere / "step8")
    assert "There is no E of B against A: the models are " in told(comparison)
    assert "(--same-training, or same_training=True in Python, where both are of one training)" in told(comparison)
    trusted = ninscope.compare(suite / "step0", elsewhere / "step8", same_training=True)
    expected = ninscope.measure_all(suite)[1].emergence
    assert value_of(trusted, "emergence", "emergence")[1] == expected


def test_networks_of_which_unlike_parts_count_have_an_e_on_request(suite, tmp_path):
    tensors = neox_tensors(seed=0, **SHAPE)
    faint = NeoxTensors({name: array * np.float16(0.05) for name, array in tensors.items()}, tensors.config)
    folder = write_checkpoint(tmp_path / "faint", faint)
    text = told(ninscope.compare(suite / "step0", folder, same_training=True))
    assert "There is no E of B against A: it would compare unlike networks: " in text
    trusted = ninscope.compare(suite / "step0", folder, same_training=True, trust_unlike_counts=True)
    a, b = ninscope.measure(suite, 0), ninscope.measure(folder)
    assert value_of(trusted, "emergence", "emergence")[1] == ninscope.emergence(b, a, same_training=True)


def test_samples_leave_matrices_out(suite):
    comparison = ninscope.compare(suite, suite, 0, 8, **SAMPLED)
    a, b = (ninscope.measure(suite, step, **SAMPLED) for step in (0, 8))
    assert comparison.words[0] == "The weight files differ."
    assert "are left out with samples" in told(comparison)
    assert f"alpha0 is {a.alpha0:.3f} ± " in told(comparison)
    assert value_of(comparison, "spectrum", "alpha0")[:2] == (a.alpha0, b.alpha0)
    assert value_of(comparison, "spectrum", "width_std")[:2] == (a.width_std, b.width_std)
    assert comparison.details().empty
    assert "weights" not in set(comparison.to_frame()["topic"])


@pytest.mark.parametrize("changed", [{"gauge": "fixed"}, {"direction": "in"}, {"radii": {"log": 20}}])
def test_norms_are_of_stored_weights_however_the_network_is_read(suite, comparison, changed):
    other = ninscope.compare(suite, suite, 0, 8, **changed)
    assert other.details().equals(comparison.details())
    measured = ninscope.measure(suite, 8, **changed)
    assert value_of(other, "spectrum", "alpha0")[1] == measured.alpha0
    assert measured.alpha0 != value_of(comparison, "spectrum", "alpha0")[1]


def test_models_in_memory(suite):
    torch = pytest.importorskip("torch")
    state = {"a.weight": torch.eye(16), "b.weight": torch.ones(16, 16)}
    later = {name: tensor * 2 for name, tensor in state.items()}
    comparison = ninscope.compare(state, later)
    assert not comparison.same
    assert comparison.details().set_index("matrix").loc["all", "distance"] == pytest.approx(1)
    assert ninscope.compare(state, dict(state)).same


def test_a_network_without_a_spectrum_says_so(tmp_path):
    tensors = neox_tensors(seed=0, **SHAPE)
    silent = NeoxTensors({name: array * 0 for name, array in tensors.items()}, tensors.config)
    folders = [written(tmp_path / name, stored, "F16")[0] for name, stored in (("a", tensors), ("b", silent))]
    text = told(ninscope.compare(*folders))
    assert "B has no spectrum: " in text
    assert "There is no E of B against A: this checkpoint has no spectrum." in text
    assert "alpha0 is" not in text
    assert f"Warning, of A: {ninscope.measure(folders[0]).warning}." in text


def test_warnings_of_both_are_told_once(suite, comparison):
    warnings = {ninscope.measure(suite, step).warning for step in (0, 8)}
    (warning,) = warnings
    assert "power law" in warning
    assert comparison.words[-1] == f"Warning, of A and B: {warning}."
    assert not any(text.startswith("Warning") for text in comparison.words[:-1])
    unwarned = ninscope.compare(suite, suite, 0, 8, max_distance=30)
    assert not any(text.startswith("Warning") for text in unwarned.words)


def test_requests_that_are_wrong(suite):
    with pytest.raises(RequestError, match=r"has 2 revisions \(step0, step8\); name one: .*tiny@step8 .* revision_b="):
        ninscope.compare(suite / "step0", suite)
    with pytest.raises(RequestError, match="has no revision of that step"):
        ninscope.compare(suite, suite, 0, 7)
    with pytest.raises(RequestError, match="samplez"):
        ninscope.compare(suite, suite, 0, 8, samplez=3)
    with pytest.raises(CheckpointError, match="step9"):
        ninscope.compare(suite, suite, "step0", "step9")


def test_a_checkpoint_with_nan(suite, tmp_path):
    tensors = neox_tensors(seed=0, **SHAPE)
    tensors["gpt_neox.layers.0.attention.dense.weight"][0, 0] = np.nan
    broken = write_checkpoint(tmp_path / "nan", tensors)
    with pytest.raises(CheckpointError, match=r"attention\.dense\.weight") as raised:
        ninscope.compare(suite / "step0", broken)
    assert raised.value.status == "nonfinite"
