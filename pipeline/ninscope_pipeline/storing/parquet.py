"""Reading the tables of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> "pd.DataFrame":
    """As pandas reads it, in this thread alone: a command that ends just after reading could die of pyarrow's own threads.

    Raises what pandas raises.
    """
    import pandas as pd

    chosen = None if columns is None else list(columns)
    return pd.read_parquet(path, columns=chosen, use_threads=False, pre_buffer=False)
