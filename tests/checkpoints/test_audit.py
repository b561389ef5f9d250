"""What the audit makes of identities: duplicates against a brute-force oracle, sizes and shapes against plain counting."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninscope.checkpoints.audit import Seen, falsified, findings, verdict
from ninscope.checkpoints.baseline import Baseline
from ninscope.checkpoints.identity import FileIdentity, Identity
from ninscope.errors import MAX_MESSAGE, CheckpointError

WIDE, NARROW = (("hidden_size", 64), ("vocab_size", 9)), (("hidden_size", 32), ("vocab_size", 9))


def file(name="model.safetensors", digest="a", size=1000):
    return FileIdentity(name, size, digest)


def seen(step, *files, shape=WIDE, name=None, wiring=""):
    name = name or f"step{step}"
    return Seen(name, step, Identity(name, step, files, shape=shape, wiring=wiring))


def suite(*digests, **kwargs):
    """Revisions of one file each, at steps 0, 1, ..."""
    return [seen(step, file(digest=digest), **kwargs) for step, digest in enumerate(digests)]


def missing(step):
    return Seen(f"step{step}", step, None, "missing", f"step{step}: config.json is absent")


def history(seed: int) -> list[Seen]:
    """Revisions of few steps, digests, sizes, names and shapes, so that much of them is equal by chance."""
    rng, revisions = random.Random(seed), []
    for number in range(rng.randint(0, 8)):
        step = rng.choice([None, 0, 1, 2, 3, 4])
        if rng.randint(0, 9) == 0:
            revisions.append(Seen(f"r{number}", step, None, "missing", "gone"))
            continue
        names = rng.choice([("whole",), ("one", "two"), ("one", "two", "three")])
        files = [file(name, rng.choice("abcdefgh"), rng.choice([10, 10, 11])) for name in names]
        revisions.append(seen(step, *files, shape=rng.choice([WIDE, WIDE, NARROW, ()]), name=f"r{number}"))
    return revisions


histories = st.integers(0, 2**32).map(history)


def same_weights(one, other):
    """By comparing every file with every other: the names in `one` of files that `other` has too, where both state a step."""
    if one is other or one.identity is None or other.identity is None or None in (one.step, other.step):
        return []
    found = []
    for mine, its in itertools.product(one.identity.files, other.identity.files):
        if mine.digest == its.digest and mine.size == its.size and mine.name not in found:
            found.append(mine.name)
    return found


def majority(values):
    """The one that stands in more than half of three or more places."""
    for value in values:
        if len(values) >= 3 and sum(other == value for other in values) > len(values) / 2:
            return value
    return None


def unlike(one, revisions):
    """ "shape", "size" or nothing, by counting."""
    known = [other.identity for other in revisions if other.identity is not None]
    usual = majority([identity.shape for identity in known])
    if usual and one.identity.shape and one.identity.shape != usual:  # what is stated nowhere differs from nothing
        return "shape"
    names = {each.name for each in one.identity.files}
    alike = [identity for identity in known if {each.name for each in identity.files} == names]
    for name in names:
        sizes = [each.size for identity in alike for each in identity.files if each.name == name]
        (own,) = (each.size for each in one.identity.files if each.name == name)
        if majority(sizes) not in (None, own):
            return "size"
    total = majority([sum(each.size for each in identity.files) for identity in known])
    own = sum(each.size for each in one.identity.files)
    return "size" if total is not None and abs(own - total) > 0.01 * total else ""


@given(histories)
def test_duplicates_and_odd_ones_are_those_that_comparing_every_pair_finds(revisions):
    found = findings(revisions)
    assert [one.revision for one in found] == [one.revision for one in revisions]
    for one, finding in zip(revisions, found, strict=True):
        if one.identity is None:
            assert (finding.status, finding.message, finding.bytes, finding.copies) == ("missing", "gone", None, ())
            continue
        copies = {other.revision for other in revisions if same_weights(one, other)}
        assert set(finding.copies) == copies
        assert finding.unlike == unlike(one, revisions)
        assert finding.status == ("duplicate" if copies else "corrupt" if finding.unlike else "ok")
        assert bool(finding.message) == (finding.status != "ok")
        assert len(finding.message.splitlines()) <= 1
        assert finding.bytes == one.identity.bytes
        if copies:  # every shard that is another's is named, or how many more there are
            shards = {name for other in revisions for name in same_weights(one, other)}
            assert all(name in finding.message for name in shards) or shards == {
                each.name for each in one.identity.files
            }


@given(histories, st.randoms(use_true_random=False))
def test_the_order_of_revisions_does_not_matter(revisions, random: random.Random):
    def judged(order):
        return {one.revision: (one.status, one.unlike, frozenset(one.copies)) for one in findings(order)}

    mixed = list(revisions)
    random.shuffle(mixed)
    assert judged(mixed) == judged(revisions)


@given(histories)
def test_a_duplicate_is_one_of_a_pair(revisions):
    copies = {one.revision: set(one.copies) for one in findings(revisions)}
    assert all(one in copies[other] for one, others in copies.items() for other in others)


@given(histories)
def test_revisions_without_a_step_never_conflict(revisions):
    steps = {one.revision: one.step for one in revisions}
    for one in findings(revisions):
        assert one.step is not None or not one.copies
        assert all(steps[other] is not None and other != one.revision for other in one.copies)


@given(histories)
def test_e_is_withheld_of_duplicates_or_of_all(revisions):
    found = findings(revisions)
    reasons = falsified(found)
    starts = [one.revision for one in found if one.step == 0 and one.status == "duplicate"]
    if starts:  # whichever of them E would be compared with
        assert set(reasons) == {one.revision for one in found}
        assert all(f"the baseline {starts[0]} is a duplicate" in reason for reason in reasons.values())
    else:
        assert set(reasons) == {one.revision for one in found if one.status == "duplicate"}
    assert all(reason.startswith("no E: ") and "--trust-duplicates overrides" in reason for reason in reasons.values())
    assert ("its baseline is a duplicate" in verdict(found)) == bool(starts)


class TestMessages:
    def test_of_the_same_weights(self):
        found = findings(suite("last", "b", "c", "last"))
        assert [one.status for one in found] == ["duplicate", "ok", "ok", "duplicate"]
        assert found[0].message == "the same weights as step3"
        assert found[3].message == "the same weights as step0"

    def test_of_many_names_three(self):
        found = findings(suite(*"xxxxxx"))
        assert found[0].message == "the same weights as step1, step2, step3 and 2 more"
        assert found[0].copies == ("step1", "step2", "step3", "step4", "step5")

    def test_of_a_shard_names_it_and_whose_it_is(self):
        revisions = [
            seen(step, file("one", f"a{step}"), file("two", f"b{step}"), file("three", f"c{step}")) for step in range(3)
        ]
        revisions += [seen(8, file("one", "a2"), file("two", "b8"), file("three", "c8"))]
        found = findings(revisions)
        assert found[3].message == "one (of 3 shards) is that of step2"
        assert found[2].message == "one (of 3 shards) is that of step8"

    def test_of_two_shards_of_one_and_a_third_of_another(self):
        revisions = [seen(step, *(file(name, f"{name}{step}") for name in ("one", "two", "three"))) for step in (0, 1)]
        revisions += [seen(8, file("one", "one0"), file("two", "two0"), file("three", "three1"))]
        message = findings(revisions)[2].message
        assert message == "one, two (of 3 shards) are those of step0, three (of 3 shards) is that of step1"

    def test_weights_that_were_renamed_or_split_anew_are_found_by_their_digest(self):
        found = findings(
            [seen(0, file("model.safetensors", "x")), seen(1, file("model-00001-of-00001.safetensors", "x"))]
        )
        assert [one.message for one in found] == ["the same weights as step1", "the same weights as step0"]

    def test_equal_digests_of_unequal_sizes_are_no_duplicates(self):
        found = findings([seen(0, file(digest="x", size=1)), seen(1, file(digest="x", size=2))])
        assert [one.status for one in found] == ["ok", "ok"]

    def test_main_may_be_the_last_step(self):
        found = findings([*suite("a", "b"), seen(None, file(digest="b"), name="main")])
        assert [one.status for one in found] == ["ok", "ok", "ok"]

    def test_names_of_strangers_stay_one_line_of_bounded_length(self):
        strange = "step\n\x1b[31m1" + "x" * 5000
        found = findings(
            [
                seen(0, file("shard\r\n", "x"), file("b", "b0")),
                seen(1, file("shard\r\n", "x"), file("b", "b1"), name=strange),
            ]
        )
        for one in found:
            assert one.message.isprintable()
            assert len(one.message) <= MAX_MESSAGE + 5  # two ends and dots between them


class TestUnlike:
    def test_of_another_size(self):
        found = findings([*suite(*"abc"), seen(8, file(digest="d", size=999))])
        assert (found[3].status, found[3].unlike) == ("corrupt", "size")
        assert found[3].message == "model.safetensors has 999 bytes, its siblings' have 1000"
        assert {one.status for one in found[:3]} == {"ok"}

    @pytest.mark.parametrize("size", [1000, 999], ids=["of the same size", "of another size too"])
    def test_of_another_shape(self, size):
        found = findings([*suite(*"abc"), seen(8, file(digest="d", size=size), shape=NARROW)])
        assert (found[3].status, found[3].unlike) == ("corrupt", "shape")
        assert found[3].message == "its config.json has hidden_size 32, its siblings' 64"
        with pytest.raises(
            CheckpointError, match=r"^step8: .* hidden_size 32, its siblings' 64: not a checkpoint of this model"
        ):
            found[3].check_shape()
        for one in found[:3]:
            one.check_shape()

    def test_a_dimension_that_is_absent_or_the_vocabulary_is_no_other_shape(self):
        for shape in (WIDE[:1], WIDE[1:], (), (WIDE[0], ("vocab_size", 10))):
            found = findings([*suite(*"abc"), seen(8, file(digest="d"), shape=shape)])
            assert [one.status for one in found] == ["ok"] * 4

    def test_what_is_wired_alike_may_be_stated_otherwise(self):
        stated = [(*WIDE, ("head_dim", 8)), WIDE]
        revisions = [seen(step, file(digest=f"d{step}"), shape=stated[step % 2], wiring="w") for step in range(4)]
        assert {one.status for one in findings(revisions)} == {"ok"}
        otherwise = seen(8, file(digest="x"), shape=WIDE, wiring="v")
        found = findings([*revisions, otherwise])
        assert [one.message for one in found] == [""] * 4 + ["its config.json has head_dim absent, its siblings' 8"]
        assert found[4].unlike == "shape"

    def test_another_vocabulary_explains_another_size(self):
        wired = {"wiring": "w"}
        larger = seen(8, file(digest="x", size=1500), shape=(WIDE[0], ("vocab_size", 10)), **wired)
        assert {one.status for one in findings([*suite(*"abc", **wired), larger])} == {"ok"}
        cut = seen(8, file(digest="x", size=900), **wired)
        assert findings([*suite(*"abc", **wired), cut])[3].unlike == "size"

    @pytest.mark.parametrize("sizes", [(1000, 999), (1000, 999, 998), (1000, 1000, 999, 999)], ids=str)
    def test_nobody_is_odd_without_a_majority_of_three_or_more(self, sizes):
        revisions = [seen(step, file(digest=f"d{step}", size=size * 50)) for step, size in enumerate(sizes)]
        assert {one.status for one in findings(revisions)} == {"ok"}

    def test_shards_may_be_cut_in_another_way(self):
        cut = [seen(8, file("one", "x", 400), file("two", "y", 605))]
        assert {one.status for one in findings([*suite(*"abc"), *cut])} == {"ok"}
        cut = [seen(8, file("one", "x", 400), file("two", "y", 400))]
        found = findings([*suite(*"abc"), *cut])[3]
        assert (found.status, found.message) == ("corrupt", "its weights take 800 bytes, its siblings' 1000")

    def test_a_duplicate_of_another_shape_says_both(self):
        found = findings([*suite(*"abc"), *[seen(step, file(digest="x"), shape=NARROW) for step in (8, 9)]])
        assert found[3].status == "duplicate"
        assert found[3].message == "the same weights as step9; its config.json has hidden_size 32, its siblings' 64"
        with pytest.raises(CheckpointError, match=r"the same weights as step9; .* not a checkpoint of this model"):
            found[3].check_shape()


class TestVerdict:
    @pytest.mark.parametrize(
        ("revisions", "line"),
        [
            (suite(*"abc"), "3 of 3 revisions ok"),
            ([*suite(*"ab"), missing(2)], "2 of 3 revisions ok; 1 missing"),
            (suite(*"abb"), "1 of 3 revisions ok; 2 duplicate; no E is given for the duplicates"),
            (suite(*"aba"), "1 of 3 revisions ok; 2 duplicate; its baseline is a duplicate, so no E against it means anything"),
            (suite(*"xabb")[1:], "1 of 3 revisions ok; 2 duplicate; no E is given for the duplicates"),
            (suite(*"xaa")[1:], "0 of 2 revisions ok; 2 duplicate; no E is given for the duplicates"),
        ],
    )  # fmt: skip
    def test_sums_up(self, revisions, line):
        assert verdict(findings(revisions)) == line

    def test_another_baseline(self):
        found = findings(suite(*"abcb"))
        assert set(falsified(found, Baseline(1))) == {"step0", "step1", "step2", "step3"}
        assert set(falsified(found, Baseline(2))) == {"step1", "step3"}

    def test_a_start_that_is_missing_falsifies_nothing(self):
        assert falsified(findings([missing(0), *suite(*"abc")[1:]])) == {}
