"""What tests of the observatory share."""

import pytest


@pytest.fixture(params=["compiled", "torch"])
def way_of_counting(request, monkeypatch):
    """Kernels count what a processor has computed, and torch elsewhere."""
    from ninscope.neurons.observatory import firing

    monkeypatch.setattr(firing, "COMPILED", request.param == "compiled")
