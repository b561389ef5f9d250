"""The rules by which every command finds a revision, judges it beside its siblings, and says whether it has an E."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from suites import neox_config, neox_tensors, write_checkpoint, write_suite

from ninscope.architectures import Reading
from ninscope.architectures.described import description_of
from ninscope.checkpoints.audit import Seen
from ninscope.checkpoints.baseline import Baseline
from ninscope.checkpoints.identity import FileIdentity, Identity
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError, RequestError
from ninscope.locating import (
    LocatedRevision,
    Wiring,
    audit_revisions,
    locate_siblings,
    revision_of,
    with_identity,
    with_wirings,
)
from ninscope.multifractal.emergence import Bootstrap, compared, emergence_interval
from ninscope.networks.neuron_network import neuron_network

CHAIN, TAPS = Reading(), Reading(convolutions="per_tap")
SHAPE = {"blocks": 1, "width": 16, "heads": 2}
WIDE, NARROW = (("hidden_size", 64),), (("hidden_size", 32),)


def wiring(digest="w", reading=CHAIN, family="gpt_neox", note=""):
    return Wiring(reading.key, family, digest, 1000, note)


def located(step, digest, size=1000, shape=WIDE, wirings=None, **fields):
    identity = Identity(f"step{step}", step, (FileIdentity("model.safetensors", size, digest),), shape=shape)
    wirings = (wiring(),) if wirings is None else wirings
    return LocatedRevision(f"step{step}", step, identity=identity, kind="local", wirings=wirings, **fields)


def suite(*digests, **fields):
    return [located(step, digest, **fields) for step, digest in enumerate(digests)]


class TestAudit:
    def test_of_different_weights_all_is_well(self):
        judged = audit_revisions(suite("a", "b", "c"))
        assert [one.status for one in judged] == ["ok"] * 3
        assert {one.no_emergence for one in judged} == {one.unsure for one in judged} == {""}
        assert {one.emergence_status for one in judged} == {"ok"}
        assert {one.audit_note() for one in judged} == {("", False)}

    def test_duplicates_have_no_e_and_stay_ok_themselves(self):
        judged = audit_revisions(suite("a", "b", "c", "b"))
        assert [one.status for one in judged] == ["ok"] * 4
        assert [one.emergence_status for one in judged] == ["ok", "duplicate", "ok", "duplicate"]
        reason = "no E: the same weights as step3 (--trust-duplicates overrides)"
        assert [one.no_emergence for one in judged[:3]] == ["", reason, ""]
        assert judged[1].audit_note() == ("the same weights as step3", True)

    def test_a_baseline_that_is_a_duplicate_falsifies_all(self):
        judged = audit_revisions(suite("a", "b", "a"))
        assert {one.emergence_status for one in judged} == {"duplicate"}
        assert judged[1].no_emergence.startswith("no E: the baseline step0 is a duplicate (the same weights as step2; ")
        assert judged[1].audit_note() == ("", False)  # of itself there is nothing to say

    def test_the_baseline_is_the_one_that_is_named(self):
        judged = audit_revisions(suite("a", "b", "a"), baseline=Baseline(1))
        assert [bool(one.falsified) for one in judged] == [True, False, True]

    def test_trusted_duplicates_keep_their_e_and_are_named(self):
        judged = audit_revisions(suite("a", "b", "a"), trust_duplicates=True)
        assert [one.no_emergence for one in judged] == [""] * 3
        assert [one.emergence_status for one in judged] == ["ok"] * 3
        assert judged[2].audit_note(trust_duplicates=True) == ("trusted: the same weights as step0", False)

    def test_siblings_that_nobody_asked_for_count_and_are_left_out(self):
        sibling = Seen("step9", 9, located(9, "b").identity)
        judged = audit_revisions(suite("a", "b"), [sibling])
        assert [one.revision for one in judged] == ["step0", "step1"]
        assert "the same weights as step9" in judged[1].falsified

    def test_another_shape_is_another_model_s(self):
        revisions = suite("a", "b", "c", "d")
        judged = audit_revisions([*revisions[:3], located(3, "d", shape=NARROW)])
        assert [one.status for one in judged] == ["ok"] * 3 + ["corrupt"]
        says = "step3: its config.json has hidden_size 32, its siblings' 64: not a checkpoint of this model"
        assert judged[3].message == says
        with pytest.raises(CheckpointError, match=r"step3: its config\.json has hidden_size 32") as error:
            judged[3].check()
        assert error.value.status == "corrupt"

    def test_another_size_is_a_note(self):
        judged = audit_revisions([*suite("a", "b", "c"), located(3, "d", size=2000)])
        assert judged[3].status == "ok"
        says = "model.safetensors has 2000 bytes, its siblings' have 1000"
        assert judged[3].audit_note() == judged[3].audit_note(True) == (says, False)

    def test_a_failure_stays_what_it_is(self):
        """Whatever the audit would say of it besides."""
        broken = located(1, "b", shape=NARROW, status="nonfinite", message="tensor x holds NaN")
        judged = audit_revisions([*suite("a"), broken, *suite("a", "b", "c", "d")[2:]])
        assert (judged[1].status, judged[1].message) == ("nonfinite", "tensor x holds NaN")

    def test_one_that_could_not_be_asked_for_leaves_the_others_unsure(self):
        gone = LocatedRevision("step1", 1, "missing", "the server does not answer", passing=True)
        judged = audit_revisions([*suite("a"), gone])
        assert judged[0].unsure == "whether step1 hold the same weights is not known: they could not be asked for"
        known = replace(gone, identity=located(1, "b").identity)  # what failed came later
        assert audit_revisions([*suite("a"), known])[0].unsure == ""

    def test_an_unknown_family_beside_a_known_one_is_unsupported(self):
        stranger = located(
            1, "b", wirings=(wiring(family="generic", note="model_type 'x' is no known family; read so"),)
        )
        judged = audit_revisions([*suite("a"), stranger])
        assert [one.status for one in judged] == ["ok", "unsupported"]
        assert judged[1].message.startswith("model_type 'x' is no known family, but its siblings are gpt_neox: ")
        assert audit_revisions([stranger])[0].ok  # by itself it is measured

    def test_wired_otherwise_than_the_baseline_there_is_no_e(self):
        judged = audit_revisions([*suite("a"), located(1, "b", wirings=(wiring("other"),))])
        assert judged[1].ok
        assert judged[1].emergence_status == "ok"
        assert judged[1].no_emergence == "its tensors are wired otherwise than those of step0: no E"

    def test_what_the_audit_found_false_is_said_first(self):
        judged = audit_revisions([*suite("a", "b"), located(2, "b", wirings=(wiring("other"),))])
        assert judged[2].otherwise_wired
        assert judged[2].no_emergence == judged[2].falsified != ""

    def test_a_reading_that_failed_says_nothing_of_the_others(self):
        both = (wiring("chain"), wiring("taps", TAPS))
        half = (wiring("chain"), Wiring(TAPS.key, status="unsupported", message="no taps"))
        for start, other in ((both, half), (half, both)):
            judged = audit_revisions([located(0, "a", wirings=start), located(1, "b", wirings=other)])
            assert judged[1].otherwise_wired == ""
        differing = (wiring("chain"), wiring("other", TAPS))
        judged = audit_revisions([located(0, "a", wirings=both), located(1, "b", wirings=differing)])
        assert judged[1].otherwise_wired

    def test_without_a_baseline_nothing_is_wired_otherwise(self):
        judged = audit_revisions([located(1, "a"), located(2, "b", wirings=(wiring("other"),))])
        assert {one.otherwise_wired for one in judged} == {""}


def located_in(source, revision, readings=(CHAIN,)):
    """A revision with its identity and its wirings."""
    located = LocatedRevision(revision, source.step_of(revision))
    return with_wirings(with_identity(located, source), source, readings)


class TestLocating:
    @pytest.fixture
    def source(self, tmp_path):
        return open_source(write_suite(tmp_path / "tiny", (0, 1, 2), **SHAPE))

    def test_what_is_known_of_a_revision(self, source):
        found = located_in(source, "step1", [CHAIN, TAPS])
        checkpoint = source.open("step1")
        network = neuron_network(checkpoint)
        assert (found.revision, found.step, found.status, found.message) == ("step1", 1, "ok", "")
        assert (found.kind, found.parameters) == ("local", checkpoint.parameters)
        assert found.content_sha256 == source.identify("step1").content_sha256
        assert found.wirings == (Wiring.of(network, CHAIN), Wiring.of(neuron_network(checkpoint, TAPS), TAPS))
        assert found.wiring(CHAIN).digest == network.digest
        assert found.wiring(CHAIN).weight_bytes == network.weight_bytes > 0
        assert [path.endswith("model.safetensors") for path, _ in found.stamps] == [True]

    def test_one_that_cannot_be_read_still_has_its_identity(self, source, tmp_path):
        tensors = neox_tensors(seed=1, **SHAPE)
        del tensors["gpt_neox.layers.0.mlp.dense_4h_to_h.weight"]
        write_checkpoint(tmp_path / "tiny" / "step1", tensors, neox_config(**SHAPE))
        found = located_in(source, "step1")
        assert (found.status, found.wirings, found.parameters) == ("corrupt", (), None)
        assert "mlp.dense_4h_to_h.weight is absent" in found.message
        assert found.identity is not None

    def test_one_that_is_not_there_is_missing(self, source):
        found = located_in(source, "step7")
        assert (found.status, found.identity, found.passing) == ("missing", None, False)
        assert "step7" in found.message

    def test_a_reading_that_does_not_go_fails_alone(self, source):
        block = {"tensor": "no.such.weight", "source": "a", "target": "b"}
        described = Reading(description=description_of({"blocks": [block]}))
        found = located_in(source, "step0", [CHAIN, described])
        assert found.ok
        assert [one.status == "ok" for one in found.wirings] == [True, False]
        alone = located_in(source, "step0", [described])
        assert (alone.status, alone.message) == (found.wirings[1].status, found.wirings[1].message)

    def test_a_server_that_does_not_answer_is_passing(self, source, monkeypatch):
        def down(*_):
            raise CheckpointError("missing", "no answer", passing=True)

        monkeypatch.setattr(type(source), "identify", down)
        found = with_identity(LocatedRevision("step1", 1), source)
        assert (found.status, found.message, found.passing) == ("missing", "no answer", True)
        with pytest.raises(CheckpointError, match="no answer") as error:
            found.check()
        assert error.value.passing

    def test_siblings_are_all_that_the_source_lists_and_the_one_that_is_named(self, source):
        assert [one.revision for one in locate_siblings(source)] == ["step0", "step1", "step2"]
        named = locate_siblings(source, "step9")
        assert [(one.revision, one.status) for one in named][-1] == ("step9", "missing")
        assert [one.revision for one in locate_siblings(source, "step1")] == ["step0", "step1", "step2"]

    def test_several_revisions_must_be_told_apart(self, source, tmp_path):
        with pytest.raises(RequestError, match=r"has 3 revisions \(step0 \.\.\. step2\); name one with revision="):
            revision_of(source)
        assert revision_of(source, "step1") == "step1"
        assert revision_of(open_source(tmp_path / "tiny" / "step2")) == "step2"


def measured(*samples):
    """Spectra of (alpha0, width), and their means over those that exist."""
    spectra = [SimpleNamespace(alpha0=alpha0, width=width) for alpha0, width in samples]
    alpha0, width = np.nanmean(samples, axis=0)
    return SimpleNamespace(samples=spectra, alpha0=float(alpha0), width=float(width))


class TestCompared:
    START, NOW = measured((1.0, 0.2), (1.2, 0.3)), measured((0.5, 0.3), (0.6, 0.5))

    def test_e_and_its_interval_where_it_is_wanted(self):
        plain = compared(self.NOW, self.START)
        assert plain.emergence == pytest.approx(0.4 / 0.25 * math.log(1.1 / 0.55))
        assert math.isnan(plain.low)
        assert plain.message == ""
        bootstrap = Bootstrap(replicates=500, confidence=0.8, seed=3)
        drawn = compared(self.NOW, self.START, "", "step0", bootstrap)
        pairs = [np.array([[one.alpha0, one.width] for one in each.samples]) for each in (self.NOW, self.START)]
        assert drawn == (plain.emergence, *emergence_interval(*pairs, 500, 0.8, 3), "", "")

    def test_where_the_audit_allows_none_that_is_the_reason(self):
        found = compared(self.NOW, None, "no E: a duplicate")
        assert math.isnan(found.emergence)
        assert found.message == "no E: a duplicate"

    def test_without_a_start_the_baseline_is_named(self):
        found = compared(self.NOW, None, baseline="step7").message
        assert found.startswith('no E: there is no usable step7 to compare with; baseline = "first"')

    def test_samples_without_a_spectrum_at_either_step_are_left_out_of_the_interval(self):
        nothing = (math.nan, math.nan)
        now = measured((0.5, 0.3), (0.6, 0.5), (0.55, 0.4), nothing)
        start = measured((1.0, 0.2), nothing, (1.1, 0.25), (1.2, 0.3))
        found = compared(now, start, "", "step0", Bootstrap())
        assert found.message == "E's interval is from the 2 of 4 samples with a spectrum at both steps"
        pairs = np.array([[0.5, 0.3], [0.55, 0.4]]), np.array([[1.0, 0.2], [1.1, 0.25]])
        assert (found.low, found.high) == emergence_interval(*pairs)

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"replicates": 99}, "replicates is 99; an integer from 100 to 1000000 was expected"),
            ({"seed": -1}, "seed is -1; an integer from 0"),
            ({"confidence": 1.0}, "confidence is 1.0; a number between 0 and 1 was expected"),
        ],
    )
    def test_a_bootstrap_is_checked_when_it_is_made(self, given, says):
        with pytest.raises(RequestError, match=says):
            Bootstrap(**given)
