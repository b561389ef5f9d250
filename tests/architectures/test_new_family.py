"""docs/architectures.md: its tables have every family, and its module, one new file, reads a real model of a new family."""

import re
import sys
from pathlib import Path

import naive
import numpy as np
import pytest
from family_configs import CONFIGS

import ninscope
from ninscope import architectures
from ninscope.architectures import architecture_of, families
from ninscope.architectures.registry import FAMILIES, register
from ninscope.errors import CheckpointError

PAGE = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8")
SOURCE = Path(architectures.__file__).parent


def rows() -> dict[str, list[str]]:
    """Cells of the rows of the tables of families, by model_type or _class_name."""
    tables = PAGE[: PAGE.index("## Models of no known family")]
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables.splitlines() if line.startswith("| ")]
    return {
        name: cells
        for cells in table
        for name in re.findall(r"`(\w+)`", cells[1] if len(cells) > 3 else cells[0])
        if name not in ("model_type", "_class_name", "patch_size")
    }


BLOCKS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers")


def first_of(config: dict, *keys: str) -> int | None:
    """The first of these keys that a configuration has."""
    return next((config[key] for key in keys if key in config), None)


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_the_table_says_how_many_node_layers(family):
    """Its last formula, with the numbers of a configuration."""
    cells, config = rows()[family], CONFIGS[family]
    depths = config.get("depths", [0])
    towers = (config.get("text_config", config), config.get("vision_config", {}))
    blocks, others = (first_of(part, *BLOCKS) for part in towers)
    blocks, others = blocks or sum(depths), others or first_of(config, "num_decoder_layers", "decoder_layers")
    experts = first_of(towers[0], "num_experts", "num_local_experts", "n_routed_experts")
    formula = re.findall(r": ([^:;]*[\dS])(?=$|;)", cells[2])[0].split(" or ")[-1]
    python = re.sub(r"([\d)])(?=[A-Z])", r"\1*", formula)
    expected = eval(python, {"B": blocks, "D": others, "E": experts, "S": len(depths)})  # a page of our own
    expected += 2 * (config.get("word_embed_proj_dim", 24) != 24)
    assert len(architecture_of(config).layers) == expected


def test_the_table_has_every_family():
    assert rows().keys() == FAMILIES.keys()


def test_files_that_the_page_names_are_there():
    named = set(re.findall(r"`([\w/]+\.py)`", PAGE))
    assert len(named) > 6
    roots = (SOURCE, SOURCE / "families", SOURCE.parent, Path(__file__).parents[2])
    for name in named:
        assert any((root / name).exists() for root in roots), name


@pytest.fixture(scope="class")
def _one_more_file(tmp_path_factory):
    """The page's module, written into a folder that families are looked for in."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    folder = tmp_path_factory.mktemp("families")
    (folder / "gpt_neo.py").write_text(code)
    assert "gpt_neo" not in FAMILIES
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "__path__", [*families.__path__, str(folder)])
        families.load()
        yield
    del FAMILIES["gpt_neo"], sys.modules["ninscope.architectures.families.gpt_neo"], families.gpt_neo


@pytest.mark.usefixtures("_one_more_file")
class TestANewFamily:
    """One file in the folder of families, and nothing else, is a new family."""

    @pytest.fixture
    def model(self):
        torch = pytest.importorskip("torch")
        transformers = pytest.importorskip("transformers")
        torch.manual_seed(1)
        config = transformers.GPTNeoConfig(
            vocab_size=31,
            hidden_size=24,
            num_layers=2,
            num_heads=4,
            max_position_embeddings=16,
            attention_types=[[["global", "local"], 1]],
            bos_token_id=0,
            eos_token_id=1,
        )
        model = transformers.GPTNeoForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.2)
        return model

    def test_is_measured_as_its_modules_say(self, model, tmp_path):
        model.save_pretrained(tmp_path / "step0")
        distances = []
        for layer in model.transformer.h:
            own = layer.attn.attention
            for modules in (
                (own.q_proj, own.k_proj, own.v_proj),
                (own.out_proj,),
                (layer.mlp.c_fc,),
                (layer.mlp.c_proj,),
            ):
                weights = np.concatenate([module.weight.detach().numpy() for module in modules])
                distances += [naive.distances_of(column) for column in weights.T]
        q = np.array([-2.0, 0.0, 2.0])
        expected = naive.spectrum(distances, q=q)
        found = ninscope.measure(str(tmp_path / "step0"), exact=True, q=q)
        assert found.samples[0].edges == expected["edges"]
        np.testing.assert_allclose(found.alpha, expected["alpha"], rtol=1e-9)

    def test_refuses_what_makes_no_sense(self):
        config = {"model_type": "gpt_neo", "num_layers": 2, "hidden_size": 24, "num_heads": 5}
        with pytest.raises(CheckpointError, match="hidden_size 24 is not a multiple of num_heads 5"):
            architecture_of(config)

    def test_has_the_chain_alone(self):
        assert list(FAMILIES["gpt_neo"]) == ["chain"]
        with pytest.raises(ValueError, match="the wiring 'chain' of gpt_neo is registered twice"):
            register("gpt_neo")(lambda config: None)


def test_nothing_but_its_own_module_names_a_family():
    """So that a new one touches no other code: what the rest of the package says of models is true of any."""
    names = "|".join(map(re.escape, sorted(FAMILIES.keys() - {"resnet"})))  # which is also a way to resample
    others = [path for path in SOURCE.parent.rglob("*.py") if SOURCE / "families" not in path.parents]
    others = [path for path in others if not path.is_relative_to(SOURCE.parent / "neurons")]  # which runs models
    assert len(others) > 50
    for path in others:
        source = path.read_text(encoding="utf-8")
        assert "architectures.families." not in source, path
        # Publishers' repositories are called after models, and adapters' bases are stored as the libraries' modules are.
        if path.name != "suites.py" and path.parts[-2:] != ("lora", "storage.py"):
            assert not re.search(rf"""["']({names})["']""", source), path
