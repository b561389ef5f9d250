"""README and docs say what is true: their code runs, their links lead somewhere, their tables list the real keys and columns."""

import contextlib
import dataclasses
import io
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
import typer
import yaml
from hub_client import _private_client, serve  # noqa: F401 (fixtures)
from pydantic import BaseModel
from suites import write_suite

import ninscope
from ninscope.architectures.described import Description
from ninscope_pipeline.cli import app, main
from ninscope_pipeline.request.dagfile import dag_type, load_dag
from ninscope_pipeline.stages.laboratory.section import OwnExperiment
from ninscope_pipeline.stages.model_runs.sections import TASKS
from ninscope_pipeline.tables import all_tables

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
import collect_neurons
import collect_polysemanticity
import page_tables

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "data" / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    )
}
CLUSTER = "docs/cluster.md"  # needs a cluster: tests/pipeline/test_slurm.py runs its example
ARCHITECTURES = "docs/architectures.md"  # its example is a module: tests/architectures/test_new_family.py runs it
RUNS_MODELS = (
    "docs/memel.md",
    "docs/howto/own-training-loop.md",
    "docs/howto/features-of-your-model.md",
    "docs/training.md",
)  # their examples train
README_LINES = 120

# Pages that are done as a reader does them: DAG files written, commands and code run, in the order of the page, in one folder.
FOLLOWED = (
    "docs/tutorial.md",
    "docs/howto/audit.md",
    "docs/howto/controls.md",
    "docs/howto/features-of-your-model.md",
    "docs/howto/fine-tunes.md",
    "docs/howto/own-model.md",
    "docs/howto/own-training-loop.md",
    "docs/training.md",
)
SCRIPT = re.compile(
    r"# \w+\.py\n"
)  # begins what is a file of its own: tests/distributed/test_training_page.py runs these
# Commands that are not run as they stand, each with its reason. All are parsed: an option that is not there fails.
ONLY_PARSED = {
    "ninscope run dags/pythia.toml --dry-run": "asks the Hub for 154 revisions of every size; the file is loaded",
    "ninscope run dags/pythia.toml": "fetches terabytes; the file is loaded",
    "ninscope status runs/pythia": "that run is not made here",
    "ninscope run pythia-70m.toml --dry-run": "asks the Hub for 20 revisions; the file is loaded, test_hub_run.py runs the like",
    "ninscope run pythia-70m.toml": "needs SLURM and the Hub: test_slurm.py, test_hub_run.py",
    "ninscope status runs/pythia-70m": "that run is not made here",
}
ONLY_PLANNED = {  # run with --dry-run, beside all that runs a DAG file that ships
    "ninscope run my-finetune.toml": "fine-tunes six times; tests/pipeline/test_finetune_run.py runs the like",
}
SET_UP = {  # what prepares a shell
    ". .venv/bin/activate",
    "export DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON=\"{'MALLOC_TRIM_THRESHOLD_': None}\"",
}
PROGRAMS = ("ninscope", "make", "pip", "python", "dask", "export", ".")


def blocks(language: str, *without: str) -> list:
    """Fenced code of all pages in order, as pytest parameters named by page and number."""
    return [
        pytest.param(code, id=f"{page}-{number}", marks=[pytest.mark.slow] if page in RUNS_MODELS else [])
        for page, text in PAGES.items()
        if page not in without
        for number, code in enumerate(re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL), 1)
    ]


def commands(page: str, program: str = "ninscope") -> list[str]:
    """The commands of a page without their comments: indented lines that begin with the program's name."""
    prose = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    lines = re.findall(rf"^    ({re.escape(program)} (?!:).*)$", prose, flags=re.MULTILINE)
    return [re.sub(r"\s+#.*", "", line).rstrip() for line in lines]


