"""The sections of a DAG file have the defaults of the science, and no others."""

from dataclasses import asdict

import numpy as np
import pytest

from ninscope.multifractal.emergence import Bootstrap
from ninscope.parameters import Parameters
from ninscope_pipeline.request.analyses import SAMPLED, AnalysisSection, LogRadiiKey, QGrid
from ninscope_pipeline.request.dagfile import EmergenceSection


def test_an_empty_analysis_section_is_the_default_parameters():
    parameters = asdict(AnalysisSection().methods()[SAMPLED])
    expected = asdict(Parameters())
    assert parameters.pop("q").tobytes() == expected.pop("q").tobytes()
    assert parameters == expected


def test_an_empty_emergence_section_is_the_default_bootstrap():
    section = EmergenceSection()
    assert Bootstrap(section.replicates, section.confidence, section.seed) == Bootstrap()


@pytest.mark.parametrize(
    ("q", "grid"),
    [
        (np.arange(-30, 31) / 10, QGrid(start=-3.0, stop=3.0, step=0.1)),
        (np.array([0.0, 2.0, 4.0]), QGrid(start=0.0, stop=4.0, step=2.0)),
    ],
)
def test_a_grid_has_the_values_it_is_made_of(q, grid):
    assert QGrid.of(q) == grid
    assert np.array_equal(grid.values(), q)


def test_values_that_are_not_evenly_spaced_are_no_grid():
    with pytest.raises(ValueError, match=r"not evenly spaced; list them one by one"):
        QGrid.of(np.array([0.0, 1.0, 3.0]))


def test_a_table_of_radii_is_what_the_parameters_take():
    section = AnalysisSection(nodes_per_layer="all", radii=LogRadiiKey(log=50))
    assert section.methods()["exact"].log_count == 50
