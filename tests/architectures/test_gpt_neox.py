"""The wiring of GPT-NeoX: what the paper counts, what Pythia's sizes imply, and what the real model does with its weights."""

import copy
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from suites import neox_config, neox_tensors, write_checkpoint

import ninscope
from ninscope.architectures import architecture_of
from ninscope.architectures.layout import Architecture, MatrixSpec, NodeLayer, RowLayout, WeightBlock
from ninscope.architectures.registry import FAMILIES
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError
from ninscope.networks.neuron_network import neuron_network
from ninscope.networks.sampled import sampled_network

PYTHIA = {  # blocks, width, heads
    "14m": (6, 128, 4),
    "31m": (6, 256, 8),
    "70m": (6, 512, 8),
    "160m": (12, 768, 12),
    "410m": (24, 1024, 16),
    "1b": (16, 2048, 8),
    "1.4b": (24, 2048, 16),
    "2.8b": (32, 2560, 32),
    "6.9b": (32, 4096, 32),
    "12b": (36, 5120, 40),
}
# "Non-embedding parameters" of the Pythia suite's published table: the used matrices, and biases and layernorms.
NON_EMBEDDING = {
    "70m": 18_915_328,
    "160m": 85_056_000,
    "410m": 302_311_424,
    "1b": 805_736_448,
    "1.4b": 1_208_602_624,
    "2.8b": 2_517_652_480,
    "6.9b": 6_444_163_072,
    "12b": 11_327_027_200,
}


