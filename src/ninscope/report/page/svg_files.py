"""The charts of the page as SVG files, drawn without a browser."""

import json
from collections.abc import Sequence

from ninscope.report.page.parts import Part
from ninscope.report.page.specs import chart_specs, with_data
from ninscope.report.page.theme import LIGHT, resolved

WIDTH = 640  # in pixels, of charts that would fill the page


def chart_svgs(parts: Sequence[Part]) -> dict[str, bytes]:
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
        drawings[name] = vl_convert.vegalite_to_svg(resolved(json.dumps(alone), LIGHT)).encode()
    return drawings
