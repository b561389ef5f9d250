"""What is mutated, what is left out by rule, and which tests judge it.

Rules are about the source alone: nothing is left out because of what a test did.
"""

import re
from pathlib import Path

# Files, and of some only these functions. Names that a checkout does not have are passed over, so that one table serves
# checkouts from before and after a move; `files_of` refuses a checkout where one of the folders is empty.
FOLDERS = (
    "src/ninscope/exact",
    "src/ninscope/interaction",
    "src/ninscope/multifractal",
    "src/ninscope/networks",
    "src/ninscope/weights",
)
WHOLE_FILES = ("src/ninscope/checkpoints/audit.py",)
FUNCTIONS = {
    "src/ninscope/measuring.py": ("with_emergence", "otherwise_wired"),
    "src/ninscope/locating.py": ("with_emergence", "otherwise_wired", "_otherwise_wired", "_comparable"),
}

# The fast tests of those files. A mutant that these miss counts as survived.
TESTS = (
    "tests/kernels/test_*.py",
    "tests/exact/test_*.py",
    "tests/interaction/test_*.py",
    "tests/networks/test_*.py",
    "tests/multifractal/test_*.py",
    "tests/weights/test_*.py",
    "tests/checkpoints/test_audit*.py",
    "tests/pipeline/test_guard_measure*.py",
    "tests/test_measuring*.py",
    "tests/test_locating*.py",
)
NOT_THEIRS = ("test_memel_kernels.py",)  # needs torch, tests neurons/

# Cosmic-ray's operators. Arithmetic is replaced by arithmetic, bits by bits, and no comparison by `is`: `+` of two floats
# that becomes `|` raises at once, and to notice it shows nothing about a test.
_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow")
_BITS = ("RShift", "LShift", "BitOr", "BitAnd", "BitXor")
_COMPARISONS = ("Eq", "NotEq", "Lt", "LtE", "Gt", "GtE")
OPERATORS = frozenset(
    [f"ReplaceBinaryOperator_{old}_{new}" for old in _ARITHMETIC for new in _ARITHMETIC if old != new]
    + [f"ReplaceBinaryOperator_{old}_{new}" for old in _BITS for new in _BITS if old != new]
    + [f"ReplaceComparisonOperator_{old}_{new}" for old in _COMPARISONS for new in _COMPARISONS if old != new]
    + ["ReplaceComparisonOperator_Is_IsNot", "ReplaceComparisonOperator_IsNot_Is"]
    + ["ReplaceUnaryOperator_Delete_USub", "ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_Delete_Invert"]
    + ["AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"]
    + ["ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer", "NumberReplacer"]
    + ["RemoveDecorator", "ZeroIterationForLoop"]
)

# A decorator that compiles or remembers changes what a call costs, not what it returns.
SPEED_ONLY_DECORATORS = re.compile(r"@(numba\.)?(njit|jit|(functools\.)?(lru_)?cache)\b")
# strict=True of zip() guards against a mistake in the code beside it, which no input can bring about; the others change what
# a call of numpy costs.
KEYWORDS = ("strict", "assume_unique", "copy")
# Constants that say how much is done at a time: results are the same for each of their values.
BLOCK_SIZES = re.compile(r"_?([A-Z]+_)*(TILE|LANES|ROWS|CACHED|AT_ONCE|BAND_BYTES)$")


def files_of(checkout: Path) -> dict[str, tuple[str, ...] | None]:
    """The files to mutate, relative to the checkout; of each the functions that are meant, None for all.

    Raises SystemExit where a folder has no source.
    """
    files: dict[str, tuple[str, ...] | None] = {}
    for folder in FOLDERS:
        sources = sorted((checkout / folder).rglob("*.py"))
        if not sources:
            raise SystemExit(f"{checkout / folder} has no Python file; correct FOLDERS in {Path(__file__).name}")
        files |= {str(source.relative_to(checkout)): None for source in sources}
    files |= {name: None for name in WHOLE_FILES if (checkout / name).exists()}
    return files | {name: functions for name, functions in FUNCTIONS.items() if (checkout / name).exists()}


def tests_of(checkout: Path) -> list[str]:
    """The test files that judge, relative to the checkout."""
    return sorted(
        str(path.relative_to(checkout))
        for pattern in TESTS
        for path in checkout.glob(pattern)
        if path.name not in NOT_THEIRS
    )
