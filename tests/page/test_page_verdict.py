"""The words that stand first on report.html, from small tables whose answer is known."""

import io
import math
import tarfile
from pathlib import Path, PurePosixPath

import pandas as pd
import pytest

from ninscope.report.page.parts import PageTables
from ninscope.report.page.phrases import checkpoints, stays_from
from ninscope.report.page.verdict import verdicts
from ninscope.wording import number

OLD_RUN = Path(__file__).parents[1] / "data" / "run-of-e49790d.tar.xz"
STEPS = (0, 100, 200, 300)
LOWS = (0.0, -0.1, 0.2, 0.4)  # of E: above 0 from step 200 on
STANDS = "stands"
FAILS = "fails: its interval, growth of norms; unknown: control trainings"
EMPTY = {
    "checkpoints": ("status",),
    "emergence": ("method", "alpha0", "width", "emergence", "part", "variant"),
    "controls": ("verdict", "variant"),
    "nulls": ("null", "emergence", "variant"),
    "interactions": ("kind", "coupling", "error"),
    "benchmarks": ("task", "metric", "value"),
}


def keys(step, label="m"):
    return {"run": "r", "label": label, "suite": "s", "model": label, "revision": f"step{step}", "step": step}


def emergence_row(step, value, low, method="exact", **other):
    own = {"method": method, "alpha0": 1.0 - value / 2, "width": 0.5, "emergence": value, "emergence_low": low}
    own |= {"emergence_high": 2 * value - low, "baseline_step": 0, "baseline": "step0", "status": "ok", "message": ""}
    own |= {"warning": "", "variant": "default", "part": "all", "r2_mass_mean": 0.9, "r2_partition": 0.9}
    return keys(step) | own | other


def control_row(step, verdict, **other):
    own = {"emergence_growth": 0.3, "emergence_growth_low": 0.2, "emergence_growth_high": 0.4, "variant": "default"}
    own |= {"emergence_fixed": 0.1, "emergence_fixed_low": -0.1, "emergence_fixed_high": 0.3, "message": ""}
    own |= {"structure": 0.5, "structure_low": 0.25, "structure_high": 0.75, "verdict": verdict}
    own |= {"alpha0_low": 0.99, "alpha0_high": 1.01, "width_low": 0.4, "width_high": 0.6}
    return keys(step) | own | other


def null_row(step, value, std=math.nan, null="shuffled"):
    own = {"null": null, "alpha0": 0.8, "alpha0_std": 0.01, "width": 0.3, "width_std": 0.02, "variant": "default"}
    return keys(step) | own | {"emergence": value, "emergence_std": std}


def loss_row(step, value, task="held_out", metric="loss"):
    return keys(step) | {"task": task, "metric": metric, "value": value}


def history(**columns):
    """Rows of `emergence`: E 0, 0.1, 0.4 and 0.6; columns: of the later rows."""
    values = (0.0, 0.1, 0.4, 0.6)
    rows = [emergence_row(step, value, low) for step, value, low in zip(STEPS, values, LOWS, strict=True)]
    return [rows[0], *(row | columns for row in rows[1:])]


def page(emergence, labels=("m",), **tables):
    """What `verdicts` is given. The table `checkpoints` follows from `emergence`, unless it is given."""
    if "checkpoints" not in tables:
        tables["checkpoints"] = [keys(row["step"], row["label"]) | {"status": "ok"} for row in emergence]
    rows = {"emergence": emergence, **tables}
    blank = {name: list(keys(0)) + list(columns) for name, columns in EMPTY.items()}
    frames = {name: pd.DataFrame(rows[name]) if rows.get(name) else pd.DataFrame(columns=blank[name]) for name in EMPTY}
    for frame in frames.values():
        frame["step"] = frame["step"].astype("Int64")
    return PageTables(frames, labels)


def told(emergence, **tables):
    (verdict,) = verdicts(page(emergence, **tables))
    assert verdict.label == "m"
    return verdict.headline, " ".join(verdict.sentences), " ".join(verdict.warnings)


