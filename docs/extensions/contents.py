"""The navigation of the site, made from docs/index.md: one group for every heading, with the pages that its list links to.

So the page is a plain list on GitHub as well, and a page that is not linked there is a warning, which is an error in a build.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx

INDEX = "docs/index"
_FORWARD = """<!doctype html>
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url={page}">
<a href="{page}">Documentation of ninscope</a>
"""


def groups(text: str) -> dict[str, list[str]]:
    """Pages by heading, in order. text: of docs/index.md."""
    pages: dict[str, list[str]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ").strip()
        elif heading and line.lstrip().startswith("- "):
            pages.setdefault(heading, []).extend(re.findall(r"\]\(([^)#:]+\.md)\)", line))
    return pages


def with_navigation(text: str) -> str:
    """The page with a hidden toctree for every heading of it."""
    trees = [
        "\n".join(["", "```{toctree}", ":hidden:", f":caption: {heading}", "", *pages, "```", ""])
        for heading, pages in groups(text).items()
    ]
    return text + "".join(trees)


def _read(app: Sphinx, name: str, content: list[str]) -> None:
    if name == INDEX:
        content[0] = with_navigation(content[0])


def _write_first_page(app: Sphinx, exception: Exception | None) -> None:
    """build/docs/index.html leads to the first page, which lies a folder below."""
    if exception is None and app.builder.name == "html":
        page = f"{app.config.root_doc}.html"
        (Path(app.outdir) / "index.html").write_text(_FORWARD.format(page=page), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _read)
    app.connect("build-finished", _write_first_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
