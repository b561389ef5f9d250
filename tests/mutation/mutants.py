"""Every mutant of a checkout by a stable name, and a seeded sample of them."""

import ast
import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import parso.tree
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.ast.ast_query import ASTQuery
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

from mutation.targets import BLOCK_SIZES, KEYWORDS, OPERATORS, SPEED_ONLY_DECORATORS, files_of

# parso's types of nodes at which no operator of ours applies, most of a tree.
_NEVER = frozenset(
    ["name", "newline", "string", "endmarker", "trailer", "arglist", "suite", "simple_stmt", "atom", "param"]
)
# A `*` or `**` there unpacks, or marks parameters; cosmic-ray takes it for an operator.
_UNPACKING = frozenset(["parameters", "lambdef", "dictorsetmaker", "subscript", "subscriptlist", "arglist", "param"])


@dataclass(frozen=True)
class Mutant:
    """One fault. line: of the source, from 1; text: that line without indentation; copy: its number among mutants of the
    same definition, operator and text; occurrence: cosmic-ray's number of it."""

    path: str
    definition: str
    operator: str
    text: str
    copy: int
    line: int
    column: int
    occurrence: int

    @property
    def name(self) -> str:
        """The same on every checkout that has this line in this definition."""
        return f"{self.path}::{self.key}"

    @property
    def key(self) -> str:
        """The name without the path: a file that is moved keeps its mutants."""
        return f"{self.definition}::{self.operator}::{self.copy}::{self.text}"

    def rank(self, seed: int) -> str:
        """Its place in the order of a seed."""
        words = (str(seed), self.definition, self.operator, str(self.copy), self.text)
        return hashlib.sha256("|".join(words).encode()).hexdigest() + self.path

    def described(self) -> dict:
        """As JSON takes it."""
        return asdict(self) | {"name": self.name}


def mutated_source(source: str, mutant: Mutant) -> str | None:
    """The file's text with the fault; None where that is no Python or the same program."""
    mutated = mutate_code(source, get_operator(f"core/{mutant.operator}")(), mutant.occurrence)
    if mutated is None:
        return None
    try:
        changed = ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(source))
    except SyntaxError:
        return None
    return mutated if changed else None


def sample_of(checkout: Path, size: int, seed: int) -> tuple[list[Mutant], int]:
    """(the sample, how many it was drawn from).

    One mutant a place first, that of the lowest rank, so that a `+` that can become six other things counts once; of these
    the `size` lowest ranks. A mutant's rank depends on itself alone: where another checkout changes some lines, the sample
    changes by those lines.
    """
    lowest: dict[tuple[str, int, int], Mutant] = {}
    for path, functions in files_of(checkout).items():
        for mutant in mutants_of((checkout / path).read_text(encoding="utf-8"), path, functions):
            place = (path, mutant.line, mutant.column)
            if place not in lowest or mutant.rank(seed) < lowest[place].rank(seed):
                lowest[place] = mutant
    sample: list[Mutant] = []
    for mutant in heapq.nsmallest(2 * size, lowest.values(), key=lambda mutant: mutant.rank(seed)):
        if mutated_source((checkout / mutant.path).read_text(encoding="utf-8"), mutant) is not None:
            sample.append(mutant)
        if len(sample) == size:
            break
    return sample, len(lowest)


def mutants_of(source: str, path: str, functions: Sequence[str] | None = None) -> Iterator[Mutant]:
    """All mutants of a file that no rule of targets.py leaves out; functions: only of these."""
    nodes = [node for node in ast_nodes(get_ast(source)) if node.type not in _NEVER]
    left_out = _left_out(source)
    lines = source.splitlines()
    operators = {name: get_operator(f"core/{name}")() for name in sorted(OPERATORS)}
    copies: Counter[tuple[str, str, str]] = Counter()
    for name, operator in operators.items():
        positions = [(node, start) for node in nodes for start, _ in operator.mutation_positions(node)]
        for occurrence, (node, start) in enumerate(positions):
            definition = ASTQuery(node).get_definition_name() or "module"
            text = lines[start[0] - 1].strip()
            copies[definition, name, text] += 1
            copy = copies[definition, name, text] - 1
            if _unpacks(node) or _orders_a_string(node, name) or any(first <= start < last for first, last in left_out):
                continue
            if name == "RemoveDecorator" and SPEED_ONLY_DECORATORS.match(text):
                continue
            if functions is None or definition.split(".")[0] in functions:
                yield Mutant(path, definition, name, text, copy, *start, occurrence)


def _unpacks(node: parso.tree.NodeOrLeaf) -> bool:
    return getattr(node, "value", "") in ("*", "**") and node.parent.type in _UNPACKING


def _orders_a_string(node: parso.tree.NodeOrLeaf, operator: str) -> bool:
    """Whether a comparison with a string literal becomes one of order, which names do not have."""
    return operator.startswith("ReplaceComparisonOperator") and (
        operator.rpartition("_")[2] in ("Lt", "LtE", "Gt", "GtE")
        and any(child.type in ("string", "fstring", "strings") for child in node.children)
    )


def _left_out(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """(start, end) of annotations, of decorators' arguments, of some keywords, and of constants that are block sizes."""
    tree = ast.parse(source)
    nodes: list[ast.expr | ast.keyword] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            nodes.append(node.annotation)
        if isinstance(node, ast.FunctionDef):
            nodes += [node.returns] if node.returns else []
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            nodes += [argument for call in node.decorator_list if isinstance(call, ast.Call) for argument in call.args]
            nodes += [word for call in node.decorator_list if isinstance(call, ast.Call) for word in call.keywords]
        if isinstance(node, ast.keyword) and node.arg in KEYWORDS:
            nodes.append(node)
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(target := statement.targets[0], ast.Name):
            nodes += [statement.value] if BLOCK_SIZES.match(target.id) else []
    # ast counts columns in bytes, parso in characters; code before them on a line is ASCII.
    return [((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)) for node in nodes]
