"""What a family's config.json and files may say, and what is refused: senseless sizes, other shapes, missing tensors."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from family_configs import CONFIGS, GROUPED
from suites import write_checkpoint

import ninscope
from ninscope.architectures import architecture_of
from ninscope.architectures.registry import FAMILIES
from ninscope.checkpoints.source import open_source
from ninscope.checkpoints.tensors import Tensor
from ninscope.errors import CheckpointError

INTEGERS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "n_embd",
    "n_layer",
    "n_head",
    "ffn_dim",
    "embed_dim",
    "num_local_experts",
    "num_experts",
    "embedding_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "n_routed_experts",
    "dim",
    "n_layers",
    "n_heads",
    "hidden_dim",
    "d_model",
    "d_kv",
    "d_ff",
    "num_layers",
    "num_heads",
    "encoder_layers",
    "decoder_layers",
    "encoder_attention_heads",
    "decoder_attention_heads",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "num_mel_bins",
    "state_size",
)
# Of plain attention, heads say no more than how its neurons are grouped.
HEADS = ("num_attention_heads", "n_head", "n_heads", "encoder_attention_heads", "decoder_attention_heads")
LISTS = ("depths", "num_heads", "hidden_sizes")


def files_tensors(config) -> dict[str, np.ndarray]:
    """Small random tensors, by the names and of the shapes that the Hub's files of such a model have."""
    rng = np.random.default_rng(5)
    architecture = architecture_of(config)
    shapes = {stored.tensor or name: stored.shape for name, stored in architecture.matrices.items()}
    return {
        architecture.prefixes[0] + name: (rng.standard_normal(shape) * 0.2).astype(np.float32)
        for name, shape in shapes.items()
    }


def refused(config, tensors=None) -> CheckpointError:
    """How a configuration, or a file of these tensors, is refused: by what all commands ask, `architecture_of` and `tensors`."""
    with pytest.raises(CheckpointError) as caught:
        architecture_of(config, tensors).tensors(tensors or {})
    assert "\n" not in str(caught.value)
    return caught.value


def reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    return replace(tensor, entry=replace(tensor.entry, shape=shape))


def test_every_family_is_tested_here():
    """But for those with a file of tests of their own."""
    of_timm = {family for family in FAMILIES if family.startswith("timm_")}
    of_diffusers = {family for family in FAMILIES if family.endswith(("Model", "Model2D"))}
    assert CONFIGS.keys() == FAMILIES.keys() - of_diffusers - of_timm - {"gpt_neox", "convgru"}
    named = {family for family, wirings in FAMILIES.items() if wirings["chain"].needs_names}
    assert named - {"UNet2DModel"} == HINTS.keys()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """family -> a checkpoint's folder, written when it is first asked for."""
    written = {}

    def get(family):
        if family not in written:
            folder = tmp_path_factory.mktemp(family) / "step0"
            written[family] = write_checkpoint(folder, files_tensors(CONFIGS[family]), CONFIGS[family])
        return written[family]

    return get


