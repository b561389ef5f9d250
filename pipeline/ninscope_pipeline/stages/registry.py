"""Every stage there is, in the order in which they run: ninscope's own, then those of installed packages.

A package adds stages by the entry point group `ninscope.stages`; each entry point names a `Stage` object.
"""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points

from ninscope.errors import RequestError
from ninscope_pipeline.stages.activations import ACTIVATIONS
from ninscope_pipeline.stages.controls import CONTROLS
from ninscope_pipeline.stages.correlations import CORRELATIONS
from ninscope_pipeline.stages.emergence import EMERGENCE
from ninscope_pipeline.stages.exact import EXACT, PARTS, RANGES
from ninscope_pipeline.stages.finetune import FINETUNE
from ninscope_pipeline.stages.interactions import INTERACTIONS
from ninscope_pipeline.stages.laboratory.polysemanticity import POLYSEMANTICITY
from ninscope_pipeline.stages.laboratory.toy_data import TOY_DATA_STAGE
from ninscope_pipeline.stages.laboratory.toy_neurons import TOY_NEURONS_STAGE
from ninscope_pipeline.stages.laboratory.toy_pruning import TOY_PRUNING_STAGE
from ninscope_pipeline.stages.laboratory.toy_training import TOY_TRAINING_STAGE
from ninscope_pipeline.stages.network import NETWORK
from ninscope_pipeline.stages.neurons.stage import NEURONS_STAGE
from ninscope_pipeline.stages.nulls import NULLS
from ninscope_pipeline.stages.scaling import SCALING
from ninscope_pipeline.stages.singular_values import SINGULAR_VALUES_STAGE
from ninscope_pipeline.stages.snapshots import SNAPSHOTS
from ninscope_pipeline.stages.spectra import SPECTRA
from ninscope_pipeline.stages.stage import Stage
from ninscope_pipeline.stages.weight_changes import CHANGES_STAGE
from ninscope_pipeline.stages.weights import WEIGHTS_STAGE

GROUP = "ninscope.stages"
_OWN: tuple[Stage, ...] = (
    NETWORK,
    SPECTRA,
    RANGES,
    PARTS,
    EXACT,
    WEIGHTS_STAGE,
    CHANGES_STAGE,
    SINGULAR_VALUES_STAGE,
    NULLS,
    CONTROLS,
    SNAPSHOTS,
    SCALING,
    INTERACTIONS,
    FINETUNE,
    ACTIVATIONS,
    NEURONS_STAGE,
    TOY_DATA_STAGE,
    TOY_TRAINING_STAGE,
    TOY_PRUNING_STAGE,
    POLYSEMANTICITY,
    TOY_NEURONS_STAGE,
    EMERGENCE,
    CORRELATIONS,
)


@cache
def stages() -> Mapping[str, Stage]:
    """Stages by name. Raises RequestError: an installed package's stage cannot be loaded, or takes another's name."""
    by_name = {stage.name: stage for stage in _OWN}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        package = entry.dist.name if entry.dist is not None else entry.value
        try:
            stage = entry.load()
        except Exception as error:
            raise RequestError(
                f"the stage {entry.name!r} of {package} cannot be loaded ({type(error).__name__}: {error}); "
                "mend or uninstall that package"
            ) from None
        if not isinstance(stage, Stage):
            raise RequestError(
                f"the stage {entry.name!r} of {package} is no ninscope_pipeline.stages.stage.Stage object"
            )
        if stage.name in by_name:
            raise RequestError(f"the stage {stage.name!r} of {package} takes the name of another; rename it")
        by_name[stage.name] = stage
    return by_name
