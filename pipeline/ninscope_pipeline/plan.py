"""What a run would do, known before anything is computed: the jobs whose artefacts are not stored yet, and what these need.

Content keys follow from what the survey found and from the DAG file, so the whole plan is: which keys are there?
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ninscope.errors import CheckpointError
from ninscope_pipeline.located import Located
from ninscope_pipeline.outcome import OK, Outcome, settled
from ninscope_pipeline.request.analyses import Analysis
from ninscope_pipeline.request.dagfile import Dag
from ninscope_pipeline.request.evaluations import Evaluation
from ninscope_pipeline.stages.registry import stages
from ninscope_pipeline.stages.stage import Job, JobId, Stage, named_in_errors
from ninscope_pipeline.storing.runfolder import RunFolder
from ninscope_pipeline.storing.store import ArtefactStore, DamagedArtefact

CheckpointId = tuple[str, str, str]  # suite, model, revision


class Request:
    """What was asked, of which checkpoints, and what is known to become of it.

    checkpoints: all of the run, in the order of the file and of the steps. evaluations: one entry a model. store: the store as it
    is while the plan is made. ended: outcomes of jobs that were run.
    """

    def __init__(
        self,
        dag: Dag,
        checkpoints: Sequence[Located],
        evaluations: Sequence[tuple[Evaluation, ...]],
        store: ArtefactStore,
        ended: Mapping[JobId, Outcome] | None = None,
        earlier: "Request | None" = None,
    ):
        """earlier: the same request before its jobs were run; its jobs, which say what was planned, are kept."""
        self.dag, self.checkpoints, self.evaluations, self.store = dag, tuple(checkpoints), tuple(evaluations), store
        self.analyses: tuple[Analysis, ...] = dag.analyses()
        self._ended = dict(ended or {})
        self._jobs: dict[str, list[Job]] = {name: [] for name in stages()}
        self._outcomes: dict[JobId, Outcome] = {}
        self._named: dict[CheckpointId, dict[str, Job]] = {}
        self._settled: dict[CheckpointId, Mapping[str, Outcome]] = {}
        first = [stage for stage in stages().values() if not stage.follows_outcomes]
        for job in (
            earlier.planned(first) if earlier is not None else (job for stage in first for job in self._made_by(stage))
        ):
            self._add(job)
        for checkpoint, jobs in self._named.items():
            self._settled[checkpoint] = settled({name: self._own_outcome(job) for name, job in jobs.items()})
        for stage in stages().values():
            if stage.follows_outcomes:
                for job in self._made_by(stage):
                    self._add(job)

    def _made_by(self, stage: Stage) -> Iterator[Job]:
        with named_in_errors(f"the plan of the stage {stage.name}"):
            yield from stage.jobs(self)

    def planned(self, chosen: Iterable[Stage]) -> Iterator[Job]:
        """The jobs of some stages, those that others need first."""
        for stage in chosen:
            yield from self._jobs[stage.name]

    def jobs_of(self, stage: str) -> list[Job]:
        """The jobs that a stage, which runs before this one, makes of what was asked."""
        return self._jobs[stage]

    def jobs(self) -> Iterator[Job]:
        for jobs in self._jobs.values():
            yield from jobs

    def by_model(self) -> dict[tuple[str, str], list[Located]]:
        """Checkpoints by (suite, model), in the order of the file."""
        models: dict[tuple[str, str], list[Located]] = {
            (model.suite, model.model): [] for model in self.dag.all_models()
        }
        for located in self.checkpoints:
            models[located.suite, located.model].append(located)
        return models

    def named_jobs(self, located: Located) -> Mapping[str, Job]:
        """By name, the jobs whose failure is this checkpoint's own."""
        return self._named.get(located.id, {})

    def job_named(self, located: Located, name: str) -> Job | None:
        return self.named_jobs(located).get(name)

    def outcome(self, job: Job) -> Outcome:
        """What became of a job, or ok where nothing is known against it; where it judges its checkpoint, as `settled` says."""
        if job.checkpoint is not None and job.name in (outcomes := self._settled.get(job.checkpoint.id, {})):
            return outcomes[job.name]
        return self._own_outcome(job)

    def is_given_up(self, job: Job) -> bool:
        """Whether it is known that nothing can be made of the job's checkpoint."""
        if job.checkpoint is None or not job.name:
            return False
        outcomes = self._settled.get(job.checkpoint.id, {}).values()
        return bool(outcomes) and not any(outcome.ok for outcome in outcomes)

    def _own_outcome(self, job: Job) -> Outcome:
        return job.known if not job.known.ok else self._outcomes.get(job.id, OK)

    def _add(self, job: Job) -> None:
        self._jobs[job.stage].append(job)
        if job.known.ok and job.id not in self._outcomes:
            self._outcomes[job.id] = self._known(job)
        if stages()[job.stage].judges_checkpoints and job.checkpoint is not None:
            self._named.setdefault(job.checkpoint.id, {})[job.name] = job

    def _known(self, job: Job) -> Outcome:
        """What is known of a job: how it ended, a failure that is stored, or that of a job it needs."""
        if job.id in self._ended:
            return self._ended[job.id]
        if self.store.has(*job.id):
            failure = self.store.failure(*job.id)
            if failure is not None:
                return Outcome(failure.status, str(failure))
            if self.store.has(*job.id):  # it may have turned out to be damaged
                return OK
        failed = next((known for need in job.needs if not (known := self._outcomes.get(need, OK)).ok), None)
        return OK if failed is None else failed.passed_on()

    def after(self, ended: Mapping[JobId, Outcome], store: ArtefactStore) -> "Request":
        """The same request with what became of its jobs."""
        return Request(self.dag, self.checkpoints, self.evaluations, store, self._ended | dict(ended), earlier=self)


