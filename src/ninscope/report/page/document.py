"""report.html: one file that needs no other and no network, and runs nothing but the scripts that are written into it.

Its policy allows scripts and styles by their sha256 only, no eval, and no connection. Everything that came from a run is either
text, which the template escapes, or stored compressed as base64 (`embedding`), which no parser of HTML takes for anything else.

Charts are drawn by Vega, as vl-convert ships it for pages without a network, with its interpreter of expressions in place of eval.
Tables are DataTables' (from itables, which ships it whole): a kept library sorts, pages and filters, tells screen readers
so, and is worked by keyboard. Its style sheet of 107 KB is not used: it brings images, and colours of too little contrast.
"""

import base64
import hashlib
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ninscope.report.page.contents import Contents
from ninscope.report.page.embedding import compressed_csv, json_bytes, packed
from ninscope.report.page.parts import TOPICS, PagePart
from ninscope.report.page.specs import Specs, chart_specs, data_names
from ninscope.report.page.theme import DARK, LIGHT

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Environment

ASSETS = Path(__file__).parent / "assets"
MOST_PAGE_BYTES = 14_500_000  # of a page with its tables; what is drawn stands there in any case
_TEXT_BYTES = 500_000  # that the page's own text may take of it
_OPEN_VERDICTS = 2  # of more models the reasons are folded away, so that all headlines are seen
_SHOWN_WARNINGS = 12  # of more models their warnings are folded away too, and counted
_NAMES = ("run", "label", "suite", "model", "revision")  # columns of names that come from a user's files

_TITLES = {
    "emergence": "Emergence",
    "controls": "Controls",
    "spectra": "Spectra",
    "structure": "Structure",
    "benchmarks": "Benchmarks",
    "models that were run": "Models that were run",
}


@dataclass(frozen=True)
class TableEntry:
    """A table of the page. anchor: its id there. csv: gzip as base64, or "" where it is too large; `why` then says so."""

    name: str
    anchor: str
    rows: int
    columns: int
    csv: str
    why: str


@dataclass(frozen=True)
class Written:
    """The page as a file's content, and what stands in it: names of tables that it holds, and of those that it names only."""

    content: bytes
    charts: int
    tables: tuple[str, ...]
    left_out: tuple[str, ...]


