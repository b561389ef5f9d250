"""UNets, DiT and PixArt as diffusers builds them: every weight of the real modules is read, as what and from where it is."""

import json
import math
import re

import numpy as np
import pytest
from diffusion_models import MODELS, WEIGHTS, model, real  # noqa: F401 (fixtures)
from safetensors.numpy import load_file, save_file

import ninscope
from ninscope.architectures import Reading, architecture_of
from ninscope.architectures.registry import FAMILIES
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError

torch = pytest.importorskip("torch", reason="torch is not installed")
diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

UNETS = [name for name, (family, _) in MODELS.items() if family.startswith("UNet")]
TRANSFORMED = ["stable-diffusion", "sdxl", "mixed", "pixart"]


@pytest.mark.parametrize("name", MODELS)
class TestEveryModel:
    def test_no_linear_layer_and_no_convolution_is_left_out(self, model):
        matrices = model.architecture.matrices
        assert {name: stored.shape for name, stored in matrices.items()} == {
            name: weight.shape for name, weight in model.weights.items()
        }
        assert all(stored.layout.convolves == (len(stored.shape) > 2) for stored in matrices.values())

    def test_what_is_left_out_of_the_file_are_vectors_and_tables(self, model):
        stored = load_file(model.folder / WEIGHTS)
        left = set(stored) - set(model.architecture.matrices)
        tables = (
            "class_embedding.weight",
            "embedding_table.weight",
            "scale_shift_table",
            "pos_embed.pos_embed",
            "conv_depth.weight",
            "pad_token",
        )
        assert not [tensor for tensor in left if stored[tensor].ndim > 1 and not tensor.endswith(tables)]

    def test_the_saved_file_holds_them(self, model):
        checkpoint = open_source(model.folder).open("step0")
        used = architecture_of(checkpoint.config, checkpoint.tensors).tensors(checkpoint.tensors)
        assert set(used) == set(model.weights)

    def test_every_weight_is_one_edge(self, model):
        """Rows of a matrix belong to exactly one of the blocks that read it, its columns to their one source."""
        architecture = model.architecture
        sizes = model.sizes
        for name, weight in model.weights.items():
            readers = [block for block in architecture.blocks if block.tensor == name]
            assert len({block.source for block in readers}) == 1
            assert sizes[readers[0].source] == weight.shape[1]
            rows = np.concatenate([block.rows.rows(np.arange(sizes[block.target])) for block in readers])
            np.testing.assert_array_equal(np.sort(rows), np.arange(weight.shape[0]), err_msg=name)

    @pytest.mark.parametrize("convolutions", ["norm", "per_tap"])
    def test_as_many_edges_as_the_modules_have(self, model, convolutions):
        architecture = architecture_of(model.config, reading=Reading(convolutions=convolutions))
        edges = sum(a * b for a, b in map(architecture.edges_of, architecture.blocks))
        per_tap = convolutions == "per_tap"
        assert edges == sum(w.size if per_tap else w.shape[0] * w.shape[1] for w in model.weights.values())

    def test_a_layer_called_after_a_module_is_its_output(self, model):
        """As many neurons as that has channels, in the real forward pass."""
        seen = model.seen
        named = [layer for layer in model.architecture.layers if layer.name in seen]
        assert len(named) > 8
        for layer in named:
            output = seen[layer.name].output
            channels = output.shape[1] if output.ndim > 3 else output.shape[-1]
            assert layer.size == channels, layer.name

    def test_parts_of_the_model_hold_every_layer_that_weights_leave(self, model):
        architecture = model.architecture
        left = {block.source for block in architecture.blocks}
        for layer in architecture.layers:
            if layer.name in left:
                assert re.fullmatch(r"(down|up|block)\d+|mid|time|encoder|input|output", layer.block), layer
                assert layer.kind in ("convolution", "attention", "mlp", "conditioning", "embedding", "output"), layer


@pytest.mark.parametrize("name", ["ddpm", "resampling", "mixed", "dit", "pixart"])
def test_the_whole_network_has_the_edges_that_the_weights_say(model):
    """A kernel's edge is its Euclidean norm; an edge counts where 1/150 <= |w| < 1."""
    spectrum = ninscope.measure(model.folder, exact=True, min_degree=0)
    expected = 0
    for weight in model.weights.values():
        strength = np.sqrt((weight.reshape(*weight.shape[:2], -1).astype(np.float64) ** 2).sum(-1))
        expected += int(((strength >= 1 / 150) & (strength < 1)).sum())
    assert spectrum.samples[0].edges == expected


