"""Every family against the real library: node layers, blocks, edges and weights of models that transformers builds and saves."""

from functools import cached_property

import family_models as real
import naive
import numpy as np
import pytest
from family_models import CASES, FAMILIES
from safetensors.numpy import load_file

import ninscope
from ninscope.architectures import architecture_of
from ninscope.architectures.layout import Architecture
from ninscope.checkpoints.source import open_source
from ninscope.networks.neuron_network import neuron_network
from ninscope.networks.sampled import sampled_network

ALL = 1000  # more neurons than any node layer here has
ORDERS = np.array([-3.0, -1.0, 0.0, 1.0, 3.0])
KINDS = {"attention", "mlp", "convolution", "router", "embedding", "head", "state_space", ""}


# One for every way in which a tensor holds a matrix; every case's weights and edges are compared below in any way.
BESIDE_THE_ORACLE = ("gpt2", "llama", "mixtral-fused", "resnet-bottleneck", "vit-modules")


class Saved:
    """A checkpoint in a folder, and what the package reads in it."""

    def __init__(self, folder):
        self.folder = folder

    @cached_property
    def checkpoint(self):
        source = open_source(self.folder)
        return source.open(source.revisions()[0])

    @cached_property
    def architecture(self) -> Architecture:
        return architecture_of(self.checkpoint.config, self.checkpoint.tensors)

    @cached_property
    def blocks(self) -> dict[tuple[str, str], np.ndarray]:
        """W[out, in] of every weight block, with all neurons: (source, target) -> matrix."""
        network = sampled_network(neuron_network(self.checkpoint), ALL, 1, 0, 1e30)
        ends = np.cumsum(network.layer_sizes)
        rows = {
            name: slice(end - size, end)
            for name, size, end in zip(network.layer_names, network.layer_sizes, ends, strict=True)
        }
        return {
            (block.source, block.target): network.matrix[rows[block.source], rows[block.target]].toarray().T
            for block in self.architecture.blocks
        }


