"""Which revisions are meant: patterns of names, lists and ranges of steps, log-spaced subsets, and the suites known by name."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninscope.checkpoints.revisions import RevisionPattern, RevisionSelection, log_spaced
from ninscope.checkpoints.suites import PYTHIA_STEPS, SUITES, suite_of
from ninscope.errors import RequestError

STAGE1 = "stage1-step{step}-tokens{tokens}B"
OLMO2 = [
    "stage1-step0-tokens0B", "stage1-step1000-tokens5B", "stage1-step20000-tokens84B", "stage2-ingredient1-step1000-tokens5B",
    "stage2-ingredient2-step20000-tokens84B", "main", "stage1-step1000-tokens5B-hf", "xstage1-step7-tokens5B",
]  # fmt: skip
STEPS = [f"step{step}" for step in (0, 1, 2, 4, 8, 16, 1000, 2000, 3000)]


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "name", "step"),
        [
            ("step{step}", "step143000", 143_000),
            ("step{step}", "step007", 7),
            ("step{step}", "step", None),
            ("step{step}", "step1-tokens2B", None),
            ("step{step}", "global_step1", None),
            ("step{step}", "step1\n", None),
            ("step{step}", "step" + "9" * 16, None),
            (STAGE1, "stage1-step1000-tokens5B", 1000),
            (STAGE1, "stage2-step1000-tokens5B", None),
            (STAGE1, "stage1-step1000-tokensB", None),
            (STAGE1, "stage1-step1000-tokens5-6B", None),
            ("seed{seed}/step{step}", "seed1/step5", 5),
            ("seed{seed}/step{step}", "seed1/2/step5", None),
            ("{step}", "12", 12),
            ("v1.0+({step})", "v1.0+(3)", 3),
            ("v1.0+({step})", "v1x0+(3)", None),
        ],
    )
    def test_a_name_fits_whole_or_not_at_all(self, pattern, name, step):
        assert RevisionPattern(pattern).step_of(name) == step

    @pytest.mark.parametrize("pattern", ["", "step", "{steps}", "step{step}{step}", "step{ step }", "{tokens}"])
    def test_one_place_for_the_step_is_needed(self, pattern):
        with pytest.raises(
            RequestError, match=re.escape(f"the pattern {pattern!r} needs {{step}} in it, once: step{{step}}")
        ):
            RevisionPattern(pattern)

    def test_the_name_of_a_step(self):
        assert RevisionPattern("step{step}").name_of(5) == "step5"
        assert RevisionPattern(STAGE1).name_of(5) == "stage1-step5-tokens*B"

    @given(st.integers(0, 10**15 - 1), st.text("ab.+(|$0123", max_size=4), st.text("ab.+(|$", max_size=4))
    def test_a_step_is_read_back_from_its_name(self, step, before, after):
        before = before.rstrip("0123456789")  # digits beside it would be the step's
        pattern = RevisionPattern(f"{before}{{step}}{after}")
        assert pattern.step_of(pattern.name_of(step)) == step


class TestSelections:
    def test_whatever_states_a_step(self):
        names = ["main", "step10", "checkpoint-3", "global_step4", "step2"]
        assert RevisionSelection().chosen(names) == [
            ("step2", 2),
            ("checkpoint-3", 3),
            ("global_step4", 4),
            ("step10", 10),
        ]

    def test_a_pattern_takes_stage_1_alone(self):
        assert RevisionSelection(RevisionPattern(STAGE1)).chosen(OLMO2) == [
            ("stage1-step0-tokens0B", 0), ("stage1-step1000-tokens5B", 1000), ("stage1-step20000-tokens84B", 20_000),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("given", "steps"),
        [
            ({"start": 4}, [4, 8, 16, 1000, 2000, 3000]),
            ({"stop": 4}, [0, 1, 2, 4]),
            ({"start": 4, "stop": 4}, [4]),
            ({"start": 3, "stop": 1999}, [4, 8, 16, 1000]),
            ({"every": 1000}, [0, 1000, 2000, 3000]),
            ({"every": 2000, "start": 1}, [2000]),
            ({"log": 2}, [0, 3000]),
            ({"log": 3, "start": 1}, [1, 16, 3000]),
            ({"log": 100}, [0, 1, 2, 4, 8, 16, 1000, 2000, 3000]),
            ({"steps": (8, 0)}, [0, 8]),
        ],
    )
    def test_ranges_and_subsets(self, given, steps):
        assert RevisionSelection(**given).chosen([*STEPS, "main"]) == [(f"step{step}", step) for step in steps]

    def test_listed_steps_that_are_absent_are_named_all_the_same(self):
        assert RevisionSelection(steps=(0, 5, 8)).chosen(STEPS) == [("step0", 0), ("step5", 5), ("step8", 8)]
        assert RevisionSelection(RevisionPattern(STAGE1), steps=(7, 1000)).chosen(OLMO2) == [
            ("stage1-step7-tokens*B", 7), ("stage1-step1000-tokens5B", 1000),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("given", "match"),
        [
            ({"start": 4000}, r"none of the 9 revisions \(step0\.\.step3000\) has one of the selected steps"),
            ({"start": 5, "stop": 7}, r"none of the 9 revisions"),
            ({"pattern": RevisionPattern("it{step}")}, r"states the pattern 'it\{step\}'; there are step0, step1, step2 \.\.\."),
        ],
    )  # fmt: skip
    def test_where_nothing_is_chosen(self, given, match):
        with pytest.raises(RequestError, match=match):
            RevisionSelection(**given).chosen(STEPS)

    def test_where_no_name_states_a_step(self):
        with pytest.raises(RequestError, match=r"no revision states a step; there are main \.\.\."):
            RevisionSelection().chosen(["main"])

    @given(st.permutations(STEPS), st.integers(2, 9))
    def test_the_order_of_names_does_not_matter(self, names, log):
        assert RevisionSelection(log=log).chosen(names) == RevisionSelection(log=log).chosen(STEPS)


class TestLogSpaced:
    @given(st.sets(st.integers(0, 10**15 - 1), min_size=1, max_size=60), st.integers(2, 40))
    def test_as_many_as_asked_the_first_and_last_among_them(self, steps, count):
        kept = log_spaced(sorted(steps), count)
        assert kept <= steps
        assert len(kept) == min(count, len(steps))
        assert {min(steps), max(steps)} <= kept

    @given(st.integers(2, 20), st.integers(2, 20))
    def test_powers_that_are_dense_enough_are_evenly_spaced(self, count, finer):
        """Of steps 2^(k/finer) - 1, themselves even in log(step + 1), about each `finer * x`th is taken."""
        last = 40
        steps = np.unique(np.round(2.0 ** (np.arange(last * finer + 1) / finer)).astype(int) - 1)
        kept = np.array(sorted(log_spaced(steps, count)))
        wanted = np.linspace(0, last * np.log(2), count)
        widest = np.diff(np.log1p(steps)).max()
        assert np.abs(np.log1p(kept) - wanted).max() <= widest + 1e-9

    def test_of_pythias_steps(self):
        assert sorted(log_spaced(PYTHIA_STEPS, 6)) == [0, 8, 128, 1000, 13_000, 143_000]


class TestSuites:
    def test_pythia_has_154_steps(self):
        assert len(PYTHIA_STEPS) == len(set(PYTHIA_STEPS)) == 154
        assert sorted(PYTHIA_STEPS) == list(PYTHIA_STEPS)
        assert PYTHIA_STEPS[:12] == (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
        assert PYTHIA_STEPS[-1] == 143_000
        assert set(np.diff(PYTHIA_STEPS[11:])) == {1000}

    @pytest.mark.parametrize(
        ("name", "count", "some"),
        [
            ("pythia", 10, ["EleutherAI/pythia-14m", "EleutherAI/pythia-70m", "EleutherAI/pythia-1.4b", "EleutherAI/pythia-12b"]),
            ("pythia-deduped", 10, ["EleutherAI/pythia-14m-deduped", "EleutherAI/pythia-12b-deduped"]),
            ("polypythias", 51, ["EleutherAI/pythia-410m-seed9", "EleutherAI/pythia-160m-weight-seed3"]),
            ("olmo", 6, ["allenai/OLMo-1B-hf", "allenai/OLMo-7B-hf"]),
            ("olmo-2", 4, ["allenai/OLMo-2-0425-1B", "allenai/OLMo-2-1124-7B", "allenai/OLMo-2-0325-32B"]),
        ],
    )  # fmt: skip
    def test_of_a_preset(self, name, count, some):
        suite = SUITES[name]
        assert len(set(suite.repositories)) == len(suite.repositories) == count
        assert set(some) <= set(suite.repositories)
        assert all(suite_of(repository) is suite for repository in suite.repositories)

    def test_no_repository_is_in_two(self):
        listed = [repository for suite in SUITES.values() for repository in suite.repositories]
        assert len(set(listed)) == len(listed)
        assert suite_of("org/other") is None

    @pytest.mark.parametrize("name", ["pythia", "pythia-deduped", "polypythias"])
    def test_pythias_absent_steps_are_named(self, name):
        found = SUITES[name].revisions.chosen([f"step{step}" for step in PYTHIA_STEPS if step != 512] + ["main"])
        assert [step for _, step in found] == list(PYTHIA_STEPS)
        assert ("step512", 512) in found

    def test_olmos_names(self):
        assert SUITES["olmo-2"].revisions.chosen(OLMO2)[-1] == ("stage1-step20000-tokens84B", 20_000)
        assert SUITES["olmo"].revisions.chosen(["main", "step1000-tokens4B", "step556000-tokens2460B"]) == [
            ("step1000-tokens4B", 1000), ("step556000-tokens2460B", 556_000),
        ]  # fmt: skip