@pytest.mark.parametrize("size", ["14m", "410m", "1b", "12b"])
class TestPythia:
    @pytest.fixture
    def architecture(self, size) -> Architecture:
        return architecture_of(neox_config(*PYTHIA[size]))

    def test_seven_node_layers_a_block_and_one(self, architecture, size):
        blocks, width, _ = PYTHIA[size]
        assert len(architecture.layers) == 7 * blocks + 1
        names = [layer.name for layer in architecture.layers]
        assert names[:8] == [f"block0.{part}" for part in "xqkvcam"] + ["block1.x"]
        assert names[-1] == "output.x"
        assert len(set(names)) == len(names)
        assert {layer.size for layer in architecture.layers} == {width, 4 * width}
        assert [layer.name for layer in architecture.layers if layer.size == 4 * width] == names[6::7]

    def test_six_weight_blocks_a_block(self, architecture, size):
        blocks, width, heads = PYTHIA[size]
        assert len(architecture.blocks) == 6 * blocks
        for number in range(blocks):
            own = architecture.blocks[6 * number : 6 * number + 6]
            after = f"block{number + 1}.x" if number + 1 < blocks else "output.x"
            arrows = ["x>q", "x>k", "x>v", "c>a", "a>m"]
            expected = [tuple(f"block{number}.{part}" for part in arrow.split(">")) for arrow in arrows]
            assert [(block.source, block.target) for block in own] == [*expected, (f"block{number}.m", after)]
            assert {block.tensor for block in own} == {name for name in architecture.matrices if f".{number}." in name}
            assert [block.rows.part for block in own] == [0, 1, 2, 0, 0, 0]
            assert [(block.rows.parts, block.rows.group) for block in own[:3]] == [(3, width // heads)] * 3

    def test_q_k_v_and_c_share_their_sample(self, architecture, size):
        groups: dict[str, list[str]] = {}
        for layer in architecture.layers:
            groups.setdefault(layer.sample_group, []).append(layer.name)
        shared = [names for names in groups.values() if len(names) > 1]
        assert shared == [[f"block{number}.{part}" for part in "qkvc"] for number in range(PYTHIA[size][0])]
        sizes = {layer.name: layer.size for layer in architecture.layers}
        assert all(len({sizes[name] for name in names}) == 1 for names in groups.values())

    def test_every_weight_of_a_used_matrix_is_one_edge(self, architecture, size):
        """Each row of a tensor belongs to exactly one of the blocks that read it, and each column to its source."""
        sizes = {layer.name: layer.size for layer in architecture.layers}
        for name, stored in architecture.matrices.items():
            rows, columns = stored.shape
            readers = [block for block in architecture.blocks if block.tensor == name]
            assert {sizes[block.source] for block in readers} == {columns}
            taken = np.concatenate([block.rows.rows(np.arange(sizes[block.target])) for block in readers])
            np.testing.assert_array_equal(np.sort(taken), np.arange(rows))


@pytest.mark.parametrize(("size", "published"), NON_EMBEDDING.items())
def test_as_many_weights_as_published(size, published):
    blocks, width, heads = PYTHIA[size]
    weights = sum(
        math.prod(stored.shape) for stored in architecture_of(neox_config(blocks, width, heads)).matrices.values()
    )
    vectors = blocks * (3 + 1 + 4 + 1 + 2 + 2) * width + 2 * width  # biases, two layernorms a block, and the last
    assert weights + vectors == published


def test_node_counts_of_the_paper():
    """Table 3 (with its erratum for 410M): 128, 64 and 32 neurons a layer."""
    counts = {name: 7 * blocks + 1 for name, (blocks, _, _) in PYTHIA.items()}
    assert [counts["14m"] * n for n in (128, 64, 32)] == [5504, 2752, 1376]
    assert [counts["410m"] * n for n in (64, 32)] == [10816, 5408]


def test_an_intermediate_size_of_its_own():
    architecture = architecture_of(neox_config(1, 32, 4, intermediate=80))
    assert [layer.size for layer in architecture.layers] == [32] * 6 + [80, 32]
    assert architecture.matrices["layers.0.mlp.dense_h_to_4h.weight"].shape == (80, 32)
    assert architecture.matrices["layers.0.mlp.dense_4h_to_h.weight"].shape == (32, 80)


class TestRowLayout:
    @given(heads=st.integers(1, 6), head_width=st.integers(1, 9), part=st.integers(0, 2))
    def test_against_a_reshape(self, heads, head_width, part):
        """Fused rows viewed as [head, (q|k|v), head_dim]: the part's rows, heads one after the other."""
        numbered = np.arange(3 * heads * head_width).reshape(heads, 3, head_width)
        rows = RowLayout(part, 3, head_width).rows(np.arange(heads * head_width))
        np.testing.assert_array_equal(rows, numbered[:, part].reshape(-1))

    def test_by_hand(self):
        """Two heads of two: q0 q1 k0 k1 v0 v1 | q2 q3 k2 k3 v2 v3."""
        assert [RowLayout(part, 3, 2).rows(np.arange(4)).tolist() for part in range(3)] == [
            [0, 1, 6, 7],
            [2, 3, 8, 9],
            [4, 5, 10, 11],
        ]

    def test_the_plain_matrix(self):
        np.testing.assert_array_equal(RowLayout().rows(np.array([0, 3, 9])), [0, 3, 9])

    @given(st.integers(1, 5), st.integers(1, 7), st.sets(st.integers(0, 200), min_size=1))
    def test_rows_increase_where_neurons_do(self, parts, group, neurons):
        rows = RowLayout(parts - 1, parts, group).rows(np.array(sorted(neurons)))
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()


class TestConfig:
    @pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"])
    @pytest.mark.parametrize("value", [None, 0, -1, 2.0, "8", True, [8], {}, 10**9, 10**30])
    def test_senseless_sizes(self, key, value):
        config = neox_config(2, 32, 4) | {key: value}
        with pytest.raises(
            CheckpointError, match=rf"config\.json: {key} is .*; an integer from 1 to \d+ was expected"
        ) as no:
            architecture_of(config)
        assert no.value.status == "corrupt"

    def test_absent_sizes(self):
        config = neox_config(2, 32, 4)
        del config["num_attention_heads"]
        with pytest.raises(CheckpointError, match="num_attention_heads is None; an integer from 1"):
            architecture_of(config)

    def test_heads_that_do_not_divide_the_width(self):
        with pytest.raises(
            CheckpointError, match="hidden_size 32 is not a multiple of num_attention_heads 5"
        ) as caught:
            architecture_of(neox_config(2, 32, 5))
        assert caught.value.status == "corrupt"

    @pytest.mark.parametrize("family", [None, "bloom", "GPT_NEOX", 3, ["gpt_neox"], {}])
    def test_other_families(self, family):
        with pytest.raises(CheckpointError, match=r"model_type .* is not supported; docs/architectures") as caught:
            architecture_of(neox_config(2, 32, 4) | {"model_type": family})
        assert caught.value.status == "unsupported"
        assert repr(family) in str(caught.value)

    def test_the_message_says_where_they_are_listed(self):
        """All of them would not fit into a line."""
        with pytest.raises(CheckpointError, match=rf"docs/architectures\.md lists the {len(FAMILIES)} families"):
            architecture_of({})

    def test_what_does_not_join_weights_does_not_matter(self):
        """Checkpoints of one suite whose config.json differ in, say, a version, have the same network."""
        config = neox_config(2, 32, 4)
        other = config | {"transformers_version": "4.24.0", "torch_dtype": "float16", "vocab_size": 7}
        assert architecture_of(other).digest == architecture_of(config).digest

    @pytest.mark.parametrize(
        "changes", [{"num_attention_heads": 8}, {"intermediate_size": 64}, {"num_hidden_layers": 3}]
    )
    def test_what_joins_weights_does(self, changes):
        config = neox_config(2, 32, 4)
        assert architecture_of(config | changes).digest != architecture_of(config).digest

    def test_the_digest_is_the_same_everywhere(self):
        """Pinned: it is a part of every content key, so a change recomputes all runs and must be meant."""
        architecture = Architecture(
            "family",
            (NodeLayer("x", 4, "x"), NodeLayer("y", 3, "y")),
            (WeightBlock("x", "y", "w", RowLayout(1, 3, 2)),),
            {"w": MatrixSpec((9, 4))},
        )
        assert architecture.digest == "3773147e75ae7e7ae1a80438b9256ade8747d8fa8875decf103fb78ecd273686"


class TestTensors:
    def test_names_as_on_the_hub_and_without_their_prefix(self, tmp_path):
        """GPTNeoXForCausalLM stores gpt_neox.layers..., GPTNeoXModel layers...: the same network."""
        tensors = neox_tensors(2, 16, 2, seed=0)
        bare = {name.removeprefix("gpt_neox."): array for name, array in tensors.items() if "embed" not in name}
        one = write_checkpoint(tmp_path / "full", tensors)
        two = write_checkpoint(tmp_path / "bare", bare, tensors.config)
        parameters = {"nodes_per_layer": 16, "samples": 1}
        assert ninscope.measure(str(one), **parameters).alpha0 == ninscope.measure(str(two), **parameters).alpha0

    def test_a_configuration_of_fewer_blocks_than_the_file(self, tmp_path):
        folder = write_checkpoint(tmp_path / "more", neox_tensors(3, 16, 2, seed=0), neox_config(2, 16, 2))
        with pytest.raises(
            CheckpointError, match=r"tensor gpt_neox\.layers\.2\..* is there, though config\.json"
        ) as caught:
            ninscope.measure(str(folder))
        assert caught.value.status == "corrupt"

    def test_all_absent(self, tmp_path):
        config = neox_config(1, 16, 2)
        folder = write_checkpoint(
            tmp_path / "other", {"transformer.h.0.attn.weight": np.ones((2, 2), np.float16)}, config
        )
        with pytest.raises(CheckpointError, match=r"tensor gpt_neox\.layers\.0\.attention.* is absent") as caught:
            ninscope.measure(str(folder))
        assert caught.value.status == "corrupt"


def blocks_of(folder, width: int) -> dict[tuple[str, str], np.ndarray]:
    """W[out, in] of every weight block, with all neurons, read through the package: (source, target) -> matrix."""
    source = open_source(folder)
    checkpoint = source.open(source.revisions()[0])
    architecture = architecture_of(checkpoint.config)
    network = sampled_network(neuron_network(checkpoint), 4 * width, 1, 0, 1e30)
    ends = np.cumsum(network.layer_sizes)
    place = {
        name: slice(end - size, end)
        for name, size, end in zip(network.layer_names, network.layer_sizes, ends, strict=True)
    }
    return {
        (block.source, block.target): network.matrix[place[block.source], place[block.target]].toarray().T
        for block in architecture.blocks
    }


WIDTH, HEADS, HIDDEN = 24, 3, 56


@pytest.fixture(scope="module")
def model():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPTNeoXConfig(
        vocab_size=40,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=HIDDEN,
        max_position_embeddings=16,
        attn_implementation="eager",
    )
    model = transformers.GPTNeoXForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()  # outputs are then the weights' alone
    return model


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "step5"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def blocks(saved):
    return blocks_of(saved, WIDTH)


class TestTheRealModel:
    """GPTNeoXForCausalLM, saved by its own save_pretrained: its forward pass says which weights are whose."""

    @pytest.fixture
    def seen(self, model, monkeypatch):
        """One token through the model: what goes into and comes out of each part, float arrays by (block, name).

        At its one position the rotary embedding turns by nothing, and the attention's context is v itself.
        """
        import torch
        from transformers.models.gpt_neox import modeling_gpt_neox

        taken = {}
        attend = modeling_gpt_neox.eager_attention_forward

        def watched(module, query, key, value, *args, **kwargs):
            for name, states in (("q", query), ("k", key), ("v", value)):  # [batch, head, position, head_dim]
                taken[module.layer_idx, name] = states[0, :, 0].reshape(-1).numpy()
            return attend(module, query, key, value, *args, **kwargs)

        monkeypatch.setattr(modeling_gpt_neox, "eager_attention_forward", watched)
        hooks = []
        for number, layer in enumerate(model.gpt_neox.layers):
            for name, module in (
                ("qkv", layer.attention.query_key_value),
                ("dense", layer.attention.dense),
                ("up", layer.mlp.dense_h_to_4h),
                ("down", layer.mlp.dense_4h_to_h),
            ):

                def keep(module, inputs, output, number=number, name=name):
                    taken[number, name + " in"] = inputs[0][0, 0].numpy()
                    taken[number, name + " out"] = output[0, 0].numpy()

                hooks.append(module.register_forward_hook(keep))
        with torch.no_grad():
            model(torch.tensor([[7]]))
        for hook in hooks:
            hook.remove()
        return taken

    @pytest.mark.parametrize("number", [0, 1])
    @pytest.mark.parametrize("part", ["q", "k", "v"])
    def test_rows_of_q_k_and_v_are_those_of_the_forward_pass(self, blocks, seen, number, part):
        """Neuron j of q is feature j % head_dim of head j // head_dim: its row times the input is that feature."""
        weights = blocks[f"block{number}.x", f"block{number}.{part}"]
        expected = seen[number, part]
        assert expected.shape == (WIDTH,)
        np.testing.assert_allclose(weights @ seen[number, "qkv in"], expected, rtol=1e-5, atol=1e-6)
        others = [seen[number, other] for other in "qkv" if other != part]
        assert all(np.abs(expected - other).max() > 0.1 for other in others), "the three could not be confused"

    @pytest.mark.parametrize("number", [0, 1])
    def test_neurons_of_c_are_numbered_as_those_of_v(self, blocks, seen, number):
        """With one token the context is v, so the order in which the model joins the heads shows."""
        np.testing.assert_allclose(seen[number, "dense in"], seen[number, "v"], rtol=1e-6)
        weights = blocks[f"block{number}.c", f"block{number}.a"]
        np.testing.assert_allclose(weights @ seen[number, "v"], seen[number, "dense out"], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("number", [0, 1])
    def test_the_mlp(self, blocks, seen, number):
        after = "block1.x" if number == 0 else "output.x"
        up, down = blocks[f"block{number}.a", f"block{number}.m"], blocks[f"block{number}.m", after]
        assert (up.shape, down.shape) == ((HIDDEN, WIDTH), (WIDTH, HIDDEN))
        np.testing.assert_allclose(up @ seen[number, "up in"], seen[number, "up out"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(down @ seen[number, "down in"], seen[number, "down out"], rtol=1e-5, atol=1e-6)

    def test_weights_are_the_modules_own_bit_for_bit(self, blocks, model):
        for number, layer in enumerate(model.gpt_neox.layers):
            dense = layer.attention.dense.weight.detach().numpy()
            np.testing.assert_array_equal(blocks[f"block{number}.c", f"block{number}.a"], dense)
            fused = layer.attention.query_key_value.weight.detach().numpy()
            by_head = fused.reshape(HEADS, 3, -1, WIDTH)
            for part, name in enumerate("qkv"):
                ours = blocks[f"block{number}.x", f"block{number}.{name}"]
                np.testing.assert_array_equal(ours, by_head[:, part].reshape(WIDTH, WIDTH))

    def test_half_precision_and_the_bare_model_are_read_alike(self, model, tmp_path):
        import torch

        half = copy.deepcopy(model).to(torch.bfloat16)
        half.save_pretrained(tmp_path / "causal")
        half.gpt_neox.save_pretrained(tmp_path / "bare")
        full, bare = blocks_of(tmp_path / "causal", WIDTH), blocks_of(tmp_path / "bare", WIDTH)
        weight = model.gpt_neox.layers[1].mlp.dense_4h_to_h.weight.detach().to(torch.bfloat16).float().numpy()
        np.testing.assert_array_equal(full["block1.m", "output.x"], weight)
        assert all((full[key] == bare[key]).all() for key in full)

    def test_sharded_by_save_pretrained(self, model, blocks, tmp_path):
        model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
        assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
        sharded = blocks_of(tmp_path / "shards", WIDTH)
        assert all((sharded[key] == blocks[key]).all() for key in blocks)

    def test_measured_by_its_name(self, saved):
        measured = ninscope.measure(str(saved), nodes_per_layer=16, samples=2)
        assert np.isfinite(measured.alpha0)
        assert measured.nodes == 15 * 16
