#!/usr/bin/env bash
# duckdb 2.0.1 with a Parquet file of pyarrow 26.0.1: isnan(x) finds no row of the file, although one x is NaN.
#
# pyarrow leaves NaN out of the smallest and largest value that it writes for a column. DuckDB takes these for bounds of all values: its
# plan of isnan(x), of x = 'NaN' and of x > 5 (NaN is the largest value there) is an empty result, and the file is not read. Switching
# the optimizer "statistics_propagation" off changes nothing. isfinite(x) is asked of each row, and a copy of the table is right. pandas
# is no victim: to_parquet writes NaN as null.
#
# Seen: "isnan 0, above 5 0, not isfinite 1; of a copy: isnan 1, above 5 1; of pandas: null 1". This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check duckdb==2.0.1 pyarrow==26.0.1 pandas==2.3.3
cat >"$folder/show.py" <<'PY'
import sys
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

folder = Path(sys.argv[1])
values = {"x": [1.0, float("nan"), 2.0]}
pq.write_table(pa.table(values), folder / "pyarrow.parquet")
pd.DataFrame(values).to_parquet(folder / "pandas.parquet")
connection = duckdb.connect()
file = f"'{folder / 'pyarrow.parquet'}'"
connection.execute(f"CREATE TABLE copy AS FROM {file}").fetchall()


def rows(condition, source=file):
    return connection.sql(f"SELECT count(*) FROM {source} WHERE {condition}").fetchall()[0][0]


in_file = f"isnan {rows('isnan(x)')}, above 5 {rows('x > 5')}, not isfinite {rows('NOT isfinite(x)')}"
in_copy = f"isnan {rows('isnan(x)', 'copy')}, above 5 {rows('x > 5', 'copy')}"
of_pandas = rows("x IS NULL", f"'{folder / 'pandas.parquet'}'")
print(f"{in_file}; of a copy: {in_copy}; of pandas: null {of_pandas}")
PY
seen=$("$folder/venv/bin/python" "$folder/show.py" "$folder" | tail -n 1)
echo "$seen"
[ "$seen" = "isnan 0, above 5 0, not isfinite 1; of a copy: isnan 1, above 5 1; of pandas: null 1" ]
