"""Matrices with annotations in the store: read by AnnData, by zarr and by the store; the same matrix gives the same bytes."""

import anndata
import numpy as np
import pytest
import zarr

from ninscope_pipeline.storing.annotated import AnnotatedMatrix, annotated_of_files, files_of_annotated
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import Artefact, ArtefactStore, DamagedArtefact

VALUES = np.array([[1.5, np.nan], [-2.0, np.inf], [0.0, 3.0]])


def a_matrix(values=VALUES, dtype=np.float64) -> AnnotatedMatrix:
    return AnnotatedMatrix(
        np.asarray(values, dtype),
        ["block0.m/0", "block0.m/1", "blöck1.m/0"],
        ["size", "size/shuffled"],
        {"layer": ["block0.m", "block0.m", "blöck1.m"], "index": np.array([0, 1, 0]), "unit": ["neuron"] * 3},
        {"control": ["none", "shuffled"], "against": ["", ""]},
    )


def written(matrix: AnnotatedMatrix, folder):
    for name, content in files_of_annotated("annotated", matrix).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / "annotated"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_anndata_reads_it(tmp_path, dtype):
    read = anndata.read_zarr(written(a_matrix(dtype=dtype), tmp_path))
    assert read.X.dtype == dtype
    np.testing.assert_array_equal(read.X, VALUES)
    assert read.obs_names.tolist() == ["block0.m/0", "block0.m/1", "blöck1.m/0"]
    assert read.obs.astype({"layer": str, "unit": str}).values.tolist() == [
        ["block0.m", 0, "neuron"], ["block0.m", 1, "neuron"], ["blöck1.m", 0, "neuron"],
    ]  # fmt: skip
    assert read.obs["layer"].cat.categories.tolist() == ["block0.m", "blöck1.m"]
    assert read.var.astype(str).values.tolist() == [["none", ""], ["shuffled", ""]]
    assert read[:, "size"].X.shape == (3, 1)


def test_anndata_writes_on(tmp_path):
    """What it reads is whole: it can be written as its other formats."""
    read = anndata.read_zarr(written(a_matrix(), tmp_path))
    read.write_h5ad(tmp_path / "values.h5ad")
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "values.h5ad").X, VALUES)


def test_without_rows_and_columns(tmp_path):
    nothing = AnnotatedMatrix(np.empty((0, 0)), [], [], {"layer": [], "index": np.empty(0, np.int64)}, {"control": []})
    read = anndata.read_zarr(written(nothing, tmp_path))
    assert read.shape == (0, 0)
    back = annotated_of_files(files_of_annotated("x", nothing), "x")
    assert (back.values.shape, list(back.row_names), list(back.rows)) == ((0, 0), [], ["layer", "index"])


def test_texts_are_those_of_zarr(tmp_path):
    group = zarr.open_group(written(a_matrix(), tmp_path), mode="r")
    assert group["obs/_index"][:].tolist() == ["block0.m/0", "block0.m/1", "blöck1.m/0"]
    assert dict(group["obs"].attrs)["column-order"] == ["layer", "index", "unit"]


def test_there_and_back(tmp_path):
    files = files_of_annotated("annotated", a_matrix())
    assert files == files_of_annotated("annotated", a_matrix())
    back = annotated_of_files(files, "annotated")
    np.testing.assert_array_equal(back.values, VALUES)
    assert back.row_names == a_matrix().row_names
    assert back.rows["layer"] == a_matrix().rows["layer"]
    np.testing.assert_array_equal(back.rows["index"], [0, 1, 0])
    assert back.columns == a_matrix().columns


def test_in_the_store(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create()
    store = ArtefactStore(folder)
    store.write("neurons", "key", Artefact({"numbers": np.arange(3.0)}, {}, annotated=a_matrix()))
    assert store.read("neurons", "key").annotated is None
    read = store.read("neurons", "key", only=(), with_annotated=True)
    np.testing.assert_array_equal(read.annotated.values, VALUES)
    file = folder.store / "neurons" / "key" / "annotated" / "obs" / "_index" / "c" / "0"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DamagedArtefact, match="neurons key: the stored artefact is damaged"):
        store.read("neurons", "key", with_annotated=True)
