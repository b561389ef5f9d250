"""Every family against the real library: node layers, blocks, edges and weights of models that transformers builds and saves."""

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
from ninscope.networks.sampled import sampled_network

ALL = 1000  # more neurons than any node layer here has
ORDERS = np.array([-3.0, -1.0, 0.0, 1.0, 3.0])
KINDS = {"attention", "mlp", "convolution", "router", "embedding", "head", ""}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """name of a case -> (model, the folder it is saved in); built when first asked for."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    made = {}

    def get(name):
        if name not in made:
            model = real.built(name)
            made[name] = model, real.saved(model, name, tmp_path_factory.mktemp(name) / "step0")
        return made[name]

    return get


def opened(folder):
    source = open_source(folder)
    checkpoint = source.open(source.revisions()[0])
    return checkpoint, architecture_of(checkpoint.config, checkpoint.tensors)


def blocks_of(folder) -> dict[tuple[str, str], np.ndarray]:
    """W[out, in] of every weight block, with all neurons, read through the package: (source, target) -> matrix."""
    checkpoint, architecture = opened(folder)
    network = sampled_network(checkpoint, architecture, ALL, 1, 0, 1e30)
    ends = np.cumsum(network.layer_sizes)
    place = {
        name: slice(end - size, end)
        for name, size, end in zip(network.layer_names, network.layer_sizes, ends, strict=True)
    }
    return {
        (block.source, block.target): network.matrix[place[block.source], place[block.target]].toarray().T
        for block in architecture.blocks
    }


@pytest.mark.parametrize("name", CASES)
class TestTheRealModel:
    @pytest.fixture
    def model(self, library, name):
        return library(name)[0]

    @pytest.fixture
    def folder(self, library, name):
        return library(name)[1]

    @pytest.fixture
    def architecture(self, folder) -> Architecture:
        return opened(folder)[1]

    def test_node_layers(self, architecture, model, name):
        assert sorted(layer.size for layer in architecture.layers) == real.layer_sizes(model, name)
        assert architecture.family == FAMILIES[name]
        assert {layer.kind for layer in architecture.layers} <= KINDS

    def test_blocks_and_edges(self, architecture, model, name):
        blocks, edges, weights = real.block_and_edge_counts(model, name)
        assert len(architecture.blocks) == blocks
        assert sum(of_one * nodes for of_one, nodes in map(architecture.edges_of, architecture.blocks)) == edges
        taps = architecture.with_convolutions("per_tap")
        assert sum(of_one * nodes for of_one, nodes in map(taps.edges_of, taps.blocks)) == weights

    def test_the_file_holds_every_matrix_and_no_further_weights(self, architecture, folder, model, name):
        """As many numbers are used as the model's parameters have that are not left out on purpose."""
        stored = load_file(folder / "model.safetensors")
        first, matrix = next(iter(architecture.matrices.items()))
        prefix = next(p for p in architecture.prefixes if p + (matrix.tensor or first) in stored)
        used = {}
        for key, matrix in architecture.matrices.items():
            tensor = prefix + (matrix.tensor or key)
            assert stored[tensor].shape == matrix.shape
            used[tensor] = stored[tensor].size
        assert sum(used.values()) == real.block_and_edge_counts(model, name)[2]

    def test_weights_of_every_block_are_the_modules_own(self, folder, model, name):
        ours, modules = blocks_of(folder), real.blocks_of_modules(model, name)
        assert ours.keys() == modules.keys()
        for key, weight in modules.items():
            if weight.ndim == 4:
                norms = np.sqrt((weight.astype(np.float64) ** 2).sum(axis=(2, 3)))
                np.testing.assert_allclose(np.abs(ours[key]), norms, rtol=1e-6, err_msg=str(key))
            else:
                np.testing.assert_array_equal(ours[key], weight, err_msg=str(key))

    def test_links_join_what_is_added(self, architecture):
        """Every skip connection ends where weights end too, and the first x is reached from no later layer."""
        order = {layer.name: place for place, layer in enumerate(architecture.layers)}
        assert architecture.links
        for link in architecture.links:
            assert order[link.source] < order[link.target]

    def test_every_node_layer_is_joined(self, architecture):
        """No layer stands alone: weights or links lead to it or leave it."""
        joined = {end for block in architecture.blocks for end in (block.source, block.target)}
        joined |= {end for link in architecture.links for end in (link.source, link.target)}
        assert joined == {layer.name for layer in architecture.layers}

    def test_measured_as_the_plain_definition_says(self, folder, model, name):
        """The whole network, and a sample of all its neurons, beside the oracle on the modules' weights."""
        distances = naive_distances(real.blocks_of_modules(model, name))
        expected = naive.spectrum(distances, q=ORDERS)
        exact = ninscope.measure(str(folder), exact=True, q=ORDERS)
        sampled = ninscope.measure(str(folder), nodes_per_layer=ALL, samples=1, q=ORDERS)
        for found in (exact, sampled):
            assert found.samples[0].edges == expected["edges"]
            np.testing.assert_allclose(found.tau, expected["tau"], rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(found.alpha, expected["alpha"], rtol=1e-9)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.alone])
