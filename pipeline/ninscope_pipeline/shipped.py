"""The experiments and suites that ship: dags/ and data/, in the source tree or inside the installed package."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped_folder() -> Path:
    """The folder that holds dags/ and data/."""
    installed = _PACKAGE / "shipped"
    return installed if installed.is_dir() else _PACKAGE.parents[1]


def shipped_dags() -> dict[str, Path]:
    """DAG files that ship, by name without ".toml", sorted."""
    return {path.stem: path for path in sorted((shipped_folder() / "dags").glob("*.toml"))}
