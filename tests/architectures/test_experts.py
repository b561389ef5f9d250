"""Experts that are stored together in one tensor, beside the library's modules: [experts, out, in] and [experts, in, out]."""

import numpy as np
import pytest
from suites import write_checkpoint

from ninscope.architectures import Reading
from ninscope.architectures.builder import Builder
from ninscope.architectures.described import description_of
from ninscope.architectures.experts import experts
from ninscope.checkpoints.source import open_source
from ninscope.errors import CheckpointError
from ninscope.networks.neuron_network import NeuronNetwork, neuron_network
from ninscope.networks.sampled import sampled_network

WIDTH, HIDDEN, COUNT = 16, 12, 3
ARGUMENTS = {
    "hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_local_experts": COUNT, "num_attention_heads": 2,
    "num_hidden_layers": 1, "hidden_act": "silu",
}  # fmt: skip
PREFIX = "layers.0.experts"
# By the library's module of experts: its configuration, the order of a matrix, rows of gate and up projection in turn.
MODULES = {
    "gpt_oss.GptOssExperts": ("GptOssConfig", "transposed", 1),
    "llama4.Llama4TextExperts": ("Llama4TextConfig", "transposed", 0),
    "qwen3_moe.Qwen3MoeExperts": ("Qwen3MoeConfig", "linear", 0),
    "granitemoe.GraniteMoeExperts": ("GraniteMoeConfig", "linear", 0),
}


def built(name):
    """The library's module, weights normal and biases 0."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    file, own = name.split(".")
    config = getattr(transformers, MODULES[name][0])(**ARGUMENTS, moe_intermediate_size=HIDDEN, num_experts=COUNT)
    module = getattr(__import__(f"transformers.models.{file}.modeling_{file}", fromlist=[own]), own)(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0 if key.endswith("bias") else 0.2))
    return module


def stored(folder, module):
    tensors = {f"{PREFIX}.{key}": value.detach().numpy() for key, value in module.named_parameters()}
    tensors["layers.0.router.weight"] = np.random.default_rng(0).normal(0, 0.2, (COUNT, WIDTH)).astype(np.float32)
    write_checkpoint(folder / "step0", tensors, {"model_type": "mine"})
    return open_source(folder / "step0").open("step0")


def as_a_family(checkpoint, order, interleaved) -> NeuronNetwork:
    net = Builder("mine")
    net.layer("block0", "a", WIDTH)
    names = {part: f"{PREFIX}.{part}_proj" for part in ("gate_up", "down")} | {"router": "layers.0.router.weight"}
    experts(net, "block0", COUNT, HIDDEN, "output.x", names, order, interleaved)
    net.layer("output", "x", WIDTH)
    wiring = net.architecture()
    tensors = wiring.tensors(checkpoint.tensors)
    return NeuronNetwork("step0", 0, "mine", wiring.layers, wiring.blocks, wiring.links, tensors, "", "")


def as_described(checkpoint, order, interleaved) -> NeuronNetwork:
    halves = {"parts": 2} if interleaved else {"rows": HIDDEN}
    second = {"parts": 2, "part": 1} if interleaved else {"rows": HIDDEN, "first": HIDDEN}
    both = {"tensor": "layers.{n}.experts.gate_up_proj[{e}]", "source": "block{n}.a", "order": order}
    blocks = [
        {"tensor": "layers.{n}.router.weight", "source": "block{n}.a", "target": "block{n}.r"},
        both | halves | {"target": "block{n}.e{e}.g"},
        both | second | {"target": "block{n}.e{e}.u"},
        {"tensor": "layers.{n}.experts.down_proj[{e}]", "source": "block{n}.e{e}.m", "target": "output.x", "order": order},
    ]  # fmt: skip
    return neuron_network(checkpoint, Reading(description=description_of({"blocks": blocks})))


def matrices(network) -> dict[tuple[str, str], np.ndarray]:
    """W[out, in] of every block, by its ends."""
    sample = sampled_network(network, 1000, 1, 0, 1e30)
    ends = np.cumsum(sample.layer_sizes)
    rows = {
        name: slice(end - size, end)
        for name, size, end in zip(sample.layer_names, sample.layer_sizes, ends, strict=True)
    }
    return {
        (block.source, block.target): sample.matrix[rows[block.source], rows[block.target]].toarray().T
        for block in network.blocks
    }


def answer(module, token, expert) -> np.ndarray:
    """What one expert of the module makes of a token [WIDTH]."""
    import torch

    with torch.no_grad():
        given = torch.from_numpy(token)[None]
        if type(module).__name__ == "Llama4TextExperts":
            return module(given.repeat(COUNT, 1))[expert].numpy()
        return module(given, torch.tensor([[expert]]), torch.ones(1, 1))[0].numpy()


def activated(module, gate, up) -> np.ndarray:
    """Each module's act(gate) * up, in its own words."""
    if type(module).__name__ != "GptOssExperts":
        return gate / (1 + np.exp(-gate)) * up
    gate, up = np.minimum(gate, module.limit), np.clip(up, -module.limit, module.limit)
    return gate / (1 + np.exp(-gate * module.alpha)) * (up + 1)


