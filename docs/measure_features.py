"""Make the numbers of docs/howto/features-of-your-model.md: docs/features/polysemanticity.csv. Some 150 s of one core.

    python docs/measure_features.py                  # all of it
    python docs/measure_features.py --classes-only   # without autoencoders: some seconds

Neurons are the 384 hidden neurons of the third block of data/stdlib-neox-500k (the outputs of mlp.act). Features are those of
sparse autoencoders trained on them, and classes of bytes. Autoencoders are trained on data/project-text/train.txt; everything is
measured on held_out.txt.
"""

import argparse
import string
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import GPTNeoXForCausalLM

from ninscope.neurons.polysemanticity import (
    NeuronPolysemanticity,
    control_directions,
    mean_difference_directions,
    polysemanticity_of_module,
    polysemanticity_of_neurons,
    train_sparse_autoencoder,
    typical_strengths,
)

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "features" / "polysemanticity.csv"
BLOCK, CONTEXT, TRAINING_WINDOWS, WINDOWS = 2, 256, 600, 150
STEPS = (0, 4000)  # of the model
FEATURES, TOP_K, UPDATES, SEEDS = 512, 16, (300, 1200), (0, 1)
CONTROL_SEEDS = (0, 1, 2, 3, 4)
CLASSES = {
    "letter": string.ascii_letters,
    "digit": string.digits,
    "space": " ",
    "new line": "\n",
    "bracket": "()[]{}",
    "quote": "'\"",
    "punctuation": ".,:;",
    "underscore": "_",
    "operator": "=+-*/<>%&|^~!@#\\",
}
DECIMALS = {"P": 2, "P_typical": 2, "D": 3, "explained_variance": 3, "active_features": 1}


class Suite:
    """One checkpoint of the language model, and what its third block computes."""

    def __init__(self, step: int) -> None:
        folder = ROOT / "data" / "stdlib-neox-500k" / f"step{step}"
        self.model = GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.mlp = self.model.gpt_neox.layers[BLOCK].mlp

    def activations(self, text: str, windows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(inputs of the MLP [tokens, 96], its hidden neurons [tokens, 384], bytes [tokens]) on the first windows of a text."""
        content = np.frombuffer((ROOT / "data" / "project-text" / text).read_bytes(), np.uint8)[: windows * CONTEXT]
        inputs, hidden = [], []
        handles = [
            self.mlp.register_forward_pre_hook(lambda module, given: inputs.append(given[0])),
            self.mlp.act.register_forward_hook(lambda module, given, output: hidden.append(output)),
        ]
        with torch.no_grad():
            for batch in torch.from_numpy(content.astype(np.int64)).view(-1, CONTEXT).split(16):
                self.model(input_ids=batch)
        for handle in handles:
            handle.remove()
        return (*(torch.cat(parts).flatten(0, 1).numpy() for parts in (inputs, hidden)), content)


def dictionaries(directions: np.ndarray) -> Iterator[tuple[dict, np.ndarray]]:
    """The directions that were found, and their controls, each with what the table says of it."""
    yield {"directions": "found"}, directions
    for control in ("rotated", "shuffled"):
        for seed in CONTROL_SEEDS:
            yield {"directions": control, "control_seed": seed}, control_directions(directions, control, seed)


def measured(found: NeuronPolysemanticity) -> dict[str, float]:
    return {"P": float(found.neurons["P"].mean()), "D": found.feature_dimensionality}


def with_few_classes(found: NeuronPolysemanticity) -> dict[str, float]:
    """And the number of neurons that are all but of one class: P below 2."""
    return measured(found) | {"below_2": int((found.neurons["P"] < 2).sum())}


def autoencoder_rows(step: int, suite: Suite) -> Iterator[dict]:
    _, training, _ = suite.activations("train.txt", TRAINING_WINDOWS)
    _, hidden, _ = suite.activations("held_out.txt", WINDOWS)
    for updates in UPDATES:
        for seed in SEEDS:
            autoencoder = train_sparse_autoencoder(training, FEATURES, top_k=TOP_K, steps=updates, seed=seed)
            quality = autoencoder.quality(hidden)
            strengths = typical_strengths(autoencoder.encode(hidden))
            facts = {
                "features": "autoencoder",
                "step": step,
                "updates": updates,
                "seed": seed,
                "explained_variance": quality.explained_variance,
                "active_features": quality.active_features,
                "dead_features": quality.dead_features,
            }
            for which, directions in dictionaries(autoencoder.directions):
                typical = polysemanticity_of_neurons(directions, strengths).neurons["P"].mean()
                found = measured(polysemanticity_of_neurons(directions))
                yield facts | which | {"P_typical": typical} | found


def class_rows(step: int, suite: Suite) -> Iterator[dict]:
    inputs, hidden, content = suite.activations("held_out.txt", WINDOWS)
    labels = np.full(256, "", dtype="<U11")
    for name, letters in CLASSES.items():
        labels[[ord(letter) for letter in letters]] = name
    kept = labels[content] != ""
    classes = labels[content][kept]
    directions = mean_difference_directions(hidden[kept], classes)
    for which, chosen in dictionaries(directions):
        yield {"features": "classes", "step": step} | which | with_few_classes(polysemanticity_of_neurons(chosen))
    directions, mean = mean_difference_directions(inputs[kept], classes), inputs.mean(0)
    for which, chosen in dictionaries(directions):
        found = polysemanticity_of_module(suite.mlp, chosen, layers="act", baseline=mean)
        yield {"features": "classes at the input", "step": step} | which | with_few_classes(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Polysemanticity of a shipped model's neurons against several features."
    )
    parser.add_argument("--classes-only", action="store_true", help="train no autoencoders, print, and write nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)  # with more, sums are added in another order
    rows: list[dict] = []
    for step in STEPS:
        suite = Suite(step)
        rows += class_rows(step, suite)
        if not options.classes_only:
            rows += autoencoder_rows(step, suite)
    table = pd.DataFrame(rows).round(DECIMALS).convert_dtypes()
    print(table.to_string())
    if not options.classes_only:
        TABLE.parent.mkdir(exist_ok=True)
        table.to_csv(TABLE, index=False, lineterminator="\n")


if __name__ == "__main__":
    main()