def page_html(contents: Contents) -> Written:
    """Write the page; the same contents give the same bytes.

    Raises ValueError where a part has an unknown topic, or charts or parts cannot stand on one page.
    """
    specs = chart_specs(contents.parts, _names_in(contents.tables))
    style, scripts = _style(), _scripts()
    packed_specs = packed(json_bytes(_for_scripts(specs)))
    data = {name: packed(content) for name, content in sorted(specs.data.items())}
    taken = sum(map(len, (style, *scripts, packed_specs, *data.values()))) + _TEXT_BYTES
    entries = table_entries(contents.tables, contents.files, max(MOST_PAGE_BYTES - taken, 0) * 3 // 4)
    html = (
        _environment()
        .get_template("page.html.jinja")
        .render(
            contents=contents,
            policy=_policy(style, scripts),
            style=style,
            scripts=scripts,
            topics=_by_topic(contents.parts),
            problems=_problems(contents.tables),
            several=len(contents.runs) > 1,
            many=len(contents.verdicts) > _OPEN_VERDICTS,
            crowded=len(contents.verdicts) > _SHOWN_WARNINGS,
            entries=entries,
            anchors={entry.name: entry.anchor for entry in entries if entry.rows},
            empty=[entry.name for entry in entries if not entry.rows],
            specs=packed_specs,
            data=data,
        )
    )
    held = tuple(entry.name for entry in entries if entry.csv and entry.rows)
    left_out = tuple(entry.name for entry in entries if not entry.csv)
    return Written(html.encode(), len(specs.charts), held, left_out)


def table_entries(tables: "Mapping[str, pd.DataFrame]", files: Mapping[str, str], most_bytes: int) -> list[TableEntry]:
    """Every table, those with rows first. The smallest are stored whole, as many as `most_bytes` of compressed CSV hold."""
    stored: dict[str, bytes | None] = {}
    left = most_bytes
    for name in sorted(tables, key=lambda name: (tables[name].size, name)):
        stored[name] = compressed_csv(tables[name], left)
        left -= len(stored[name] or b"")
    entries = []
    for number, name in enumerate(sorted(tables, key=lambda name: (tables[name].empty, name))):
        csv, (rows, columns) = stored[name], tables[name].shape
        reason = "" if csv is not None else _too_large(files.get(name, ""))
        code = "" if csv is None else base64.b64encode(csv).decode()
        entries.append(TableEntry(name, f"table-{number}", rows, columns, code, reason))
    return entries


def _too_large(file: str) -> str:
    where = f"; it is in {file}" if file else ""
    return f"Not in this page, which would be larger than {MOST_PAGE_BYTES / 1e6:g} MB with it{where}."


def _names_in(tables: "Mapping[str, pd.DataFrame]") -> list[str]:
    rows = tables.get("checkpoints")
    if rows is None:
        return []
    columns = [column for column in _NAMES if column in rows]
    return [str(name) for column in columns for name in rows[column].dropna().unique().tolist()]


def _by_topic(parts: Sequence[PagePart]) -> list[tuple[str, str, list[PagePart]]]:
    """(anchor, title, parts) of every topic that has parts. Raises ValueError."""
    unknown = next((part for part in parts if part.topic not in TOPICS), None)
    if unknown is not None:
        raise ValueError(f"the part {unknown.name} has the topic {unknown.topic!r}; known: {', '.join(TOPICS)}")
    names = [part.name for part in parts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two parts of the page have the name {twice}; rename one")
    topics = [(topic, [part for part in parts if part.topic == topic]) for topic in TOPICS]
    return [(f"topic-{topic.replace(' ', '-')}", _TITLES[topic], inside) for topic, inside in topics if inside]


def _problems(tables: "Mapping[str, pd.DataFrame]") -> list[dict[Hashable, str]]:
    """Checkpoints that are not ok: label, suite, revision, status and message, as text."""
    rows = tables.get("checkpoints")
    if rows is None or rows.empty:
        return []
    bad = rows[rows["status"].fillna("unknown") != "ok"]
    columns = ["label", "suite", "revision", "status", "message"]
    return bad[columns].astype("string").fillna("").to_dict("records")


def _for_scripts(specs: Specs) -> dict[str, Any]:
    charts = {name: {"spec": spec, "data": data_names(spec)} for name, spec in specs.charts.items()}
    return {"charts": charts, "colours": LIGHT}


# --- scripts and styles --------------------------------------------------------------------------------------------------
def _policy(style: str, scripts: Sequence[str]) -> str:
    allowed = " ".join(_digest(script) for script in scripts)
    return f"default-src 'none'; script-src {allowed}; style-src {_digest(style)}; base-uri 'none'; form-action 'none'"


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _scripts() -> tuple[str, ...]:
    return tuple(
        _inline(script) for script in (_vega(), _data_tables(), (ASSETS / "page.js").read_text(encoding="utf-8"))
    )


def _vega() -> str:
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed=vegaEmbed;")


def _data_tables() -> str:
    """DataTables as a classic script that sets window.jQuery, which has it. Raises ValueError: itables ships it otherwise."""
    import itables

    module = (Path(itables.__file__).parent / "html" / "dt_bundle.js").read_text(encoding="utf-8")
    exports = re.search(r"export\s*\{[^}]*?([\w$]+) as jQuery\b[^}]*\};?", module)
    if exports is None:
        raise ValueError("itables ships DataTables in an unknown form; install itables 2.9.1")
    body = module[: exports.start()] + f"window.jQuery={exports[1]};" + module[exports.end() :]
    return f"(()=>{{{body}\n}})();"


def _inline(script: str) -> str:
    """A script as it can stand inside <script>: nothing in its texts ends the element, or hides its end."""
    return script.replace("\r", "").replace("</script", "<\\/script").replace("<!--", "<\\!--")


@cache
def _style() -> str:
    def variables(colours: Mapping[str, str]) -> str:
        return "".join(f"--{name}:{colour};" for name, colour in colours.items())

    return (
        f":root{{color-scheme:light dark;{variables(LIGHT)}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{variables(DARK)}}}}}\n"
        + (ASSETS / "page.css").read_text(encoding="utf-8")
    )


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["grouped"] = lambda number: f"{number:,}"
    return environment
