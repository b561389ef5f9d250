"""docs/architectures.md: its table has every family, and the module it shows reads a real model of a family that is not there."""

import re
from pathlib import Path

import naive
import numpy as np
import pytest
from family_configs import CONFIGS

import ninscope
from ninscope import architectures
from ninscope.architectures import FAMILIES, architecture_of
from ninscope.architectures.families import TRANSFORMERS
from ninscope.errors import CheckpointError

PAGE = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8")
OWN = PAGE[PAGE.index("## Families of transformers") : PAGE.index("## Diffusion models")]
SOURCE = Path(architectures.__file__).parent


def rows() -> dict[str, list[str]]:
    """Cells of the families' table, by model_type."""
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in OWN.splitlines() if line.startswith("| ")]
    return {name: cells for cells in table for name in re.findall(r"`(\w+)`", cells[1]) if name != "model_type"}


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_the_table_says_how_many_node_layers(family):
    """Its last formula, with the numbers of a configuration."""
    cells, config = rows()[family], CONFIGS[family]
    depths = config.get("depths", [0])
    blocks = config.get("num_hidden_layers") or config.get("n_layer") or sum(depths)
    experts = config.get("num_experts") or config.get("num_local_experts")
    formula = re.findall(r": ([^:;]*[\dS])(?=$|;)", cells[2])[0].split(" or ")[-1]
    python = re.sub(r"([\d)])(?=[A-Z])", r"\1*", formula)
    expected = eval(python, {"B": blocks, "E": experts, "S": len(depths)})  # a page of our own
    expected += 2 * (config.get("word_embed_proj_dim", 24) != 24)
    assert len(architecture_of(config).layers) == expected


def test_the_table_has_every_family():
    assert rows().keys() == TRANSFORMERS.keys()


def test_files_that_the_page_names_are_there():
    named = set(re.findall(r"`([\w/]+\.py)`", PAGE))
    assert len(named) > 6
    for name in named:
        assert (
            (SOURCE / name).exists() or (SOURCE.parent / name).exists() or (Path(__file__).parents[2] / name).exists()
        )


class TestTheModuleThatThePageShows:
    @pytest.fixture
    def added(self, monkeypatch):
        (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
        module: dict = {}
        exec(compile(code, "docs/architectures.md", "exec"), module)
        assert module["MODEL_TYPE"] not in FAMILIES
        monkeypatch.setitem(FAMILIES, module["MODEL_TYPE"], module["architecture"])

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

    def test_measures_a_real_model(self, added, model, tmp_path):
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

    def test_refuses_what_makes_no_sense(self, added):
        config = {"model_type": "gpt_neo", "num_layers": 2, "hidden_size": 24, "num_heads": 5}
        with pytest.raises(CheckpointError, match="hidden_size 24 is no multiple of num_heads 5"):
            architecture_of(config)