def test_with_all_controls_the_headline_names_growth_and_what_stands():
    controls = [control_row(step, verdict) for step, verdict in zip(STEPS, (None, FAILS, STANDS, STANDS), strict=True)]
    nulls = [null_row(step, 0.2, 0.05) for step in STEPS]
    headline, text, warnings = told(history(), controls=controls, nulls=nulls)
    assert headline == (
        "E rises to 0.600 by step 300, above 0 by its interval; growth of weight norms alone would give 0.300; "
        "steps 200 and 300 stand against all controls."
    )
    assert "At step 300 E is 0.600, and its interval from 0.400 to 0.800 lies above 0." in text
    assert "From step 200 on, the interval of E stays above 0." in text
    assert "give E up to 0.300 (shuffled: the mean over draws plus 2 standard deviations);" in text
    assert "E lies above them at steps 200 and 300" in text
    assert (
        "At step 300 alpha0 (0.700) lies below their range (0.780 to 0.820) and w (0.500) lies above their range (0.260 to"
        in text
    )
    assert "give E 0.300 (interval from 0.200 to 0.400); E of step 300, 0.600, lies above that interval" in text
    assert "at the norms of step 0 give 0.100 (interval from -0.100 to 0.300, which includes 0)" in text
    assert "structure index at step 300 is 0.500 (interval from 0.250 to 0.750, which lies above 0)" in text
    assert "E stands at steps 200 and 300." in text
    assert "does not stand" not in text
    assert "not ruled out" not in text
    assert warnings == ""


def test_a_last_step_that_fails_says_what_speaks_against_it():
    controls = [control_row(step, FAILS if step else None) for step in STEPS]
    headline, text, _ = told(history(emergence_low=-0.5, emergence_high=1.5), controls=controls)
    assert headline.endswith("; no step stands against all controls.")
    assert "with an interval that includes 0" in headline
    assert "this E cannot be told from no change" in text
    assert "The interval of E lies above 0 at no checkpoint." in text
    assert (
        "E of step 300 does not stand: its interval reaches 0 or below and it is not above the interval of growth of norms; "
        "not known: what trainings reach that learn nothing (control_spread of [controls])."
    ) in text
    assert "E stands at" not in text
    assert "nothing that is known speaks against" not in text


def test_steps_that_only_the_unknown_speaks_against_are_told():
    verdicts_of = (None, "unknown: control trainings", FAILS, FAILS)
    controls = [control_row(step, verdict) for step, verdict in zip(STEPS, verdicts_of, strict=True)]
    _, text, _ = told(history(), controls=controls)
    assert "At step 100 nothing that is known speaks against E, but not all is known: what trainings reach" in text


def test_growth_within_its_interval_is_not_beyond_it():
    controls = [control_row(step, FAILS if step else None, emergence_growth_high=0.7) for step in STEPS]
    assert "E of step 300, 0.600, does not lie above that interval" in told(history(), controls=controls)[1]


def test_without_controls_growth_is_not_ruled_out_and_what_to_run_is_said():
    headline, text, _ = told(history(), nulls=[null_row(300, 0.1)])
    assert headline == "E rises to 0.600 by step 300, above 0 by its interval; growth of weight norms is not ruled out."
    assert "add a section [controls], which may be empty, to the DAG file, with exact = true" in text
    assert "stand" not in headline
    assert "verdict" not in text


def test_of_a_training_that_was_monitored_no_dag_file_is_advised():
    note = "there is no configuration with a model_type; read as generic, each of 4 matrices by itself"
    rows = history()
    tables = page(rows, checkpoints=[keys(row["step"]) | {"status": "ok", "message": note} for row in rows])
    for in_training in (True, False):
        (words,) = verdicts(PageTables(tables.tables, tables.labels, in_training=["m"] if in_training else ["other"]))
        text = " ".join([*words.sentences, *words.warnings])
        assert ("DAG file" in text) is not in_training
        for advice in ("snapshot(...).nulls()", "controls=False", "architecture=..."):
            assert (advice in text) is in_training


def test_controls_of_an_older_version_hold_no_verdict():
    controls = [control_row(step, None) for step in STEPS]
    headline, text, _ = told(history(), controls=controls)
    assert "against all controls" not in headline
    assert "This run holds no verdict: run it again" in text


def test_a_control_that_failed_at_the_last_step_leaves_growth_open():
    controls = [control_row(step, FAILS if step else None) for step in STEPS]
    controls[-1] |= {"emergence_growth": math.nan, "message": "disk full"}
    headline, text, warnings = told(history(), controls=controls)
    assert "growth of weight norms is not ruled out" in headline
    assert "E of growth alone is missing at step 300" in text
    assert warnings == "Controls: at step 300: disk full."


def test_without_null_models_it_says_so():
    assert "No null models were run" in told(history())[1]
    assert "No null models were run" not in told(history(), nulls=[null_row(300, 0.1)])[1]


