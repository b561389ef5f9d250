"""Make the text in data/project-text from this project's own Python files: see data/README.md.

    python data/make_project_text.py --out data/project-text

Text to model is the files themselves, parted into training and held out by file. The other task is whether a line of Python is
acceptable: half of the lines, each a statement that parses by itself, have two of their tokens exchanged so that they do not.
"""

import argparse
import ast
import csv
import hashlib
import io
import json
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("src/ninscope", "pipeline", "benchmarks")
HELD_OUT_OF = 5  # every file whose path has a SHA-256 divisible by it
TEXT_BYTES = {"train": 160_000, "held_out": 40_000}  # of whole files
LINES = {"train": 2000, "held_out": 500}
SHORTEST, LONGEST = 16, 60  # bytes of a line


def digest(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def sources(split: str) -> list[Path]:
    """Files of one side, in an order that says nothing of them."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    named = {path.relative_to(ROOT).as_posix(): path for path in files}
    chosen = [name for name in named if (digest(name) % HELD_OUT_OF == 0) == (split == "held_out")]
    return [named[name] for name in sorted(chosen, key=digest)]


def text(split: str) -> tuple[str, list[Path]]:
    """Whole files, up to so many bytes, and which they are."""
    parts, used, size = [], [], 0
    for path in sources(split):
        content = path.read_text(encoding="utf-8")
        if not content.isascii() or size + len(content) > TEXT_BYTES[split]:
            continue
        parts.append(content)
        used.append(path)
        size += len(content)
    return "\n".join(parts), used


def parses(line: str) -> bool:
    try:
        ast.parse(line)
    except (SyntaxError, ValueError):
        return False
    return True


def statements(split: str) -> Iterator[str]:
    """Distinct lines that are whole statements, in the order of their digests."""
    found = set()
    for path in sources(split):
        for line in path.read_text(encoding="utf-8").splitlines():
            line = line.strip()
            if (
                line.isascii()
                and SHORTEST <= len(line) <= LONGEST
                and not line.startswith(("#", '"', "'"))
                and parses(line)
            ):
                found.add(line)
    yield from sorted(found, key=digest)


def exchanged(line: str) -> str | None:
    """The line with two neighbouring tokens exchanged so that it does not parse; None where no exchange does that."""
    tokens = [
        token
        for token in tokenize.generate_tokens(io.StringIO(line).readline)
        if token.string and token.type != tokenize.NEWLINE
    ]
    first = digest(line) % max(len(tokens) - 1, 1)
    for shift in range(len(tokens) - 1):
        place = (first + shift) % (len(tokens) - 1)
        left, right = tokens[place], tokens[place + 1]
        between = line[left.end[1] : right.start[1]]
        changed = line[: left.start[1]] + right.string + between + left.string + line[right.end[1] :]
        if not parses(changed):
            return changed
    return None


def examples(split: str) -> list[tuple[str, int]]:
    """(line, 1 where it is acceptable), as many of one kind as of the other; no line stands for both."""
    rows: dict[int, list[str]] = {0: [], 1: []}
    each = LINES[split] // 2
    for line in statements(split):
        label = 1 if len(rows[1]) <= len(rows[0]) else 0
        shown = line if label else exchanged(line)
        if shown is not None and len(rows[label]) < each:
            rows[label].append(shown)
    mixed = [(line, label) for label, lines in rows.items() for line in lines]
    return sorted(mixed, key=lambda row: digest(row[0] + "order"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    manifest = {}
    known = {line for line, _ in examples("train")}
    for split in ("train", "held_out"):
        content, used = text(split)
        (out / f"{split}.txt").write_text(content, encoding="utf-8")
        rows = [row for row in examples(split) if split == "train" or row[0] not in known]
        with open(out / f"lines-{split}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([("text", "label"), *rows])
        manifest[split] = {
            "files": [path.relative_to(ROOT).as_posix() for path in used],
            "bytes": len(content),
            "lines": len(rows),
            "acceptable": sum(label for _, label in rows),
        }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
