"""Rows of the tables `finetunes` and `activations`, from what studies stored; the columns of all tables of studies."""

import math
from collections.abc import Iterator, Mapping, Sequence

from ninscope.measuring import Measurement
from ninscope.multifractal.emergence import emergence_of
from ninscope_pipeline.asked.analyses import DEFAULT, EXACT
from ninscope_pipeline.stages import activations, spectrum
from ninscope_pipeline.stages.finetune import PHI
from ninscope_pipeline.stages.inputs import STAGES, Inputs, Outcomes
from ninscope_pipeline.stages.studies import FINETUNE, Study
from ninscope_pipeline.storing.store import Artefact, ArtefactStore

_NOTHING = math.nan
_PHI = PHI[1:]  # all but the number of values


def study_rows(
    store: ArtefactStore, inputs: Inputs, outcomes: Sequence[Outcomes], studies: Sequence[Study]
) -> dict[str, list[dict]]:
    """Rows by table; of a study that did not come to its end one row, with the reason."""
    rows: dict[str, list[dict]] = {"finetunes": [], "activations": []}
    if not studies:
        return rows
    networks = _Networks(store, inputs, outcomes)
    for study in studies:
        located, task = study.located, study.task.name
        keys = {
            "suite": located.suite, "model": located.model, "revision": located.revision, "step": located.step, "task": task,
            "status": study.outcome.status, "message": study.outcome.message,
        }  # fmt: skip
        stored = store.read(study.stage, study.key) if study.outcome.ok else None
        if study.stage == FINETUNE:
            recipe = study.how
            keys |= {"method": recipe.method, "seed": recipe.seed, "learning_rate": recipe.learning_rate}
            rows["finetunes"] += [keys | row for row in _finetune_rows(stored, study, networks)]
        else:
            of_layers = [{}] if stored is None else activations.rows_of(stored)
            rows["activations"] += [keys | {"neurons": study.how.neurons} | row for row in of_layers]
    return rows


def _finetune_rows(stored: Artefact | None, study: Study, networks: "_Networks") -> Iterator[dict]:
    """One row an evaluation and metric."""
    if stored is None:
        yield {"metric": "", "finetune_step": None}
        return
    arrays, about = stored.arrays, stored.attributes
    base, start, no_e = networks.of(study)
    for number, step in enumerate(arrays["steps"].tolist()):
        phi = dict(zip(about["phi"], arrays["phi"][number].tolist(), strict=True))
        alpha0, width = arrays["network"][number].tolist()
        here = {
            "finetune_step": step,
            **{f"phi_{name}": phi[name] for name in _PHI},
            "alpha0": alpha0,
            "width": width,
            "emergence": _NOTHING if no_e else _emergence(alpha0, width, start),
            "emergence_from_base": _emergence(alpha0, width, base),
            "warning": about["warnings"][number],
        }
        for metric, value in zip(about["metrics"], arrays["metrics"][number].tolist(), strict=True):
            yield here | {"metric": metric, "value": value}


def _emergence(alpha0: float, width: float, start: Measurement | None) -> float:
    return _NOTHING if start is None else emergence_of(alpha0, width, start.alpha0, start.width)


class _Networks:
    """The exact spectra, by [analysis], of the checkpoints that studies start from."""

    def __init__(self, store: ArtefactStore, inputs: Inputs, outcomes: Sequence[Outcomes]):
        self._store, self._step = store, inputs.asked.baseline_step
        self._keys: dict[tuple, str] = {}
        self._starts: dict[tuple, str] = {}
        name = next((one.name for one in inputs.spectra if (one.variant, one.method) == (DEFAULT, EXACT)), None)
        self._no_e: dict[tuple, str] = {}
        for member, each in zip(inputs.members, outcomes, strict=True):
            located = member.located
            model = (located.suite, located.model)
            self._no_e[*model, located.revision] = located.no_e or located.otherwise_wired
            if name is not None and each[name].ok:
                self._keys[*model, located.revision] = member.keys[name]
                if located.step == self._step:
                    self._starts.setdefault(model, member.keys[name])
        self._read: dict[str, Measurement] = {}

    def of(self, study: Study) -> tuple[Measurement | None, Measurement | None, str]:
        """(that of its base, that of the baseline step, why E against that would be false or "")."""
        model = (study.located.suite, study.located.model)
        base = self._keys.get((*model, study.located.revision))
        return self._measured(base), self._measured(self._starts.get(model)), self._no_e[*model, study.located.revision]

    def _measured(self, key: str | None) -> Measurement | None:
        if key is None:
            return None
        if key not in self._read:
            self._read[key] = spectrum.spectrum_of(self._store.read(STAGES[EXACT], key, only=spectrum.SUMMARY))
        return self._read[key]


def study_keys(studies: Sequence[Study]) -> list:
    """What of studies the tables depend on."""
    return [[study.stage, study.key, study.name, study.outcome.status, study.outcome.message] for study in studies]


COLUMNS: Mapping[str, Mapping[str, str]] = {
    "finetunes": {
        "method": "string", "task": "string", "seed": "Int64", "learning_rate": "float64", "finetune_step": "Int64",
        "metric": "string", "value": "float64",
        **{f"phi_{name}": "float64" for name in _PHI},
        "alpha0": "float64", "width": "float64", "emergence": "float64", "emergence_from_base": "float64", "warning": "string",
        "status": "string", "message": "string",
    },
    "comparisons": {
        "task": "string", "metric": "string", "method": "string", "learning_rate": "float64", "finetune_step": "Int64",
        "seeds": "Int64", "mean": "float64", "std": "float64", "difference": "float64", "p_value": "float64",
        "phi_p99": "float64", "emergence_from_base": "float64",
    },
    "activations": {
        "task": "string", "layer": "string", "neurons": "string", "values": "Int64",
        **{f"phi_{name}": "float64" for name in _PHI},
        "status": "string", "message": "string",
    },
}  # fmt: skip
