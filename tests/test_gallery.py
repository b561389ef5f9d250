"""docs/gallery.md: every figure that ninscope draws is there, with its file, its function, a command and a picture."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
FIGURES = ROOT / "docs" / "figures"
PLACEHOLDERS = {"model.stem": "MODEL", "task": "TASK", "experiment": "EXPERIMENT", "phase": "PHASE", "text": "TEXT"}
SEVERAL = "Iterator[tuple[str, Figure]]"  # what a function returns that names its figures itself
MOST_BYTES, MOST_BYTES_IN_ALL = 150_000, 3_000_000


def entries() -> dict[str, str]:
    """Text by heading."""
    return dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))


def row(entry: str, name: str) -> str:
    return re.search(rf"^\| {name} \| (.*) \|$", entry, flags=re.MULTILINE).group(1)


def file_names_in(code: str) -> set[str]:
    """Names of PNG files that code makes: strings, and f-strings with a word for what is put in."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        pieces = node.values if isinstance(node, ast.JoinedStr) else [node]
        text = "".join(
            str(piece.value) if isinstance(piece, ast.Constant) else f"{{{ast.unparse(piece.value)}}}"
            for piece in pieces
            if isinstance(piece, ast.Constant | ast.FormattedValue)
        )
        if re.fullmatch(r"[\w{}.-]+\.png", text):
            names.add(re.sub(r"\{([\w.]+)\}", lambda match: PLACEHOLDERS[match.group(1)], text))
    return {name for name in names if not name.startswith("-")}  # the constant end of an f-string


def functions_of_figures() -> set[str]:
    """Public functions of ninscope.report that return a figure, or several by their files' names, by their full names."""
    found = set()
    for path in (ROOT / "src" / "ninscope" / "report").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.returns is not None and not node.name.startswith("_"):
                returned = ast.unparse(node.returns).strip("'\"")
                if returned.split(".")[-1] == "Figure" or returned == SEVERAL:
                    found.add(f"{module}.{node.name}")
    return found


def test_names_are_found_in_code():
    code = 'yield f"{model.stem}--{task}-x.png", f()\nname = "y.png" if a else f"{model.stem}-y.png"\nb = "no png"\nc = ".png"'
    assert file_names_in(code) == {"MODEL--TASK-x.png", "y.png", "MODEL-y.png"}


def test_every_file_that_the_stages_and_commands_name_is_in_the_gallery():
    drawn = set()
    for path in (*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "src" / "ninscope" / "report").rglob("*.py")):
        drawn |= file_names_in(path.read_text(encoding="utf-8"))
    assert {"MODEL-emergence.png", "MODEL--TASK-finetunes.png", "emergence.png", "bias.png"} <= drawn
    shown = {name for entry in entries().values() for name in re.findall(r"`([\w-]+\.png)`", row(entry, "file"))}
    assert shown == drawn


def test_every_function_that_draws_is_in_the_gallery():
    shown = {
        name for entry in entries().values() for name in re.findall(r"`(ninscope\.[\w.]+)`", row(entry, "function"))
    }
    assert shown == functions_of_figures()
    assert len(shown) > 15


@pytest.mark.parametrize("heading", entries())
def test_an_entry_says_how_a_figure_is_made_and_read(heading):
    entry = entries()[heading]
    assert row(entry, "made by")
    assert re.search(r"^    ninscope |^```python", entry, flags=re.MULTILINE)
    lines = re.sub(r"```.*?```", "", entry, flags=re.DOTALL).splitlines()
    assert len(" ".join(line for line in lines if not line.startswith(("|", "    ", "!["))).split()) > 10
    if heading != "In Python":
        (picture,) = re.findall(r"!\[[^\]]+\]\(figures/([\w.-]+)\)", entry)
        assert (FIGURES / picture).is_file()


def test_figures_are_small():
    sizes = {path.name: path.stat().st_size for path in FIGURES.glob("*.png")}
    assert not {name: size for name, size in sizes.items() if size > MOST_BYTES}
    assert sum(sizes.values()) <= MOST_BYTES_IN_ALL


def test_every_figure_of_the_docs_is_shown_on_a_page():
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")))
    assert not {path.name for path in FIGURES.glob("*.png")} - set(re.findall(r"figures/([\w.-]+\.png)\)", text))