@dataclass
class Plan:
    """to_run: the jobs to run, those that others need first. moved: whole artefacts whose records say other times."""

    request: Request
    to_run: list[Job] = field(default_factory=list)
    moved: list[JobId] = field(default_factory=list)

    def keys(self) -> dict[str, list[str]]:
        """By stage, every artefact the run consists of, done or not: what `ninscope status` counts."""
        keys: dict[str, set[str]] = {}
        for job in self.request.jobs():
            if job.requested and not stages()[job.stage].follows_outcomes:
                counted = keys.setdefault(job.stage, set())
                if job.key and not self.request.is_given_up(job):
                    counted.add(job.key)
        return {stage: sorted(stage_keys) for stage, stage_keys in keys.items()}

    def following_keys(self) -> dict[str, list[str]]:
        """By stage that follows from others' outcomes, its artefacts as far as they are known: at the end of a run, all."""
        return {
            name: sorted(job.key for job in self.request.jobs_of(name) if job.key)
            for name, stage in stages().items()
            if stage.follows_outcomes
        }

    def kept_keys(self) -> dict[str, list[str]]:
        """By folder that a stage keeps beside its artefacts, what of it these are put together from."""
        kept: dict[str, set[str]] = {}
        for name, stage in stages().items():
            for job in self.request.jobs_of(name) if stage.keeps else ():
                kept.setdefault(stage.keeps, set()).update(stage.kept_keys(job))
        return {folder: sorted(keys) for folder, keys in kept.items()}

    def first_jobs(self) -> list[Job]:
        """Those that can run before it is known what becomes of others."""
        return [job for job in self.to_run if not stages()[job.stage].follows_outcomes]


class _StoreWhilePlanning(ArtefactStore):
    """The store as it is while one plan is made: each artefact is looked at once."""

    def __init__(self, folder: RunFolder, thorough: bool):
        super().__init__(folder, thorough)
        self._seen: dict[JobId, bool] = {}

    def has(self, stage: str, key: str) -> bool:
        if (stage, key) not in self._seen:
            self._seen[stage, key] = super().has(stage, key)
        return self._seen[stage, key]

    def failure(self, stage: str, key: str) -> CheckpointError | None:
        try:
            return super().failure(stage, key)
        except DamagedArtefact:
            self._seen[stage, key] = False
            return None


def make_plan(
    dag: Dag,
    checkpoints: Sequence[Located],
    evaluations: Sequence[tuple[Evaluation, ...]],
    folder: RunFolder,
    thorough: bool = False,
) -> Plan:
    """Compare what is asked with what is stored. Reads metadata only and computes nothing.

    thorough: every artefact is read, and removed where it is damaged. Raises RequestError, StoreError.
    """
    store = _StoreWhilePlanning(folder, thorough)
    request = Request(dag, checkpoints, evaluations, store)
    return Plan(request, jobs_to_run(request, request.jobs()), store.moved)


def jobs_to_run(request: Request, jobs: Iterable[Job]) -> list[Job]:
    """The jobs that were asked for and are not stored, and those that they need, which come first; each key once."""
    by_id: dict[JobId, Job] = {}
    for job in request.jobs():
        by_id.setdefault(job.id, job)
    chosen: dict[JobId, Job] = {}

    def choose(job: Job) -> None:
        if job.id in chosen or request.store.has(*job.id) or not request.outcome(job).ok:
            return
        for need in job.needs:
            if need in by_id:
                choose(by_id[need])
        chosen[job.id] = job

    for job in jobs:
        if job.requested and job.key and not request.is_given_up(job):
            choose(by_id[job.id])
    rank = {name: number for number, name in enumerate(stages())}
    return sorted(chosen.values(), key=lambda job: rank[job.stage])