def ninscope_command(*arguments: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of `ninscope ARGUMENTS`, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


def help_of(name: str) -> str:
    """What `ninscope NAME --help` prints, in one wide line an option."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        code, out, err = ninscope_command(name, "--help")
    assert code == 0, err
    return out


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory):
    """A folder like the repository's root after `make demo`: runs/demo beside data/, dags/ and docs/. It is the working folder."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("data", "dags", "docs"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "models").mkdir()  # of the gallery
    for size in ("67k", "233k", "500k"):
        (folder / "models" / size).symlink_to(ROOT / "data" / f"stdlib-neox-{size}" / "step1000")
    before = Path.cwd()
    os.chdir(folder)
    try:
        code, out, err = ninscope_command("demo", "--workers", "1")
        assert code == 0, err
        assert "14 of 14 checkpoints ok" in out
        yield folder
    finally:
        os.chdir(before)


@pytest.mark.parametrize("code", blocks("python", ARCHITECTURES, *FOLLOWED))
def test_python_in_the_pages_runs(demo_folder, code, capsys):
    assert Path.cwd() == demo_folder
    exec(compile(code, "a page", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out


def arguments_of(command: str) -> list[str]:
    return shlex.split(command)[1:]


def run_here(command: str, plan_only: bool) -> None:
    """Run a command of a page in this process. plan_only: a run is planned, not done."""
    arguments = arguments_of(command)
    if arguments[0] == "run" and plan_only and "--dry-run" not in arguments:
        arguments.append("--dry-run")
    code, _, err = ninscope_command(*arguments)
    assert code == (1 if "audited" in command else 0), f"{command}: {err}"


def is_of_the_hub(command: str) -> bool:
    return "EleutherAI/" in command


OUTPUT_FILES = ("--out", "--figures", "--figure")


def without_repeats(lines: Iterable[str]) -> list[str]:
    """Commands of which several differ only in the files that they write, `report` and `bias`, as one that writes them all."""
    files: dict[tuple[str, ...], list[str]] = {}
    for line in lines:
        words, written = shlex.split(line), []
        if words[1] in ("report", "bias"):
            places = [number for number, word in enumerate(words) if word in OUTPUT_FILES]
            written = [word for number in places for word in words[number : number + 2]]
            words = [word for number, word in enumerate(words) if not {number, number - 1} & set(places)]
        files.setdefault(tuple(words), []).extend(written)
    return [shlex.join([*words, *written]) for words, written in files.items()]


def test_commands_that_differ_in_their_files_are_one():
    lines = [
        "ninscope bias a",
        "ninscope report a --out 'x y'",
        "ninscope bias a --figure b.png",
        "ninscope report a --figures c",
    ]
    merged = ["ninscope bias a --figure b.png", "ninscope report a --out 'x y' --figures c"]
    assert without_repeats([*lines, "ninscope measure a --figure b.png"]) == [
        *merged,
        "ninscope measure a --figure b.png",
    ]


@pytest.mark.slow
def test_commands_in_the_pages_run(demo_folder):
    assert Path.cwd() == demo_folder
    others = [page for page in PAGES if page not in (CLUSTER, *FOLLOWED)]
    lines = dict.fromkeys(command for page in others for command in commands(page))
    assert len(lines) >= 12
    for command in without_repeats(line for line in lines if line not in ONLY_PARSED and not is_of_the_hub(line)):
        run_here(command, plan_only=True)


def test_commands_that_are_not_run_are_in_the_pages():
    there = {command for page in PAGES for command in commands(page)}
    assert {*ONLY_PARSED, *ONLY_PLANNED} <= there
    for name in ("dags/pythia.toml", "pythia-70m.toml"):
        assert any(name in command for command in ONLY_PARSED)
    assert load_dag(ROOT / "dags/pythia.toml").all_models()


def test_commands_that_name_the_hub_run_against_a_local_one(demo_folder, serve, tmp_path):
    """The names of the pages, with small models behind them."""
    branches = {
        path.name: path
        for path in write_suite(tmp_path / "tiny", [0, 1000, 143000], blocks=1, width=32, heads=4).iterdir()
    }
    serve({f"EleutherAI/{name}": branches for name in ("pythia-70m", "pythia-2.8b", "pythia-12b")})
    lines = {command for page in PAGES for command in commands(page) if is_of_the_hub(command)}
    assert {arguments_of(line)[0] for line in lines} >= {"measure", "audit", "bias"}
    for command in sorted(lines):
        code, out, err = ninscope_command(*arguments_of(command))
        # An audit finds that most of the 154 revisions of these names are missing here.
        assert code == (1 if command.startswith("ninscope audit") else 0), f"{command}: {err}"
        assert "EleutherAI/" in out


def steps_of(page: str) -> list[tuple[str, str]]:
    """(kind: "python", "toml" or "command", what) of a page, in its order."""
    found = re.finditer(r"```(\w+)\n(.*?)```|^    (ninscope (?!:)[^\n#]*)", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    return [
        (language, code) if language else ("command", line.strip())
        for language, code, line in (m.groups() for m in found)
    ]


@contextlib.contextmanager
def one_thread_of_torch(page: str):
    """Beside other tests two threads wait for each other, which takes three times the CPU time."""
    if page not in RUNS_MODELS:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*pin_memory.*no accelerator is found")  # torch's, of the Trainer on a CPU
@pytest.mark.parametrize("page", FOLLOWED)
def test_a_page_can_be_followed(demo_folder, page, capsys):
    with one_thread_of_torch(page):
        follow(page, capsys)


def follow(page: str, capsys) -> None:
    scope: dict = {"__name__": "__main__"}
    written, used = set(), set()
    for kind, text in steps_of(page):
        if kind == "toml":
            written.add(file := f"{tomllib.loads(text)['name']}.toml")
            Path(file).write_text(text, encoding="utf-8")
            assert f"`{file}`" in PAGES[page] or f" {file}" in PAGES[page], (
                "the page does not say what the file is called"
            )
        elif kind == "python" and SCRIPT.match(text):
            continue
        elif kind == "python":
            exec(compile(text, page, "exec"), scope)
            assert capsys.readouterr().out
        elif not is_of_the_hub(text):
            own = written & set(arguments_of(text))
            used |= own
            run_here(text, plan_only=not own or text in ONLY_PLANNED)
    assert used == written, "a DAG file that no command of the page takes"


def test_every_command_of_the_pages_is_one():
    """It parses: every option, argument and value is known. Nothing is run."""
    group = typer.main.get_command(app)
    for page in PAGES:
        for command in commands(page):
            name, *arguments = arguments_of(command)
            assert name in group.commands, command
            group.commands[name].make_context(name, arguments)


def test_other_programs_in_the_pages_are_given_what_they_take():
    """make has the target, the extra is one of the package's, the script is there and knows the option."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    seen = set()
    for page in PAGES:
        for line in (command for program in PROGRAMS if program != "ninscope" for command in commands(page, program)):
            program, *arguments = shlex.split(line)
            seen.add(program)
            if program == "make":
                assert re.search(rf"^{arguments[0]}:", makefile, flags=re.MULTILINE), line
            elif program == "pip":
                assert set(re.findall(r"\[([\w,]+)\]", line)) <= set(extras), line
            elif program == "python":
                script = (ROOT / arguments[0]).read_text(encoding="utf-8")
                assert all(f'"{a}"' in script for a in arguments if a.startswith("--")), line
            else:
                assert program == "dask" or line in SET_UP, line  # dask: below
    assert seen >= {"make", "pip", "python", "dask"}


def test_blocks_are_of_a_language_that_is_tested():
    """Code in a fence of another language would be run by nobody."""
    for page, text in PAGES.items():
        languages = set(re.findall(r"^```(\S+)", text, flags=re.MULTILINE))
        assert languages <= {"python", "toml", "text"} | ({"{eval-rst}"} if "/reference/" in page else set()), page


@pytest.mark.parametrize("text", blocks("toml", CLUSTER, *FOLLOWED))
def test_dag_files_in_the_pages_are_accepted(tmp_path, text):
    (tmp_path / "mine.toml").write_text(text)
    dag = load_dag(tmp_path / "mine.toml")
    assert dag.name == tomllib.loads(text)["name"]
    assert dag.all_models() or dag.own_models()


@pytest.mark.parametrize("text", re.findall(r"```toml\n(.*?)```", PAGES[CLUSTER], flags=re.DOTALL))
def test_the_dag_files_of_the_cluster_page_are_accepted(tmp_path, text):
    """By dask-jobqueue's own classes; the first is run on a real SLURM in tests/pipeline/test_slurm.py."""
    (tmp_path / "mine.toml").write_text(text)
    assert load_dag(tmp_path / "mine.toml").cluster.kind in ("slurm", "pbs", "address")


def test_the_commands_of_the_cluster_page_know_their_options():
    from distributed.cli import dask_scheduler, dask_worker

    of_dask = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}
    options: dict[tuple[str, str], set[str]] = {}
    for program in ("ninscope", "dask"):
        for command in commands(CLUSTER, program):
            _, name, *arguments = shlex.split(command, comments=True)
            options.setdefault((program, name), set()).update(a for a in arguments if a.startswith("--"))
    assert {name for _, name in options} == {"run", "status", "scheduler", "worker"}
    for (program, name), given in options.items():
        if program == "ninscope":
            text = help_of(name)
            assert all(option in text for option in given), (program, name)
        else:
            known = {option for parameter in of_dask[name].params for option in parameter.opts}
            assert given <= known, (program, name)


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= README_LINES


def test_the_tables_page_has_these_columns():
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\| (.*,.*) \|$", PAGES["docs/tables.md"], flags=re.MULTILINE))
    assert set(rows) == set(all_tables())
    for table, text in rows.items():
        assert re.sub(r"\([^)]*\)", "", text).replace(" ", "").split(",") == list(all_tables()[table].columns)


# --- the keys of a DAG file --------------------------------------------------------------------------------------------
REQUIRED = object()


def listed_keys() -> dict[str, dict[str, object]]:
    """Key -> default by heading of docs/dag-files.md: None where there is none, REQUIRED, or the TOML value of the cell."""
    sections: dict[str, dict[str, object]] = {}
    heading = ""
    for line in PAGES["docs/dag-files.md"].splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif row := re.match(r"\| `(\w+)` \| `(.+?)` \| \S", line):
            key, default = row.groups()
            assert key not in sections.setdefault(heading, {}), (heading, key)
            special = {"required": REQUIRED, "none": None}
            value = special[default] if default in special else tomllib.loads(f"x = {default}")["x"]
            sections[heading][key] = value
    return sections


def plain(value: object) -> object:
    """A default as TOML would give it."""
    if isinstance(value, BaseModel):
        return value.model_dump(by_alias=True)
    return list(value) if isinstance(value, tuple) else value


def keys_of(section: type) -> dict[str, object]:
    """Key -> default of a section's class: a pydantic model, or a dataclass."""
    if issubclass(section, BaseModel):
        return {
            field.alias or name: REQUIRED
            if field.is_required()
            else plain(field.get_default(call_default_factory=True))
            for name, field in section.model_fields.items()
        }
    missing = dataclasses.MISSING
    return {
        field.name: REQUIRED if field.default is missing and field.default_factory is missing else plain(field.default)
        for field in dataclasses.fields(section)
    }


def section_classes() -> dict[str, type]:
    """The class of every section of a DAG file, by its heading in docs/dag-files.md."""
    found = {}
    for name, field in dag_type().model_fields.items():
        candidates = (field.annotation, *get_args(field.annotation))
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if model is not None:
            found[f"[[{name}]]" if field.annotation == list[model] else f"[{name}]"] = model
    return found


def test_the_page_of_dag_files_has_every_section():
    sections = section_classes()
    assert {"[[models]]", "[[suites]]", "[analysis]", "[[variants]]", "[nulls]", "[emergence]", "[cluster]"} <= set(
        sections
    )
    described = {f"architecture.{name}" for name in ("blocks", "layers", "links")} | {"polysemanticity.own"}
    tasks = {f'task.kind = "{kind}"' for kind in TASKS}
    assert set(listed_keys()) - {"The file itself"} == {*sections, "[architecture]", *described, *tasks}


@pytest.mark.parametrize("heading", section_classes())
def test_the_page_of_dag_files_has_every_key_with_its_default(heading):
    listed = listed_keys()
    expected = keys_of(section_classes()[heading])
    if heading == "[[variants]]":  # its other keys are those of [analysis]
        of_analysis = set(listed["[analysis]"])
        assert of_analysis <= set(expected)
        expected = {key: default for key, default in expected.items() if key not in of_analysis}
    assert listed[heading] == expected


@pytest.mark.parametrize("kind", TASKS)
def test_the_page_of_dag_files_has_every_key_of_a_task(kind):
    assert listed_keys()[f'task.kind = "{kind}"'] == keys_of(TASKS[kind])


def test_the_page_of_dag_files_has_every_key_of_an_architecture():
    listed = listed_keys()
    whole = {key: default for key, default in keys_of(Description).items() if key != "unknown_only"}
    assert listed["[architecture]"] == whole | {"override": False}
    for field in dataclasses.fields(Description):
        if field.name in ("blocks", "layers", "links"):
            entry = vars(sys.modules[Description.__module__])[re.search(r"Described\w+", str(field.type)).group()]
            assert listed[f"architecture.{field.name}"] == keys_of(entry)


def test_the_page_of_dag_files_has_every_key_of_an_own_experiment():
    assert listed_keys()["polysemanticity.own"] == keys_of(OwnExperiment)


# --- numbers, links and paths ------------------------------------------------------------------------------------------
def test_the_numbers_of_the_sampling_page_are_measured():
    """Of the suite that ships; those of the random initialisation take longer to make."""
    page = PAGES["docs/sampling.md"].split("## A random initialisation")[0]
    written = re.findall(r"^\| (\w+) \| ([\d.]+)(?: ± ([\d.]+))? \| ([\d.]+).*? \| ([\d.]+).*? \|$", page, re.MULTILINE)
    table = ninscope.sampling_bias(ROOT / "data" / "stdlib-neox-500k")
    assert len(written) == len(table)
    for (number, *values), row in zip(written, table.itertuples(), strict=True):
        assert number == ("all" if row.method == "exact" else str(row.nodes_per_layer))
        spread = "" if row.method == "exact" else f"{row.alpha0_std:.3f}"
        assert values == [f"{row.alpha0:.3f}", spread, f"{row.width:.3f}", f"{row.emergence:.3f}"]


@pytest.mark.slow
def test_the_numbers_of_the_tutorial_are_measured(demo_folder):
    """After the page was followed: its run is there."""
    page = PAGES["docs/tutorial.md"]
    if not Path("runs/first-conclusion").exists():
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            dag = next(text for kind, text in steps_of("docs/tutorial.md") if kind == "toml")
            Path("first-conclusion.toml").write_text(dag, encoding="utf-8")
            run_here("ninscope run first-conclusion.toml", plan_only=False)
    run = ninscope.open_run("runs/first-conclusion")
    controls = run.table("controls").set_index("step")[["emergence", "emergence_growth", "emergence_fixed"]]
    rows = re.findall(r"^\| (\d+) \| (\S+) \| (\S+) \| (\S+) \|$", page, flags=re.MULTILINE)
    assert [int(step) for step, *_ in rows] == list(controls.index[1:])
    for step, *values in rows:
        assert values == [f"{value:.3f}" for value in controls.loc[int(step)]]
    coupling = run.table("interactions").groupby(["step", "kind"])["coupling"].mean()
    told = re.search(
        r"the MLPs \(`mlp`\) have (\S+), values and outputs \(`vo`\) (\S+), and queries\nand keys \(`qk`\) (\S+)\.",
        page,
    )
    assert [f"{coupling[64, kind]:.2f}" for kind in ("mlp", "vo", "qk")] == list(told.groups())
    assert not (run.table("controls")["verdict"] == "stands").any()


def spread(values: pd.Series, decimals: int) -> str:
    """The least and the largest of them, as a table of a page has them."""
    low, high = (f"{value:.{decimals}f}" for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def test_the_numbers_of_the_features_page_are_those_of_its_script():
    """docs/measure_features.py made the table that the page shows a part of."""
    table = pd.read_csv(ROOT / "docs/features/polysemanticity.csv")
    shown = re.findall(r"^\| (?:\D+ \| )?(?:0|4000) \|.*$", PAGES["docs/howto/features-of-your-model.md"], re.MULTILINE)
    lines = []
    for features in ("classes", "classes at the input"):
        for step in (0, 4000):
            rows = table[(table["features"] == features) & (table["step"] == step)]
            of = [rows[rows["directions"] == name] for name in ("found", "rotated", "shuffled")]
            values = [spread(part["P"], 2) for part in of] + [spread(part["below_2"], 0) for part in of]
            lines.append(" | ".join([features, str(step), *values]))
    for (step, updates), rows in table[table["features"] == "autoencoder"].groupby(["step", "updates"]):
        of = [rows[rows["directions"] == name] for name in ("found", "rotated", "shuffled")]
        values = [spread(rows["explained_variance"], 3), spread(rows["dead_features"], 0)]
        values += [spread(part[column], 1) for column in ("P", "P_typical") for part in of]
        lines.append(" | ".join([str(step), f"{updates:.0f}", *values]))
    assert shown == [f"| {line} |" for line in lines]


def test_the_tables_of_the_laboratorys_pages_are_those_of_its_run():
    """docs/collect_polysemanticity.py wrote them from the tables of a run, of which it keeps what the pages need."""
    tables = collect_polysemanticity.page_tables(collect_polysemanticity.read_tables())
    marked = set()
    for name in collect_polysemanticity.PAGES:
        page = PAGES[f"docs/{name}"]
        assert page_tables.fill(page, tables) == page
        marked |= {table for table in tables if f"<!-- {table} -->\n|" in page}
    assert marked == set(tables)


def test_the_tables_of_the_page_of_neurons_are_those_of_its_run():
    """docs/collect_neurons.py wrote them from the tables of a run, of which it keeps what the page needs."""
    tables = collect_neurons.page_tables(collect_neurons.read_tables())
    page = PAGES["docs/neurons.md"]
    assert page_tables.fill(page, tables) == page
    assert all(f"<!-- {table} -->\n|" in page for table in tables)


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a page: lower case, letters, digits, hyphens and underscores, a hyphen for a space."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    names: dict[str, int] = {}
    found = set()
    for heading in re.findall(r"^#+ +(.*?) *$", prose, flags=re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.add(f"{name}-{names[name]}" if name in names else name)
        names[name] = names.get(name, 0) + 1
    return found


def test_anchors_are_githubs():
    assert anchors("# A `b_c` d, (E)\n## [[models]]\n# A `b_c` d, (E)\n```toml\n# no heading\n```\n") == {
        "a-b_c-d-e", "models", "a-b_c-d-e-1",
    }  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), target


def test_anchors_that_code_cites_are_in_the_pages():
    cited = {
        match.groups()
        for folder in ("src", "pipeline", "tests", "dags", "benchmarks")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".toml")
        for match in re.finditer(
            r"(docs/(?:howto/|reference/)?[a-z-]+\.md)(?:#([\w-]+))?", path.read_text(encoding="utf-8")
        )
    }
    assert {"docs/method.md"} <= {page for page, _ in cited}
    for page, anchor in cited:
        assert page in PAGES, page
        assert not anchor or anchor in anchors(PAGES[page]), (page, anchor)


@pytest.mark.parametrize("page", sorted(PAGES))
def test_every_page_is_in_the_navigation(page):
    """docs/index.md, of which the navigation of the built pages is made, and which the README links."""
    index = PAGES["docs/index.md"]
    linked = {os.path.normpath(f"docs/{target}") for target in re.findall(r"\]\(([^)#:]+\.md)\)", index)}
    assert page in linked | {"docs/index.md"}
    assert "](docs/index.md)" in PAGES["README.md"]


@pytest.mark.parametrize("page", PAGES)
def test_no_sentence_begins_with_of(page):
    prose = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    assert not re.findall(r"(?:^|[.:!?] |\| |- )Of .*", prose, flags=re.MULTILINE)


@pytest.mark.parametrize(("page", "least"), [("docs/architecture.md", 16), ("docs/method.md", 10)])
def test_paths_in_the_pages_exist(page, least):
    named = set(re.findall(r"`((?:[\w-]+/)+[\w.-]*)`", PAGES[page]))
    assert len(named) >= least
    for path in named:
        assert (ROOT / path).exists() or (ROOT / "src" / "ninscope" / path).exists(), path


def test_the_changelog_ends_with_this_version():
    releases = re.findall(r"^## (\S+)(?: - (\d{4}-\d\d-\d\d))?$", PAGES["CHANGELOG.md"], flags=re.MULTILINE)
    assert releases[0] == ("Unreleased", "")
    assert releases[1][0] == ninscope.__version__
    assert all(date for _, date in releases[1:])


def test_the_citation_names_the_authors_and_the_papers():
    """CITATION.cff 1.2.0: the keys that its schema requires, and the papers that docs/method.md names."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == [{"name": "The ninscope authors"}]
    page = " ".join(PAGES["docs/method.md"].split())
    for paper in citation["references"]:
        assert paper["title"] in page
        assert all(f"{author['given-names']} {author['family-names']}" in page for author in paper["authors"])


def test_the_hooks_of_pre_commit_are_local():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    entries = [hook["entry"] for repository in hooks for hook in repository["hooks"]]
    assert [entry.split()[0] for entry in entries] == [".venv/bin/ruff", ".venv/bin/ruff", ".venv/bin/mypy"]
