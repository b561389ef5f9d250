"""Models under adapters of peft in memory: bit for bit what merge_and_unload and a save give, and the model stays as it is."""

import pytest
from family_models import built, saved
from held_models import assert_equal, in_memory, on_disk
from lora_adapters import adapted, quietly

import ninscope
from ninscope.checkpoints.held_pieces import held_pieces
from ninscope.checkpoints.in_memory import REVISION, in_memory_source
from ninscope.checkpoints.in_memory import adapted as adapters
from ninscope.errors import CheckpointError, RequestError

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")

ALL, SOME = {"r": 2, "target_modules": "all-linear"}, {"r": 2, "target_modules": ["q_proj", "v_proj"]}
DTYPES = ("float32", "bfloat16", "float16")
# (case of `family_models`, options of LoraConfig); with every type
KINDS = {
    "llama": ("llama", ALL),
    "llama with magnitudes": ("llama", ALL | {"use_dora": True}),
    "vit": ("vit", {"r": 2, "target_modules": ["q_proj", "fc1"]}),  # whose file has other names
    "ranks by their root": ("gpt2", {"r": 3, "target_modules": ["c_attn", "c_proj"], "use_rslora": True, "fan_in_fan_out": True}),
    "gpt2 with magnitudes": ("gpt2", {"r": 2, "target_modules": ["c_fc", "wte"], "use_dora": True, "fan_in_fan_out": True}),
    "alphas by pattern": ("llama", SOME | {"alpha_pattern": {"q_proj": 7}, "rank_pattern": {"layers.1.self_attn.v_proj": 5}}),
    "biases": ("gpt2", {"r": 2, "target_modules": ["c_proj"], "lora_bias": True, "bias": "lora_only"}),
    "a head": ("llama", {"r": 2, "target_modules": ["q_proj", "lm_head"]}),
    "a tied head": ("llama-tied", {"r": 2, "target_modules": ["q_proj", "lm_head"]}),
    "a tied head and its embedding": ("llama-tied", {"r": 2, "target_modules": ["embed_tokens", "lm_head"]}),
    "a head saved whole": ("llama", SOME | {"modules_to_save": ["lm_head", "embed_tokens"]}),
    "a tied head saved whole": ("llama-tied", SOME | {"modules_to_save": ["lm_head"]}),
    "some tokens": ("gpt2", {"r": 2, "target_modules": ["c_proj"], "trainable_token_indices": [1, 3]}),
    "experts": ("mixtral", ALL),
    "experts as parameters": (
        "mixtral", {"r": 2, "target_modules": ["q_proj"], "target_parameters": ["gate_up_proj", "down_proj"]},
    ),
}  # fmt: skip


def merged(model, folder, name="llama"):
    saved(quietly(model.merge_and_unload), name, folder)
    return folder


