"""How families store what an adapter's modules hold: facts of the library's modules, by `model_type`, that no adapter tells.

An adapter names the modules of the model that it was trained on, as the library calls them by then. Files of the base may call
them otherwise, hold experts one by one that the model keeps in one tensor, or hold a matrix the other way round.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# Modules whose weight is [in, out] (the library's Conv1D), by the last part of their name. Every other module of these families,
# and every module of all other families of the library, is [out, in].
_GPT2 = frozenset(("c_attn", "c_fc", "c_proj", "q_attn"))
_TURNED = {
    "gpt2": _GPT2, "imagegpt": _GPT2, "decision_transformer": _GPT2, "openai-gpt": _GPT2,
}  # fmt: skip
# Experts whose stored tensor is [experts, in, out] and is adapted so. Others, Llama 4's too, are adapted as [experts, out, in].
_EXPERTS_TURNED = frozenset(("gpt_oss", "openai_privacy_filter", "aria", "aria_text"))

# Names: (part of a module's name, the same in a file of the Hub). # stands for a number. The first that fits is taken.
_VIT = (
    ("layers.#.attention.q_proj", "encoder.layer.#.attention.attention.query"),
    ("layers.#.attention.k_proj", "encoder.layer.#.attention.attention.key"),
    ("layers.#.attention.v_proj", "encoder.layer.#.attention.attention.value"),
    ("layers.#.attention.o_proj", "encoder.layer.#.attention.output.dense"),
    ("layers.#.mlp.fc1", "encoder.layer.#.intermediate.dense"),
    ("layers.#.mlp.fc2", "encoder.layer.#.output.dense"),
    ("layers.#", "encoder.layer.#"),
)
_SWIN = (
    ("blocks.#.attention.q_proj", "blocks.#.attention.self.query"),
    ("blocks.#.attention.k_proj", "blocks.#.attention.self.key"),
    ("blocks.#.attention.v_proj", "blocks.#.attention.self.value"),
    ("blocks.#.attention.o_proj", "blocks.#.attention.output.dense"),
    ("blocks.#.mlp.fc1", "blocks.#.intermediate.dense"),
    ("blocks.#.mlp.fc2", "blocks.#.output.dense"),
)
_MIXTRAL = (("layers.#.mlp", "layers.#.block_sparse_moe"),)
_SPELLED = {
    "vit": _VIT, "deit": _VIT, "vit_mae": _VIT, "vit_msn": _VIT, "ijepa": _VIT,
    "swin": _SWIN,
    "mixtral": _MIXTRAL, "minimax": _MIXTRAL, "minimax_m2": _MIXTRAL,
}  # fmt: skip
# Heads that share the weight of the input embedding where the model ties them; a file then holds that alone.
HEADS = frozenset(("lm_head", "embed_out", "output"))
EMBEDDINGS = frozenset(("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "tokens_embed"))


@dataclass(frozen=True)
class ExpertPart:
    """A part of a tensor that holds all experts. name: what stands for it where each expert is stored by itself, after the
    expert's number. number, of: its rows are part `number` of so many equal ones.
    """

    name: str
    number: int
    of: int


# By the parameter that holds all experts: the ways in which an expert's own matrices are called.
EXPERT_PARTS: Mapping[str, tuple[tuple[ExpertPart, ...], ...]] = {
    "gate_up_proj": (
        (ExpertPart("gate_proj", 0, 2), ExpertPart("up_proj", 1, 2)),
        (ExpertPart("w1", 0, 2), ExpertPart("w3", 1, 2)),
    ),
    "down_proj": ((ExpertPart("down_proj", 0, 1),), (ExpertPart("w2", 0, 1),)),
}
_EXPERT = re.compile(r"(?P<experts>.+\.experts)\.(?P<number>\d{1,6})\.(?P<name>\w+)")


def may_be_turned(module: str) -> bool:
    """Whether some family stores a module of this name [in, out]."""
    return any(is_turned(model_type, module) for model_type in _TURNED)


def is_turned(model_type: object, module: str) -> bool | None:
    """Whether a module's weight is stored [in, out]; None where that is not known of the family."""
    if not isinstance(model_type, str) or model_type not in _TURNED:
        return None
    return module.rpartition(".")[2] in _TURNED[model_type]


def experts_are_turned(model_type: object) -> bool:
    """Whether the update of experts [experts, n, n] is that of [in, out]."""
    return model_type in _EXPERTS_TURNED


def spellings(model_type: object, name: str) -> Iterator[str]:
    """The name of a module or tensor, and what files or modules of the family call it otherwise."""
    yield name
    for pair in _SPELLED.get(model_type, ()) if isinstance(model_type, str) else ():
        for written, other in (pair, pair[::-1]):
            match = _pattern(written).search(name)
            if match is not None:
                yield name[: match.start()] + other.replace("#", "{}").format(*match.groups()) + name[match.end() :]
                return


def expert_of(module: str) -> tuple[str, int, str, ExpertPart] | None:
    """(the module of all experts, the expert's number, the parameter that holds all experts, which part of it) of a module that is
    one expert's; None where it is no such module.
    """
    match = _EXPERT.fullmatch(module)
    if match is None:
        return None
    for parameter, ways in EXPERT_PARTS.items():
        for part in (part for parts in ways for part in parts if part.name == match["name"]):
            return match["experts"], int(match["number"]), parameter, part
    return None


def _pattern(written: str) -> re.Pattern[str]:
    return re.compile(rf"(?:(?<=^)|(?<=\.)){re.escape(written).replace(re.escape('#'), '([0-9]+)')}(?=\.|$)")
