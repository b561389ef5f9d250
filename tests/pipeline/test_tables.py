"""Tables without rows, which most are of most runs: made once a process, and the same as any other to whoever reads them."""

import pandas as pd
import pytest

from ninscope_pipeline.storing.parquet import read_parquet
from ninscope_pipeline.tables import KEYS, all_tables, empty_table, is_without_rows, parquet_bytes


@pytest.mark.parametrize("name", sorted(all_tables()))
def test_it_is_what_pandas_makes_of_no_rows(name, tmp_path):
    types = KEYS | dict(all_tables()[name].columns)
    expected = pd.DataFrame([], columns=list(types)).astype(types)
    pd.testing.assert_frame_equal(empty_table(name), expected)
    path = tmp_path / f"{name}.parquet"
    path.write_bytes(parquet_bytes(empty_table(name)))
    assert path.read_bytes() == expected.to_parquet(index=False, engine="pyarrow", compression="zstd")
    pd.testing.assert_frame_equal(read_parquet(path), expected)


def test_what_is_done_to_one_is_not_done_to_the_next():
    changed = empty_table("checkpoints")
    changed.insert(0, "mine", "x")
    changed.loc[0, "status"] = "ok"
    assert empty_table("checkpoints").columns[0] == "suite"
    assert len(empty_table("checkpoints")) == 0


def test_a_file_is_one_only_byte_for_byte(tmp_path):
    path = tmp_path / "checkpoints.parquet"
    whole = parquet_bytes(empty_table("checkpoints"))
    path.write_bytes(whole)
    assert is_without_rows(path, "checkpoints")
    for other in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], parquet_bytes(empty_table("emergence"))):
        path.write_bytes(other)
        assert not is_without_rows(path, "checkpoints")
    rows = empty_table("checkpoints")
    rows.loc[0, "status"] = "ok"
    path.write_bytes(parquet_bytes(rows))
    assert not is_without_rows(path, "checkpoints")
    assert read_parquet(path)["status"].tolist() == ["ok"]
