"""[[neurons]] as it is asked for: what is refused and why, what is planned, what it is compared with, and what keys depend on."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import tomli_w
from driving import write_dag

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
from finetune_models import add_sections, write_prose
from finetune_models import made as made_model
from neuron_measures import EVERY, Size, known_measures

from ninscope.errors import RequestError
from ninscope_pipeline.forecast import bytes_to_fetch
from ninscope_pipeline.prepared_run import prepare
from ninscope_pipeline.request.dagfile import load_dag
from ninscope_pipeline.stages.neurons.planning import NeuronsWork
from ninscope_pipeline.stages.neurons.stage import NEURONS_STAGE

SECTION = {"text": "prose.txt", "window": 16, "tokens": 4096, "tokenizer": "bytes", "batch_size": 16}
SEEDS = {"suite": "tiny", "model": "tiny-{seed}", "source": "tiny-{seed}", "seeds": [0, 1]}


@pytest.fixture(autouse=True)
def _small_measures() -> Iterator[None]:
    with known_measures(*EVERY):
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Two seeds of three revisions, of which the second lacks the last, and a text."""
    folder = tmp_path_factory.mktemp("asked")
    for seed, steps in ((0, (0, 4, 8)), (1, (0, 4))):
        for step in steps:
            made_model("neox", seed=10 * seed + step, num_hidden_layers=1).save_pretrained(
                folder / f"tiny-{seed}" / f"step{step}"
            )
    write_prose(folder)
    return folder


def dag_of(place: Path, *sections: dict, models=(SEEDS,)) -> Path:
    dag = write_dag(place / "tiny.toml", models=list(models))
    if len(sections) == 1:
        return add_sections(dag, neurons=SECTION | sections[0])
    with open(dag, "a", encoding="utf-8") as file:
        file.writelines(f"\n[[neurons]]\n{tomli_w.dumps(SECTION | section)}" for section in sections)
    return dag


def planned(place: Path, *sections: dict, models=(SEEDS,)) -> dict[tuple[str, int], NeuronsWork]:
    """Jobs' work by model and step."""
    prepared = prepare(load_dag(dag_of(place, *sections, models=models)), place / "runs")
    jobs = prepared.plan.request.jobs_of("neurons")
    assert all(job.key and job.known.ok for job in jobs)
    return {(job.work.located.model, job.work.located.step): job.work for job in jobs}


def keys(work: NeuronsWork) -> dict[tuple[str, str, str], str]:
    return {(part.measure, part.control, part.against): part.key for part in work.parts}


def key_of(place: Path, **section) -> dict[tuple[str, str, str], str]:
    return keys(planned(place, section)["tiny-0", 4])


