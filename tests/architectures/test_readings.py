"""How a checkpoint is read, as far as the user chooses: wirings, parts, and choices that make no sense."""

from dataclasses import replace

import naive
import numpy as np
import pytest
from suites import neox_config, neox_tensors, write_checkpoint

import ninscope
from ninscope.architectures import Reading
from ninscope.architectures.described import description_of
from ninscope.errors import CheckpointError, RequestError

ORDERS = np.array([-3.0, -1.0, 0.0, 1.0, 3.0])
MIXER = {
    "blocks": [
        {"tensor": "layers.{n}.up.weight", "source": "block{n}.x", "target": "block{n}.m"},
        {"tensor": "layers.{n}.down.weight", "source": "block{n}.m", "target": "block{n+1}.x"},
    ]
}


def stored(folder, tensors, config) -> str:
    return str(write_checkpoint(folder, tensors, config))


class TestCheckedWhenMade:
    """A reading or a description that makes no sense never exists."""

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"convolutions": "sum"}, "convolutions is 'sum'; one of norm, per_tap was expected"),
            ({"wiring": "serial"}, "wiring is 'serial'; one of chain, parallel was expected"),
            (
                {"wiring": "parallel", "description": description_of(MIXER)},
                "wiring 'parallel' needs a model of a known",
            ),
        ],
    )
    def test_a_reading(self, arguments, match):
        with pytest.raises(RequestError, match=match):
            Reading(**arguments)

    def test_a_description(self):
        known = description_of(MIXER)
        assert replace(known, unknown_only=True).blocks == known.blocks
        up, down = known.blocks
        for blocks, match in (
            ((), r"architecture\.blocks: list at least one tensor"),
            ((up, replace(down, order="rows")), r"architecture\.blocks\.2\.order is 'rows'; one of linear"),
            ((replace(up, target="b{k}"), down), r"architecture\.blocks\.1\.target: {k} does not stand in"),
        ):
            with pytest.raises(RequestError, match=match):
                replace(known, blocks=blocks)


class TestWiring:
    def test_parallel_joins_x_to_m(self, tmp_path):
        """x has the edges of q, k, v and m together: as plain loops over the two matrices beside each other find."""
        tensors = neox_tensors(2, 24, 3, seed=3)
        folder = stored(tmp_path / "step0", tensors, neox_config(2, 24, 3))
        found = ninscope.measure(folder, wiring="parallel", q=ORDERS)
        nodes = []
        for block in range(2):
            of = f"gpt_neox.layers.{block}."
            both = [tensors[of + "attention.query_key_value.weight"], tensors[of + "mlp.dense_h_to_4h.weight"]]
            for matrix in (
                np.vstack(both),
                tensors[of + "attention.dense.weight"],
                tensors[of + "mlp.dense_4h_to_h.weight"],
            ):
                nodes += [naive.distances_of(column) for column in matrix.T]
        expected = naive.spectrum(nodes, found.q)
        assert found.edges == expected["edges"]
        np.testing.assert_allclose(found.tau, expected["tau"], rtol=1e-9, atol=1e-9)
        sampled = ninscope.measure(folder, wiring="parallel", nodes_per_layer=96, samples=1, q=ORDERS)
        np.testing.assert_allclose(sampled.tau, found.tau, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("residual", [False, 1, None])
    def test_of_a_model_whose_blocks_are_a_chain(self, tmp_path, residual):
        config = neox_config(1, 16, 2) | {"use_parallel_residual": residual}
        folder = stored(tmp_path / "step0", neox_tensors(1, 16, 2, seed=0), config)
        with pytest.raises(CheckpointError, match="use_parallel_residual is not true") as no:
            ninscope.measure(folder, wiring="parallel")
        assert no.value.status == "unsupported"

    @pytest.mark.parametrize("config", [{"model_type": "mixer"}, {"model_type": "gpt2"}], ids=str)
    def test_of_a_family_that_has_none(self, tmp_path, config):
        folder = stored(tmp_path / "step0", {"w": np.ones((20, 20), np.float32)}, config)
        with pytest.raises(CheckpointError, match="has no wiring 'parallel', only gpt_neox; leave wiring out") as no:
            ninscope.measure(folder, wiring="parallel")
        assert no.value.status == "unsupported"

    @pytest.mark.parametrize(
        ("given", "match"),
        [
            ({"wiring": "serial"}, "wiring is 'serial'; one of chain, parallel"),
            ({"convolutions": "sum"}, "convolutions is 'sum'; one of norm, per_tap"),
            ({"wiring": "parallel", "architecture": MIXER}, "wiring 'parallel' needs a model of a known family"),
            ({"architecture": 3}, "architecture is 3; a table with blocks"),
            ({"parts": "block"}, "parts is 'block'; a list of block, kind, layer"),
            ({"parts": ["blocks"]}, r"parts is \['blocks'\]"),
            ({"layers_crossed": 0}, "layers_crossed is 0; an integer from 1"),
            ({"layers_crossed": 2, "radii": {"log": 9}}, 'layers_crossed above 1 goes with radii "integer"'),
            ({"direction": "both"}, "direction is 'both'; one of out, in"),
        ],
    )
    def test_wrong_requests(self, tmp_path, given, match):
        folder = stored(tmp_path / "step0", neox_tensors(1, 16, 2, seed=0), neox_config(1, 16, 2))
        with pytest.raises(RequestError, match=match):
            ninscope.measure(folder, **given)


@pytest.fixture(scope="module")
def neox(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("parts") / "step0"
    return stored(folder, neox_tensors(2, 24, 3, seed=3), neox_config(2, 24, 3))


class TestParts:
    @pytest.mark.parametrize("exact", [True, None])
    def test_a_part_is_the_network_of_its_layers_alone(self, neox, exact):
        sampling = {} if exact else {"nodes_per_layer": 96, "samples": 1}
        found = ninscope.measure(neox, parts=["layer", "block", "kind"], **sampling)
        assert list(found.parts)[:5] == ["block/block0", "block/block1", "kind/attention", "kind/mlp", "layer/block0.x"]
        of = "gpt_neox.layers.{n}."
        kinds = {
            "attention": ["attention.query_key_value", "attention.dense"],
            "mlp": ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"],
        }
        for kind, names in kinds.items():
            blocks = [
                {"tensor": f"{of}{name}.weight", "source": f"{name}.{{n}}.s", "target": f"{name}.{{n}}.t"}
                for name in names
            ]
            alone = ninscope.measure(neox, architecture={"blocks": blocks})
            part = found.part(f"kind/{kind}")
            assert part.samples[0].edges == alone.samples[0].edges
            np.testing.assert_allclose(part.tau, alone.tau, rtol=1e-12, atol=1e-12)
        whole = found.samples[0]
        for grouping in ("block/", "kind/", "layer/"):
            parts = [each[0] for name, each in found.parts.items() if name.startswith(grouping)]
            assert (sum(part.nodes for part in parts), sum(part.edges for part in parts)) == (whole.nodes, whole.edges)

    def test_asking_for_parts_changes_nothing_else(self, neox):
        for sampling in ({}, {"nodes_per_layer": 16, "samples": 3}):
            plain, parted = (ninscope.measure(neox, parts=parts, **sampling) for parts in ([], ["kind"]))
            assert (plain.alpha0, plain.width, plain.message) == (parted.alpha0, parted.width, parted.message)
            assert not plain.parts
