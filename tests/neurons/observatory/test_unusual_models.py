"""Models as people have them in memory (compiled, wrapped, training, broken), and requests that make no sense: one line for each,
and a model that is afterwards what it was before."""

import copy

import family_models
import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import nn  # noqa: E402

import ninscope  # noqa: E402
from ninscope.errors import RequestError  # noqa: E402

LOOK = ("lazy", "attention_entropy", "entropy_neurons")


def looked(model, examples, measures=LOOK, **settings):
    return ninscope.neurons.look(model, examples, measures, controls="none", batch_size=3, **settings)


@pytest.fixture
def tokens():
    return np.random.default_rng(0).integers(3, 31, (4, 8))


@pytest.fixture
def model():
    return family_models.built("gpt2").eval()


class Plain(nn.Module):
    """Two hidden layers of 8; `calls`: how often the second matrix is used."""

    def __init__(self, calls=1, error=None):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.calls, self.error = calls, error

    def forward(self, rows):
        if self.error is not None:
            raise self.error
        hidden = torch.relu(self.first(rows))
        for _ in range(self.calls):
            hidden = torch.relu(self.second(hidden))
        return self.head(hidden)


@pytest.fixture
def rows():
    return np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)


def test_text_is_read_by_the_tokenizer_that_is_named():
    model = nn.Sequential(nn.Embedding(256, 4), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 256)).eval()
    ids = np.frombuffer(b"some text of bytes", np.uint8)
    wanted = looked(model, ids.astype(np.int64), "lazy")
    pd.testing.assert_frame_equal(looked(model, "some text of bytes", "lazy", tokenizer="bytes"), wanted)
    with pytest.raises(RequestError, match="tokenizer /no/such/folder is not there"):
        looked(model, "some text of bytes", "lazy", tokenizer="/no/such/folder")


def test_another_dtype_leaves_the_callers_model_as_it_is(model, tokens):
    before = copy.deepcopy(model.state_dict())
    found = looked(model, tokens, "dead", dtype="bfloat16")
    after = model.state_dict()
    assert all(after[name].dtype == before[name].dtype and torch.equal(after[name], before[name]) for name in before)
    assert not np.allclose(found["value"], looked(model, tokens, "dead")["value"], rtol=1e-9, equal_nan=True)


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")], ids=["data-parallel", "compiled"]
)
def test_a_wrapped_model_is_the_one_inside(model, tokens, wrap):
    pd.testing.assert_frame_equal(looked(wrap(model), tokens), looked(model, tokens))


def test_a_model_that_compiled_itself_runs_as_it_was_written(model, tokens):
    wanted = looked(model, tokens)
    model.compile(backend="eager")
    with torch.no_grad():
        model(input_ids=torch.tensor(tokens[:3]), use_cache=False)
    pd.testing.assert_frame_equal(looked(model, tokens), wanted)


def test_a_model_in_training_is_left_as_it_was(model, tokens):
    wanted = looked(model, tokens, "all", other=copy.deepcopy(model))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    model.train().transformer.h[0].eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    pd.testing.assert_frame_equal(looked(model, tokens, "all", other=copy.deepcopy(model)), wanted)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    assert model.config._attn_implementation != "eager"


@pytest.mark.parametrize(
    "error", [KeyError("k"), AssertionError("a"), ZeroDivisionError("z"), RuntimeError("r")], ids=repr
)
def test_a_model_that_raises_is_told_in_one_line(rows, error):
    with pytest.raises(RequestError, match=rf"the model cannot be run on these examples \({type(error).__name__}"):
        looked(Plain(error=error), rows, "lazy")


def test_a_model_that_breaks_off_leaves_nothing_behind(model, tokens):
    def broken(*_):
        raise KeyError("gone")

    handle = model.transformer.ln_f.register_forward_hook(broken)
    with pytest.raises(RequestError, match="KeyError"):
        looked(model, tokens)
    handle.remove()
    assert model.config._attn_implementation != "eager"
    assert not any(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_a_model_without_weights_is_refused(model, tokens):
    with pytest.raises(RequestError, match="the model is on the device meta"):
        looked(model.to("meta"), tokens)


def test_a_layer_that_runs_twice_has_no_row_a_sample(rows):
    labels = np.arange(40) % 3
    found = looked(Plain(calls=2), rows, "all", labels=labels).set_index("measure")
    for name in ("hash_encoding", "sparse_probing"):
        assert found.loc[name, "status"] == "unsupported"
        assert "runs more than once in a pass" in found.loc[name, "message"]
    # What counts positions counts both passes.
    tokens = found.loc["dead_tokens"].set_index("layer")["value"]
    assert tokens["second.in"] == 80
    assert tokens["head.in"] == 40


def test_weights_that_are_not_finite_fail_alignment_alone(model, tokens):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.transformer.h[1].mlp.c_fc.bias[0] = float("inf")
    for mine, other, whose in ((broken, model, "the model"), (model, broken, "seed")):
        found = looked(mine, tokens, ["alignment", "sign_flips"], other=other).set_index("measure")
        assert found.loc["alignment", "status"] == "nonfinite"
        assert found.loc["alignment", "message"].startswith(f"{whose}: weights transformer.h.1.mlp.c_fc.bias")
        assert set(found.loc["sign_flips", "status"]) == {"ok"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": -1}, "batch_size is -1; an integer from 1"),
        ({"batch_size": 2.5}, r"batch_size is 2\.5; an integer from 1"),
        ({"labels": [-1] * 40}, "labels are classes, whole numbers from 0"),
        ({"labels": [[0]] * 40}, "labels are classes, whole numbers from 0, one for each sample"),
    ],
)
def test_requests_that_make_no_sense(rows, settings, message):
    with pytest.raises(RequestError, match=message):
        ninscope.neurons.look(Plain(), rows, "lazy", **settings)


def test_more_classes_than_outputs_fail_what_needs_a_loss_alone(rows):
    found = looked(Plain(), rows, "all", labels=np.arange(40) % 5).set_index("measure")
    for name in ("cett", "thresholds"):
        assert found.loc[name, "status"] == "unsupported"
        assert "the model has 3 outputs, and labels name 5 classes" in found.loc[name, "message"]
    assert set(found.loc["specialisation", "status"]) == {"ok"}


def test_a_tensor_of_bfloat16_is_numbers(rows):
    rounded = torch.tensor(rows).bfloat16()
    pd.testing.assert_frame_equal(looked(Plain(), rounded, "lazy"), looked(Plain(), rounded.float().numpy(), "lazy"))


def test_layers_that_were_named_cannot_be_changed_and_no_other_name_is_proposed(rows):
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(RequestError, match=r"layer .1. is none whose activations can be changed$"):
        looked(network, rows, "cett", layers="1", labels=np.arange(40) % 3)


def test_layers_that_only_one_model_has_are_told(tokens):
    import transformers

    torch.manual_seed(0)
    deep, shallow = (
        transformers.GPT2LMHeadModel(transformers.GPT2Config(**family_models.GPT2 | {"n_layer": layers})).eval()
        for layers in (2, 1)
    )
    for mine, other, told in (
        (deep, shallow, "the model has a layer block1.x, and seed has none"),
        (shallow, deep, "seed has a layer block1.x, and the model has none"),
    ):
        found = looked(mine, tokens, "all", other={"seed": other}).set_index("measure")
        assert found.loc["geometry_between", "status"] == "unsupported"
        assert told in found.loc["geometry_between", "message"]
        assert found.loc["function_distance", "status"] == "ok"
        assert set(found.loc["universal", "status"]) == {"ok"}
