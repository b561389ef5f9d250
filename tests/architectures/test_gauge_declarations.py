"""What families say of their models' function: against the vectors that the real models' files hold."""

import re

import family_models as real
import pytest
from family_models import CASES, FAMILIES

from ninscope.architectures import architecture_of
from ninscope.architectures.decoder_blocks import ATTENTION, GATED_MLP, decoder
from ninscope.architectures.gauge import ADDED, READ, STREAM, Attention, Gain, Rotary
from ninscope.architectures.layout import Architecture
from ninscope.checkpoints.source import open_source

UNKNOWN = {"deepseek_v3", "falcon_h1", "gemma4_text", "mamba", "mamba2", "resnet", "rwkv"}
KNOWN = [name for name in CASES if FAMILIES[name] not in UNKNOWN]
# Vectors that no matrix of the network reads or writes: of the head, class tokens, numbers of an activation, sinks.
NO_GAINS = (
    r"(model\.|decoder\.|vit\.|swin\.|transformer\.)*(norm|ln_f|layernorm|final_layer_norm|post_layernorm|layer_norm)\.weight"
    r"|cls\..*|lm_head\..*|vocab_layer_norm\..*|.*class_embedding|.*alpha_[np]|.*sinks|vision_model\.post_layernorm\.weight"
    r"|(text_model|model\.decoder|encoder)\.(final_)?layer_norm\.weight|.*bias"
)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    made: dict[str, tuple[Architecture, dict]] = {}

    def get(name: str) -> tuple[Architecture, dict]:
        if name not in made:
            source = open_source(real.saved(real.built(name), name, tmp_path_factory.mktemp(name) / "step0"))
            checkpoint = source.open(source.revisions()[0])
            made[name] = architecture_of(checkpoint.config, checkpoint.tensors), dict(checkpoint.tensors)
        return made[name]

    return get


def names_of(architecture: Architecture) -> dict[str, int]:
    """Every vector that a gauge names, with the size that it must have."""
    sizes = {layer.name: layer.size for layer in architecture.layers}
    width = {name: matrix.layout.size(matrix.slice_shape) for name, matrix in architecture.matrices.items()}
    found = {}
    for gain in architecture.gauge.gains:
        ends = {width[name][1] for name in gain.readers} | {width[name][0] for name in gain.writers}
        assert len(ends) <= 1, gain
        found[gain.tensor] = ends.pop() if ends else None
    for attention in architecture.gauge.attentions:
        for norm, layer in ((attention.q_norm, attention.q), (attention.k_norm, attention.k)):
            if norm is not None and norm.tensor:
                found[norm.tensor] = attention.head_dim if norm.per_head else sizes[layer]
    return found


@pytest.mark.parametrize("name", KNOWN)
def test_every_gain_of_the_file_is_declared_and_no_other(read, name):
    architecture, tensors = read(name)
    prefix = architecture.prefix_in(tensors)
    declared = {prefix + tensor: size for tensor, size in names_of(architecture).items()}
    vectors = {tensor: stored.shape[0] for tensor, stored in tensors.items() if len(stored.shape) == 1}
    assert declared.keys() <= vectors.keys()
    assert all(size in (None, vectors[tensor]) for tensor, size in declared.items())
    left = vectors.keys() - declared.keys()
    assert [tensor for tensor in left if not re.fullmatch(NO_GAINS, tensor)] == []


@pytest.mark.parametrize("name", KNOWN)
def test_every_attention_is_declared(read, name):
    architecture, _ = read(name)
    sizes = {layer.name: layer.size for layer in architecture.layers}
    attentions = architecture.gauge.attentions
    assert {one.c for one in attentions} == {
        layer.name for layer in architecture.layers if re.search(r"\.x?c$", layer.name)
    }
    for one in attentions:
        assert sizes[one.q] == sizes[one.c] == one.shared * sizes[one.k] == one.shared * sizes[one.v]
        assert sizes[one.v] % one.head_dim == 0
        assert (one.c, one.output) in {(block.source, block.tensor) for block in architecture.blocks}


@pytest.mark.parametrize("name", [name for name in CASES if FAMILIES[name] in UNKNOWN])
def test_where_not_all_is_known_nothing_is_said(read, name):
    assert read(name)[0].gauge is None


def test_places(read):
    """GPT-2 before the parts, BERT behind them, Gemma 2 before and behind, with 1 + w."""
    places = {name: {gain.place for gain in read(name)[0].gauge.gains} for name in ("gpt2", "bert", "olmo2", "gemma2")}
    assert places == {"gpt2": {READ}, "bert": {STREAM}, "olmo2": {ADDED}, "gemma2": {READ, ADDED}}
    gains = read("gemma2")[0].gauge.gains
    assert gains[:4:3] == (
        Gain(
            "layers.0.input_layernorm.weight",
            READ,
            tuple(f"layers.0.self_attn.{part}_proj.weight" for part in "qkv"),
            offset=1.0,
        ),
        Gain("layers.0.post_feedforward_layernorm.weight", ADDED, (), ("layers.0.mlp.down_proj.weight",), 1.0),
    )
    assert {gain.centred for gain in gains} == {False}
    assert {gain.centred for name in ("gpt2", "bert") for gain in read(name)[0].gauge.gains} == {True}


def neox(**changed) -> Architecture:
    return architecture_of(
        {
            "model_type": "gpt_neox",
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "intermediate_size": 20,
        }
        | changed
    )


def test_gpt_neox():
    """The wiring's chain is a fiction where blocks are parallel; a quarter of a head is turned unless config.json says else."""
    gauge = neox().gauge
    assert gauge.attentions == (
        Attention(
            "block0.q",
            "block0.k",
            "block0.v",
            "block0.c",
            "layers.0.attention.dense.weight",
            8,
            rotary=Rotary(2),
        ),
    )
    assert [(detour.source, detour.target, detour.reads, detour.writes) for detour in gauge.detours] == [
        ("block0.c", "block0.a", "block0.c", "output.x"),
        ("block0.a", "block0.m", "block0.x", "block0.m"),
    ]
    assert neox(use_parallel_residual=False).gauge.detours == ()
    assert neox(rotary_pct=1.0).gauge.attentions[0].rotary == Rotary(8)
    assert neox(rope_parameters={"partial_rotary_factor": 0.5}, rotary_pct=1.0).gauge.attentions[0].rotary == Rotary(4)
    assert neox(rotary_pct=0).gauge.attentions[0].rotary is None
    assert neox(hidden_act="relu").gauge.units
    assert not gauge.units


def test_which_dimensions_are_turned_together():
    assert [Rotary(4).pair_of(i) for i in range(6)] == [0, 1, 0, 1, 4, 5]
    assert [Rotary(4, interleaved=True).pair_of(i) for i in range(6)] == [0, 0, 2, 2, 4, 5]


def test_a_new_family_that_is_built_like_a_llama_says_nothing():
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 20}
    assert decoder("llama", sizes, ATTENTION | GATED_MLP).gauge is not None
    assert decoder("newcomer", sizes, ATTENTION | GATED_MLP).gauge is None
