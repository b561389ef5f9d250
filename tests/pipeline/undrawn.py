"""Runs that write digests for pictures: drawing takes longer than all else that a tiny run does.

`python undrawn.py ARGUMENTS` is `ninscope ARGUMENTS` without drawing.
"""

import hashlib
from collections.abc import Mapping, Sequence

import pandas as pd

from ninscope_pipeline import figures


def draw(tables: Mapping[str, pd.DataFrame], formats: Sequence[str], results: object = None) -> dict[str, bytes]:
    """In the place of `figures.draw`: what depends on every table, by names of figures."""
    content = hashlib.sha256("".join(tables[name].to_csv() for name in sorted(tables)).encode()).digest()
    names = ("emergence", "spectra")
    return {f"{model.stem}-{name}.png": content for model in figures.FigureTables(tables).models for name in names}


if __name__ == "__main__":
    from ninscope_pipeline.cli import main

    figures.draw = draw
    main()
