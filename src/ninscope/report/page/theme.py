"""Colours of the page, light and dark, and how charts look.

Charts name colours as CSS variables (`var(--ink)`), which an SVG in the page takes from it: they follow the colour scheme, and
paper, without being drawn again. Where a chart leaves the page (SVG files), `resolved` puts the light colours in.

Text has a contrast of at least 4.5 to its ground, lines and marks at least 3 (WCAG 2.2, AA); tests/page/test_theme.py computes it.
"""

import re
from typing import Any

LIGHT = {
    "paper": "#ffffff", "raised": "#f5f6f8", "ink": "#1c2330", "muted": "#566074", "rule": "#d5dae2", "edge": "#7b8596",
    "grid": "#e8ebf0", "accent": "#1a5aa5", "on-accent": "#ffffff", "warn": "#fff7e3", "warn-ink": "#664300",
    "warn-rule": "#b37a00", "series-1": "#1a5aa5", "series-2": "#b84e0e", "series-3": "#1b7a58", "series-4": "#873d9e",
    "series-5": "#a82f42", "series-6": "#5f6a24", "series-7": "#23788c", "series-8": "#6d5a48",
}  # fmt: skip
DARK = {
    "paper": "#15181d", "raised": "#1e2229", "ink": "#e6e9ee", "muted": "#a6b0bf", "rule": "#363d49", "edge": "#7d8899",
    "grid": "#2a303a", "accent": "#8cbaf2", "on-accent": "#10141a", "warn": "#2f2711", "warn-ink": "#f2d78f",
    "warn-rule": "#b89233", "series-1": "#7fb4f3", "series-2": "#f1a460", "series-3": "#62cfa2", "series-4": "#d59ce7",
    "series-5": "#f38d97", "series-6": "#c0cb7a", "series-7": "#70c9dd", "series-8": "#cbbaa8",
}  # fmt: skip

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
SERIES = [f"var(--series-{number})" for number in range(1, 9)]  # colours of models, in the order of the page

_VARIABLE = re.compile(r"var\(--([\w-]+)\)")
_TEXT = {"labelFont": FONT, "titleFont": FONT, "titleFontWeight": 600}

CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": FONT,
    "aria": False,  # the page has one description a chart; a mark for every point would bury it
    "view": {"stroke": "transparent"},
    "axis": _TEXT
    | {
        "labelColor": "var(--muted)",
        "titleColor": "var(--ink)",
        "domainColor": "var(--edge)",
        "tickColor": "var(--edge)",
        "gridColor": "var(--grid)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titlePadding": 8,
    },
    "legend": _TEXT
    | {
        "labelColor": "var(--ink)",
        "titleColor": "var(--ink)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "labelLimit": 260,
        "orient": "bottom",
        "columns": 1,
    },
    "header": _TEXT
    | {"labelColor": "var(--ink)", "titleColor": "var(--ink)", "labelFontSize": 12, "titleFontSize": 12},
    "title": {"font": FONT, "color": "var(--ink)", "subtitleColor": "var(--muted)", "fontSize": 13, "anchor": "start"},
    "text": {"font": FONT, "color": "var(--ink)"},
    "rule": {"color": "var(--muted)"},
    "mark": {"color": SERIES[0]},
    "line": {"strokeWidth": 2},
    "range": {"category": SERIES},
}


def resolved(text: str, colours: dict[str, str]) -> str:
    """`text` with every colour variable as its colour. Raises KeyError: a variable that the theme lacks."""
    return _VARIABLE.sub(lambda match: colours[match[1]], text)


def with_config(spec: dict[str, Any]) -> dict[str, Any]:
    """A Vega-Lite specification that looks like the page, where its own `config` says nothing else."""
    return spec | {"config": _merged(CONFIG, spec.get("config", {}))}


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {key for key in below.keys() & above.keys() if isinstance(below[key], dict) and isinstance(above[key], dict)}
    return below | above | {key: _merged(below[key], above[key]) for key in both}
