"""Names of tensors as compiled, distributed and trainers' modules save them: the network is that of the model within."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import ninscope
from ninscope.checkpoints.wrapped_names import outer_prefixes, unwrapped
from ninscope.errors import CheckpointError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
CONFIG = transformers.LlamaConfig(vocab_size=32, num_key_value_heads=2, **SIZES)
MIXED = transformers.MixtralConfig(vocab_size=32, num_key_value_heads=2, num_local_experts=2, **SIZES)


def model(config=CONFIG):
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config)


def measured(folder, tensors, config=CONFIG, **given):
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json_string())
    save_file(
        {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}, folder / "model.safetensors"
    )
    spectrum = ninscope.measure(folder, **given)
    return spectrum.alpha0, spectrum.width, spectrum.edges, spectrum.message


def wrapped_by_compile(module):
    """With the backend that compiles nothing: names are the same, and inductor takes seconds to import."""
    return torch.compile(module, backend="eager")


def compiled(module):
    return wrapped_by_compile(module).state_dict()


def averaged(module):
    """As DistributedDataParallel names it too: module.* and a counter."""
    state = torch.optim.swa_utils.AveragedModel(module).state_dict()
    state["n_averaged"] = state["n_averaged"].reshape(1)
    return state


def compiled_within(module):
    module.model.layers[0] = wrapped_by_compile(module.model.layers[0])
    return module.state_dict()


def renamed(before):
    return lambda module: {f"{before}{name}": tensor for name, tensor in module.state_dict().items()}


def sharded_within(module):
    """As FSDP of every block writes it where it does not clean its names."""
    state = module.state_dict()
    return {
        f"_fsdp_wrapped_module.{n.replace('.self_attn', '._fsdp_wrapped_module.self_attn')}": t
        for n, t in state.items()
    }


WRAPPED = {
    "compiled": compiled,
    "averaged": averaged,
    "compiled and distributed": lambda module: averaged(wrapped_by_compile(module)),
    "compiled blocks": compiled_within,
    "sharded": sharded_within,
    "a trainer's": renamed("net."),
    "a trainer's of a trainer's": renamed("task.net."),
    "a trainer's of a compiled one": renamed("net._orig_mod."),
}


@pytest.mark.parametrize("config", [CONFIG, MIXED], ids=["llama", "mixtral"])
def test_the_network_is_that_of_the_model_within(tmp_path, config):
    plain = measured(tmp_path / "plain", model(config).state_dict(), config)
    for name, wrap in WRAPPED.items():
        assert measured(tmp_path / name, wrap(model(config)), config) == plain, name


def test_two_models_in_one_file_are_refused(tmp_path):
    both = renamed("student.")(model()) | renamed("teacher.")(model())
    with pytest.raises(
        CheckpointError, match=r"there 2 times, under student\., teacher\.; save the one that is meant"
    ) as no:
        measured(tmp_path / "both", both)
    assert no.value.status == "unsupported"


def test_a_tensor_that_is_absent_is_named_all_the_same(tmp_path):
    tensors = renamed("net._orig_mod.")(model())
    del tensors["net._orig_mod.model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(CheckpointError, match=r"tensor net\.model\.layers\.1\.mlp\.up_proj\.weight is absent"):
        measured(tmp_path / "absent", tensors)


def test_a_description_means_the_names_of_the_file_or_those_of_the_model(tmp_path):
    tensors = compiled(model())
    patterns = ["_orig_mod.model.layers.{n}.mlp.up_proj.weight", "model.layers.{n}.mlp.up_proj.weight"]
    found = [
        measured(
            tmp_path / f"{number}",
            tensors,
            architecture={"blocks": [{"tensor": each, "source": "b{n}.x", "target": "b{n}.u"}]},
        )
        for number, each in enumerate(patterns)
    ]
    assert found[0] == found[1]


def test_what_is_in_no_name_changes_nothing():
    names = {"model.layers.0.weight": 1, "modules.0": 2, "x_orig_mod.y": 3}
    assert unwrapped(names) is names
    clashing = {"a.weight": 1, "module.a.weight": 2}
    assert unwrapped(clashing) is clashing
    assert unwrapped({"module._orig_mod.a.module.b": 1}) == {"a.b": 1}


def test_outer_prefixes_end_where_numbers_begin():
    assert outer_prefixes(["net.core.layers.0.w", "net.head.w", "b"]) == [
        "net.",
        "net.core.",
        "net.head.",
        "net.core.layers.",
    ]
    assert json.dumps(outer_prefixes([f"n{number}.w" for number in range(999)])).count(",") < 16