def test_without_its_head_it_is_the_same_network(library, tmp_path, name):
    """The backbone saved by itself has tensors without the prefix, and the same blocks."""
    model, folder = library(name)
    alone = real.saved(getattr(model, CASES[name].alone), name, tmp_path / "step0")
    whole, bare = load_file(folder / "model.safetensors"), load_file(alone / "model.safetensors")
    assert not whole.keys() & bare.keys()
    ours, full = blocks_of(alone), blocks_of(folder)
    assert ours.keys() == full.keys()
    assert all((ours[key] == full[key]).all() for key in full)
    assert opened(alone)[1].digest == opened(folder)[1].digest


@pytest.mark.parametrize("name", ["gpt2", "llama"])
class TestTheForwardPass:
    """One token through the model, which says whose feature each row is: what goes into and comes out of its attention."""

    @pytest.fixture
    def seen(self, library, name, monkeypatch):
        """(blocks, arrays by name): "x" goes into q, k and v, which the attention is given; "c" goes into the output's
        matrix, which gives "a". At the one position the rotary embedding turns by nothing, and the context is v itself.
        """
        import importlib

        import torch

        model, folder = library(name)
        model.set_attn_implementation("eager")
        module = importlib.import_module(type(model).__module__)
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
        own = model.transformer.h[1].attn if name == "gpt2" else model.model.layers[1].self_attn
        before, behind = (own.c_attn, own.c_proj) if name == "gpt2" else (own.q_proj, own.o_proj)
        hooks = [
            before.register_forward_hook(lambda *given: keep(*given, "x", "all")),
            behind.register_forward_hook(lambda *given: keep(*given, "c", "a")),
        ]
        with torch.no_grad():
            model(torch.tensor([[7]]))
        for hook in hooks:
            hook.remove()
        return blocks_of(folder), taken, opened(folder)[1]

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
def test_experts_are_those_that_the_router_asks(library, name):
    """What the model's experts make of one token, from our blocks: rows of the router, and each expert's g, u and m."""
    import torch

    model, folder = library(name)
    mlp, blocks, taken = model.model.layers[0].mlp, blocks_of(folder), {}
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


def naive_distances(blocks) -> list[np.ndarray]:
    """Distances of each source neuron's edges, all its targets together, one number a kernel: its norm as a float32."""
    of_source: dict[str, list[np.ndarray]] = {}
    for (source, _), weight in blocks.items():
        if weight.ndim == 4:
            weight = np.sqrt((weight.astype(np.float64) ** 2).sum(axis=(2, 3))).astype(np.float32)
        of_source.setdefault(source, []).append(weight)
    edges = (np.concatenate(weights) for weights in of_source.values())
    return [naive.distances_of(column) for weights in edges for column in weights.T]