class RealModel(Saved):
    """A model of the library's, and the folder that it is saved in."""

    def __init__(self, name, folder):
        self.name, self.module = name, real.built(name)
        super().__init__(real.saved(self.module, name, folder))

    @cached_property
    def blocks_of_modules(self) -> dict[tuple[str, str], np.ndarray]:
        return real.blocks_of_modules(self.module, self.name)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """name of a case -> RealModel, built when first asked for."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    made: dict[str, RealModel] = {}

    def get(name):
        if name not in made:
            made[name] = RealModel(name, tmp_path_factory.mktemp(name) / "step0")
        return made[name]

    return get


@pytest.fixture
def model(library, name) -> RealModel:
    return library(name)


@pytest.mark.parametrize("name", CASES)
class TestTheRealModel:
    def test_node_layers(self, model, name):
        layers = model.architecture.layers
        assert sorted(layer.size for layer in layers) == real.layer_sizes(model.module, name)
        assert model.architecture.family == FAMILIES[name]
        assert {layer.kind for layer in layers} <= KINDS

    def test_blocks_and_edges(self, model, name):
        architecture = model.architecture
        blocks, edges, weights = real.block_and_edge_counts(model.module, name)
        assert len(architecture.blocks) == blocks
        assert sum(of_one * nodes for of_one, nodes in map(architecture.edges_of, architecture.blocks)) == edges
        taps = architecture.with_convolutions("per_tap")
        assert sum(of_one * nodes for of_one, nodes in map(taps.edges_of, taps.blocks)) == weights

    def test_the_file_holds_every_matrix_and_no_further_weights(self, model, name):
        """As many numbers are used as the model's parameters have that are not left out on purpose."""
        architecture, stored = model.architecture, load_file(model.folder / "model.safetensors")
        first, matrix = next(iter(architecture.matrices.items()))
        prefix = next(p for p in architecture.prefixes if p + (matrix.tensor or first) in stored)
        used = {}
        for key, matrix in architecture.matrices.items():
            tensor = prefix + (matrix.tensor or key)
            assert stored[tensor].shape == matrix.shape
            used[tensor] = stored[tensor].size
        assert sum(used.values()) == real.block_and_edge_counts(model.module, name)[2]

    def test_weights_of_every_block_are_the_modules_own(self, model):
        assert model.blocks.keys() == model.blocks_of_modules.keys()
        for key, weight in model.blocks_of_modules.items():
            if weight.ndim > 2:
                norms = np.sqrt((weight.astype(np.float64) ** 2).sum(axis=tuple(range(2, weight.ndim))))
                np.testing.assert_allclose(np.abs(model.blocks[key]), norms, rtol=1e-6, err_msg=str(key))
            else:
                np.testing.assert_array_equal(model.blocks[key], weight, err_msg=str(key))

    def test_links_join_what_is_added(self, model):
        """Every skip connection ends where weights end too, and the first x is reached from no later layer."""
        order = {layer.name: position for position, layer in enumerate(model.architecture.layers)}
        assert model.architecture.links
        for link in model.architecture.links:
            assert order[link.source] < order[link.target]

    def test_every_node_layer_is_joined(self, model):
        """No layer stands alone: weights or links lead to it or leave it."""
        architecture = model.architecture
        joined = {end for block in architecture.blocks for end in (block.source, block.target)}
        joined |= {end for link in architecture.links for end in (link.source, link.target)}
        assert joined == {layer.name for layer in architecture.layers}

    def test_exact_and_sampled_are_one_network_of_the_modules_edges(self, model):
        """The whole network streamed, and a sample of all its neurons."""
        exact = ninscope.measure(str(model.folder), exact=True, q=ORDERS)
        sampled = ninscope.measure(str(model.folder), nodes_per_layer=ALL, samples=1, q=ORDERS)
        distances = [1 / np.abs(column[column != 0]) for column in columns(model.blocks_of_modules)]
        counted = [int(((d > 1) & (d <= 150)).sum()) for d in distances]
        assert exact.samples[0].edges == sampled.samples[0].edges == sum(n for n in counted if n > 10)
        np.testing.assert_allclose(sampled.tau, exact.tau, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", BESIDE_THE_ORACLE)
def test_measured_as_the_plain_definition_says(model):
    """The whole network, and a sample of all its neurons, beside the oracle on the modules' weights."""
    distances = [naive.distances_of(column) for column in columns(model.blocks_of_modules)]
    expected = naive.spectrum(distances, q=ORDERS)
    exact = ninscope.measure(str(model.folder), exact=True, q=ORDERS)
    sampled = ninscope.measure(str(model.folder), nodes_per_layer=ALL, samples=1, q=ORDERS)
    for found in (exact, sampled):
        assert found.samples[0].edges == expected["edges"]
        np.testing.assert_allclose(found.tau, expected["tau"], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found.alpha, expected["alpha"], rtol=1e-9)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.alone])
def test_without_its_head_it_is_the_same_network(model, tmp_path, name):
    """The backbone saved by itself has tensors without the prefix, and the same blocks."""
    alone = Saved(real.saved(getattr(model.module, CASES[name].alone), name, tmp_path / "step0"))
    assert not model.checkpoint.tensors.keys() & alone.checkpoint.tensors.keys()
    assert alone.blocks.keys() == model.blocks.keys()
    assert all((alone.blocks[key] == model.blocks[key]).all() for key in model.blocks)
    assert alone.architecture.digest == model.architecture.digest


