"""Figures of the documentation, small: copies of what runs drew, and what only Python draws. `make figures` runs it last.

    python docs/draw_figures.py RUNS_FOLDER     # of these runs
    python docs/draw_figures.py                 # make small what another script drew

A PNG of matplotlib has a few hundred colours; with 255 of them it looks the same, and takes a third of the bytes. Thousands of
points, and dozens of panels, take more, and are shown smaller.
"""

import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from PIL import Image

import ninscope
from ninscope.report.degree_figures import degree_distributions_figure
from ninscope.report.layout import png
from ninscope.report.plots import rows_figure

DATA = Path(__file__).parents[1] / "data"
FIGURES = Path(__file__).parent / "figures"
MOST_BYTES = 150_000
SMALLER = 0.7
SUITE = "stdlib-neox-500k"
# By its name in docs/figures: the run, and the figure's name there.
OF_RUNS = {
    f"{SUITE}-emergence.png": ("demo", f"{SUITE}-emergence.png"),
    f"{SUITE}-spectra.png": ("demo", f"{SUITE}-spectra.png"),
    f"{SUITE}-degrees.png": ("demo", f"{SUITE}-degrees.png"),
    f"{SUITE}-kurtosis.png": ("demo", f"{SUITE}-kurtosis.png"),
    f"{SUITE}-parts.png": ("parts", f"{SUITE}-parts.png"),
    f"{SUITE}-controls.png": ("controls", f"{SUITE}-controls.png"),
    f"{SUITE}-weights.png": ("controls", f"{SUITE}-weights.png"),
    f"{SUITE}-interactions.png": ("controls", f"{SUITE}-interactions.png"),
    f"{SUITE}-coupling-map.png": ("controls", f"{SUITE}-coupling-map.png"),
    f"{SUITE}-correlations.png": ("controls", f"{SUITE}-correlations.png"),
    f"{SUITE}-accuracy.png": ("controls", f"{SUITE}-accuracy.png"),
    f"{SUITE}-scaling.png": ("scaling", f"{SUITE}-scaling.png"),
    "ablations.png": ("ablations", "ablations.png"),
    "diffusion-and-language.png": ("diffusion", "emergence.png"),
    "digits-ddpm-benchmarks.png": ("diffusion", "digits-ddpm-benchmarks.png"),
    f"{SUITE}--lines-finetunes.png": ("memel", f"{SUITE}--lines-finetunes.png"),
    "blobs-convgru--leaving-blobs-finetunes.png": ("memel", "blobs-convgru--leaving-blobs-finetunes.png"),
    "project-text-activations.png": ("memel", "project-text-activations.png"),
    "polysemanticity-neurons.png": ("polysemanticity-neurons", "polysemanticity-neurons.png"),
    "project-text-neurons.png": ("neurons", "project-text-neurons.png"),
    f"{SUITE}-neurons-map.png": ("neurons", f"{SUITE}--project-text-neurons-map.png"),
    f"{SUITE}-neuron-places.png": ("neurons", f"{SUITE}--project-text-neuron-places.png"),
    f"{SUITE}-neuron-places-over-training.png": (
        "neurons", f"{SUITE}--project-text-neuron-places-over-training.png"
    ),
    **{
        name: ("polysemanticity", name)
        for name in (
            "polysemanticity-N4-training.png", "polysemanticity-N3-pruning.png", "polysemanticity-slopes.png",
            "polysemanticity-slopes-samples.png",
            "polysemanticity-correlations-training.png",
        )
    },
}  # fmt: skip

# Of scripts in examples/, by its name in docs/figures: the file in the folder of runs.
OF_EXAMPLES = {"training-trainer.png": "example-with_trainer/emergence.png"}


def small(picture: bytes) -> bytes:
    """A PNG with a palette; 255 colours, or as many of 128, 64 and 32 as the limit allows, and if need be at 70 % of its size."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    size = (round(SMALLER * image.width), round(SMALLER * image.height))
    # Of what was made smaller most colours are greys of edges, which would leave none for the lines and points.
    for shown, method in (
        (image, Image.Quantize.MEDIANCUT),
        (image.resize(size, Image.Resampling.LANCZOS), Image.Quantize.MAXCOVERAGE),
    ):
        for colours in (255, 128, 64, 32):
            out = io.BytesIO()
            shown.quantize(colours, method, dither=Image.Dither.NONE).save(out, "png", optimize=True)
            if out.tell() <= MOST_BYTES:
                return out.getvalue()
    raise SystemExit(f"a figure of {image.size} takes more than {MOST_BYTES} bytes; draw it smaller")


def drawn() -> Iterator[tuple[str, bytes]]:
    """Figures that no run draws: of several sources, of revisions without a step, of single nodes."""
    sizes = [DATA / f"stdlib-neox-{size}" for size in ("67k", "233k", "500k")]
    yield "sizes.png", png(rows_figure([(path.name, ninscope.measure_all(path).to_frame()) for path in sizes]))
    with tempfile.TemporaryDirectory() as folder:
        for path in sizes:
            (Path(folder) / path.name).symlink_to(path / "step1000")
        yield "names.png", png(rows_figure([("models", ninscope.measure_all(folder).to_frame())]))
    nodes = pd.concat(  # those with few edges are left out of the table, and here
        pd.DataFrame(
            {"step": row.step, "layer": layer, "average_weighted_degree": values.degree, "edges": values.edges}
        )
        for row in ninscope.measure_all(DATA / SUITE, per_node=True)
        for layer, values in row.spectrum.nodes_of.items()
    )
    yield f"{SUITE}-degree-distributions.png", png(degree_distributions_figure(nodes, SUITE))


def draw(runs: Path) -> None:
    for name, (run, figure) in OF_RUNS.items():
        (FIGURES / name).write_bytes(small((runs / run / "figures" / figure).read_bytes()))
    for name, file in OF_EXAMPLES.items():
        (FIGURES / name).write_bytes(small((runs / file).read_bytes()))
    for name, picture in drawn():
        (FIGURES / name).write_bytes(small(picture))


def shrink() -> None:
    for path in sorted(FIGURES.glob("*.png")):
        if path.stat().st_size > MOST_BYTES:
            path.write_bytes(small(path.read_bytes()))


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        draw(Path(folder))
    shrink()
