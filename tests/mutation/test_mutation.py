"""The mutation tool: which mutants there are, that a sample stays the same, that a mutant takes effect."""

import gc
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from modes import JIT

pytest.importorskip("cosmic_ray", reason="make mutants installs it")

from mutation.mutants import Mutant, mutants_of, mutated_source, sample_of
from mutation.targets import FOLDERS, OPERATORS, files_of
from mutation.transplant import NeedsImport, callers, changed_code, kernels, live_functions, transplant

SOURCE = '''"""A module."""

from functools import lru_cache

from numba import njit

TILE = 64
LEAST = 3


@njit(nogil=True)
def twice(value):
    return value * 2


@njit(nogil=True)
def twice_and_one(value):
    return twice(value) + 1


@lru_cache(maxsize=4)
def shares(values: dict[str, int] | None, *, total: int = 10) -> list[float]:
    return [value / total for value, _ in zip({**values}, values, strict=True)]
'''


def names(source: str, operator: str) -> list[tuple[str, str]]:
    return [(m.definition, m.text) for m in mutants_of(source, "a.py") if m.operator.startswith(operator)]


def test_rules_leave_out_what_no_test_could_notice():
    numbers = {text.partition("(")[0] for _, text in names(SOURCE, "NumberReplacer")}
    assert numbers == {"LEAST = 3", "return value * 2", "return twice", "def shares"}
    assert not names(SOURCE, "RemoveDecorator")
    assert not names(SOURCE, "ReplaceTrueWithFalse")
    places = {m.definition for m in mutants_of(SOURCE, "a.py") if m.operator.startswith("ReplaceBinaryOperator")}
    assert places == {"twice", "twice_and_one", "shares"}
    assert {text for _, text in names(SOURCE, "ReplaceBinaryOperator_Div")} == {SOURCE.splitlines()[-1].strip()}
    assert not names(SOURCE, "ReplaceBinaryOperator_BitOr")
    compared = {operator for operator in OPERATORS if names('def named(name):\n    return name == "a"\n', operator)}
    assert compared == {"ReplaceComparisonOperator_Eq_NotEq"}


def checkout(folder: Path, moved: bool = False, changed: bool = False) -> Path:
    source = SOURCE.replace("TILE = 64\n", "TILE = 64\nMOST = 2**9\n") if changed else SOURCE
    for place in FOLDERS:
        (folder / place).mkdir(parents=True)
        (folder / place / "empty.py").touch()
    (folder / FOLDERS[1 if moved else 0] / "shares.py").write_text(source)
    return folder


def test_a_sample_is_the_same_after_a_move_and_changes_with_the_changed_lines_alone(tmp_path):
    sample, places = sample_of(checkout(tmp_path / "before"), 5, seed=0)
    assert len(sample) == 5 < places
    moved, _ = sample_of(checkout(tmp_path / "moved", moved=True), 5, seed=0)
    assert [m.rank(0)[:64] for m in moved] == [m.rank(0)[:64] for m in sample]
    changed, _ = sample_of(checkout(tmp_path / "changed", changed=True), 5, seed=0)
    assert {m.name for m in changed if "MOST" not in m.text} <= {m.name for m in sample}
    assert [m.name for m in sample_of(tmp_path / "before", 5, seed=1)[0]] != [m.name for m in sample]


def test_every_folder_with_compiled_science_is_mutated():
    root = Path(__file__).parents[2]
    folders = {path.parent for path in (root / "src").rglob("*.py") if "@njit" in path.read_text(encoding="utf-8")}
    mutated = {(root / name).parent for name in files_of(root)}
    assert folders - mutated == {root / "src" / "ninscope" / "neurons" / "memel"}  # needs torch


@pytest.fixture
def module(tmp_path, monkeypatch):
    path = tmp_path / "mutated_module.py"
    path.write_text(SOURCE)
    module = ModuleType("mutated_module")
    module.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "mutated_module", module)
    exec(compile(SOURCE, str(path), "exec"), vars(module))
    return module


def test_what_is_frozen_is_found_too(module):
    """conftest.py freezes all that was imported once tests are collected."""
    gc.freeze()
    assert {kernel.py_func.__name__ for kernel in kernels("mutated_module")} == {"twice", "twice_and_one"}
    gc.freeze()
    names_of = {function.__name__ for function in live_functions("mutated_module")}
    assert names_of == {"twice", "twice_and_one", "shares"}


def mutant(operator: str, definition: str) -> Mutant:
    return next(m for m in mutants_of(SOURCE, "a.py") if m.operator == operator and m.definition == definition)


@pytest.mark.skipif(not JIT, reason="of compiled functions")
def test_callers_of_a_mutated_kernel_compile_it_anew(module):
    mutated = mutated_source(SOURCE, mutant("ReplaceBinaryOperator_Mul_Add", "twice"))
    holding = callers(kernels("mutated_module"))
    assert holding[module.twice] == {module.twice, module.twice_and_one}
    assert holding[module.twice_and_one] == {module.twice_and_one}
    code = changed_code(SOURCE, mutated, module.__file__)
    transplant("mutated_module", *code, live_functions("mutated_module"), holding)
    assert module.twice_and_one(np.int64(5)) == 5 + 2 + 1


def test_functions_behind_a_cache_are_mutated_and_constants_need_an_import(module):
    mutated = mutated_source(SOURCE, mutant("ReplaceBinaryOperator_Div_Mul", "shares"))
    code = changed_code(SOURCE, mutated, module.__file__)
    transplant("mutated_module", *code, live_functions("mutated_module"), {})
    assert module.shares.__wrapped__({3: 0}) == [30]
    for definition in ("module", "shares"):
        constant = mutated_source(SOURCE, mutant("NumberReplacer", definition))
        with pytest.raises(NeedsImport):
            changed_code(SOURCE, constant, module.__file__)
