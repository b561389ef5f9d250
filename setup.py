"""What pyproject.toml cannot say: dags/ and data/ stand beside the packages in the tree, and ship inside one as data."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("dags/*.toml", "data/*.md", "data/*/*", "data/*/*/*")


class BuildWithShippedFiles(build_py):
    """Copies them to ninscope_pipeline/shipped/, where ninscope_pipeline.shipped looks for them."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # then they are read where they stand
            return
        for source, target in self._shipped():
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(source), str(target))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        shipped = [] if self.editable_mode else [str(target) for _, target in self._shipped()]
        return [*super().get_outputs(include_bytecode), *shipped]

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *(str(source) for source, _ in self._shipped())]

    def _shipped(self) -> list[tuple[Path, Path]]:
        """(source, target) of every file, by name."""
        folder = Path(self.build_lib) / "ninscope_pipeline" / "shipped"
        sources = {
            path for pattern in SHIPPED for path in Path().glob(pattern) if path.is_file() and path.suffix != ".pyc"
        }
        return [(source, folder / source) for source in sorted(sources)]


setup(cmdclass={"build_py": BuildWithShippedFiles})