@pytest.mark.parametrize("name", UNETS)
class TestUNets:
    def test_skip_connections_are_what_the_real_blocks_concatenate(self, model):
        """The input of every residual block on the way up is made of the outputs that its two links name, in their places."""
        architecture, seen = model.architecture, model.seen
        joined = [layer for layer in architecture.layers if layer.name.endswith(".concatenated")]
        assert len(joined) == sum(len(block.resnets) for block in model.module.up_blocks)
        sizes = model.sizes
        for layer in joined:
            taken = seen[layer.name.removesuffix(".concatenated")].input
            links = [link for link in architecture.links if link.target == layer.name]
            assert [link.first for link in links] == [0, sizes[links[0].source]]
            assert sum(sizes[link.source] for link in links) == layer.size == taken.shape[1]
            for link in links:
                found = taken[:, link.first : link.first + sizes[link.source]]
                assert torch.equal(found, seen[link.source].output), link

    def test_a_residual_block_reads_what_came_before(self, model):
        architecture, seen = model.architecture, model.seen
        sources = {block.tensor: block.source for block in architecture.blocks}
        read = [tensor for tensor in sources if re.search(r"resnets\.\d+\.conv1|samplers\.0\.conv(1)?\.weight", tensor)]
        for tensor in read:
            source, block = sources[tensor], re.sub(r"\.conv1?\.weight", "", tensor)
            if not source.endswith(".concatenated"):
                assert torch.equal(seen[block].input, seen[source].output), tensor

    def test_residual_additions_are_links(self, model):
        """Where a block has no shortcut with weights, its input is linked to its output; where it has one, it is not."""
        architecture = model.architecture
        linked = {(link.source, link.target) for link in architecture.links}
        source = {block.tensor: block.source for block in architecture.blocks}
        blocks = [path for path, part in model.module.named_modules() if type(part).__name__ == "ResnetBlock2D"]
        assert blocks
        for block in blocks:
            shortcut = f"{block}.conv_shortcut.weight" in model.weights
            assert ((source[f"{block}.conv1.weight"], block) in linked) != shortcut


@pytest.mark.parametrize("name", TRANSFORMED)
def test_cross_attention_reads_the_encoder(model):
    architecture, seen = model.architecture, model.seen
    projected = next((path for path in ("caption_projection", "encoder_hid_proj") if path in seen), None)
    first = next(path for path in seen if path.endswith("attn2.to_k"))
    encoder = seen[projected].output if projected else seen[first].input
    sources = {block.tensor: block.source for block in architecture.blocks}
    keys = [tensor for tensor in sources if re.search(r"to_[kv]\.weight", tensor)]
    reading = [tensor for tensor in keys if sources[tensor] == "encoder_hidden_states"]
    assert 0 < len(reading) < len(keys)
    for tensor in keys:
        taken = seen[tensor.removesuffix(".weight")].input
        same = taken.shape[-2:] == encoder.shape[-2:] and torch.equal(taken.reshape(-1), encoder.reshape(-1))
        assert same == (tensor in reading), tensor


@pytest.mark.parametrize("name", ["stable-diffusion"])
def test_a_gated_hidden_layer_is_its_projection_times_its_gate(model):
    """u * gelu(g) from the rows that the wiring gives u and g is what the real module gives m."""
    architecture = model.architecture
    sizes = model.sizes
    module, name = next((m, p) for p, m in model.module.named_modules() if type(m).__name__ == "GEGLU")
    parts = {block.target[-1]: block for block in architecture.blocks if block.tensor == f"{name}.proj.weight"}
    assert set(parts) == {"u", "g"}
    given = torch.randn(5, module.proj.in_features, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        u, g = (
            module.proj(given)[:, torch.from_numpy(parts[part].rows.rows(np.arange(sizes[parts[part].target])))]
            for part in "ug"
        )
        torch.testing.assert_close(u * torch.nn.functional.gelu(g), module(given))


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_modulations_are_those_that_the_real_block_takes(model):
    """Rows of norm1's matrix, from the wiring, are what the module gives as gates, shifts and scales."""
    norm, name = model.module.transformer_blocks[0].norm1, "transformer_blocks.0.norm1"
    blocks = {block.target: block for block in model.architecture.blocks if block.tensor == f"{name}.linear.weight"}
    draw = torch.Generator().manual_seed(1)
    width = norm.linear.in_features
    states, time = torch.randn(1, 3, width, generator=draw), torch.randn(1, width, generator=draw)
    with torch.no_grad():
        _, *given = norm(states, emb=time)
        made = norm.linear(torch.nn.functional.silu(time))
    parts = (
        ("gate1", "shift2", "scale2", "gate2")
        if len(given) == 4
        else ("gate1", "shift2", "scale2", "gate2", None, "gate3")
    )
    for part, values in zip(parts, given, strict=True):
        if part:
            rows = torch.from_numpy(blocks[f"{name}.{part}"].rows.rows(np.arange(width)))
            torch.testing.assert_close(made[:, rows], values)


@pytest.mark.parametrize("name", ["flux"])
def test_one_stream_joins_attention_and_feed_forward(model):
    block = "single_transformer_blocks.0"
    (first, second) = (link for link in model.architecture.links if link.target == f"{block}.concatenated")
    taken = model.seen[f"{block}.proj_out"].input
    width = model.sizes[first.source]
    assert (first.source, first.first, second.source, second.first) == (f"{block}.attn.c", 0, f"{block}.m", width)
    assert torch.equal(taken[..., :width], model.seen[f"{block}.attn"].output)
    assert torch.equal(taken[..., width:], model.seen[f"{block}.act_mlp"].output)


@pytest.mark.parametrize("name", ["sana"])
def test_a_gated_feed_forward_of_convolutions(model):
    """u is the half that the real module multiplies by the other half's activation."""
    block = "transformer_blocks.0.ff"
    inverted = f"{block}.conv_inverted.weight"
    first = {part.target[-1]: part.rows.first for part in model.architecture.blocks if part.tensor == inverted}
    hidden = model.sizes[f"{block}.m"]
    assert first == {"u": 0, "g": hidden}
    u, gate = model.seen[f"{block}.conv_depth"].output.split(hidden, dim=1)
    torch.testing.assert_close(model.seen[f"{block}.conv_point"].input, u * torch.nn.functional.silu(gate))


@pytest.mark.parametrize(("name", "norm"), [("dit", "ada_norm_zero"), ("pixart", "ada_norm_single")])
def test_transformers_of_older_files_are_told_apart_by_their_norm(model, norm):
    older = model.config | {"_class_name": "Transformer2DModel", "norm_type": norm}
    assert architecture_of(older).digest == model.architecture.digest


def test_older_names_of_attention(real, tmp_path):
    """google/ddpm-cifar10-32 and its like were saved before attention's parts had the names of today."""
    model = real("ddpm")
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def older(tensor: str) -> str:
        for new, old in names.items():
            tensor = tensor.replace(new, old)
        return tensor

    folder = tmp_path / "step0"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(model.config))
    save_file({older(tensor): values for tensor, values in load_file(model.folder / WEIGHTS).items()}, folder / WEIGHTS)
    ours, theirs = (ninscope.measure(place, exact=True) for place in (folder, model.folder))
    assert ours.alpha0 == theirs.alpha0
    assert ours.samples[0].edges == theirs.samples[0].edges > 0