@pytest.mark.parametrize("name", ["gpt2", "llama", "phi3"])
class TestTheForwardPass:
    """One token through the model, which says whose feature each row is: what goes into and comes out of its attention."""

    @pytest.fixture
    def seen(self, model, name, monkeypatch):
        """(blocks, arrays by name): "x" goes into q, k and v, which the attention is given; "c" goes into the output's
        matrix, which gives "a". At the one position the rotary embedding turns by nothing, and the context is v itself.
        """
        import importlib

        import torch

        own_model = model.module
        own_model.set_attn_implementation("eager")
        module = importlib.import_module(type(own_model).__module__)
        taken = {}
        attend = module.eager_attention_forward

        def watched(own, query, key, value, *args, **kwargs):
            if own.layer_idx == 1:
                for part, states in (("q", query), ("k", key), ("v", value)):  # [batch, head, position, head_dim]
                    taken[part] = states[0, :, 0].numpy()
            return attend(own, query, key, value, *args, **kwargs)

        def keep(own, inputs, output, into, out):
            taken[into], taken[out] = inputs[0][0, 0].numpy(), output[0, 0].numpy()

        monkeypatch.setattr(module, "eager_attention_forward", watched)
        own = own_model.transformer.h[1].attn if name == "gpt2" else own_model.model.layers[1].self_attn
        fused = {"gpt2": "c_attn", "phi3": "qkv_proj"}
        before, behind = getattr(own, fused.get(name, "q_proj")), own.c_proj if name == "gpt2" else own.o_proj
        hooks = [
            before.register_forward_hook(lambda *given: keep(*given, "x", "all")),
            behind.register_forward_hook(lambda *given: keep(*given, "c", "a")),
        ]
        with torch.no_grad():
            own_model(torch.tensor([[7]]))
        for hook in hooks:
            hook.remove()
        return model.blocks, taken, model.architecture

    def test_rows_of_q_k_and_v(self, seen):
        blocks, taken, _ = seen
        for part in "qkv":
            features = blocks["block1.x", f"block1.{part}"] @ taken["x"]
            np.testing.assert_allclose(features, taken[part].reshape(-1), rtol=1e-4, atol=1e-5)
        assert np.abs(taken["k"] - taken["v"]).max() > 0.1, "the two could not be confused"

    def test_a_neuron_of_c_is_that_of_the_head_that_q_asks_for(self, seen):
        """Heads of v are read by as many heads of q each, one group after the other; c has q's neurons in q's order."""
        blocks, taken, architecture = seen
        groups = len(taken["q"]) // len(taken["v"])
        context = np.repeat(taken["v"], groups, axis=0).reshape(-1)
        np.testing.assert_allclose(taken["c"], context, rtol=1e-6)
        linked = np.zeros_like(context)
        for link in architecture.links:
            if (link.source, link.target) == ("block1.v", "block1.c"):
                linked[link.targets(np.arange(taken["v"].size))] += taken["v"].reshape(-1)
        np.testing.assert_allclose(taken["c"], linked, rtol=1e-6)
        np.testing.assert_allclose(blocks["block1.c", "block1.a"] @ context, taken["a"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mixtral-fused", "olmoe-fused", "mixtral", "olmoe"])
def test_experts_are_those_that_the_router_asks(model):
    """What the model's experts make of one token, from our blocks: rows of the router, and each expert's g, u and m."""
    import torch

    mlp, blocks, taken = model.module.model.layers[0].mlp, model.blocks, {}
    hooks = [
        mlp.gate.register_forward_hook(lambda module, inputs, output: taken.update(logits=output[0])),
        mlp.experts.register_forward_hook(lambda module, inputs, output: taken.update(inputs=inputs, output=output)),
    ]
    with torch.no_grad():
        mlp(torch.randn(1, 1, 24, generator=torch.Generator().manual_seed(3)))
    for hook in hooks:
        hook.remove()
    token, chosen, shares = (array.reshape(-1).numpy() for array in taken["inputs"])
    logits = blocks["block0.a", "block0.r"] @ token
    assert set(chosen) == set(np.argsort(logits)[-len(chosen) :])
    expected = np.zeros(24)
    for expert, share in zip(chosen, shares, strict=True):
        of = f"block0.e{expert}"
        gate = blocks["block0.a", f"{of}.g"] @ token
        hidden = gate / (1 + np.exp(-gate)) * (blocks["block0.a", f"{of}.u"] @ token)
        expected += share * (blocks[f"{of}.m", "block1.x"] @ hidden)
    np.testing.assert_allclose(taken["output"].reshape(-1).numpy(), expected, rtol=1e-4, atol=1e-5)


def columns(blocks) -> list[np.ndarray]:
    """The weights of each source neuron's edges, all its targets together, one number a kernel: its norm as a float32."""
    by_source: dict[str, list[np.ndarray]] = {}
    for (source, _), weight in blocks.items():
        if weight.ndim > 2:
            weight = np.sqrt((weight.astype(np.float64) ** 2).sum(axis=tuple(range(2, weight.ndim)))).astype(np.float32)
        by_source.setdefault(source, []).append(weight)
    return [column for weights in by_source.values() for column in np.concatenate(weights).T]
