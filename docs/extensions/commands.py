"""The directive `ninscope-commands`: a section for every command, from the command line's own help texts."""

from collections.abc import Iterator

import typer
from docstrings import text_in_rst
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.nodes import nested_parse_with_titles

from ninscope_pipeline.cli import app as command_line

PROGRAM = "ninscope"


def command_lines() -> "Iterator[tuple[str, typer.core.TyperCommand]]":
    """(name as it is typed, command): the program itself, then every command in the order of its help."""
    group = typer.main.get_command(command_line)
    yield PROGRAM, group
    for name, command in group.commands.items():
        if not command.hidden:
            yield f"{PROGRAM} {name}", command


def parameters(name: str, command: "typer.core.TyperCommand") -> list[tuple[str, str, str]]:
    """(kind: "option" or "argument", as it is typed, help text) of all that `--help` lists, but itself."""
    context = typer.Context(command, info_name=name)
    return [
        (parameter.param_type_name, *parameter.get_help_record(context))
        for parameter in command.params
        if not getattr(parameter, "hidden", False) and parameter.name != "help"
    ]


def lines_of(name: str, command: "typer.core.TyperCommand") -> list[str]:
    """A section in reStructuredText."""
    usage = " ".join(command.collect_usage_pieces(typer.Context(command, info_name=name)))
    lines = [name, "-" * len(name), "", f".. program:: {name}", "", "::", "", f"    {name} {usage}", ""]
    for paragraph in (command.help or "").split("\n\n"):
        lines += [text_in_rst(" ".join(paragraph.split())), ""]
    for kind, typed, text in parameters(name, command):
        directive = "option" if kind == "option" else "describe"
        lines += [f".. {directive}:: {typed}", "", f"   {text_in_rst(text)}", ""]
    return lines


class Commands(Directive):
    def run(self) -> list[nodes.Node]:
        lines = [line for name, command in command_lines() for line in lines_of(name, command)]
        section = nodes.section()
        section.document = self.state.document
        nested_parse_with_titles(self.state, StringList(lines, source="ninscope --help"), section)
        return section.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("ninscope-commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
