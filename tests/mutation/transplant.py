"""Puts the code of a mutant into modules that are already imported.

A child of the server has every module and every test imported; to import them again costs more than most tests. A mutant
inside a function changes one code object: the functions that have it get the mutated one. A mutant elsewhere (a constant of a
module, a default, a class body) takes effect only by importing anew.
"""

import gc
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType

from numba.core.caching import NullCache
from numba.core.dispatcher import Dispatcher


class NeedsImport(Exception):
    """The mutant takes effect only where the module is imported anew."""


def changed_code(source: str, mutated: str, filename: str) -> tuple[CodeType, CodeType]:
    """(code before, code after) of the outermost function that the mutant is in. Raises NeedsImport."""
    return _changed(compile(source, filename, "exec"), compile(mutated, filename, "exec"))


def _changed(before: CodeType, after: CodeType) -> tuple[CodeType, CodeType]:
    inner_before, inner_after = _inner(before), _inner(after)
    if len(inner_before) != len(inner_after) or _own(before) != _own(after):
        raise NeedsImport
    pairs = [(old, new) for old, new in zip(inner_before, inner_after, strict=True) if old != new]
    if len(pairs) != 1:
        raise NeedsImport
    ((old, new),) = pairs
    if old.co_flags & 0x2:  # CO_NEWLOCALS: a function, no class body; its inner functions come with it
        return old, new
    return _changed(old, new)


def _inner(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _own(code: CodeType) -> tuple:
    constants = [repr(constant) for constant in code.co_consts if not isinstance(constant, CodeType)]
    return code.co_code, constants, code.co_names, code.co_varnames


def live_functions(package: str) -> list[FunctionType]:
    """Every function that was defined in a module of a package, compiled kernels' and properties' too."""
    return [
        function
        for function in _alive()
        if type(function) is FunctionType and (function.__module__ or "").split(".")[0] == package
    ]


def _alive() -> list[object]:
    """Every object; those that conftest.py froze after collection, which are all that was imported, would be left out."""
    gc.unfreeze()
    return gc.get_objects()


def kernels(package: str) -> list[Dispatcher]:
    """Every compiled function of a package."""
    return [
        kernel
        for kernel in _alive()
        if isinstance(kernel, Dispatcher) and kernel.py_func.__module__.split(".")[0] == package
    ]


def callers(kernel_list: list[Dispatcher]) -> dict[Dispatcher, set[Dispatcher]]:
    """By compiled function, those whose machine code holds it: itself, and all that call it, directly or not."""
    calls = {kernel: set(_callees(kernel)) for kernel in kernel_list}
    holding = {kernel: {kernel} for kernel in kernel_list}
    changed = True
    while changed:
        changed = False
        for caller, callees in calls.items():
            for callee in callees & holding.keys():
                new = holding[caller] - holding[callee]
                holding[callee] |= new
                changed = changed or bool(new)
    return holding


def _callees(kernel: Dispatcher) -> Iterator[Dispatcher]:
    pending = [kernel.py_func.__code__]
    while pending:
        code = pending.pop()
        pending += _inner(code)
        for name in code.co_names:
            if isinstance(callee := kernel.py_func.__globals__.get(name), Dispatcher):
                yield callee


def transplant(
    module: str,
    before: CodeType,
    after: CodeType,
    functions: list[FunctionType],
    holding: dict[Dispatcher, set[Dispatcher]],
) -> None:
    """Give every function of the module that has the code `before` the code `after`; kernels compile it when called.

    Raises NeedsImport.
    """
    chosen = [function for function in functions if function.__module__ == module and function.__code__ == before]
    if not chosen:
        raise NeedsImport
    stale = {caller for kernel, callers_of in holding.items() if kernel.py_func in chosen for caller in callers_of}
    if any(kernel.overloads for kernel in stale):
        raise NeedsImport  # a test compiled it when it was collected
    for function in chosen:
        try:
            function.__code__ = after
        except ValueError as error:  # it closes over other variables now
            raise NeedsImport from error
    for kernel in stale:
        kernel._cache = NullCache()


def forget_results(packages: list[str]) -> None:
    """Empty what functools.lru_cache remembers in modules of these packages."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in packages and module is not None:
            for value in list(vars(module).values()):
                clear = getattr(value, "cache_clear", None)
                if callable(clear) and not isinstance(value, type):
                    clear()
