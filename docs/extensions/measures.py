"""The directive `ninscope-measures`: a section for every measure of neurons, from the measures themselves."""

import inspect

from docstrings import text_in_rst
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.nodes import nested_parse_with_titles

from ninscope.neurons.observatory.measure import Measure
from ninscope.neurons.observatory.registry import measures


def lines_of(measure: Measure) -> list[str]:
    """A section in reStructuredText: what it is, what it follows, and its rows."""
    lines = [measure.name, "-" * len(measure.name), ""]
    for paragraph in inspect.cleandoc(type(measure).__doc__ or measure.title).split("\n\n"):
        lines += [text_in_rst(" ".join(paragraph.split())), ""]
    lines += [text_in_rst(f"Follows: {measure.source}"), ""]
    for name, text in measure.facts.items():
        lines += [f"``{name}``", f"    {text_in_rst(text)}", ""]
    return lines


class Measures(Directive):
    def run(self) -> list[nodes.Node]:
        lines = [line for measure in measures().values() for line in lines_of(measure)]
        section = nodes.section()
        section.document = self.state.document
        nested_parse_with_titles(self.state, StringList(lines, source="measures of neurons"), section)
        return section.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("ninscope-measures", Measures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
