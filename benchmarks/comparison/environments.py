"""A virtual environment for each tool, made from pinned requirements, and how large it is on disk."""

import hashlib
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements")
CONSTRAINTS = ROOT / "constraints.txt"


@dataclass(frozen=True)
class Environment:
    """python: its interpreter. packages: the folder of its site-packages."""

    python: Path
    packages: Path

    def sizes(self) -> dict[str, int]:
        """Bytes of its files without compiled Python: "all", and those of "torch" (0 where it is not installed)."""
        files = [path for path in self.packages.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        of_torch = [path for path in files if path.relative_to(self.packages).parts[0] == "torch"]
        return {"all": sum(map(_bytes, files)), "torch": sum(map(_bytes, of_torch))}

    def versions(self) -> dict[str, str]:
        """The version of every distribution that is installed, by its name in lower case."""
        listed = subprocess.run(
            [str(self.python), "-m", "pip", "--disable-pip-version-check", "list", "--format", "freeze"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        pairs = (line.split("==") for line in listed.splitlines() if "==" in line)
        return {name.lower(): version for name, version in pairs}


def _bytes(path: Path) -> int:
    return path.stat().st_size


def environment(name: str, folder: Path) -> Environment:
    """The environment of a tool in `folder`, made anew where its requirements have changed.

    name: of a file in requirements/, or "ninscope", which is this checkout with what it needs to measure.
    """
    wanted = [str(ROOT)] if name == "ninscope" else ["--requirement", str(REQUIREMENTS / f"{name}.txt")]
    files = [CONSTRAINTS, ROOT / "pyproject.toml" if name == "ninscope" else REQUIREMENTS / f"{name}.txt"]
    key = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
    base, mark = folder / f"env-{name}", folder / f"env-{name}.key"
    python = base / "bin" / "python"
    if not mark.exists() or mark.read_text(encoding="utf-8") != key:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(base)], check=True)
        install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*install, "--constraint", str(CONSTRAINTS), *wanted], check=True)
        mark.write_text(key, encoding="utf-8")
    elif name == "ninscope":  # the sources may have changed
        install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*install, "--no-deps", "--force-reinstall", str(ROOT)], check=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(base), "platbase": str(base)})
    return Environment(python, Path(packages))
