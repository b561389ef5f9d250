"""What `ninscope bias` does: the sampling bias of a checkpoint, shown and drawn."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ninscope.bias import sampling_bias
from ninscope.checkpoints.audit import OVERRIDE
from ninscope.errors import RequestError
from ninscope.report.bias_figure import bias_figure
from ninscope_pipeline import display
from ninscope_pipeline.display import Say


def show_sampling_bias(source: str, options: Mapping[str, Any], figure: Path | None, as_json: bool, say: Say) -> int:
    """Measure samples of every size, show and draw them; returns the exit code. options: of `sampling_bias`.

    figure: the file to draw into (default: bias.png; with as_json none). Raises RequestError, CheckpointError.
    """
    if figure is None and not as_json:
        figure = Path("bias.png")
    if figure is not None:
        display.check_figure_file(figure)
    with display.working(f"measuring samples of {source}", quiet=as_json):
        table = sampling_bias(source, **options)
    if as_json:
        print(display.bias_json(source, table))
    else:
        display.show_bias(source, table)
    withheld = next((message for message in table["message"] if OVERRIDE in message), None)
    if withheld is not None:
        say(f"{table['revision'][0]}: duplicate: {withheld}")
    if figure is not None:
        folder = Path(source)
        drawn = bias_figure(table, f"{folder.resolve().name if folder.exists() else source}, {table['revision'][0]}")
        display.write_figure(figure, drawn)
        if not as_json:
            print(f"figure: {figure}")
    return int(withheld is not None)


def parsed_numbers(text: str | None) -> list[int] | None:
    """ "16,32,64" as sizes of samples. Raises RequestError."""
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise RequestError(
            f"--nodes-per-layer is {text!r}; give numbers separated by commas, such as 16,32,64"
        ) from None