@pytest.mark.parametrize("family", CONFIGS)
class TestFiles:
    @pytest.fixture
    def tensors(self, folders, family) -> dict[str, Tensor]:
        source = open_source(folders(family))
        return dict(source.open("step0").tensors)

    def test_as_it_should_be(self, family, folders):
        assert np.isfinite(ninscope.measure(str(folders(family)), nodes_per_layer=24, samples=1).alpha0)

    def test_every_tensor_of_another_shape_is_named(self, family, tensors):
        for name, tensor in tensors.items():
            shape = tensor.shape
            other = (shape[0] + 2, *shape[1:])
            problem = refused(CONFIGS[family], tensors | {name: reshaped(tensor, other)})
            assert problem.status == "corrupt"
            assert str(problem) == (
                f"tensor {name} has shape {list(other)}, config.json ({family}) implies {list(shape)}"
            )

    def test_a_transposed_matrix_is_not_taken(self, family, tensors):
        name, tensor = next((name, t) for name, t in tensors.items() if t.shape[0] != t.shape[1])
        first, second, *kernel = tensor.shape
        problem = refused(CONFIGS[family], tensors | {name: reshaped(tensor, (second, first, *kernel))})
        assert f"tensor {name} has shape" in str(problem)

    @pytest.mark.parametrize("half", [slice(None, None, 2), slice(1, None, 2), "second"])
    def test_half_of_the_tensors(self, family, half, tensors):
        architecture = architecture_of(CONFIGS[family])
        names = list(dict.fromkeys(stored.tensor or name for name, stored in architecture.matrices.items()))
        prefix = architecture.prefixes[0]
        missing = [prefix + name for name in (names[len(names) // 2 :] if half == "second" else names[half])]
        left = {name: tensor for name, tensor in tensors.items() if name not in missing}
        problem = refused(CONFIGS[family], left)
        assert problem.status == "corrupt"
        assert str(problem) == f"tensor {missing[0]} is absent, though config.json ({family}) implies it"

    def test_another_family_altogether(self, family, tmp_path):
        """All the way from a file."""
        folder = write_checkpoint(tmp_path / "step0", {"a.weight": np.ones((24, 24), np.float32)}, CONFIGS[family])
        with pytest.raises(CheckpointError, match=r"is absent, though config\.json") as caught:
            ninscope.measure(str(folder))
        assert caught.value.status == "corrupt"


@pytest.mark.parametrize(
    ("family", "key"),
    [(family, key) for family in CONFIGS for key in INTEGERS if type(CONFIGS[family].get(key)) is int],
)
class TestIntegers:
    def test_senseless(self, family, key):
        for value in (0, -1, 2.0, "8", True, [8], {}, 10**9, 10**30):
            problem = refused(CONFIGS[family] | {key: value})
            assert problem.status == "corrupt"
            assert str(problem).startswith(f"config.json: {key} is {value!r}; an integer from 1 to ")

    def test_absent(self, family, key):
        config = {name: value for name, value in CONFIGS[family].items() if name != key}
        assert str(refused(config)).startswith(f"config.json: {key} is None; an integer from 1 to ")

    def test_another_one_is_another_network(self, family, key):
        other = architecture_of(CONFIGS[family] | {key: 2 * CONFIGS[family][key]})
        same = key in HEADS and family not in GROUPED
        assert (other.digest == architecture_of(CONFIGS[family]).digest) is same


@pytest.mark.parametrize(
    ("family", "key"), [(family, key) for family in CONFIGS for key in LISTS if type(CONFIGS[family].get(key)) is list]
)
def test_senseless_lists(family, key):
    for value in (None, [], 3, "12", {}, [1] * 101, [0, 1], [1, "2"], [True, 1], [1, 10**30], [[1], 2]):
        problem = refused(CONFIGS[family] | {key: value})
        assert problem.status == "corrupt"
        assert str(problem).startswith(f"config.json: {key}")


@pytest.mark.parametrize("family", CONFIGS)
def test_what_does_not_join_weights_does_not_matter(family):
    config = CONFIGS[family]
    other = config | {"vocab_size": 9, "transformers_version": "4.1", "dtype": "bfloat16", "max_position_embeddings": 4}
    assert architecture_of(other).digest == architecture_of(config).digest


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gpt2", {"n_head": 5}, "n_embd 24 is not a multiple of n_head 5"),
        ("gpt2", {"n_inner": 0}, "n_inner is 0; an integer from 1"),
        ("bert", {"num_attention_heads": 7}, "hidden_size 24 is not a multiple of num_attention_heads 7"),
        ("vit", {"num_attention_heads": 48}, "hidden_size 24 is not a multiple of num_attention_heads 48"),
        ("vit", {"patch_size": [4, 0]}, r"patch_size\[1\] is 0; an integer from 1"),
        ("vit", {"patch_size": [4, 4, 4]}, r"patch_size is \[4, 4, 4\]; an integer from 1"),
        ("vit", {"num_channels": "rgb"}, "num_channels is 'rgb'; an integer from 1"),
        ("opt", {"num_attention_heads": 5}, "hidden_size 24 is not a multiple of num_attention_heads 5"),
        ("opt", {"word_embed_proj_dim": -3}, "word_embed_proj_dim is -3; an integer from 1"),
        ("llama", {"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ("mistral", {"num_key_value_heads": 8}, "num_attention_heads 4 is not a multiple of num_key_value_heads 8"),
        (
            "llama",
            {"num_attention_heads": 100_000, "num_key_value_heads": 1, "head_dim": 1},
            "100000 heads share 1 key-value heads in each of 2 blocks, which takes more than 100000 links",
        ),
        ("llama", {"num_attention_heads": 10}, "hidden_size 24 is not a multiple of num_attention_heads 10"),
        ("qwen3", {"head_dim": 0}, "head_dim is 0; an integer from 1"),
        ("mixtral", {"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ("olmoe", {"num_experts": 20_000}, r"2 blocks of 20000 experts \(num_experts\); at most 30000"),
        ("qwen3_moe", {"mlp_only_layers": 1}, "mlp_only_layers is 1; a list of blocks' numbers"),
        ("qwen3_moe", {"mlp_only_layers": ["0"]}, r"mlp_only_layers is \['0'\]; a list of blocks' numbers"),
        ("qwen2_moe", {"decoder_sparse_step": 2}, "intermediate_size is None; an integer from 1"),
        ("deepseek_v3", {"first_k_dense_replace": -1}, "first_k_dense_replace is -1; an integer from 1"),
        ("deepseek_v3", {"kv_lora_rank": "a"}, "kv_lora_rank is 'a'; an integer from 1"),
        ("gemma4_text", {"layer_types": ["full_attention"]}, "layer_types is not a list of .* for 2 blocks"),
        ("gemma4_text", {"per_layer_config": [1]}, r"per_layer_config is \[1\]; sizes by block"),
        ("gemma4_text", {"num_kv_shared_layers": 2}, "num_kv_shared_layers is 2; an integer from 1 to 1"),
        (
            "gemma4_text",
            {"num_kv_shared_layers": 1},
            "no block with k and v of its own has full_attention, as block 1 has",
        ),
        ("distilbert", {"n_heads": 5}, "dim 24 is not a multiple of n_heads 5"),
        ("whisper", {"decoder_attention_heads": 5}, "d_model 24 is not a multiple of decoder_attention_heads 5"),
        ("clip", {"text_config": None}, "text_config is None; the configuration of a part was expected"),
        (
            "clip",
            {"vision_config": {"num_attention_heads": 7}},
            r"vision_config\.hidden_size 768 is not a multiple of .* 7",
        ),
        ("mamba", {"time_step_rank": "all"}, "time_step_rank is 'all'; an integer from 1"),
        ("mamba2", {"num_heads": 5}, r"expand \* hidden_size 48 is not a multiple of num_heads 5"),
        ("falcon_h1", {"mamba_n_heads": 5}, "mamba_d_ssm 32 is not a multiple of mamba_n_heads 5"),
        ("swin", {"num_heads": [2]}, r"depths \[1, 2\] and num_heads \[2\] differ in length"),
        ("swin", {"num_heads": [5, 3]}, "width 12 is not a multiple of num_heads 5"),
        ("swin", {"depths": [1] * 60, "num_heads": [1] * 60}, "embed_dim 12 doubled for 60 stages is too wide"),
        ("swin", {"mlp_ratio": float("nan")}, "mlp_ratio is nan; a number up to 1000"),
        ("swin", {"mlp_ratio": 0.01}, r"mlp_ratio is 0\.01; a number"),
        ("swin", {"mlp_ratio": 10**400}, "mlp_ratio is 10+; a number"),
        ("swin", {"mlp_ratio": "4"}, "mlp_ratio is '4'; a number"),
        ("swin", {"mlp_ratio": 1e300}, r"mlp_ratio is 1e\+300; a number"),
        ("resnet", {"depths": [6000, 6000]}, r"depths is \[6000, 6000\]; at most 10000 blocks in all"),
        ("resnet", {"depths": [1]}, r"depths \[1\] and hidden_sizes \[16, 24\] differ in length"),
        ("resnet", {"layer_type": "wide"}, "layer_type is 'wide'; basic or bottleneck"),
        ("resnet", {"layer_type": ["basic"]}, r"layer_type is \['basic'\]; basic or bottleneck"),
        ("resnet", {"hidden_sizes": [3, 24]}, r"hidden_sizes \[3, 24\]; a bottleneck needs 4 or more"),
    ],
)
def test_sizes_that_do_not_go_together(family, changes, message):
    with pytest.raises(CheckpointError, match=rf"config\.json: (\w+: )?.*{message}") as caught:
        architecture_of(CONFIGS[family] | changes)
    assert caught.value.status == "corrupt"


@pytest.mark.parametrize("family", ["gpt2", "bert", "roberta"])
def test_cross_attention_is_refused(family):
    with pytest.raises(CheckpointError, match="add_cross_attention is set; blocks that also read") as caught:
        architecture_of(CONFIGS[family] | {"add_cross_attention": True})
    assert caught.value.status == "unsupported"


# A tensor that only the second way of naming has.
HINTS = {
    "vit": "vit.layers.1.attention.q_proj.weight",
    "swin": "encoder.layers.1.blocks.0.mlp.fc1.weight",
    "mixtral": "model.layers.1.mlp.experts.down_proj",
    "granitemoe": "model.layers.1.block_sparse_moe.experts.down_proj",
    "olmoe": "layers.0.mlp.experts.gate_up_proj",
    "qwen2_moe": "model.layers.1.mlp.experts.down_proj",
    "qwen3_moe": "model.layers.1.mlp.experts.down_proj",
    "deepseek_v3": "layers.0.mlp.experts.gate_up_proj",
}


@pytest.mark.parametrize("model_type", ["olmo", "hf_olmo"])
def test_the_first_form_of_olmo_is_named(model_type):
    config = {"model_type": model_type, "d_model": 24, "n_layers": 2, "n_heads": 4, "mlp_hidden_size": 80}
    tensors = dict.fromkeys(["model.transformer.blocks.0.att_proj.weight"])
    with pytest.raises(
        CheckpointError, match=r"package hf_olmo .* use the repository whose name ends in -hf"
    ) as caught:
        architecture_of(config, tensors)
    assert caught.value.status == "unsupported"


def test_a_block_that_predicts_a_further_token_is_left_out(folders):
    """DeepSeek-V3's files hold it behind the last block. transformers does not load it."""
    source = open_source(folders("deepseek_v3"))
    tensors = dict(source.open("step0").tensors)
    last = {name.replace("layers.1.", "layers.2."): tensor for name, tensor in tensors.items() if "layers.1." in name}
    more = tensors | last | {"model.layers.2.eh_proj.weight": next(iter(tensors.values()))}
    architecture = architecture_of(CONFIGS["deepseek_v3"], more)
    assert architecture.note == "left out: block 2, which predicts a further token"
    assert architecture.tensors(more).keys() == architecture_of(CONFIGS["deepseek_v3"], tensors).tensors(tensors).keys()
    assert "tensor model.layers.2." in str(refused(CONFIGS["deepseek_v3"], tensors | last)), "a block too many"


class TestSpellings:
    """Files name the same tensors as the Hub does or as the library's modules are named; most of a file's names decide."""

    @staticmethod
    def stored_names(architecture, prefix) -> list[str]:
        return [prefix + (stored.tensor or name) for name, stored in architecture.matrices.items()]

    @pytest.mark.parametrize("family", sorted(HINTS))
    def test_half_a_file_is_known_by_what_is_left(self, family):
        wiring = FAMILIES[family]["chain"].architecture
        hub, other = (wiring(CONFIGS[family], names) for names in ((), {HINTS[family]}))
        assert hub.digest != other.digest
        assert hub.digest == architecture_of(CONFIGS[family]).digest
        for architecture in (hub, other):
            for prefix in architecture.prefixes:
                names = self.stored_names(architecture, prefix)
                for left in (names[::2], names[1::2], names[: len(names) // 2], names[len(names) // 2 :]):
                    assert wiring(CONFIGS[family], set(left)).digest == architecture.digest

    @pytest.mark.parametrize("family", sorted(HINTS))
    def test_the_network_is_the_same(self, family):
        wiring = FAMILIES[family]["chain"].architecture
        hub, other = (wiring(CONFIGS[family], names) for names in ((), {HINTS[family]}))
        assert hub.layers == other.layers
        assert hub.links == other.links
        assert {(b.source, b.target) for b in hub.blocks} == {(b.source, b.target) for b in other.blocks}


class TestDefaults:
    """What config.json may leave out, as older files on the Hub do."""

    def test_as_many_heads_of_k_and_v_as_of_q(self):
        config = {key: value for key, value in CONFIGS["llama"].items() if key != "num_key_value_heads"}
        assert architecture_of(config).digest == architecture_of(config | {"num_key_value_heads": 4}).digest
        assert architecture_of(config | {"num_key_value_heads": None}).digest == architecture_of(config).digest

    def test_head_dim(self):
        sizes = {layer.name: layer.size for layer in architecture_of(CONFIGS["llama"] | {"head_dim": None}).layers}
        assert (sizes["block0.q"], sizes["block0.k"]) == (24, 12)
        config = {key: value for key, value in CONFIGS["qwen3"].items() if key != "head_dim"}
        sizes = {layer.name: layer.size for layer in architecture_of(config).layers}
        assert (sizes["block0.q"], sizes["block0.k"], sizes["block0.c"]) == (4 * 128, 2 * 128, 4 * 128)

    def test_head_dim_that_is_null(self):
        """Ministral 3's heads share hidden_size then; where it is absent they have 128 neurons."""
        config = CONFIGS["ministral3"] | {"head_dim": None}
        assert {layer.name: layer.size for layer in architecture_of(config).layers}["block0.q"] == 24
        del config["head_dim"]
        assert {layer.name: layer.size for layer in architecture_of(config).layers}["block0.q"] == 4 * 128

    def test_sizes_by_block(self):
        """Gemma 4's older configurations say what blocks of full attention have, its newer ones what each block has."""
        older = CONFIGS["gemma4_text"]
        newer = {key: value for key, value in older.items() if key != "global_head_dim"} | {
            "per_layer_config": {"1": {"head_dim": 8}}
        }
        assert architecture_of(newer).digest == architecture_of(older).digest
        found = {layer.name: layer.size for layer in architecture_of(older).layers}
        assert (found["block0.q"], found["block1.q"]) == (24, 32)

    def test_sizes_of_a_state_space(self):
        config = CONFIGS["mamba"]
        assert (
            architecture_of(config | {"time_step_rank": "auto"}).digest
            == architecture_of(config | {"time_step_rank": 2}).digest
        )
        of_rank = {layer.name: layer.size for layer in architecture_of(config).layers}
        assert (of_rank["block0.t"], of_rank["block0.dt"]) == (3, 48)
        config = CONFIGS["falcon_h1"] | {"mamba_d_ssm": None}
        assert {layer.name: layer.size for layer in architecture_of(config).layers}["block0.z"] == 48

    def test_parts_of_clip(self):
        """Files leave out what is the library's default of a part."""
        layers = architecture_of({"model_type": "clip", "text_config": {}, "vision_config": {}}).layers
        found = {layer.name: layer.size for layer in layers}
        assert (found["text.block11.m"], found["vision.block11.m"], len(found)) == (2048, 3072, 7 * 24 + 3)

    def test_gpt2s_hidden_layer(self):
        config = CONFIGS["gpt2"]
        assert architecture_of(config).digest == architecture_of(config | {"n_inner": 96}).digest

    def test_opts_embedding(self):
        config = {key: value for key, value in CONFIGS["opt"].items() if key != "word_embed_proj_dim"}
        assert architecture_of(config).digest == architecture_of(config | {"word_embed_proj_dim": 24}).digest
        assert len(architecture_of(config).layers) == len(architecture_of(CONFIGS["opt"]).layers) - 2


class TestSamples:
    """Layers whose neurons are the same ones share their sample; the others have one of their own."""

    def test_of_grouped_query_attention_and_a_gated_mlp(self):
        groups = self.shared("llama")
        assert groups["block0.attention"] == ["block0.q", "block0.c"]
        assert groups["block0.values"] == ["block0.k", "block0.v"]
        assert groups["block1.mlp"] == ["block1.g", "block1.u", "block1.m"]

    def test_of_plain_attention_as_in_the_paper(self):
        assert self.shared("gpt2") == {f"block{n}.attention": [f"block{n}.{part}" for part in "qkvc"] for n in range(2)}

    def test_of_each_expert(self):
        groups = self.shared("mixtral")
        assert groups["block1.e2"] == ["block1.e2.g", "block1.e2.u", "block1.e2.m"]
        assert len([group for group in groups if ".e" in group]) == 6

    @staticmethod
    def shared(family) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {}
        for layer in architecture_of(CONFIGS[family]).layers:
            groups.setdefault(layer.sample_group, []).append(layer.name)
        return {group: names for group, names in groups.items() if len(names) > 1}


class TestParts:
    def test_blocks_and_kinds(self):
        """What spectra of parts are grouped by."""
        layers = {layer.name: (layer.block, layer.kind) for layer in architecture_of(CONFIGS["mixtral"]).layers}
        assert layers["block1.x"] == ("block1", "attention")
        assert layers["block1.a"] == ("block1", "mlp")
        assert layers["block0.e2.m"] == ("block0", "mlp")
        assert layers["block0.r"] == ("block0", "router")
        assert layers["output.x"] == ("output", "")
        layers = {layer.name: (layer.block, layer.kind) for layer in architecture_of(CONFIGS["swin"]).layers}
        assert layers["input.x"] == ("input", "embedding")
        assert layers["stage0.merge.n"] == ("stage0.merge", "convolution")
        assert layers["stage1.block1.c"] == ("stage1.block1", "attention")

    def test_patches_are_merged_side_by_side(self):
        links = [link for link in architecture_of(CONFIGS["swin"]).links if link.target == "stage0.merge.n"]
        assert [(link.source, link.first) for link in links] == [("stage0.merge.x", 12 * n) for n in range(4)]

    def test_a_skip_connection_has_weights_or_a_link(self):
        architecture = architecture_of(CONFIGS["resnet"])
        weights = {(block.source, block.target) for block in architecture.blocks}
        links = {(link.source, link.target) for link in architecture.links}
        ends = [layer.name for layer in architecture.layers if layer.name.endswith(".x")][1:]
        skips = set(pairwise(ends))
        assert len(skips & weights) == 2
        assert skips == (skips & weights) | links
        assert not weights & links
