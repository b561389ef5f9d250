"""What a generic reading counts, of files that the real libraries write: every weight once, nothing else, and what is left out."""

import math
from dataclasses import replace

import numpy as np
import pytest
from suites import write_checkpoint

import ninscope
from ninscope.architectures import architecture_of
from ninscope.architectures.tied import tied_names
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError

UNKNOWN = {"model_type": "mine"}
SIZES = {
    "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "vocab_size": 61, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1, "num_local_experts": 4,
    "interleave_moe_layer_step": 1,
}  # fmt: skip


def normal(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)


def opened(folder):
    return open_source(folder).open(folder.name)


def wired(folder, tensors, config=UNKNOWN):
    checkpoint = opened(write_checkpoint(folder / "step0", tensors, config))
    return architecture_of(checkpoint.config, checkpoint.tensors)


def of_library(model, config) -> dict[str, np.ndarray]:
    """The tensors of a model of transformers, weights normal, without a head that is tied."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    built = getattr(transformers, model)(getattr(transformers, config)(**SIZES))
    tied = set(built.all_tied_weights_keys)
    return {
        name: normal(*value.shape, seed=number)
        for number, (name, value) in enumerate(built.state_dict().items())
        if name not in tied
    }


@pytest.mark.parametrize(
    ("model", "config"), [("GptOssForCausalLM", "GptOssConfig"), ("Llama4ForCausalLM", "Llama4TextConfig")]
)
def test_the_share_that_is_left_out_is_told(tmp_path, model, config):
    tensors = of_library(model, config)
    wiring = wired(tmp_path, tensors)
    experts = [name for name in tensors if "experts." in name]
    assert len(experts) in (4, 8)
    assert not {block.tensor for block in wiring.blocks} & set(experts)
    numbers = sum(tensors[name].size for name in experts if not name.endswith("_bias"))
    share = 100 * numbers / (numbers + sum(tensors[block.tensor].size for block in wiring.blocks))
    assert share > 50
    assert f"and {len(experts) - 3} more ({share:.1f} % of the weights)" in wiring.note
    found = ninscope.measure(str(tmp_path / "step0"))
    assert f"{share:.1f} % of the weights are left out (model.layers.0." in found.warning
    assert found.warning.endswith("and 1 more): describe them in [architecture]")
    assert wiring.note in found.message


@pytest.mark.parametrize(("width", "share", "warned"), [(10, "10.0", False), (11, "10.9", True)])
def test_a_tenth_is_no_warning(tmp_path, width, share, warned):
    wiring = wired(tmp_path, {"a.weight": normal(30, 30), "experts": normal(2, 5, width)})
    assert bool(wiring.warning) == warned
    assert f"left out: experts ({share} % of the weights)" in wiring.note


class TestPlaceholders:
    def test_a_model_of_which_a_block_was_not_gathered(self, tmp_path):
        tensors = of_library("Gemma2ForCausalLM", "Gemma2Config")
        write_checkpoint(tmp_path / "whole" / "step0", tensors, UNKNOWN)
        assert ninscope.measure(str(tmp_path / "whole" / "step0")).nodes > 0
        emptied = {name: np.zeros(0, np.float32) if ".layers.1." in name else t for name, t in tensors.items()}
        folder = write_checkpoint(tmp_path / "step0", emptied, UNKNOWN)
        for asked in ({}, {"architecture": {"blocks": [
            {"tensor": "model.layers.{n}.mlp.up_proj.weight", "source": "a{n}", "target": "m{n}"}]}}):  # fmt: skip
            with pytest.raises(
                CheckpointError, match=r"^tensor model\.layers\.1\.\S+ has shape \[0\], a placeholder"
            ) as no:
                ninscope.measure(str(folder), **asked)
            assert no.value.status == "corrupt"

    def test_of_a_weight_that_is_reparametrised(self, tmp_path):
        parts = {"original0": np.ones((20, 1), np.float32), "original1": np.zeros((0, 16), np.float32)}
        tensors = {f"up.parametrizations.weight.{name}": part for name, part in parts.items()}
        folder = write_checkpoint(tmp_path / "step0", tensors | {"a.weight": normal(20, 16)}, UNKNOWN)
        with pytest.raises(CheckpointError, match=r"original1 has shape \[0, 16\], a placeholder") as no:
            ninscope.measure(str(folder))
        assert no.value.status == "corrupt"

    def test_a_table_of_integers_may_be_empty(self, tmp_path):
        wiring = wired(tmp_path, {"a.weight": normal(20, 16), "ids": np.zeros((0, 3), np.int64)})
        assert len(wiring.blocks) == 1


@pytest.mark.parametrize(
    "name",
    [
        "mlp.experts.gate_up_proj_bias", "mlp.experts.bias", "rnn.bias_hh", "scale_shift_table",
        "attn.relative_position_bias_table",
        "attn.relative_attention_bias.weight", "query_tokens", "register_tokens", "pos_embed", "position", "mixer.A_log", "mask",
        "rope.cos_cached", "norm.scales",
    ],
)  # fmt: skip
def test_what_is_called_as_no_weight_is_none(tmp_path, name):
    wiring = wired(tmp_path, {"a.weight": normal(20, 16), f"blocks.0.{name}": normal(8, 16, seed=1)})
    assert [block.tensor for block in wiring.blocks] == ["a.weight"]
    assert f"left out: blocks.0.{name}" in wiring.note
    assert "of the weights" not in wiring.note


@pytest.mark.parametrize("shape", [(1, 16), (16, 1)])
def test_one_vector_is_no_matrix_unless_it_is_called_a_weight(tmp_path, shape):
    tensors = {"a.weight": normal(20, 16), "cap_pad": normal(*shape), "score.weight": normal(*shape)}
    assert [block.tensor for block in wired(tmp_path, tensors).blocks] == ["a.weight", "score.weight"]


def test_a_single_expert_is_of_the_weights_that_are_left_out(tmp_path):
    wiring = wired(tmp_path, {"a.weight": normal(30, 30), "experts.up_proj": normal(1, 10, 10)})
    assert "left out: experts.up_proj (10.0 % of the weights)" in wiring.note


@pytest.mark.parametrize(
    "name",
    ["embed_tokens.weight", "in_proj_weight", "rnn.weight_hh_l0", "kernel", "w", "visual.proj", "bias_proj.weight"],
)
def test_what_is_a_matrix_stays_one(tmp_path, name):
    assert [block.tensor for block in wired(tmp_path, {name: normal(20, 16)}).blocks] == [name]


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class TestTiedHeads:
    """One matrix that a file holds twice, in safetensors and in .bin."""

    @pytest.fixture
    def tensors(self):
        return {EMBEDDING: normal(61, 32), HEAD: normal(61, 32), "model.layers.0.up.weight": normal(40, 32, seed=2)}

    @pytest.mark.parametrize("copied", [False, True])
    def test_safetensors_and_bin_are_one_network(self, tmp_path, tensors, copied):
        torch = pytest.importorskip("torch")
        folder = write_checkpoint(tmp_path / "step0", tensors, UNKNOWN)
        of_safetensors = ninscope.measure(str(folder))
        (folder / "model.safetensors").unlink()
        state = {name: torch.from_numpy(array) for name, array in tensors.items()}
        state[HEAD] = state[EMBEDDING].clone() if copied else state[EMBEDDING]
        torch.save(state, folder / "pytorch_model.bin")
        of_bin = ninscope.measure(str(folder))
        assert of_safetensors.nodes == of_bin.nodes == 61 + 32 + 40 + 32
        assert of_safetensors.alpha0 == of_bin.alpha0
        assert of_safetensors.message == of_bin.message
        assert f"tied and counted once: {EMBEDDING}" in of_bin.message

    @pytest.mark.parametrize(
        ("config", "tied"),
        [
            ({"tie_word_embeddings": True, "vocab_size": 61}, [HEAD]),
            ({"text_config": {"tie_word_embeddings": True, "vocab_size": 61}}, [HEAD]),
            ({"tie_word_embeddings": True, "vocab_size": 60}, []),
            ({"tie_word_embeddings": False, "vocab_size": 61}, []),
            ({"tie_word_embeddings": True, "vocab_size": "61"}, []),
            ({"text_config": [61]}, []),
        ],
        ids=str,
    )
    def test_a_head_that_the_library_ties_when_it_loads(self, tmp_path, tensors, config, tied):
        """What the file holds of it is not used; the embedding stays."""
        changed = tensors | {HEAD: normal(61, 32, seed=9)}
        checkpoint = opened(write_checkpoint(tmp_path / "step0", changed, UNKNOWN))
        assert tied_names(checkpoint.tensors, config) == tied

    @pytest.mark.parametrize("row", [0, 30, 60])
    def test_one_number_tells_them_apart(self, tmp_path, tensors, row):
        tensors[HEAD][row, 3] += 1
        assert len(wired(tmp_path, tensors).blocks) == 3

    def test_several_names_of_one_and_two_of_another(self, tmp_path):
        names = ["shared.weight", "encoder.embed.weight", "decoder.embed.weight"]
        tensors = {name: normal(61, 32) for name in names} | {f"{part}.weight": normal(61, 32, seed=1) for part in "ab"}
        assert [block.tensor for block in wired(tmp_path, tensors).blocks] == ["a.weight", "decoder.embed.weight"]

    @pytest.mark.parametrize("value", [0.0, 0.1])
    def test_constant_matrices_are_not_tied(self, tmp_path, value):
        """They are alike at step 0, and not later."""
        tensors = {name: np.full((20, 16), value, np.float32) for name in ("a.weight", "b.weight")}
        assert len(wired(tmp_path, tensors).blocks) == 2

    def test_blocks_are_not_compared(self, tmp_path):
        tensors = {f"layers.{n}.up.weight": normal(20, 16) for n in (0, 1)}
        assert len(wired(tmp_path, tensors).blocks) == 2

    def test_of_what_is_not_local_some_rows_are_read(self, tmp_path):
        tensors = {name: normal(5000, 8) for name in (EMBEDDING, HEAD)}
        checkpoint = opened(write_checkpoint(tmp_path / "step0", tensors, UNKNOWN))
        read = []

        class Elsewhere:
            reads_are_free = False

            def __init__(self, file):
                self.file = file

            def read_ranges(self, ranges):
                read.extend(ranges)
                return self.file.read_ranges(ranges)

        there = {name: replace(tensor, file=Elsewhere(tensor.file)) for name, tensor in checkpoint.tensors.items()}
        assert tied_names(there, {}) == [EMBEDDING] or tied_names(there, {}) == [HEAD]
        assert sum(stop - start for start, stop in read) <= 2 * 2 * 65 * 8 * 4
        assert all(math.remainder(stop - start, 8 * 4) == 0 for start, stop in read)
