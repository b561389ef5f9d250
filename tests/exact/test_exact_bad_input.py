"""Whole networks that have no spectrum, or files that hold more than matrices: said in one line, and nothing else suffers."""

import json
import struct
import subprocess
import sys

import numpy as np
import pytest
from suites import neox_config, neox_tensors, used_names, write_checkpoint, write_suite

import ninscope
from ninscope.errors import CheckpointError
from ninscope.exact import counting

SHAPE = {"blocks": 1, "width": 16, "heads": 2}
FUSED = "gpt_neox.layers.0.attention.query_key_value.weight"
DENSE = "gpt_neox.layers.0.attention.dense.weight"


def alike(value: float) -> dict[str, np.ndarray]:
    tensors = neox_tensors(**SHAPE, seed=3)
    for name in used_names(tensors):
        tensors[name][...] = value
    return tensors


def test_one_radius_has_no_slope_and_it_is_said(tmp_path):
    measured = ninscope.measure(write_checkpoint(tmp_path / "step0", alike(0.125)))
    assert np.isnan(measured.alpha0)
    assert np.isnan(measured.width)
    assert measured.message == ("all counted edges share 1 radius: there is no slope, so alpha0 and width are missing")
    assert measured.edges == 16 * 16 * 4 + 4 * 16 * 16 * 2


def test_every_node_alike_has_width_0_and_no_emergence(tmp_path):
    """Columns that are permutations of one another: one curve for all nodes, so alpha is the same at every q."""
    tensors = neox_tensors(1, 8, 2, seed=3, dtype=np.float32)
    values = np.array([0.5, 0.25, 0.125, 0.0625] * 8, dtype=np.float32)
    for name in used_names(tensors):
        rows, columns = tensors[name].shape
        of_node = np.resize(values, rows)
        # Layers of another number of edges would have another curve: N = 1 + edges is not proportional to the edges.
        matrix = np.stack([np.roll(of_node, shift) for shift in range(columns)], axis=1)
        tensors[name] = matrix if name.endswith("dense_4h_to_h.weight") else np.zeros_like(matrix)
    suite = tmp_path / "suite"
    write_checkpoint(suite / "step0", tensors)
    write_checkpoint(suite / "step1", neox_tensors(1, 8, 2, seed=4, dtype=np.float32))
    start, later = ninscope.measure_all(suite, min_degree=3)
    assert start.spectrum.width == 0
    for row in (start, later):
        assert row.status == "ok"
        assert np.isnan(row.emergence)
        assert "no E: the spectrum of step0 has width 0 (every node alike)" in row.message


@pytest.mark.parametrize("other", [np.float32, np.float64])
def test_types_may_differ_within_a_checkpoint(tmp_path, other):
    tensors = neox_tensors(**SHAPE, seed=3, dtype=np.float16)
    mixed = neox_tensors(**SHAPE, seed=3, dtype=np.float16)
    for name in (DENSE, FUSED):
        mixed[name] = tensors[name].astype(other)  # the same numbers
    one = ninscope.measure(write_checkpoint(tmp_path / "one" / "step0", tensors))
    two = ninscope.measure(write_checkpoint(tmp_path / "two" / "step0", mixed))
    assert (one.alpha0, one.width, one.edges) == (two.alpha0, two.width, two.edges)
    for left, right in zip(one.layers, two.layers, strict=True):
        assert left.mean == pytest.approx(right.mean, rel=1e-9)


def test_scalars_and_vectors_in_the_file_are_left_alone(tmp_path):
    tensors = neox_tensors(**SHAPE, seed=3)
    expected = ninscope.measure(write_checkpoint(tmp_path / "plain" / "step0", tensors))
    more = {
        "step": np.array(7, dtype=np.int64),
        "temperature": np.array(np.nan, dtype=np.float32),
        "gpt_neox.layers.0.input_layernorm.weight": np.ones(16, np.float16),
        "empty": np.zeros((0, 4), np.float32),
    }
    tensors.update(more)
    found = ninscope.measure(write_checkpoint(tmp_path / "more" / "step0", tensors))
    assert (found.alpha0, found.width, found.edges) == (expected.alpha0, expected.width, expected.edges)


