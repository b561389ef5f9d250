"""ConvGRU as a network: node layers, blocks and weights against a walk over the module's own parameters, and senseless sizes."""

import json

import naive
import numpy as np
import pytest
from suites import write_checkpoint

import ninscope
from ninscope.architectures import architecture_of
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError
from ninscope.networks.neuron_network import neuron_network
from ninscope.networks.sampled import sampled_network

CONFIG = {
    "model_type": "convgru",
    "height": 12,
    "width": 8,
    "input_frames": 3,
    "output_frames": 4,
    "convolution_channels": [12, 16],
    "convolution_kernels": [3, 3],
    "strides": [1, 2],
    "paddings": [1, 1],
    "hidden_channels": [13, 17],
    "input_kernels": [3, 1],
    "recurrent_kernels": [5, 3],
    "upsampling_kernels": [3, 4],
    "negative_slope": 0.2,
}
ALL = 1000
GATES = ("reset", "update", "candidate")
ORDERS = np.array([-3.0, -1.0, 0.0, 1.0, 3.0])


@pytest.fixture
def model():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from ninscope.neurons.convgru import ConvGRU, ConvGRUConfig

    torch.manual_seed(4)
    model = ConvGRU(ConvGRUConfig.from_dict(CONFIG))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "step0")
    return tmp_path / "step0"


def norms(weight) -> np.ndarray:
    """Euclidean norms of a convolution's kernels, [out, in]."""
    return np.sqrt((weight.detach().numpy().astype(np.float64) ** 2).sum(axis=(2, 3)))


def blocks_of_modules(model) -> dict[tuple[str, str], np.ndarray]:
    """W[out, in] by (source, target), taken from the modules by attribute in the order in which frames pass through them."""
    found, now = {}, "input.x"

    def gates(name: str, layer, source: str | None) -> None:
        for at, convolution in ((source, layer.input_to_hidden), (f"{name}.state", layer.hidden_to_hidden)):
            if at is not None:
                for gate, weight in zip(GATES, convolution.weight.chunk(3), strict=True):
                    found[at, f"{name}.{gate}"] = norms(weight)

    layers = iter(model.recurrent)
    for number, convolution in enumerate(model.down):
        found[now, f"encoder{number}.x"] = norms(convolution.weight)
        gates(f"encoder{number}", next(layers), f"encoder{number}.x")
        now = f"encoder{number}.h"
    source = None
    for number in reversed(range(len(model.up))):
        after = f"forecaster{number - 1}.x" if number else "final.x"
        gates(f"forecaster{number}", next(layers), source)
        found[f"forecaster{number}.h", after] = norms(model.up[number].weight).T  # stored [in, out, ...]
        source = after
    found["final.x", "final.h"] = norms(model.final.weight)
    found["final.h", "output.x"] = norms(model.output.weight)
    return found


def read_blocks(folder) -> dict[tuple[str, str], np.ndarray]:
    source = open_source(folder)
    checkpoint = source.open(source.revisions()[0])
    whole = neuron_network(checkpoint)
    network = sampled_network(whole, ALL, 1, 0, 1e30)
    ends = np.cumsum(network.layer_sizes)
    place = {
        name: slice(end - size, end)
        for name, size, end in zip(network.layer_names, network.layer_sizes, ends, strict=True)
    }
    return {
        (block.source, block.target): np.abs(network.matrix[place[block.source], place[block.target]].toarray().T)
        for block in whole.blocks
    }


def test_every_weight_is_where_the_module_has_it(folder, model):
    ours, modules = read_blocks(folder), blocks_of_modules(model)
    assert ours.keys() == modules.keys()
    for ends, weights in modules.items():
        np.testing.assert_allclose(ours[ends], weights, rtol=1e-6, err_msg=str(ends))


def test_no_weight_is_left_out(folder, model):
    """As many numbers as all parameters but the biases have; that holds the wiring above to all of the module."""
    architecture = architecture_of(json.loads((folder / "config.json").read_text()))
    taps = architecture.with_convolutions("per_tap")
    used = sum(edges * nodes for edges, nodes in map(taps.edges_of, taps.blocks))
    assert used == sum(p.numel() for name, p in model.named_parameters() if not name.endswith("bias"))


def test_measured_as_the_plain_definition_says(folder, model):
    of_source: dict[str, list] = {}
    for (source, _), weights in blocks_of_modules(model).items():
        of_source.setdefault(source, []).append(weights)
    distances = [naive.distances_of(column) for weights in of_source.values() for column in np.concatenate(weights).T]
    expected = naive.spectrum(distances, q=ORDERS)
    found = ninscope.measure(str(folder), exact=True, q=ORDERS)
    assert found.samples[0].edges == expected["edges"]
    np.testing.assert_allclose(found.alpha, expected["alpha"], rtol=1e-9)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_node_layers_and_links(levels):
    lists = {key: (value * 2)[:levels] for key, value in CONFIG.items() if isinstance(value, list)}
    architecture = architecture_of(CONFIG | lists)
    order = {layer.name: place for place, layer in enumerate(architecture.layers)}
    assert len(order) == 12 * levels + 3
    joined = {end for block in architecture.blocks for end in (block.source, block.target)}
    joined |= {end for link in architecture.links for end in (link.source, link.target)}
    assert joined == order.keys()
    for link in architecture.links:
        assert order[link.source] < order[link.target]
        assert link.skip == (link.source.endswith("state"))
    assert len(architecture.links) == levels * (4 + 4 + 1)


def test_a_state_reaches_the_next_level_by_weights_and_links(folder):
    """Paths of several steps exist: from the seen frame to the forecast one there is one through every level."""
    found = ninscope.measure(str(folder), layers_crossed=3, nodes_per_layer=50, samples=1)
    assert np.isfinite(found.alpha0)


@pytest.mark.parametrize(
    "key", [key for key, value in CONFIG.items() if isinstance(value, list) and key not in ("strides", "paddings")]
)
@pytest.mark.parametrize("value", [None, 3, [], [3], [3, 0], [3, 10**8], [3, "3"], [3, 3, 3]])
def test_sizes_that_make_no_sense(key, value):
    with pytest.raises(CheckpointError, match=f"config.json: .*{key}") as caught:
        architecture_of(CONFIG | {key: value})
    assert caught.value.status == "corrupt"


def test_files_that_do_not_fit(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(stored.shape).astype(np.float32)
        for name, stored in architecture_of(CONFIG).matrices.items()
    }
    name = "up.1.weight"
    turned = tensors | {name: np.ascontiguousarray(tensors[name].transpose(1, 0, 2, 3))}
    with pytest.raises(CheckpointError, match=r"up.1.weight has shape \[16, 17, 4, 4\], .* implies \[17, 16, 4, 4\]"):
        ninscope.measure(str(write_checkpoint(tmp_path / "turned", turned, CONFIG)))
    more = tensors | {"down.2.weight": tensors["down.1.weight"]}
    with pytest.raises(CheckpointError, match=r"down.2.weight is there, though config.json"):
        ninscope.measure(str(write_checkpoint(tmp_path / "more", more, CONFIG)))
    del tensors[name]
    with pytest.raises(CheckpointError, match=r"up.1.weight is absent"):
        ninscope.measure(str(write_checkpoint(tmp_path / "absent", tensors, CONFIG)))
