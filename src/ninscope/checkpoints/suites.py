"""Suites of models that were published with the checkpoints of their training, as their repositories on the Hub name them."""

from dataclasses import dataclass

from ninscope.checkpoints.revisions import RevisionPattern, RevisionSelection

_PYTHIA_SIZES = ("14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
_POLYPYTHIA_SIZES = _PYTHIA_SIZES[:5]
# Initialisation, ten log-spaced early ones, and every thousandth step: 154 of every Pythia model.
PYTHIA_STEPS = (0, *(2**power for power in range(10)), *range(1000, 143_001, 1000))


@dataclass(frozen=True)
class PublishedSuite:
    """Repositories of a suite, and which of their revisions are its checkpoints.

    revisions.steps are given where they are known beforehand: an absent one is then reported as missing.
    """

    name: str
    repositories: tuple[str, ...]
    revisions: RevisionSelection


_OF_PYTHIA = RevisionSelection(RevisionPattern("step{step}"), PYTHIA_STEPS)

SUITES = {
    suite.name: suite
    for suite in (
        PublishedSuite("pythia", tuple(f"EleutherAI/pythia-{size}" for size in _PYTHIA_SIZES), _OF_PYTHIA),
        PublishedSuite("pythia-deduped", tuple(f"EleutherAI/pythia-{size}-deduped" for size in _PYTHIA_SIZES), _OF_PYTHIA),
        # Nine seeds of every size, and of one size data order and initialisation by themselves (van der Wal et al. 2025).
        PublishedSuite(
            "polypythias",
            (
                *(f"EleutherAI/pythia-{size}-seed{seed}" for size in _POLYPYTHIA_SIZES for seed in range(1, 10)),
                *(f"EleutherAI/pythia-160m-{kind}-seed{seed}" for kind in ("data", "weight") for seed in (1, 2, 3)),
            ),
            _OF_PYTHIA,
        ),
        PublishedSuite(
            "olmo",
            tuple(
                f"allenai/OLMo-{name}-hf"
                for name in ("1B", "7B", "7B-Twin-2T", "7B-0424", "1B-0724", "7B-0724")
            ),
            RevisionSelection(RevisionPattern("step{step}-tokens{tokens}B")),
        ),
        # The first of two stages: the second starts several times from its end, with steps counted anew.
        PublishedSuite(
            "olmo-2",
            tuple(f"allenai/OLMo-2-{name}" for name in ("0425-1B", "1124-7B", "1124-13B", "0325-32B")),
            RevisionSelection(RevisionPattern("stage1-step{step}-tokens{tokens}B")),
        ),
    )
}  # fmt: skip


def suite_of(repository: str) -> PublishedSuite | None:
    """The suite that a repository belongs to, if it is one of those known here."""
    return next((suite for suite in SUITES.values() if repository in suite.repositories), None)