def test_null_models_without_e_at_the_last_step_say_nothing_there():
    text = told(history(), nulls=[null_row(200, 0.1), null_row(300, math.nan)])[1]
    assert "The null models have no E at step 300" in text


def test_the_highest_null_model_counts_and_one_draw_has_no_spread():
    nulls = [null_row(300, 0.65, null="gaussian"), null_row(300, 0.1, 0.01)]
    text = told(history(), nulls=nulls)[1]
    assert "(gaussian and shuffled)" in text
    assert "give E up to 0.650 (gaussian);" in text
    assert "E lies above them nowhere" in text


def test_the_band_of_alpha0_and_w_is_over_all_null_models():
    nulls = [null_row(300, 0.1) | {"alpha0": 0.5, "width": 0.6}, null_row(300, 0.2, null="gaussian")]
    text = told(history(), nulls=nulls)[1]
    assert "alpha0 (0.700) lies within their range (0.480 to 0.820) and" in text
    assert "w (0.500) lies within their range (0.260 to 0.640)." in text


def test_a_narrow_range_of_null_models_has_digits_enough():
    narrow = {"alpha0": 0.59425, "alpha0_std": 0.0001}
    text = told(history(), nulls=[null_row(300, 0.1) | narrow])[1]
    assert "alpha0 (0.700) lies above their range (0.59405 to 0.59445)" in text


def test_missing_values_of_any_type_are_missing():
    controls = [control_row(step, pd.NA) | {"alpha0_low": pd.NA, "width_low": None} for step in STEPS]
    _, text, _ = told(history(), controls=controls)
    assert "alpha0 goes from 1.00 at step 0 to 0.700 at step 300. w goes from 0.500 at step 0" in text
    assert "This run holds no verdict" in text


def test_growth_without_an_interval():
    missing = {"emergence_growth_low": math.nan, "emergence_growth_high": math.nan}
    controls = [control_row(step, FAILS if step else None) | missing for step in STEPS]
    text = told(history(), controls=controls)[1]
    assert "give E 0.300, without an interval; E of step 300 is larger." in text
    controls[-1] |= {"emergence_growth": 0.7}
    assert "give E 0.700, without an interval; E of step 300 is not larger." in told(history(), controls=controls)[1]


def test_an_interval_above_0_at_the_last_step_alone():
    rows = history(emergence_low=-0.1)
    rows[-1] |= {"emergence_low": 0.3}
    text = told(rows)[1]
    assert "Its interval lies above 0 at step 300, the last, and not at the one before it." in text
    rows[1] |= {"emergence_low": math.nan}
    rows[2] |= {"emergence_low": 0.2}
    assert "From step 200 on, the interval of E stays above 0." in told(rows)[1]


def test_without_an_interval_no_change_is_called():
    note = "no interval: only one node layer counts, and without it there is nothing"
    rows = history(emergence_low=math.nan, emergence_high=math.nan, message=note)
    headline, text, warnings = told(rows)
    assert "E rises to 0.600 by step 300, without an interval" in headline
    assert "It has no interval (only one node layer counts, and without it there is nothing)" in text
    assert "no change can be called beyond chance" in text
    assert "stays above 0" not in text
    assert warnings == ""


def test_tables_of_an_older_version_without_these_columns():
    gone = ("emergence_low", "emergence_high", "message", "warning", "part", "variant", "baseline")
    rows = [{name: value for name, value in row.items() if name not in gone} for row in history()]
    tables = page(rows).tables
    (verdict,) = verdicts(PageTables({name: tables[name] for name in ("emergence", "checkpoints")}, ("m",)))
    assert "an older ninscope" in verdict.sentences[1]
    assert "without an interval" in verdict.headline


def test_real_tables_of_an_older_version():
    frames = {}
    with tarfile.open(OLD_RUN) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path.parent == PurePosixPath("old/tables") and path.suffix == ".parquet":
                content = archive.extractfile(member)
                assert content is not None
                rows = pd.read_parquet(io.BytesIO(content.read()))
                frames[path.stem] = rows.assign(run="old", label=rows["model"])
    (verdict,) = verdicts(PageTables(frames, ("stdlib-neox-67k",)))
    rows = (
        frames["emergence"].query("variant == 'default' and part == 'all'").set_index(["method", "step"])["emergence"]
    )
    assert verdict.headline == (
        f"E rises to {rows['exact', 512]:.4f} by step 512, without an interval; growth of weight norms is not ruled out."
    )
    text = " ".join(verdict.sentences)
    assert f"Samples of neurons give E {rows['sampled', 512]:.4f} at step 512" in text
    assert "E lies above them nowhere" in text
    assert len(verdict.warnings) == 1
    assert "step 64, step 1000 have no alpha0" in verdict.warnings[0]


