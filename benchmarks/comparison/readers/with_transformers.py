"""What one writes at first with transformers: load the model, look at it. Prints a JSON line a folder.

python with_transformers.py FOLDER...                           the norm of all weights: what is timed
python with_transformers.py --start STEP0 --text FILE FOLDER... also the change from the first checkpoint and, on 4,096
                                                                bytes of a text, the loss and the change of outputs
"""

import argparse
import json

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

ROWS, CONTEXT = 16, 256  # bytes of text: 16 times 256


def load(folder: str) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([weights.detach().flatten() for weights in model.parameters()]).double()


@torch.no_grad()
def log_probabilities(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """float64 [rows, context - 1, vocabulary]"""
    return torch.log_softmax(model(tokens).logits[:, :-1].double(), -1)


def compared(model: torch.nn.Module, start: torch.nn.Module, tokens: torch.Tensor) -> dict[str, float]:
    """The change from the first checkpoint, the loss on the text, and the KL divergence of its outputs from the first's."""
    now, then = flat(model), flat(start)
    outputs, first = log_probabilities(model, tokens), log_probabilities(start, tokens)
    return {
        "distance_from_start": float((now - then).norm()),
        "cosine_to_start": float(now @ then / (now.norm() * then.norm())),
        "text_loss": float(-outputs.gather(-1, tokens[:, 1:, None]).mean()),
        "kl_from_start": float((outputs.exp() * (outputs - first)).sum(-1).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Norms and outputs of loaded models.")
    parser.add_argument("--start")
    parser.add_argument("--text")
    parser.add_argument("folders", nargs="+")
    options = parser.parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    start = tokens = None
    if options.start:
        with open(options.text, "rb") as file:
            content = file.read(ROWS * CONTEXT)
        start, tokens = load(options.start), torch.tensor(list(content)).reshape(ROWS, CONTEXT)
    for folder in options.folders:
        model = load(folder)
        values = {"norm": float(flat(model).norm())}
        if start is not None and tokens is not None:
            values |= compared(model, start, tokens)
        print(json.dumps(values))


if __name__ == "__main__":
    main()