SDXL = {
    "sample_size": 128, "block_out_channels": [320, 640, 1280], "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
CIFAR = {
    "sample_size": 32, "block_out_channels": [128, 256, 256, 256], "attention_head_dim": None, "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
STABLE_DIFFUSION = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}


@pytest.mark.parametrize(("family", "config", "parameters"), [
    ("UNet2DModel", CIFAR, 35_746_307),  # google/ddpm-cifar10-32
    ("UNet2DConditionModel", STABLE_DIFFUSION, 859_520_964),  # Stable Diffusion 1.5
    ("UNet2DConditionModel", SDXL, 2_567_463_684),
    ("FluxTransformer2DModel", {"guidance_embeds": True}, 11_901_408_320),  # FLUX.1-dev
])  # fmt: skip
def test_published_models_whole(family, config, parameters):
    """Of their own sizes, without memory for their weights, and by options that stand in an older config.json only."""
    with torch.device("meta"):
        module = getattr(diffusers, family)(**config)
    weights = {
        f"{path}.weight": tuple(part.weight.shape)
        for path, part in module.named_modules()
        if isinstance(part, torch.nn.Linear | torch.nn.Conv2d)
    }
    matrices = architecture_of({"_class_name": family} | config).matrices
    assert {name: stored.shape for name, stored in matrices.items()} == weights
    vectors = sum(part.numel() for part in module.parameters() if part.ndim == 1)
    assert sum(math.prod(shape) for shape in weights.values()) + vectors == parameters


def test_families_are_known_by_their_class():
    assert {family for family, _ in MODELS.values()} | {"Transformer2DModel"} <= set(FAMILIES)


class ReadKeys(dict):
    """A configuration that notes which of its keys are asked for."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.read = set()

    def get(self, key, default=None):
        self.read.add(key)
        return super().get(key, default)


@pytest.mark.parametrize(
    "name", ["ddpm", "mixed", "dit", "pixart", "flux", "sd3", "qwen-image", "sana", "wan", "z-image"]
)
def test_any_value_of_any_option_gives_a_wiring_or_one_line(model):
    """Of those that are read: no other can change the wiring."""
    config = ReadKeys(model.config)
    architecture_of(config)
    assert len(config.read) > 8
    junk = (None, -1, 0, 1.5, True, "x", 10**12, [], [0], [[1]], [None], {}, {"a": 1}, [1] * 2000)
    refused = []
    for key in config.read:
        for value in junk:
            try:
                architecture_of(model.config | {key: value})
            except CheckpointError as error:
                refused.append(error)
    assert len(refused) > len(config.read)
    assert {error.status for error in refused} == {"corrupt", "unsupported"}
    assert not [error for error in refused if "\n" in str(error)]