def test_e_that_came_down_is_not_said_to_rise():
    rows = history()
    rows[-1] |= {"emergence": 0.3, "emergence_low": 0.1, "emergence_high": 0.5}
    assert told(rows)[0].startswith("E is 0.300 at step 300, after 0.400 at step 200, above 0 by its interval;")


@pytest.mark.parametrize("earlier", [0.6, 0.6001])
def test_e_that_stays_where_it_is_has_come_down_from_nothing(earlier):
    rows = history()
    rows[-2] |= {"emergence": earlier}
    assert told(rows)[0].startswith("E rises to 0.600 by step 300, above 0 by its interval;")


def test_e_that_falls():
    rows = history()
    rows[-1] |= {"emergence": -0.3, "emergence_low": -0.5, "emergence_high": -0.1}
    headline, text, _ = told(rows)
    assert headline.startswith("E falls to -0.300 by step 300, below 0 by its interval;")
    assert "its interval from -0.500 to -0.100 lies below 0" in text
    assert "The interval of E lies above 0 at step 200, and not at the last." in text


def test_intervals_of_alpha0_and_w_that_move_apart_or_not():
    ends = [(0.99, 1.01), (0.9, 1.0), (0.8, 0.9), (0.6, 0.8)]
    controls = [
        control_row(step, FAILS if step else None, alpha0_low=low, alpha0_high=high)
        for step, (low, high) in zip(STEPS, ends, strict=True)
    ]
    _, text, _ = told(history(), controls=controls)
    assert (
        "alpha0 goes from 1.00 (interval from 0.990 to 1.01) at step 0 to 0.700 (interval from 0.600 to 0.800) at step 300. "
        "From step 200 on its interval lies below that of step 0."
    ) in text
    assert "w goes from 0.500 (interval from 0.400 to 0.600)" in text
    assert "The two intervals overlap, so this is no change beyond them." in text


def test_samples_beside_the_whole_network():
    sampled = [row | {"method": "sampled", "alpha0_std": 0.01} for row in history()]
    sampled[-1] |= {"emergence": 0.2, "emergence_low": 0.1, "emergence_high": 0.3}
    _, text, _ = told([*history(), *sampled])
    assert "The values here are of whole networks" in text
    assert "Samples of neurons give E 0.200 at step 300 (interval from 0.100 to 0.300, which does not hold" in text
    _, text, _ = told(sampled)
    assert "means over samples" in text
    assert "how much E depends on which neurons were drawn" in text
    assert "Samples of neurons give" not in text
    assert "0.700 (standard deviation over samples 0.0100)" in text


def test_one_checkpoint_is_no_change():
    headline, text, _ = told(
        [emergence_row(7, math.nan, math.nan, alpha0=0.9, message="no E: there is no usable step0")]
    )
    assert headline == (
        "Only step 7 was measured, so nothing can be said about change: alpha0 is 0.900 and the width w 0.500."
    )
    assert "goes from" not in text
    assert "degree of emergence" not in text


def test_no_checkpoint_with_a_spectrum():
    for rows in ([], [emergence_row(0, math.nan, math.nan)]):
        headline, text, _ = told(rows)
        assert headline == "No checkpoint has a spectrum, so there is nothing to say about this model."
        assert text == ""


def test_without_a_baseline_there_is_no_e_and_the_reason_stands_once():
    reason = 'no E: there is no usable step0 to compare with; baseline = "first", or a revision, chooses another'
    rows = [row | {"emergence": math.nan, "message": reason} for row in history()[1:]]
    headline, text, warnings = told(rows)
    assert headline == "No checkpoint can be compared with the start of training, so there is no E."
    assert warnings == f"At all 3 checkpoints: {reason}."
    assert "Growth" not in text


def test_reasons_that_differ_by_numbers_are_told_once():
    rows = history()
    for row, layers in zip(rows[2:], (7, 8), strict=True):
        reason = (
            f"stored in halves; no E: it would compare unlike networks: {layers} layers count (step0: 9); "
            "--trust-unlike-counts overrides"
        )
        row |= {"emergence": math.nan, "message": reason, "status": "ok"}
    headline, _, warnings = told(rows)
    assert headline.startswith("E rises to 0.100 by step 100")
    assert warnings == (
        "At steps 200 and 300: stored in halves. "
        "At steps 200 and 300: no E: it would compare unlike networks: 7 layers count (step0: 9); --trust-unlike-counts "
        "overrides (so at step 200; elsewhere with other details)."
    )


