"""The built documentation: no warning, every public name and every option in the reference, every page in the navigation."""

import ast
import inspect
import os
import re
import subprocess
import sys
import zlib
from functools import cached_property
from pathlib import Path

import pytest
import typer

import ninscope
from ninscope.measured_rows import Measured
from ninscope_pipeline.cli import app
from ninscope_pipeline.opened_run import Run
from ninscope_pipeline.stages.stage import Stage

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "extensions"))

from contents import groups, with_navigation  # noqa: E402
from docstrings import docstring_in_rst  # noqa: E402

REFERENCE = ROOT / "docs" / "reference"
NO_NETWORK = {
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
}  # the port discard, where nothing answers


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site. A warning fails the build, as in `make docs`."""
    folder = tmp_path_factory.mktemp("site")
    command = re.search(
        r"^docs:.*\n\t\$\(BIN\)/python -m (.*) build/docs$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    built = subprocess.run(
        [sys.executable, "-m", *command.group(1).split(), str(folder)],
        cwd=ROOT, env=os.environ | NO_NETWORK, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def documented(site):
    """Names in the reference, by kind ("py:function", "std:cmdoption", ...)."""
    packed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]  # after four lines that say what it is
    kinds: dict[str, set[str]] = {}
    for line in zlib.decompress(packed).decode().splitlines():
        name, kind = re.match(r"(.+?) (\w+:\w+) ", line).groups()
        kinds.setdefault(kind, set()).add(name)
    return kinds


def python_names(documented) -> set[str]:
    return {name for kind, names in documented.items() if kind.startswith("py:") for name in names}


def public_classes() -> dict[str, type]:
    """Classes of `ninscope.__all__`, and those of what users get or subclass, by the name that the reference has."""
    classes = {f"ninscope.{name}": getattr(ninscope, name) for name in ninscope.__all__}
    classes |= {f"{shown.__module__}.{shown.__qualname__}": shown for shown in (Measured, Run, Stage)}
    return {
        name: shown for name, shown in classes.items() if isinstance(shown, type) and not issubclass(shown, Exception)
    }


@pytest.mark.slow
def test_the_reference_has_every_public_name_and_no_other(documented):
    told = {name.removeprefix("ninscope.") for name in python_names(documented) if re.fullmatch(r"ninscope\.\w+", name)}
    assert told == set(ninscope.__all__)


@pytest.mark.slow
def test_the_reference_has_every_public_member_of_the_classes(documented):
    """Of what `ninscope` gives, and of what its functions return."""
    names = python_names(documented)
    checked = 0
    for name, shown in public_classes().items():
        for member in vars(shown):
            if not member.startswith("_"):
                assert f"{name}.{member}" in names, f"{name}.{member}"
                checked += 1
    assert checked > 60


def test_every_public_member_has_a_docstring():
    """Else its entry in the reference is empty. Fields of dataclasses are told of by their class."""
    for name, shown in public_classes().items():
        for member, value in vars(shown).items():
            if not member.startswith("_") and (
                isinstance(value, property | cached_property) or inspect.isfunction(value)
            ):
                assert value.__doc__, f"{name}.{member}"


@pytest.mark.slow
def test_the_reference_has_all_that_the_pages_import(documented):
    names = python_names(documented)
    names |= {f"{home}.{name}" for name, home in ninscope._HOMES.items() if f"ninscope.{name}" in names}
    used = set()
    for page in (ROOT / "docs").rglob("*.md"):
        for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("ninscope"):
                    used |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert len(used) > 15
    modules = {name for name in used if (ROOT / "src" / name.replace(".", "/")).with_suffix(".py").exists()}
    assert used - modules - names == set()


@pytest.mark.slow
def test_the_reference_has_all_that_the_example_of_a_stage_imports(documented):
    tree = ast.parse((ROOT / "tests" / "data" / "ninscope-norms" / "ninscope_norms.py").read_text(encoding="utf-8"))
    used = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("ninscope")
        for alias in node.names
    }
    assert len(used) > 5
    assert used - python_names(documented) == set()


@pytest.mark.slow
def test_the_reference_has_every_command_and_option(documented):
    """Compared with the command line itself, both ways."""
    group = typer.main.get_command(app)
    options = set()
    for name, command in {"": group, **group.commands}.items():
        program = f"ninscope-{name}" if name else "ninscope"
        options |= {
            f"{program}.{option}"
            for parameter in command.params
            if parameter.param_type_name == "option" and parameter.name != "help"
            for option in parameter.opts
        }
    assert documented["std:cmdoption"] == options
    assert len(options) >= 50


@pytest.mark.slow
def test_the_first_page_is_found(site):
    page = re.search(r"url=([^\"]+)", (site / "index.html").read_text(encoding="utf-8")).group(1)
    assert (site / page).is_file()


@pytest.mark.slow
def test_the_pages_fetch_nothing(site):
    """No script, style, font or picture of another host."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(?:https?:)?//[^\"]+", text), page


@pytest.mark.slow
def test_the_anchors_of_links_in_docstrings_are_in_the_pages(site):
    """Sphinx does not check these: they are plain addresses."""
    targets = set()
    for page in (site / "docs" / "reference").glob("*.html"):
        targets |= set(re.findall(r"href=\"(\.\./[a-z-]+\.html)#([\w-]+)\"", page.read_text(encoding="utf-8")))
    assert len(targets) > 3
    for page, anchor in targets:
        assert f'id="{anchor}"' in (site / "docs" / page[3:]).read_text(encoding="utf-8"), (page, anchor)


def test_the_navigation_is_the_list_of_the_first_page():
    text = "# T\n\n- [no](no.md)\n\n## A b\n\n- [x](x.md): see [y](y.md#part) and [z](http://z/z.md)\n\n## C\n\n- [d](e/d.md)\n"
    assert groups(text) == {"A b": ["x.md"], "C": ["e/d.md"]}
    made = with_navigation(text)
    assert made.startswith(text)
    assert "```{toctree}\n:hidden:\n:caption: A b\n\nx.md\n```" in made


def test_docstrings_become_restructured_text():
    lines = [
        "Sum of |w| of `x` and *args_, see docs/method.md#gauge and `ninscope.measure`.",
        "",
        "a, b: what they are; c: as in d. Raises ValueError: never.",
        "",
        "    indented",
        "      more",
        "",
        "Not a parameter: text.",
    ]
    assert docstring_in_rst(lines, {"a", "b", "c"}) == [
        r"Sum of \|w\| of \ ``x``\  and \*args\_, see \ `method.md, gauge <../method.html#gauge>`__\  and \ "
        r":py:obj:`ninscope.measure <ninscope.measure>`\ .",
        "",
        "",
        "* ``a``, ``b``: what they are.",
        "* ``c``: as in d.",
        "* **Raises** ValueError: never.",
        "",
        "::",
        "",
        "    indented",
        "      more",
        "",
        "Not a parameter: text.",
        "",
        "",
    ]


def test_settings_in_a_docstring_become_a_list():
    assert docstring_in_rst(["    q (default 3): orders.", "    r (default None): radii, |r|."], ()) == [
        "* ``q`` (default ``3``): orders.",
        r"* ``r`` (default ``None``): radii, \|r\|.",
        "",
    ]
