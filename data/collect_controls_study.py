"""Bring what a run says of the study's models together, one row a checkpoint: docs/study/measures.parquet.

    python data/collect_controls_study.py --models runs/study-models --run runs/study --out docs/study/measures.parquet

`--models` is what train_controls_study.py wrote, `--run` the folder of `ninscope run dags/study.toml`, and `--paths`, where
it is given, that of `ninscope run dags/study-paths.toml`. `--demo` is that of `ninscope run dags/controls.toml`: demo.csv
has the same measures of the demo suite. Only runs of which every checkpoint was measured are taken.

Columns: text, width, rate, decay, repetition (the run), step, loss and the four distances in function space (evaluations.csv of
each run), then the measures: those of the tables emergence and controls by their names; of the table weights `norm`, what changed
since the start, and ranks by their names (of all weights, ranks as means over matrices), `kurtosis`, `gini`, `hoyer`, `spikes` and
`spike_share` as means over matrices; of the table interactions the mean coupling of each kind, `coupling_mlp` and so on; of paths
`matching_difference`, alpha0 across three layers less that of the matching null.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

import ninscope

RUN = ["text", "width", "rate", "decay", "repetition"]
KEYS = ["model", "step"]
FUNCTION = ["kl_from_start", "change_from_start", "kl_from_previous", "change_from_previous"]
CONTROLS = [
    "emergence", "emergence_growth", "emergence_fixed", "alpha0_ratio", "width_ratio", "alpha0_unit", "width_unit",
    "alpha0_shuffled", "width_shuffled", "structure",
]  # fmt: skip
OF_ALL = [
    "norm", "distance_from_start", "cosine_to_start", "sign_flips", "distance_from_last", "stable_rank", "effective_rank",
    "condition_number", "spectral_alpha",
]  # fmt: skip
OF_MATRICES = ["kurtosis", "gini", "hoyer", "spikes", "spike_share"]
KINDS = ["mlp", "vo", "qk", "across"]
MATCHING = "matching_difference"


def trained(models: Path) -> pd.DataFrame:
    """Settings, step, loss and distances in function space of every whole run, by its name as `model`."""
    frames = []
    for settings in sorted(models.glob("*/training.json")):
        rows = pd.read_csv(settings.parent / "evaluations.csv").pivot(index="step", columns="metric", values="value")
        run = json.loads(settings.read_text(encoding="utf-8"))
        of_run = {name: run[name] for name in RUN}
        frames.append(rows.reset_index().assign(model=settings.parent.name, **of_run))
    return pd.concat(frames, ignore_index=True)[["model", *RUN, "step", "loss", *FUNCTION]]


def of_weights(weights: pd.DataFrame) -> pd.DataFrame:
    """One row a checkpoint: columns of all weights, and means over matrices."""
    everything = weights[weights["matrix"] == "all"].set_index(KEYS)[OF_ALL]
    return everything.join(weights[weights["matrix"] != "all"].groupby(KEYS)[OF_MATRICES].mean())


def of_interactions(interactions: pd.DataFrame) -> pd.DataFrame:
    """One row a checkpoint: the mean coupling of each kind of pair."""
    means = interactions.pivot_table(index=KEYS, columns="kind", values="coupling", aggfunc="mean")
    return means.reindex(columns=KINDS).add_prefix("coupling_")


def of_paths(run: Path) -> pd.Series:
    """alpha0 of whole layers across three less the mean of the matching null's draws, by checkpoint."""
    opened = ninscope.open_run(run)
    real = opened.table("emergence").query("method == 'exact'").set_index(KEYS)["alpha0"]
    null = opened.table("nulls").query("null == 'matching'").set_index(KEYS)["alpha0"]
    return (real - null).rename(MATCHING)


def of_run(run: Path) -> pd.DataFrame:
    """The measures of a run with [controls], [weights] and [interactions], by checkpoint."""
    opened = ninscope.open_run(run)
    emergence = opened.table("emergence").query("method == 'exact' and part == 'all'").set_index(KEYS)
    joined = emergence[["alpha0", "width"]].rename(columns={"width": "width_w"})
    for part in (
        opened.table("controls").set_index(KEYS)[CONTROLS],
        of_weights(opened.table("weights")),
        of_interactions(opened.table("interactions")),
    ):
        joined = joined.join(part)
    return joined


def of_demo(run: Path) -> pd.DataFrame:
    """The same of the demo suite, by step, with its held-out loss and the interval of the structure index."""
    opened = ninscope.open_run(run)
    loss = opened.table("benchmarks").query("task == 'held_out' and metric == 'loss'").set_index(KEYS)["value"]
    ends = opened.table("controls").set_index(KEYS)[["structure_low", "structure_high"]]
    return of_run(run).join(loss.rename("loss")).join(ends).reset_index().drop(columns="model").sort_values("step")


def measures(models: Path, run: Path, paths: Path | None) -> pd.DataFrame:
    """The table: a row a checkpoint of every run that is whole and measured."""
    joined = trained(models).set_index(KEYS).join(of_run(run))
    if paths is not None:
        joined = joined.join(of_paths(paths))
    joined = joined.reset_index()
    measured = joined.groupby("model")["alpha0"].transform(lambda values: values.notna().all())
    order = ["repetition", "decay", "rate", "width", "text", "step"]
    return joined[measured].drop(columns="model").sort_values(order, ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Bring the tables of the study's run together.")
    parser.add_argument("--models", type=Path, required=True, help="what train_controls_study.py wrote")
    parser.add_argument("--run", type=Path, required=True, help="run folder of dags/study.toml")
    parser.add_argument("--paths", type=Path, help="run folder of dags/study-paths.toml")
    parser.add_argument("--demo", type=Path, help="run folder of dags/controls.toml, for demo.csv beside the file")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    options = parser.parse_args()
    table = measures(options.models, options.run, options.paths)
    # float32: seven digits, at half the size; the fits behind these numbers are not known to more
    small = table.astype({name: "float32" for name in table.columns if name not in {*RUN, "step"}})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    small.to_parquet(options.out, compression="zstd", index=False)
    if options.demo is not None:
        demo = of_demo(options.demo)
        demo.to_csv(options.out.with_name("demo.csv"), index=False, float_format="%.7g", lineterminator="\n")
    print(f"{options.out}: {table.groupby(RUN).ngroups} runs, {len(table)} checkpoints, {table.shape[1]} columns")


if __name__ == "__main__":
    main()
