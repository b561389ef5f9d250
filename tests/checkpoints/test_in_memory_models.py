"""Models in memory beside what their library saves: wrappers, ties, names, resized embeddings; tensor by tensor, and measured."""

import json

import pytest
from held_models import assert_equal, assert_measured_alike, contents, in_memory, on_disk

import ninscope
from ninscope.checkpoints.in_memory import REVISION, in_memory_source
from ninscope.checkpoints.wrapped_names import unwrapped
from ninscope.errors import CheckpointError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper  # noqa: E402

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40, "vocab_size": 32}
CONFIGS = {
    "neox": transformers.GPTNeoXConfig(**SIZES),
    "neox-tied": transformers.GPTNeoXConfig(**SIZES, tie_word_embeddings=True),
    "llama": transformers.LlamaConfig(**SIZES, num_key_value_heads=2),
    "llama-tied": transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
    "mixtral": transformers.MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=2),
    "t5-like": transformers.BertConfig(**SIZES),  # whose head is tied as well, and has a bias under two names
}
HEADS = {"t5-like": "AutoModelForMaskedLM"}


def made(name="llama", dtype=torch.float32):
    torch.manual_seed(0)
    model = getattr(transformers, HEADS.get(name, "AutoModelForCausalLM")).from_config(CONFIGS[name], torch_dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder that a model of a name is saved in."""
    folders = {}

    def folder_of(name, dtype=torch.float32):
        if (name, dtype) not in folders:
            folders[name, dtype] = tmp_path_factory.mktemp("saved") / "model"
            made(name, dtype).save_pretrained(folders[name, dtype])
        return folders[name, dtype]

    return folder_of


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *zip(CONFIGS, 2 * (torch.float32, torch.bfloat16, torch.float16), strict=True),
        ("neox", torch.bfloat16),
        ("neox", torch.float16),
    ],
)
def test_a_model_is_what_its_library_saves(saved, name, dtype):
    """Tied heads are saved once, and experts one by one."""
    model = made(name, dtype)
    assert_equal(in_memory(model), on_disk(saved(name, dtype)))
    source = in_memory_source(model)
    written = json.loads((saved(name, dtype) / "config.json").read_text())
    for stated in ("model_type", "hidden_size", "vocab_size", "tie_word_embeddings"):
        assert source.configuration.get(stated) == written.get(stated, source.configuration.get(stated))
    assert_measured_alike(model, saved(name, dtype), min_degree=0)


def compiled(module):
    """With the backend that compiles nothing: names are the same, and inductor takes seconds to import."""
    return torch.compile(module, backend="eager")


def with_layers(change):
    def changed(model):
        for number, layer in enumerate(model.model.layers):
            model.model.layers[number] = change(layer)
        return model

    return changed


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


WRAPPED = {
    "compiled": compiled,
    "compiled in place": compiled_in_place,
    "compiled blocks": with_layers(compiled),
    "compiled blocks of a compiled model": lambda model: compiled(with_layers(compiled)(model)),
    "data parallel": torch.nn.DataParallel,
    "data parallel of a compiled one": lambda model: torch.nn.DataParallel(compiled(model)),
    "compiled of a data parallel one": lambda model: compiled(torch.nn.DataParallel(model)),
    "averaged": torch.optim.swa_utils.AveragedModel,
    "blocks that are computed again": with_layers(checkpoint_wrapper),
    "compiled blocks that are computed again": with_layers(lambda layer: compiled(checkpoint_wrapper(layer))),
}


@pytest.mark.parametrize("way", WRAPPED)
def test_what_is_wrapped_is_the_model_inside(saved, way):
    wrapped = WRAPPED[way](made())
    assert_equal(in_memory(wrapped), on_disk(saved("llama")))
    assert in_memory_source(wrapped).configuration["model_type"] == "llama"
    if way == "compiled blocks of a compiled model":
        assert_measured_alike(wrapped, saved("llama"), min_degree=0)


def test_distributed_data_parallel(saved):
    distributed = torch.distributed
    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    try:
        for wrap in (lambda model: model, compiled):
            wrapped = wrap(torch.nn.parallel.DistributedDataParallel(wrap(made())))
            assert_equal(in_memory(wrapped), on_disk(saved("llama")))
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("before", ["module._orig_mod.", "_orig_mod.module.", "_fsdp_wrapped_module._orig_mod."])
def test_names_of_a_state_dict_are_those_of_its_file(tmp_path, before):
    """A state dict brings no configuration: a description finds the names within, as it does in the file."""
    state = {
        f"{before}{name}".replace(".layers.1.", ".layers.1._orig_mod._checkpoint_wrapped_module."): tensor
        for name, tensor in made().state_dict().items()
    }
    torch.save(state, tmp_path / "model.pt")
    described = {"blocks": [{"tensor": "model.layers.{n}.mlp.up_proj.weight", "source": "b{n}.x", "target": "b{n}.u"}]}
    assert_measured_alike(state, tmp_path / "model.pt", min_degree=0, architecture=described)
    assert_measured_alike(state, tmp_path / "model.pt", min_degree=0)
    assert unwrapped(state).keys() == made().state_dict().keys()
    assert_equal(contents(in_memory_source(state).open(REVISION)), on_disk(tmp_path / "model.pt"))


def test_another_wrapper_of_a_model_that_brings_its_configuration(saved):
    class Task(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    assert_equal(in_memory(Task(compiled(made()))), on_disk(saved("llama")))
    own = torch.nn.Sequential(torch.nn.Linear(24, 16))
    assert list(in_memory_source(Task(own)).held) == ["module.0.weight", "module.0.bias"]


def test_a_model_on_the_device_meta():
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(CONFIGS["neox-tied"])
    with pytest.raises(
        CheckpointError, match=r"tensor gpt_neox\.layers\.0\.\S+ is on the device meta, where it has no values"
    ):
        ninscope.measure(model)


@pytest.mark.parametrize("name", ["neox", "llama-tied"])
def test_resized_embeddings(tmp_path, name):
    """The configuration follows; one that does not is refused, in memory as in a file."""
    model = made(name)
    model.resize_token_embeddings(40)
    model.save_pretrained(tmp_path / "saved")
    assert_equal(in_memory(model), on_disk(tmp_path / "saved"))
    assert in_memory_source(model).configuration["vocab_size"] == 40
    assert_measured_alike(model, tmp_path / "saved", min_degree=0)


def test_an_embedding_of_another_size_than_the_configuration_says(tmp_path):
    config = transformers.GPT2Config(n_embd=24, n_layer=1, n_head=2, vocab_size=32)
    model = transformers.GPT2LMHeadModel(config)
    model.transformer.wte = torch.nn.Embedding(40, 24)
    model.lm_head = torch.nn.Linear(24, 40, bias=False)
    model.lm_head.weight = model.transformer.wte.weight
    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["vocab_size"] == 32
    assert_equal(in_memory(model), on_disk(tmp_path / "saved"))
    assert_measured_alike(model, tmp_path / "saved", min_degree=0)


class Block(torch.nn.Module):
    """A residual block as nanoGPT has it."""

    def __init__(self, width):
        super().__init__()
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)
        self.register_buffer("mask", torch.ones(5, 5, dtype=torch.bool))


class Own(torch.nn.Module):
    """A plain model with a tied head, in which nothing is known of its architecture."""

    def __init__(self, width=24):
        super().__init__()
        self.wte = torch.nn.Embedding(30, width)
        self.blocks = torch.nn.ModuleList(Block(width) for _ in range(11))
        self.lm_head = torch.nn.Linear(width, 30, bias=False)
        self.lm_head.weight = self.wte.weight


@pytest.mark.parametrize("way", ["plain", "compiled", "data parallel"])
@pytest.mark.parametrize(
    "described",
    [None, {"blocks": [{"tensor": "blocks.{n}.up.weight", "source": "b{n}.x", "target": "b{n}.m"},
                       {"tensor": "lm_head.weight", "source": "last", "target": "tokens"}]}],
)  # fmt: skip
def test_a_model_of_ones_own(tmp_path, described, way):
    """Beside its state dict in a file of torch: names, messages and numbers; a mask of truth values is no weight in either."""
    torch.manual_seed(0)
    model = Own()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    options = {"min_degree": 0} | ({"architecture": described} if described else {})
    wrapped = WRAPPED[way](model) if way in WRAPPED else model
    assert_measured_alike(wrapped, tmp_path / "model.pt", **options)
    found, expected = ninscope.measure(wrapped, **options), ninscope.measure(tmp_path / "model.pt", **options)
    assert found.message == expected.message
    assert [layer.layer for layer in found.layers] == [layer.layer for layer in expected.layers]
    assert_equal(in_memory(wrapped), on_disk(tmp_path / "model.pt"))


def test_a_model_whose_tensors_are_flat_is_refused():
    """FSDP1's class needs an accelerator; what tells it is its name and its place."""
    flat = type("FullyShardedDataParallel", (torch.nn.Linear,), {"__module__": "torch.distributed.fsdp"})
    for model in (flat(8, 8), torch.nn.Sequential(flat(8, 8))):
        with pytest.raises(
            CheckpointError, match=r"is sharded by FullyShardedDataParallel, .* fully_shard \(FSDP2\), or"
        ) as no:
            ninscope.measure(model)
        assert no.value.status == "unsupported"
    (row,) = ninscope.measure_all(model)
    assert row.status == "unsupported"


def test_neurons_of_a_model_with_compiled_blocks_are_found():
    """Tensors are held by plain names, and modules are found by them."""
    from ninscope.neurons.observatory.places import places_of

    plain, inside = places_of(made()), places_of(with_layers(compiled)(made()))
    assert [spot.place for spot in inside.spots] == [spot.place for spot in plain.spots]
    assert len(inside.held) == len(plain.held) > 0