def with_training(model):
    """Modules that peft has copied whole are no longer what they began as."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name or "trainable_tokens_delta" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(kind, DTYPES[number % 3]) for number, kind in enumerate(KINDS)] + [("llama", "bfloat16"), ("llama", "float16")],
)
def test_a_model_is_what_peft_merges_and_saves(tmp_path, kind, dtype):
    """Adapters of narrow models are float32 where peft makes them so."""
    name, options = KINDS[kind]
    model = with_training(adapted(name, dtype, **options))
    found, source = in_memory(model), in_memory_source(model)
    measured = ninscope.measure(model, min_degree=0)
    assert_equal(found, on_disk(merged(model, tmp_path / "merged", name)))
    expected = ninscope.measure(tmp_path / "merged", min_degree=0)
    assert (measured.alpha0, measured.width, measured.edges) == (expected.alpha0, expected.width, expected.edges)
    assert measured.message == expected.message
    written = ninscope.checkpoints.source.open_source(tmp_path / "merged")
    stated = written.open(written.revisions()[0]).config
    assert source.configuration.get("tie_word_embeddings") == stated.get("tie_word_embeddings")
    assert found != in_memory(built(name).to(getattr(torch, dtype)))


def two():
    """A model with two adapters, one of them with magnitudes, that have one matrix in common."""
    model = adapted("llama", **SOME)
    second = peft.LoraConfig(r=3, target_modules=["q_proj", "up_proj"], use_dora=True, init_lora_weights=False)
    quietly(model.add_adapter, "second", second)
    return model


class TestStates:
    def test_the_active_one(self, tmp_path):
        model = two()
        model.set_adapter("second")
        found = in_memory(model)
        assert_equal(found, on_disk(merged(model, tmp_path)))
        assert found != in_memory(two())

    def test_several_at_once(self, tmp_path):
        model = two()
        model.base_model.set_adapter(["default", "second"])
        found = in_memory(model)
        assert_equal(found, on_disk(merged(model, tmp_path)))

    def test_disabled(self):
        model, base = two(), in_memory(built("llama"))
        with model.disable_adapter():
            assert_equal(in_memory(model), base)
        assert in_memory(model) != base

    def test_merged_already(self):
        """The weight holds it: nothing is added. Where it is disabled as well, the next pass takes it out, roundings and all."""
        model = two()
        expected = in_memory(model)
        quietly(model.merge_adapter)
        assert_equal(in_memory(model), expected)
        with model.disable_adapter():
            found = in_memory(model)
            model(torch.zeros(1, 3, dtype=torch.long))
            assert not any(getattr(module, "merged", False) for module in model.modules())
            assert_equal(found, in_memory(model))

    def test_merged_in_part(self):
        """A layer that holds one adapter adds none of the others, as long as it does: what it computes is the test."""
        model = two()
        model.base_model.set_adapter(["default", "second"])
        quietly(model.merge_adapter, ["default"])
        tokens, alone = torch.arange(8)[None], built("llama")
        before = alone(tokens).logits
        found = in_memory(model)
        alone.load_state_dict(
            {
                name: torch.frombuffer(bytearray(one), dtype=torch.float32).view(shape)
                for name, (_, shape, one) in found.items()
            }
        )
        with torch.no_grad():
            assert torch.allclose(alone(tokens).logits, model(tokens).logits, atol=1e-5)
            assert not torch.allclose(alone(tokens).logits, before, atol=1e-2)

    def test_none_that_a_layer_has(self):
        model = two()
        quietly(model.delete_adapter, "default")
        model.set_adapter("second")
        assert [held.shape for held in in_memory_source(model).held.values()]
        values = in_memory_source(model).held["model.layers.0.self_attn.v_proj.weight"]
        base = dict(model.named_parameters())["base_model.model.model.layers.0.self_attn.v_proj.base_layer.weight"]
        assert values.pieces[0].values.data_ptr() == base.data_ptr()


class TestPlaces:
    def test_put_into_a_model_of_the_library(self, tmp_path):
        expected = on_disk(merged(adapted("llama", **SOME), tmp_path))
        for put in (
            lambda model, config: model.add_adapter(config),
            lambda model, config: peft.inject_adapter_in_model(config, model),
        ):
            model, torn = built("llama"), adapted("llama", **SOME)
            quietly(put, model, peft.LoraConfig(init_lora_weights=False, **SOME))
            model.load_state_dict({n.removeprefix("base_model.model."): t for n, t in torn.state_dict().items()})
            assert_equal(in_memory(model), expected)

    def test_wrapped_once_more(self, tmp_path):
        expected = on_disk(merged(adapted("llama", **SOME), tmp_path))
        inner = adapted("llama", **SOME)
        for number, layer in enumerate(inner.base_model.model.model.layers):
            inner.base_model.model.model.layers[number] = torch.compile(layer, backend="eager")
        wrapped = torch.nn.DataParallel(torch.compile(inner, backend="eager"))
        assert_equal(in_memory(wrapped), expected)
        assert in_memory_source(wrapped).configuration["model_type"] == "llama"

    def test_under_autocast(self, tmp_path):
        model = adapted("llama", **SOME)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = in_memory(model)
        assert_equal(found, on_disk(merged(model, tmp_path)))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_attention_of_torch(self, dtype):
        """peft puts other parameters into it whenever its modules are listed; what is measured does not."""
        torch.manual_seed(0)
        own = torch.nn.ModuleDict({"att": torch.nn.MultiheadAttention(16, 2), "up": torch.nn.Linear(16, 24)}).to(dtype)
        own.config, own.forward = (
            {"model_type": "mine"},
            lambda values: own["up"](own["att"](values, values, values)[0]),
        )
        options = peft.LoraConfig(r=2, target_modules=["att", "up"], init_lora_weights=False)
        model = quietly(peft.get_peft_model, own, options)
        held = model.base_model.model["att"].base_layer._parameters["in_proj_weight"]
        found = {
            name: one.read_ranges([(0, one.size)])[0].tobytes() for name, one in in_memory_source(model).held.items()
        }
        assert model.base_model.model["att"].base_layer._parameters["in_proj_weight"] is held
        unloaded = quietly(model.merge_and_unload).state_dict()
        assert found.keys() == unloaded.keys()
        for name, tensor in unloaded.items():
            assert found[name] == tensor.contiguous().view(torch.uint8).numpy().tobytes(), name

    @pytest.mark.parametrize(
        ("kind", "options"),
        [("LoHaConfig", {}), ("IA3Config", {"feedforward_modules": []}), ("OFTConfig", {"oft_block_size": 4})],
    )
    def test_other_kinds_of_adapters(self, kind, options):
        torch.manual_seed(0)
        own = torch.nn.Sequential(torch.nn.Linear(16, 24), torch.nn.Linear(24, 16))
        model = quietly(peft.get_peft_model, own, getattr(peft, kind)(target_modules=["0"], **options))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        found, before = in_memory(model), model.base_model.model[0].base_layer.weight.detach().clone()
        unloaded = quietly(model.merge_and_unload)
        assert_equal(found, in_memory(unloaded))
        assert not torch.equal(unloaded[0].weight, before)


def test_matrices_are_merged_one_at_a_time(monkeypatch):
    model, counted = adapted("llama", **ALL), []
    merge = adapters.merged_tensors
    monkeypatch.setattr(adapters, "merged_tensors", lambda layers: counted.append(layers) or merge(layers))
    source = in_memory_source(model)
    tensors = source.open(REVISION).tensors
    assert counted == []
    ninscope.measure(model, min_degree=0)
    assert len(counted) == 2 * 7
    assert all(len(layers) == 1 for layers in counted)
    (piece,) = held_pieces(tensors["model.layers.0.mlp.up_proj.weight"])
    assert (piece.shape, len(counted)) == ((40, 24), 15)
    assert held_pieces(tensors["model.layers.0.mlp.up_proj.weight"])[0].values is not None
    assert len(counted) == 15


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"alora_invocation_tokens": [1]},
             r"tensor model\.layers\.0\.self_attn\.q_proj\.weight cannot be computed \(NotImplementedError: .*\); measure the "
             r"model without this adapter \(peft's disable_adapter\)"),
            ({"layer_replication": [[0, 2], [0, 2]]}, r"adapter default: layer_replication is set, and such an adapter is not"),
        ],
    )  # fmt: skip
    def test_what_peft_does_not_merge(self, options, message):
        model = adapted("llama", task_type="CAUSAL_LM", **SOME, **options)
        with pytest.raises(CheckpointError, match=message) as no:
            ninscope.measure(model)
        assert no.value.status == "unsupported"
        assert "\n" not in str(no.value)
        (row,) = ninscope.measure_all(model)
        assert row.status == "unsupported"

    def test_what_is_no_change_of_weights(self):
        config = peft.AdaptionPromptConfig(adapter_len=2, adapter_layers=2, task_type="CAUSAL_LM")
        model = quietly(peft.get_peft_model, built("llama"), config)
        with pytest.raises(
            CheckpointError, match=r"adapter default is of peft's type ADAPTION_PROMPT, which no weights stand for; m"
        ):
            ninscope.measure(model)

    def test_prompts_are_no_weights(self):
        """They go before the tokens, and the matrices are the base's."""
        config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
        model = quietly(peft.get_peft_model, built("llama"), config)
        assert_equal(in_memory(model), in_memory(built("llama")))

    def test_on_the_device_meta(self):
        model = adapted("llama", **SOME).to("meta")
        with pytest.raises(
            CheckpointError, match=r"k_proj\.weight is on the device meta, where it has no values; load the model"
        ):
            ninscope.measure(model)

    def test_where_neurons_are_looked_for(self):
        from ninscope.neurons.observatory.places import places_of

        with pytest.raises(
            RequestError, match=r"merge its adapter first \(merge_and_unload\), or name modules in layers"
        ):
            places_of(adapted("llama", **SOME))