# --- refused --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"measures": ["sizes"]}, r"measure 'sizes' is not known; did you mean 'size'\?"),
        ({"measures": "size"}, r'measures: give "all" or a list of names, such as \["size"\]'),
        ({"measures": []}, "no measure is named; give some of classes, gap"),
        ({"measures": ["size", "size"]}, "a measure is listed twice"),
        ({"images": "digits"}, "text and images are both given"),
        ({"text": "verse.txt"}, r"text .*verse\.txt is not there"),
        ({"text": ["prose.txt", "prose.txt"]}, "a file is listed twice"),
        ({"window": 1}, "window is 1"),
        ({"tokens": 8}, "tokens is 8"),
        ({"batch_size": 0}, "batch_size: Input should be greater than or equal to 1"),
        ({"label": "kind"}, "plain text has no columns"),
        ({"dtype": "float8"}, "dtype: .*stored"),
        ({"device": "tpu"}, "device: .*cpu"),
        ({"name": "two words"}, "name: give letters"),
        ({"text": {"dataset": "some/one", "split": "test"}}, "which cannot be part of a file name; give another name"),
        ({"text": {"dataset": "someone"}}, r"text\.split"),
        (
            {"text": {"dataset": "../none", "split": "test"}, "name": "none"},
            r"data set /.*/none is not there; give the path of a folder, or a name on the Hub",
        ),
        ({"tokenizer": "./none"}, r"tokenizer /.*/none is not there; give the path of a folder"),
        ({"other_seeds": ["tiny-1", "tiny-1"]}, "other_seeds: a model is listed twice"),
        ({"neurons_values": True}, r"neurons\.neurons_values: no such key; did you mean 'neuron_values'\?"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_makes_no_sense_is_refused(place, section, message):
    with pytest.raises(RequestError, match=message):
        load_dag(dag_of(place, section))


def test_images_with_labels_of_a_column(place):
    dag = add_sections(write_dag(place / "seen.toml", models=[SEEDS]), neurons={"images": "digits", "label": "x"})
    with pytest.raises(RequestError, match="label is a column of texts"):
        load_dag(dag)


def test_two_sections_that_tables_could_not_tell_apart(place):
    with pytest.raises(
        RequestError, match=r"two sections \[\[neurons\]\] have the examples 'prose' and the same model"
    ):
        load_dag(dag_of(place, {}, {"seed": 1}))
    with pytest.raises(
        RequestError, match=r"two of \[\[neurons\]\] mean tiny/tiny-0 step0 prose; tell them apart by name"
    ):
        planned(place, {}, {"model": "tiny-0", "seed": 1})
    both = planned(place, {}, {"model": "tiny-0", "seed": 1, "name": "again"})
    assert both["tiny-0", 0].examples == "again"


def test_what_is_not_there_is_refused(place):
    for section, message in (
        ({"model": "tiny-2"}, r"\[\[neurons\]\]: model 'tiny-2' is none of \[\[models\]\]"),
        ({"revisions": ["step5"]}, r"\[\[neurons\]\]: step5 of any model is not asked for"),
        ({"other_seeds": ["tinny-1"]}, r"other_seeds: 'tinny-1' is none of \[\[models\]\]; did you mean 'tiny-1'\?"),
    ):
        with pytest.raises(RequestError, match=message):
            planned(place, section)


def test_one_seed_where_two_are_asked_for(place):
    """Refused where the measure is named; told where all are asked for."""
    alone = {"suite": "tiny", "model": "tiny-0", "source": "tiny-0"}
    with pytest.raises(RequestError, match="twin compares seeds, and tiny/tiny-0 has one here; give it `seeds`"):
        planned(place, {"measures": ["twin"]}, models=[alone])
    work = planned(place, {}, models=[alone])["tiny-0", 4]
    (told,) = [part for part in work.parts if part.measure == "twin"]
    assert (told.key, told.against) == ("", "seed")
    assert told.why.startswith("twin: there is one seed of this model here")
    assert [part.against for part in work.parts if part.measure == "gap"] == ["start", "previous"] * 2
    planned(place, {"measures": ["gap"]}, models=[alone])  # it has something else to compare with


def test_without_the_libraries(place, monkeypatch):
    monkeypatch.setattr("ninscope_pipeline.stages.model_runs.planning.find_spec", lambda name: None)
    with pytest.raises(RequestError, match=re.escape("install it: pip install 'ninscope[neurons]'")):
        planned(place, {})


def test_a_correlation_with_a_measure_that_there_is_not(place):
    dag = add_sections(dag_of(place, {}), correlations={"measures": ["neurons/siz"]})
    with pytest.raises(RequestError, match=r"'neurons/siz' is no measure; did you mean 'neurons/size'\?"):
        load_dag(dag)
    dag = add_sections(dag_of(place, {}), correlations={"measures": ["neurons_over_seeds/twin", "neurons", "E"]})
    with pytest.raises(RequestError, match="no table has a measure 'E'"):  # the others are there
        load_dag(dag)


# --- paths and defaults ---------------------------------------------------------------------------------------------------
def test_paths_are_from_the_folder_of_the_file(place, monkeypatch):
    monkeypatch.chdir("/")
    section = load_dag(dag_of(place, {})).section(NEURONS_STAGE)[0]
    assert section.text == str(place / "prose.txt")
    assert section.tokenizer == "bytes"
    assert section.examples().files == (place / "prose.txt",)


def test_one_section_and_the_text_that_ships(place):
    dag = add_sections(write_dag(place / "one.toml", models=[SEEDS]), neurons={"measures": "all"})
    (section,) = load_dag(dag).section(NEURONS_STAGE)
    assert section.examples_name == "project-text"
    (seen,) = load_dag(
        add_sections(write_dag(place / "seen.toml", models=[SEEDS]), neurons={"images": "digits"})
    ).section(NEURONS_STAGE)
    assert seen.examples_name == "digits"


# --- what each is compared with -------------------------------------------------------------------------------------------
def compared(work: NeuronsWork) -> dict[str, tuple[str, str]]:
    return {name: (other.model, other.revision) for name, other in work.others.items()}


def test_the_start_the_revision_before_and_the_same_step_of_other_seeds(place):
    works = planned(place, {})
    assert compared(works["tiny-0", 0]) == {"tiny-1": ("tiny-1", "step0")}
    assert compared(works["tiny-0", 4]) == {
        "start": ("tiny-0", "step0"), "previous": ("tiny-0", "step0"), "tiny-1": ("tiny-1", "step4"),
    }  # fmt: skip
    assert compared(works["tiny-0", 8]) == {"start": ("tiny-0", "step0"), "previous": ("tiny-0", "step4")}
    (told,) = [part for part in works["tiny-0", 8].parts if part.measure == "twin"]
    assert told.why == "twin: no other seed (tiny-1) has a usable checkpoint of this step"


def test_seeds_that_are_named(place):
    models = [{"suite": "tiny", "model": name, "source": name} for name in ("tiny-0", "tiny-1")]
    named = planned(place, {"other_seeds": ["tiny-0", "tiny-1"]}, models=models)
    assert compared(named["tiny-0", 4])["tiny-1"] == ("tiny-1", "step4")
    assert compared(named["tiny-1", 4])["tiny-0"] == ("tiny-0", "step4")
    of_one = planned(place, {"model": "tiny-0", "other_seeds": ["tiny-1"]}, models=models)
    assert compared(of_one["tiny-0", 0]) == {"tiny-1": ("tiny-1", "step0")}
    assert set(of_one) == {("tiny-0", 0), ("tiny-0", 4), ("tiny-0", 8)}


def test_another_baseline(place):
    models = [{"suite": "tiny", "model": "tiny-0", "source": "tiny-0", "baseline": "step4"}]
    works = planned(place, {}, models=models)
    assert compared(works["tiny-0", 0]) == {"start": ("tiny-0", "step4")}
    assert compared(works["tiny-0", 4]) == {"previous": ("tiny-0", "step0")}


def test_no_baseline_is_told(place):
    models = [{"suite": "tiny", "model": "tiny-0", "source": "tiny-0", "revisions": ["step4", "step8"]}]
    work = planned(place, {"measures": ["gap"]}, models=models)["tiny-0", 8]
    assert compared(work) == {"previous": ("tiny-0", "step4")}
    (told,) = [part for part in work.parts if part.why]
    assert (told.against, told.control) == ("start", "none")
    assert told.why.startswith("gap: there is no usable step0 to compare with")


# --- keys -----------------------------------------------------------------------------------------------------------------
def test_a_measure_more_leaves_the_others_as_they_are(place):
    few, more = key_of(place, measures=["size"]), key_of(place, measures=["gap", "size"])
    assert few.items() <= more.items()
    assert len({key for key in more.values() if key}) == len(few) + 2 * 2  # start and previous are one checkpoint here


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1}, {"batch_size": 8}, {"window": 32}, {"tokens": 64}, {"threads": 2}, {"dtype": "bfloat16"},
        {"device": "cuda"}, {"neuron_values": True}, {"bos": True}, {"tokenizer": None},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_what_results_depend_on_is_in_every_key(place, change):
    section = {key: value for key, value in (SECTION | change).items() if value is not None}
    dag = write_dag(place / "tiny.toml", models=[SEEDS])
    prepared = prepare(load_dag(add_sections(dag, neurons=section)), place / "runs")
    changed = next(
        keys(job.work)
        for job in prepared.plan.request.jobs_of("neurons")
        if (job.work.located.model, job.work.located.step) == ("tiny-0", 4)
    )
    before = key_of(place)
    assert changed.keys() == before.keys()
    assert not {key for key in before.values() if key} & set(changed.values())


