"""A checkpoint on a Hub, read from its targets: parts of fused matrices are fetched as they lie."""

import numpy as np
from hub_client import _private_client, serve  # noqa: F401 (fixtures)
from suites import neox_tensors, write_checkpoint

import ninscope


def test_it_is_what_a_local_one_is(tmp_path, serve):
    folder = write_checkpoint(tmp_path / "step0", neox_tensors(1, 24, 3, 4, dtype=np.float16))
    server = serve({"org/tiny": {"main": folder}})
    for asked in ({}, {"layers_crossed": 2}, {"nodes_per_layer": 8, "samples": 2}):
        local, fetched = (
            ninscope.measure(source, direction="in", min_degree=3, **asked) for source in (folder, "org/tiny")
        )
        assert fetched.tau.tobytes() == local.tau.tobytes()
        assert fetched.edges == local.edges > 0
    assert server is not None
