"""The charts of the page as SVG files, drawn without a browser."""

import json
import re
from collections.abc import Sequence
from typing import Any

from ninscope.report.page.parts import PagePart
from ninscope.report.page.specs import chart_specs, with_data
from ninscope.report.page.theme import LIGHT, resolved

WIDTH = 640  # in pixels, of charts that would fill the page

_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # what XML 1.0 cannot hold (2.2)


def chart_svgs(parts: Sequence[PagePart]) -> dict[str, bytes]:
    """SVG files by the charts' names, in the page's light colours; sliders stand where they stand at first.

    Raises ValueError: two charts have one name, or a chart cannot be drawn.
    """
    import vl_convert

    specs = chart_specs(parts)
    drawings = {}
    for name, spec in specs.charts.items():
        alone = with_data(spec, specs.data) | {"background": LIGHT["paper"]}
        config = {"view": spec["config"]["view"] | {"continuousWidth": WIDTH}}
        alone["config"] = spec["config"] | config
        if alone.get("width") == "container":
            alone["width"] = WIDTH
        drawings[name] = vl_convert.vegalite_to_svg(resolved(json.dumps(for_xml(alone)), LIGHT)).encode()
    return drawings


def for_xml(value: Any) -> Any:
    """Texts, lists and dicts as they are, with U+FFFD for each character that XML cannot hold; names from files may hold any."""
    if isinstance(value, str):
        return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, dict):
        return {key: for_xml(inner) for key, inner in value.items()}
    return [for_xml(inner) for inner in value] if isinstance(value, list) else value
