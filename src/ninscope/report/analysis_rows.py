"""Which rows of a table come from [analysis] itself: tables hold those of variants, and of parts of networks, as well."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

ALL_PARTS = "all"  # the part of a checkpoint that is the network as one
DEFAULT = "default"  # the variant that [analysis] itself is


def whole_networks(rows: "pd.DataFrame") -> "pd.DataFrame":
    """The rows of a table that tell about networks as one, not about their parts."""
    return rows[rows["part"] == ALL_PARTS] if "part" in rows else rows


def of_analysis(rows: "pd.DataFrame") -> "pd.DataFrame":
    """The rows of a table that come from [analysis] itself: no variant's, and networks as one."""
    rows = whole_networks(rows)
    return rows[rows["variant"] == DEFAULT] if "variant" in rows else rows