def test_names_are_in_no_key(place):
    assert key_of(place, name="other") == key_of(place)
    assert key_of(place, model="tiny-0") == key_of(place)


def test_the_text_the_configuration_and_a_measures_version_are(place, monkeypatch):
    before = key_of(place)
    with monkeypatch.context() as patch:
        patch.setattr(Size, "version", 2)
        newer = key_of(place)
    assert {place for place in before if before[place] != newer[place]} == {
        ("size", "none", ""), ("size", "shuffled", ""),
    }  # fmt: skip
    config = place / "tiny-0" / "step4" / "config.json"
    for file in (place / "prose.txt", config):
        content = file.read_text()
        file.write_text(content.replace("{", "{ ", 1) if file == config else f"{content} more words here")
        changed = key_of(place)
        file.write_text(content)
        assert not {key for key in before.values() if key} & set(changed.values()), file.name
    assert key_of(place) == before


def test_another_seeds_weights_are_in_the_keys_of_what_compares_with_it(place):
    before = key_of(place)
    folder = place / "tiny-1" / "step4"
    content = (folder / "model.safetensors").read_bytes()
    made_model("neox", seed=99, num_hidden_layers=1).save_pretrained(folder)
    after = key_of(place)
    (folder / "model.safetensors").write_bytes(content)
    assert {measured for measured in before if before[measured] != after[measured]} == {
        ("gap", "none", "tiny-1"), ("gap", "shuffled", "tiny-1"), ("twin", "none", "tiny-1"),
    }  # fmt: skip


def test_what_is_fetched_is_the_checkpoint_and_what_it_is_compared_with():
    """Each once a run, whichever job fetches it."""

    def located(content: str, size: int, kind: str = "hub") -> SimpleNamespace:
        return SimpleNamespace(kind=kind, bytes=size, content_sha256=content, suite="s", model="m")

    def job(own: SimpleNamespace, **others: SimpleNamespace) -> SimpleNamespace:
        return SimpleNamespace(stage="neurons", checkpoint=own, work=SimpleNamespace(located=own, others=others))

    start, then, here = located("a", 10), located("b", 1000), located("c", 5, "local")
    plan = SimpleNamespace(
        to_run=[job(start), job(then, start=start, previous=start), job(here, start=then), job(here)]
    )
    assert bytes_to_fetch(plan) == {"s/m": 1010}
    assert NEURONS_STAGE.fetch(job(here)) is None
    assert bytes_to_fetch(SimpleNamespace(to_run=[job(here, start=then)])) == {"s/m": 1000}