def test_weak_power_laws_are_told_once_for_all_steps():
    rows = [emergence_row(step, step / 1e6 + 1, 0.5, r2_partition=0.6) for step in range(1, 155)]
    rows = [emergence_row(0, 0, 0), *rows]
    warnings = told(rows)[2]
    assert warnings.startswith("At steps 1 to 154 a power law does not hold well (r2 below 0.7)")
    assert warnings.count("power law") == 1
    weak = "a power law does not hold well (r2 below 0.7): mass against radius; 12% of the weights could not be read"
    warnings = told(history(warning=weak))[2]
    assert warnings.startswith("At steps 100 to 300 a power law")
    assert warnings.endswith("At steps 100 to 300: 12% of the weights could not be read.")
    assert warnings.count("power law") == 1


def test_checkpoints_that_are_not_ok_are_counted_by_status():
    statuses = ["ok", "corrupt", "missing", "duplicate"]
    listed = [keys(step) | {"status": status} for step, status in zip(STEPS, statuses, strict=True)]
    warnings = told(history(), checkpoints=listed)[2]
    assert warnings == "2 of 4 checkpoints are not in these numbers: 1 corrupt (step 100) and 1 missing (step 200)."


def test_a_model_of_no_known_family_is_warned_of_once():
    note = "there is no configuration with a model_type; read as generic, each of 4 matrices by itself"
    rows = history()
    generic = [keys(row["step"]) | {"status": "ok", "message": note} for row in rows]
    (words,), (known,) = verdicts(page(rows, checkpoints=generic)), verdicts(page(rows))
    (told,) = [text for text in words.warnings if "no known family" in text]
    assert told.startswith("At all 4 checkpoints the model is of no known family: every matrix is read by itself")
    assert "[architecture] in the DAG file, gives other numbers" in told
    assert not [text for text in known.warnings if "known family" in text]


def test_the_loss_beside_and_steps_without_a_measurement():
    losses = [loss_row(0, 5.0), loss_row(300, 1.25), loss_row(400, 1.0), loss_row(300, 9.0, "train")]
    _, text, warnings = told(history(), benchmarks=losses)
    assert "the loss (held_out) goes from 5.00 at step 0 to 1.25 at step 300." in text
    assert warnings == "Of 3 checkpoints that have benchmarks, 2 are measured here; step 400 has no alpha0, w or E."
    _, text, warnings = told(history(), benchmarks=[loss_row(5, 2.0), loss_row(6, math.nan)])
    assert "the loss (" not in text
    assert "0 are measured here; step 5, step 6 have no alpha0, w or E" in warnings
    assert "loss of" not in told(history(), benchmarks=[loss_row(step, 0.5, metric="acc") for step in STEPS])[1]


def test_results_of_steps_without_a_checkpoint_are_counted_one_by_one():
    """What a trainer logs between checkpoints has a step and no revision."""
    logged = [loss_row(step, 2.0) | {"revision": ""} for step in (10, 20, 30, 40, 50)]
    warnings = told(history(), benchmarks=[loss_row(0, 5.0), *logged])[2]
    assert (
        warnings
        == "Of 6 checkpoints that have benchmarks, 1 is measured here; step 10, step 20 ... step 50 have no alpha0, w or E."
    )
    warnings = told(history(), benchmarks=logged[:1])[2]
    assert warnings.startswith("Of 1 checkpoint that has benchmarks, 0 are measured here; step 10 has no")


def test_two_revisions_of_the_step_that_e_compares_with():
    rows = [emergence_row(0, 0.0, 0.0), emergence_row(0, 0.1, 0.05) | {"revision": "step0-again"}]
    controls = [control_row(0, ""), control_row(0, "") | {"revision": "step0-again"}]
    _, text, _ = told(rows, controls=controls)
    assert "alpha0 goes from 1.00 (interval from 0.990 to 1.01) at step 0 to 0.950" in text
    assert "its interval lies" not in text
    assert "overlap" not in text


def test_infinity_is_no_number():
    rows = history()
    rows[2] |= {"emergence": math.inf, "emergence_low": -math.inf}
    headline, text, _ = told(rows)
    assert headline.startswith("E rises to 0.600 by step 300")
    assert "not known" not in text
    assert "inf " not in text


