"""Fixtures for tests of model runs that are not about processes.

Torch is loaded in the tests' own process already; every other one would take 3 s of CPU to load it again. Figures of their runs
are laid out and not rendered, which would take longer than a tiny run: test_finetune_figures.py renders them.
"""

import pytest
import torch

from ninscope_pipeline.stages.activations import ActivationsStage
from ninscope_pipeline.stages.finetune import FineTuneStage
from ninscope_pipeline.stages.neurons.stage import NeuronsStage


@pytest.fixture(scope="module", autouse=True)
def _models_in_this_process():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for stage in (FineTuneStage, ActivationsStage, NeuronsStage):
            patch.setattr(stage, "runs_models", False)
        yield
    torch.set_num_threads(threads)


FIGURES = (
    "ablations.ablations_figure", "activations_figure.activations_figure", "degree_figures.degrees_figure",
    "degree_figures.kurtosis_figure", "figures.comparison_figure", "figures.emergence_figure", "figures.spectra_figure",
    "finetune_figures.finetunes_figure", "parts_figure.parts_figure",
)  # fmt: skip


@pytest.fixture
def only_names_of_figures(_figures_not_rendered, request, monkeypatch):
    """Nor laid out, but in tests that ask for the fixture `laid_out`."""
    if "laid_out" not in request.fixturenames:
        for name in FIGURES:
            monkeypatch.setattr(f"ninscope.report.{name}", lambda *_: None)


@pytest.fixture
def laid_out():
    """Figures of tables that failures are in."""


@pytest.fixture(scope="module", autouse=True)
def _figures_not_rendered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ninscope.report.layout.png", lambda figure: b"not rendered")
        yield
