"""What `ninscope.neurons.polysemanticity` offers is there, and is in the reference."""

import re
from pathlib import Path

import pytest

from ninscope.neurons import polysemanticity

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "neurons.md"


def test_every_name_leads_to_what_is_called_so():
    pytest.importorskip("torch", reason="torch is not installed")
    for name in polysemanticity.__all__:
        if name != "EXPERIMENTS":
            assert getattr(polysemanticity, name).__name__ == name
    assert set(polysemanticity.__all__) <= set(dir(polysemanticity))
    with pytest.raises(AttributeError, match="has no attribute 'Prober'"):
        polysemanticity.Prober  # noqa: B018


def test_the_reference_has_every_name_and_no_other():
    text = REFERENCE.read_text(encoding="utf-8")
    found = re.findall(r"ninscope\.neurons\.polysemanticity\.(?:experiments\.)?(\w+)$", text, re.MULTILINE)
    assert sorted(found) == polysemanticity.__all__
