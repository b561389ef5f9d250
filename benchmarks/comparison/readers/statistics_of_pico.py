"""The statistics that pico-analyze documents, from their published definitions: prints a JSON line a folder.

pico-analyze is on no package index and reads only what pico-train has stored, so it cannot be run on this suite; this says what
its statistics would tell. Statistics of weights are means over all matrices, as stored. CKA (Kornblith et al. 2019, linear) and
PWCCA (Morcos et al. 2018) compare what the blocks' MLPs write on 4,096 bytes of a text with what those of the last checkpoint
write; means over blocks. pico-analyze takes such activations from pico-train's files.

    python statistics_of_pico.py FOLDER...                                  statistics of weights
    python statistics_of_pico.py --target FOLDER --text FILE FOLDER...      also CKA and PWCCA
"""

import argparse
import json
import math

import torch
from safetensors.torch import load_file

ROWS, CONTEXT = 16, 256  # bytes of text: 16 times 256
MLP_OUTPUT = "dense_4h_to_h"


def of_matrix(matrix: torch.Tensor) -> dict[str, float]:
    """Norms, condition number, proportional effective rank, Gini and Hoyer of a matrix, float64 [out, in]."""
    singular = torch.linalg.svdvals(matrix)
    shares = singular / singular.sum()
    effective_rank = torch.exp(-(shares * shares.clamp_min(1e-300).log()).sum())
    sizes, _ = matrix.abs().flatten().sort()
    count = sizes.numel()
    root = math.sqrt(count)
    return {
        "norm_frobenius": float(matrix.norm()),
        "norm_nuclear": float(singular.sum()),
        "norm_inf": float(sizes[-1]),  # of the entries, as torch.norm has it
        "condition_number": float(singular[0] / singular[-1]),
        "per": float(effective_rank / len(singular)),
        "gini": float((count + 1 - 2 * sizes.cumsum(0).sum() / sizes.sum()) / count),
        "hoyer": float((root - sizes.sum() / matrix.norm()) / (root - 1)),
    }


def of_weights(folder: str) -> dict[str, float]:
    tensors = load_file(f"{folder}/model.safetensors")
    rows = [of_matrix(tensor.double()) for tensor in tensors.values() if tensor.ndim == 2]
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


@torch.no_grad()
def mlp_outputs(folder: str, tokens: torch.Tensor) -> list[torch.Tensor]:
    """What the MLP of every block writes: float64 [positions, hidden size] each."""
    from transformers import AutoModelForCausalLM  # not needed for weights

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    outputs: list[torch.Tensor] = []
    for name, module in model.named_modules():
        if name.endswith(MLP_OUTPUT):
            module.register_forward_hook(lambda _, __, output: outputs.append(output.flatten(0, -2).double()))
    model(tokens)
    return outputs


def linear_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """Of features [positions, neurons]; 1 where they are the same but for a rotation and a scale."""
    x, y = x - x.mean(0), y - y.mean(0)
    return float((y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


def pwcca(x: torch.Tensor, y: torch.Tensor) -> float:
    """Mean of the canonical correlations of x and y, each weighted by how much of x its direction holds."""
    x, y = x - x.mean(0), y - y.mean(0)
    directions, correlations, _ = torch.linalg.svd(_basis(x).T @ _basis(y), full_matrices=False)
    weights = ((_basis(x) @ directions).T @ x).abs().sum(1)
    return float((weights * correlations).sum() / weights.sum())


def _basis(features: torch.Tensor) -> torch.Tensor:
    left, singular, _ = torch.linalg.svd(features, full_matrices=False)
    return left[:, singular > 1e-6 * singular[0]]


def main() -> None:
    parser = argparse.ArgumentParser(description="The statistics that pico-analyze documents.")
    parser.add_argument("--target")
    parser.add_argument("--text")
    parser.add_argument("folders", nargs="+")
    options = parser.parse_args()
    target: list[torch.Tensor] = []
    if options.target:
        with open(options.text, "rb") as file:
            tokens = torch.tensor(list(file.read(ROWS * CONTEXT))).reshape(ROWS, CONTEXT)
        target = mlp_outputs(options.target, tokens)
    for folder in options.folders:
        values = of_weights(folder)
        if target:
            pairs = list(zip(mlp_outputs(folder, tokens), target, strict=True))
            values |= {
                name: sum(compare(x, y) for x, y in pairs) / len(pairs)
                for name, compare in (("cka", linear_cka), ("pwcca", pwcca))
            }
        print(json.dumps(values))


if __name__ == "__main__":
    main()
