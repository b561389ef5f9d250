"""How many bytes a plan would fetch: of exact analyses by the sizes of tensors, of samples by their very spans, of models
that are run by their files' sizes."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from ninscope.architectures import architecture_of
from ninscope.errors import CheckpointError
from ninscope.networks.sampled import sampled_bytes
from ninscope.parameters import Parameters
from ninscope_pipeline.asked.analyses import Wanted
from ninscope_pipeline.plan import Plan
from ninscope_pipeline.stages.locate import Located

_THREADS = 16


def bytes_to_fetch(plan: Plan) -> dict[str, int]:
    """Bytes of weights that are not on this machine, by model ("suite/model"); of what is stored already nothing is fetched.

    For samples the headers of their checkpoints are read. Raises RequestError.
    """
    found: dict[str, int] = {}
    for located, parameters in _remote(plan.exact.values()):
        passes = 1 if parameters.log_count is None else 2  # logarithmic radii need the range of all weights first
        _add(found, located, passes * located.wired(parameters.reading).weight_bytes)
    bases = {study.located.content_sha256: study.located for study in plan.studies.values()}
    for located in bases.values():  # each is fetched once for all that starts from it
        if located.kind == "hub":
            _add(found, located, located.bytes)
    sampled = _remote(plan.networks.values())
    with ThreadPoolExecutor(_THREADS) as pool:
        for (located, _), size in zip(sampled, pool.map(lambda each: _of_samples(*each), sampled), strict=True):
            _add(found, located, size)
    return found


def _remote(made: Iterable[tuple[Located, Wanted]]) -> list[tuple[Located, Parameters]]:
    return [(located, wanted.parameters) for located, wanted in made if located.kind == "hub"]


def _add(found: dict[str, int], located: Located, size: int) -> None:
    name = f"{located.suite}/{located.model}"
    found[name] = found.get(name, 0) + size


def _of_samples(located: Located, parameters: Parameters) -> int:
    try:
        checkpoint = located.opened().open(located.revision, located.identity)
        architecture = architecture_of(checkpoint.config, checkpoint.tensors, parameters.reading)
        return sampled_bytes(checkpoint, architecture, parameters.nodes_per_layer, parameters.samples, parameters.seed)
    except CheckpointError:
        return 0  # the run will say of it what there is to say