@pytest.mark.parametrize("shape", [(), (256,), (3, 16, 16)])
def test_a_matrix_that_is_none_is_corrupt(tmp_path, shape):
    tensors = neox_tensors(**SHAPE, seed=3)
    tensors[DENSE] = np.ones(shape, np.float16)
    with pytest.raises(
        CheckpointError, match=r"attention.dense.weight has shape \[.*\], config.json .* implies \[16, 16\]"
    ):
        ninscope.measure(write_checkpoint(tmp_path / "step0", tensors))


def test_counts_that_would_not_fit_are_refused_before_they_are_made(monkeypatch, tmp_path):
    folder = write_checkpoint(tmp_path / "step0", neox_tensors(**SHAPE, seed=3))
    monkeypatch.setattr(counting, "MAX_TALLY_BYTES", 4 * 16 * 153)
    with pytest.raises(
        CheckpointError, match=r"counts of a layer of 64 neurons at 150 radii would take .* fewer radii"
    ):
        ninscope.measure(folder)
    assert ninscope.measure(folder, max_distance=30).alpha0 > 0


def test_bad_checkpoints_stop_no_other(tmp_path):
    suite = write_suite(tmp_path / "suite", [0, 1, 2, 4, 8], **SHAPE)
    write_checkpoint(suite / "step1", alike(0.125))
    vector = neox_tensors(**SHAPE, seed=1)
    vector[DENSE] = np.ones(3, np.float16)
    write_checkpoint(suite / "step2", vector)
    write_checkpoint(suite / "step4", alike(np.inf))
    rows = ninscope.measure_all(suite)
    assert [row.status for row in rows] == ["ok", "ok", "corrupt", "nonfinite", "ok"]
    assert [row.spectrum and row.spectrum.method for row in rows] == ["exact", "exact", None, None, "exact"]
    assert "share 1 radius" in rows[1].message
    assert "no E: this checkpoint has no spectrum" in rows[1].message
    assert "holds NaN or infinity, first at row 0, column 0" in rows[3].message
    assert not np.isnan(rows[4].emergence)


@pytest.mark.slow
def test_tensors_larger_than_memory_are_streamed(tmp_path):
    """1.6 GB of weights, the largest tensor 0.5 GB, in a process that never holds 0.4 GB."""
    width = 8192
    tensors = {
        "attention.query_key_value": (3 * width, width),
        "attention.dense": (width, width),
        "mlp.dense_h_to_4h": (4 * width, width),
        "mlp.dense_4h_to_h": (width, 4 * width),
    }
    header, end = {}, 0
    for name, shape in tensors.items():
        size = 2 * shape[0] * shape[1]
        header[f"gpt_neox.layers.0.{name}.weight"] = {
            "dtype": "F16", "shape": list(shape), "data_offsets": [end, end + size],
        }  # fmt: skip
        end += size
    text = json.dumps(header).encode()
    folder = tmp_path / "step0"
    folder.mkdir()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        some = np.random.default_rng(0).normal(0, 0.02, (500, width)).astype(np.float16)
        file.write(some.tobytes())  # the first rows of query_key_value; the rest is a hole, which reads as zeros
        file.truncate(8 + len(text) + end)
    (folder / "config.json").write_text(json.dumps(neox_config(1, width, 8)))
    code = (
        f"import ninscope\nmeasured = ninscope.measure({str(folder)!r})\n"
        "print(measured.edges)\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    edges, peak = map(int, done.stdout.split())
    distances = 1 / np.abs(some[some != 0].astype(np.float64))
    assert edges == ((distances > 1) & (distances <= 150)).sum()
    assert peak * 1024 < 400e6


@pytest.mark.parametrize("confidence", [0, 1, 1.0, 95, float("nan"), True, "0.9"])
def test_a_confidence_that_is_no_share_is_refused(tmp_path, confidence):
    """95 for 0.95 would give an interval without ends."""
    measured = ninscope.measure(write_checkpoint(tmp_path / "step0", neox_tensors(**SHAPE, seed=4)))
    with pytest.raises(ninscope.RequestError, match=r"^confidence is .*; a number between 0 and 1 was expected$"):
        measured.interval(confidence)