def test_coupling_where_the_run_has_it():
    pairs = [
        keys(step) | {"kind": kind, "coupling": coupling, "error": 0.1}
        for step, kind, coupling in (
            (0, "mlp", 0.0), (0, "qk", -0.001), (300, "mlp", 0.6), (300, "mlp", 0.1), (300, "qk", 0.5), (300, "qk", math.nan),
        )
    ]  # fmt: skip
    _, text, _ = told(history(), interactions=pairs)
    assert "Its mean goes, from step 0 to step 300, from 0.00 to 0.50 for q and k (1 of 1 pairs beyond chance)" in text
    assert "from 0.00 to 0.35 for MLP in and out (1 of 2 pairs beyond chance)." in text
    assert "told learning from training on noise" in text
    text = told(history(), interactions=pairs[2:])[1]
    assert "Its mean at step 300 is 0.50 for q and k (1 of 1 pairs beyond chance)" in text
    without_qk = [row for row in pairs if row["kind"] != "qk"]
    assert "training on noise" not in told(history(), interactions=without_qk)[1]
    assert "oupling" not in told(history())[1]


def test_variants_and_parts_are_left_out():
    rows = [*history(), emergence_row(400, 9.0, 8.0, variant="other"), emergence_row(500, 9.0, 8.0, part="block/b0")]
    assert told(rows)[0] == told(history())[0]


def test_rows_are_told_in_the_order_of_steps_and_models_in_that_of_the_page():
    shuffled = list(reversed(history()))
    assert told(shuffled) == told(history())
    other = [row | {"label": "b"} for row in history()[:2]]
    labels = [verdict.label for verdict in verdicts(page([*history(), *other], labels=("b", "m", "none")))]
    assert labels == ["b", "m", "none"]


def test_revisions_without_steps_go_by_their_names():
    rows = [
        emergence_row(0, value, low) | {"revision": revision, "step": None, "baseline": "base", "baseline_step": None}
        for revision, value, low in (("base", 0.0, 0.0), ("tuned", 0.5, 0.25))
    ]
    headline, text, _ = told(rows)
    assert headline.startswith("E is 0.500 at tuned, above 0 by its interval;")
    assert "E compares each checkpoint with base" in text


def test_hostile_names_stay_plain_text_on_one_line():
    name = "<script>alert('x')</script>\n\"& `b`"
    rows = [row | {"label": name, "revision": name, "step": None, "baseline": "base"} for row in history()[1:2]]
    rows[0] |= {"message": "no E:\n<b>why</b>", "emergence": math.nan}
    (verdict,) = verdicts(page(rows, labels=(name,)))
    assert verdict.label == name
    assert verdict.warnings == ("At <script>alert('x')</script> \"& `b`: no E: <b>why</b>.",)
    assert "\n" not in verdict.headline


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.0898, "1.09"), (0.0000396, "0.0000396"), (0, "0"), (12345.6, "12,300"), (-0.9159, "-0.916"), (1e-9, "1.00e-09"),
        (16.46, "16.5"), (100, "100"), (math.nan, "not known"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits_that_count(value, shown):
    assert number(value) == shown


def test_checkpoints_are_told_as_runs():
    names = [f"step {step}" for step in range(20)]
    assert checkpoints(names, [step in (1, 2, 5, 6, 7, 19) for step in range(20)]) == "steps 1, 2, 5 to 7 and 19"
    assert checkpoints(names, [step == 4 for step in range(20)]) == "step 4"
    assert checkpoints(names, [True] * 20) == "all 20 checkpoints"
    alternating = checkpoints(names, [step % 2 == 1 for step in range(20)])
    assert alternating == "10 of 20 checkpoints, the first at step 1 and the last at step 19"
    seven = [step in (0, 3, 6, 9, 12, 15, 18, 19) for step in range(20)]
    assert checkpoints(names, seven) == "8 of 20 checkpoints, the first at step 0 and the last at step 19"
    assert checkpoints(["base", "step 3", "step 4"], [True, True, False]) == "base and step 3"


@pytest.mark.parametrize(
    ("flags", "start"), [("", None), ("0", None), ("1", 0), ("0101", 3), ("0011", 2), ("110", None)]
)
def test_where_a_condition_holds_to_the_end(flags, start):
    assert stays_from([flag == "1" for flag in flags]) == start
