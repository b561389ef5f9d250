"""Docstrings of this project as reStructuredText: they are plain text, in which "name: meaning." tells of a parameter.

What reStructuredText would take for markup (*args, |w|, names_) stays text, what stands in backticks is code, an indented block
stays one, "docs/method.md#gauge" becomes a link, and parameters and what is raised stand in lists.
"""

import inspect
import re
import textwrap
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise
from typing import Any

from sphinx.application import Sphinx

import ninscope

_CODE = re.compile(r"(``?)([^`]+)\1")
_PAGE = re.compile(r"docs/([a-z-]+)\.md(?:#([\w-]+))?")
_RAISES = re.compile(r"(?:^|(?<=[.;)] ))Raises (?=[A-Z])")
_SETTING = re.compile(r"(\w+) \(default (.+?)\): (.+)")
_FUNCTION = re.compile(r"<function (?:<lambda>|[^<>]+)>")


def text_in_rst(text: str) -> str:
    """Prose on one line, with code and links to pages."""
    pieces: list[str] = []
    after = 0
    for code in _CODE.finditer(text):
        pieces += [_prose(text[after : code.start()]), _code(code.group(2))]
        after = code.end()
    return "".join([*pieces, _prose(text[after:])])


def _code(text: str) -> str:
    name = text.removeprefix("ninscope.").removesuffix("()")
    if text.startswith("ninscope.") and name in ninscope.__all__:
        return f"\\ :py:obj:`{text} <ninscope.{name}>`\\ "
    return f"\\ ``{text}``\\ "


def _prose(text: str) -> str:
    pieces: list[str] = []
    after = 0
    for page in _PAGE.finditer(text):
        name, anchor = page.groups()
        where = f"../{name}.html#{anchor}" if anchor else f"../{name}.html"
        shown = f"{name}.md, {anchor.replace('-', ' ')}" if anchor else f"{name}.md"
        pieces += [_escaped(text[after : page.start()]), f"\\ `{shown} <{where}>`__\\ "]
        after = page.end()
    return "".join([*pieces, _escaped(text[after:])])


def _escaped(text: str) -> str:
    return re.sub(r"([*|\\_`\[\]<>])", r"\\\1", text)


def parameters_of(shown: Any) -> set[str]:
    """Names of which a docstring may say "name: meaning."."""
    names = {"parameters"}  # what functions call those that they pass on
    if inspect.isclass(shown):
        names |= {name for name in dir(shown) if not name.startswith("_")}
        names |= {name for parent in shown.__mro__ for name in vars(parent).get("__annotations__", {})}
    with suppress(TypeError, ValueError):  # of what has no signature
        names |= set(inspect.signature(shown).parameters)
    return names - {"self"}


def paragraph_in_rst(text: str, names: Iterable[str]) -> list[str]:
    """A paragraph as lines: prose, then an item for every parameter, then what is raised."""
    known = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    starts = [match.start() for match in _RAISES.finditer(text)]
    if known:
        item = re.compile(rf"(?:^|(?<=[.;,)] ))(?:{known})(?:, (?:{known}))*: ")
        starts += [match.start() for match in item.finditer(text)]
    bounds = sorted({0, *starts, len(text)})
    lines: list[str] = []
    for start, end in pairwise(bounds):
        piece = text[start:end].strip()
        if start in starts:
            name, _, meaning = piece.partition(": ")
            meaning = re.sub(r"[;,]$", ".", meaning)
            shown = _raised(piece) if piece.startswith("Raises ") else f"{_named(name)}: {text_in_rst(meaning)}"
            lines += ["* " + shown]
        else:
            lines += [text_in_rst(piece), ""]
    return [*lines, ""]


def _named(names: str) -> str:
    return ", ".join(f"``{name}``" for name in names.split(", "))


def _raised(text: str) -> str:
    return "**Raises** " + text_in_rst(text.removeprefix("Raises "))


def block_in_rst(lines: list[str]) -> list[str]:
    """An indented block: settings as a list, all else as it stands."""
    plain = textwrap.dedent("\n".join(lines)).splitlines()
    settings = [_SETTING.fullmatch(line) for line in plain]
    if all(settings):
        return [
            *(f"* ``{s.group(1)}`` (default ``{s.group(2)}``): {text_in_rst(s.group(3))}" for s in settings if s),
            "",
        ]
    return ["::", "", *(f"    {line}".rstrip() for line in plain), ""]


def docstring_in_rst(lines: list[str], names: Iterable[str]) -> list[str]:
    """A docstring, dedented, as reStructuredText."""
    names = set(names)
    rst: list[str] = []
    for is_block, group in _groups(lines):
        if is_block:
            rst += block_in_rst(group)
        else:
            rst += paragraph_in_rst(" ".join(line.strip() for line in group), names)
    return rst


def _groups(lines: list[str]) -> list[tuple[bool, list[str]]]:
    """Paragraphs and indented blocks: whether it is a block, and its lines."""
    groups: list[tuple[bool, list[str]]] = []
    open_group = False
    for line in lines:
        if not line.strip():
            open_group = False
            continue
        is_block = line.startswith("    ")
        if open_group and groups[-1][0] == is_block:
            groups[-1][1].append(line)
        else:
            groups.append((is_block, [line]))
        open_group = True
    return groups


def _docstring(app: Sphinx, what: str, name: str, shown: Any, options: Any, lines: list[str]) -> None:
    lines[:] = docstring_in_rst(lines, parameters_of(shown))


def _signature(
    app: Sphinx, what: str, name: str, shown: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Defaults that are functions are dots: Sphinx could not read the signature again."""
    return None if signature is None else _FUNCTION.sub("...", signature), returned


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
