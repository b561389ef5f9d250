"""Spectra: the multifractal analysis of a stored network, sample by sample (stage `spectra`)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ninscope.measuring import analyse_network
from ninscope.parameters import Parameters
from ninscope_pipeline.located import reading_outcome
from ninscope_pipeline.request.analyses import SAMPLED
from ninscope_pipeline.stages.from_weights import label_of
from ninscope_pipeline.stages.measurements import SAMPLES_TABLE, SPECTRA_TABLE, artefact_of_measurement
from ninscope_pipeline.stages.network import NETWORK, network_key, stored_network
from ninscope_pipeline.stages.stage import Job, Stage
from ninscope_pipeline.storing.keys import beyond_defaults, content_key
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ninscope.report.page.parts import PagePart, PageTables
    from ninscope_pipeline.figures import FigureTables
    from ninscope_pipeline.plan import Request


@dataclass(frozen=True)
class SpectraWork:
    """network: content key of the sampled network. parameters: how it is analysed."""

    network: str
    parameters: Parameters


class SpectraStage(Stage[SpectraWork]):
    name, title, version = "spectra", "spectra", 3
    judges_checkpoints = True
    tables = (SAMPLES_TABLE, SPECTRA_TABLE)

    def jobs(self, request: "Request") -> Iterator[Job[SpectraWork]]:
        for located in request.checkpoints:
            for analysis in request.analyses:
                if analysis.method != SAMPLED:
                    continue
                parameters = analysis.parameters
                outcome = reading_outcome(located, parameters.reading)
                network = network_key(located, parameters) if outcome.ok else ""
                yield Job(
                    self.name,
                    spectra_key(network, parameters) if outcome.ok else "",
                    label_of(located, analysis),
                    SpectraWork(network, parameters),
                    ((NETWORK.name, network),) if outcome.ok else (),
                    located,
                    analysis.name,
                    known=outcome,
                )

    def make(self, store: ArtefactStore, job: Job[SpectraWork]) -> Artefact:
        network = stored_network(store.read(NETWORK.name, job.work.network, with_matrix=True))
        return artefact_of_measurement(analyse_network(network, job.work.parameters))

    def figures(self, tables: "FigureTables") -> "Iterator[tuple[str, Figure]]":
        from ninscope.report.figures import spectra_figure

        for model in tables.models:
            yield (
                f"{model.stem}-spectra.png",
                spectra_figure(model.table("spectra"), model.name, model.table("emergence")),
            )

    def page(self, tables: "PageTables") -> "Iterator[PagePart]":
        from ninscope.report.page.spectra_part import spectra_parts

        yield from spectra_parts(tables)


SPECTRA = SpectraStage()


def spectra_key(network: str, parameters: Parameters) -> str:
    """What spectra depend on beside their network. network: its content key."""
    return content_key(
        SPECTRA.name,
        SPECTRA.version,
        network=network,
        transfer=parameters.transfer,
        radii=parameters.radii,
        min_degree=parameters.min_degree,
        q=parameters.q,
        derivative=parameters.derivative,
        **beyond_defaults(parameters, "parts", "layers_crossed", "direction", "fit_radii"),
    )
