"""Printing tables so that nothing of them is cut off."""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def print_whole(table: Table) -> None:
    """Print a table as wide as it is: in a narrow window lines wrap, but no number is cut off."""
    console = Console()
    width = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    Console(width=max(width, 1), soft_wrap=True).print(table)
