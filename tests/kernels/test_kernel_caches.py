"""numba keys its cache of a compiled function by that function's own file alone. So whatever is compiled into a function must
stand in its file: else its old machine code would be loaded after a callee or a constant of another file had changed.
"""

import ast
import importlib.util
import inspect
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from modes import JIT

import ninscope
import ninscope_pipeline

if not JIT:
    pytest.skip("nothing is compiled in this pass", allow_module_level=True)

from numba.core.dispatcher import Dispatcher

PACKAGES = ("ninscope", "ninscope_pipeline")
_IMPORT = re.compile(r"^\s*(from|import)\s+numba\b", re.MULTILINE)


def modules_with_kernels() -> list[str]:
    """Names of the modules that import numba."""
    names = []
    for package in (ninscope, ninscope_pipeline):
        root = Path(package.__file__).parent
        for file in sorted(root.rglob("*.py")):
            if _IMPORT.search(file.read_text(encoding="utf-8")):
                names.append(".".join([package.__name__, *file.relative_to(root).with_suffix("").parts]))
    return names


def dispatchers(module: types.ModuleType) -> Iterator[Dispatcher]:
    """The compiled functions that a module defines."""
    for value in vars(module).values():
        if isinstance(value, Dispatcher) and value.py_func.__module__ == module.__name__:
            yield value


def names_in(code: types.CodeType) -> set[str]:
    """Global names that a function, or one inside it, may look up; attributes' names are among them."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(names_in, inner))


def bound_at_top(module: types.ModuleType) -> dict[str, ast.stmt]:
    """The statement that binds each name of a module."""
    bound: dict[str, ast.stmt] = {}
    for statement in ast.parse(inspect.getsource(module)).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            names = [(alias.asname or alias.name).split(".")[0] for alias in statement.names]
        elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names = [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
        elif isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names = [statement.name]
        else:
            names = []
        bound |= dict.fromkeys(names, statement)
    return bound


def foreign(module: types.ModuleType, name: str, ours: tuple[str, ...]) -> str:
    """The name of another file of ours that a global name's value comes from; empty where there is none."""
    statement = bound_at_top(module).get(name)
    if isinstance(statement, ast.ImportFrom):
        source = importlib.util.resolve_name("." * statement.level + (statement.module or ""), module.__package__)
        return source if source.split(".")[0] in ours else ""
    if isinstance(statement, ast.Import):
        return name if name in ours else ""
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign) and statement.value is not None:
        read = {node.id for node in ast.walk(statement.value) if isinstance(node, ast.Name)} - {name}
        return next(filter(None, (foreign(module, other, ours) for other in sorted(read))), "")
    return ""


def reaches_out(dispatcher: Dispatcher, module: types.ModuleType, ours: tuple[str, ...] = PACKAGES) -> list[str]:
    """What a compiled function takes from other files of ours, or from where its file's text does not show it."""
    function = dispatcher.py_func
    wrong = [
        f"{name} of {source}"
        for name in sorted(names_in(function.__code__) & vars(module).keys())
        if (source := foreign(module, name, ours))
    ]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if isinstance(cell.cell_contents, Dispatcher | int | float | complex | np.generic | np.ndarray | tuple):
            wrong.append(f"{name} of a closure")
    return wrong


def test_there_are_kernels_to_look_at():
    assert {"ninscope.multifractal.boxes", "ninscope.multifractal.partition", "ninscope.checkpoints.finite"} <= set(
        modules_with_kernels()
    )


@pytest.mark.parametrize("name", modules_with_kernels())
def test_no_compiled_function_reaches_into_another_file(name):
    module = importlib.import_module(name)
    found = {kernel.py_func.__name__: reaches_out(kernel, module) for kernel in dispatchers(module)}
    assert not any(found.values()), f"copy the number, or move the function, into {name}: {found}"


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ("from inner.other import callee\n@njit\ndef kernel(x):\n    return callee(x)\n", ["callee of inner.other"]),
        ("from .other import LIMIT\n@njit\ndef kernel(x):\n    return x + LIMIT\n", ["LIMIT of inner.other"]),
        ("from inner import other\n@njit\ndef kernel(x):\n    return x + other.LIMIT\n", ["other of inner"]),
        ("import inner.other\n@njit\ndef kernel(x):\n    return x + inner.other.LIMIT\n", ["inner of inner"]),
        (
            "from inner.other import LIMIT\nHALF = LIMIT / 2\nQUARTER = HALF / 2\n@njit\ndef kernel(x):\n    return x + QUARTER\n",
            ["QUARTER of inner.other"],
        ),
        (
            "def made(limit):\n    @njit\n    def kernel(x):\n        return x + limit\n    return kernel\nkernel = made(3)\n",
            ["limit of a closure"],
        ),
        ("import math\nLIMIT = 3\nHALF = LIMIT / math.pi\n@njit\ndef kernel(x):\n    return x + HALF\n", []),
        ("@njit\ndef callee(x):\n    return x\n@njit\ndef kernel(x):\n    return callee(x)\n", []),
        ("from inner.other import LIMIT\n@njit\ndef kernel(x):\n    return x\ndef plain(x):\n    return LIMIT\n", []),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, body, wrong):
    package = tmp_path / "inner"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "other.py").write_text("from numba import njit\nLIMIT = 4\n@njit\ndef callee(x):\n    return x\n")
    (package / "mine.py").write_text(f"from numba import njit\n{body}")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        module = importlib.import_module("inner.mine")
        assert reaches_out(module.kernel, module, ("inner",)) == wrong
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "inner"]:
            del sys.modules[name]