@pytest.mark.parametrize("read", [as_a_family, as_described])
@pytest.mark.parametrize("name", MODULES)
def test_each_expert_answers_as_the_module_does(tmp_path, name, read):
    module = built(name)
    _, order, interleaved = MODULES[name]
    blocks = matrices(read(stored(tmp_path, module), order, interleaved))
    assert len(blocks) == 1 + 3 * COUNT
    token = np.random.default_rng(1).normal(size=WIDTH).astype(np.float32)
    for expert in range(COUNT):
        of = f"block0.e{expert}"
        gate, up = (blocks["block0.a", f"{of}.{part}"] @ token for part in "gu")
        found = blocks[f"{of}.m", "output.x"] @ activated(module, gate, up)
        np.testing.assert_allclose(found, answer(module, token, expert), rtol=1e-4, atol=1e-5)


def test_llama4_with_a_model_of_images_is_its_decoder(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    text = ARGUMENTS | {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 31, "pad_token_id": 0}
    images = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20, "image_size": 28,
        "patch_size": 14, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16,
    }  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Llama4ForConditionalGeneration(
        transformers.Llama4Config(text_config=text, vision_config=images)
    )
    model.save_pretrained(tmp_path / "step0")
    model.language_model.save_pretrained(tmp_path / "text")
    both, alone = (neuron_network(open_source(tmp_path / name).open(name)) for name in ("step0", "text"))
    assert both.layers == alone.layers
    assert both.blocks == alone.blocks
    assert (both.note, alone.note) == ("left out: the model of images", "")
    one, other = matrices(both), matrices(alone)
    assert all(np.array_equal(one[ends], other[ends]) for ends in one)


class TestSlicesThatAreDescribed:
    @pytest.fixture
    def opened(self, tmp_path):
        """name -> shape of a file, and the tensor of the blocks that describe it -> names of the matrices."""

        def get(tensor, **shapes):
            rng = np.random.default_rng(0)
            tensors = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
            write_checkpoint(tmp_path / "step0", tensors, {"model_type": "mine"})
            letters = "{n}.{e}" if "{n}" in tensor else "{e}" if "{e}" in tensor else ""
            block = {"tensor": tensor, "source": f"a{letters}", "target": f"b{letters}"}
            checkpoint = open_source(tmp_path / "step0").open("step0")
            return neuron_network(checkpoint, Reading(description=description_of({"blocks": [block]})))

        return get

    def test_all_of_them_or_one(self, opened):
        assert list(opened("w[{e}]", w=(3, 5, 4)).matrices) == ["w[0]", "w[1]", "w[2]"]
        assert list(opened("w[2]", w=(3, 5, 4)).matrices) == ["w[2]"]
        assert opened("w[2]", w=(3, 5, 4)).sizes == {"a": 4, "b": 5}

    def test_blocks_and_experts(self, opened):
        shapes = {f"layers.{n}.w": (2, 5, 4) for n in (0, 1, 10)}
        names = [f"layers.{n}.w[{e}]" for n in (0, 1, 10) for e in (0, 1)]
        assert list(opened("layers.{n}.w[{e}]", **shapes).matrices) == names

    def test_a_name_in_brackets_is_itself(self, opened):
        found = opened("w[{e}]", **{"w[7]": (5, 4), "w": (3, 5, 4)})
        assert list(found.matrices) == ["w[7]"]
        assert found.sizes == {"a7": 4, "b7": 5}

    @pytest.mark.parametrize(
        ("tensor", "shape", "match"),
        [
            ("w[3]", (3, 5, 4), r"tensor w has shape \[3, 5, 4\], so it has no slice \[3\] \(w\[3\]\)"),
            ("w[{e}]", (3, 5), r"tensor w\[0\] has shape \[5\], which order linear cannot be"),
            ("w[{e}]", (30_001, 1, 1), r"w has shape \[30001, 1, 1\]; 1 to 30000 slices of its first axis"),
            ("v[{e}]", (3, 5, 4), r"the pattern v\[\{e\}\] matches no tensor"),
            ("w[{e+1}]", (3, 5, 4), r"the pattern w\[\{e\+1\}\] matches no tensor"),
        ],
        ids=str,
    )
    def test_slices_that_are_not_there(self, opened, tensor, shape, match):
        with pytest.raises(CheckpointError, match=match) as no:
            opened(tensor, w=shape)
        assert no.value.status == "unsupported"
