"""Couplings and spikes by their definitions: permutations one by one, matrices cut out of a file by hand. No ninscope in here."""

import itertools
import math

import numpy as np


def squared_norms(written: np.ndarray, read: np.ndarray, permutations) -> np.ndarray:
    """||B P A||_F^2 of each permutation."""
    return np.array([((read[:, list(order)] @ written) ** 2).sum() for order in permutations])


def every_permutation(n: int) -> list:
    return list(itertools.permutations(range(n)))


def every_paired_permutation(n: int, turned: int) -> list:
    """Those that move neurons i and i + turned / 2 together, and the rest among themselves."""
    half = turned // 2
    return [
        (*pairs, *(neuron + half for neuron in pairs), *rest)
        for pairs in itertools.permutations(range(half))
        for rest in itertools.permutations(range(turned, n))
    ]


def drawn_permutations(n: int, count: int, rng: np.random.Generator, turned: int = 0) -> list:
    drawn = []
    for _ in range(count):
        pairs = rng.permutation(turned // 2)
        drawn.append(np.concatenate([pairs, pairs + turned // 2, turned + rng.permutation(n - turned)]))
    return drawn


def coupling(written: np.ndarray, read: np.ndarray, permutations) -> tuple[float, float]:
    """(coupling, its standard error) over these permutations."""
    over = squared_norms(written, read, permutations)
    own = ((read @ written) ** 2).sum()
    return math.log(own / over.mean()), float(over.std() / over.mean())


def neox_matrices(tensors: dict, blocks: int, heads: int, gains: bool = True) -> dict[str, np.ndarray]:
    """W[out, in] of every matrix of a GPT-NeoX file as "<block>.<part>", float64. gains: with those of its LayerNorms."""
    found = {}
    for number in range(blocks):
        name = f"gpt_neox.layers.{number}."
        qkv = np.asarray(tensors[name + "attention.query_key_value.weight"], float)
        width = qkv.shape[1]
        up = np.asarray(tensors[name + "mlp.dense_h_to_4h.weight"], float)
        if gains:
            qkv = normalised(qkv, tensors[name + "input_layernorm.weight"])
            up = normalised(up, tensors[name + "post_attention_layernorm.weight"])
        parts = qkv.reshape(heads, 3, width // heads, width)
        for place, part in enumerate("qkv"):
            found[f"{number}.{part}"] = parts[:, place].reshape(width, width)
        found[f"{number}.o"] = np.asarray(tensors[name + "attention.dense.weight"], float)
        found[f"{number}.up"] = up
        found[f"{number}.down"] = np.asarray(tensors[name + "mlp.dense_4h_to_h.weight"], float)
    return found


def normalised(weights: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """What a matrix does to the input of the LayerNorm before it, but for its length: the mean is taken off, then the gain."""
    width = weights.shape[1]
    return weights @ np.diag(np.asarray(gain, float)) @ (np.eye(width) - np.full((width, width), 1 / width))


def neox_pairs(matrices: dict[str, np.ndarray], blocks: int, heads: int) -> dict[tuple[str, str, str], list]:
    """Heads as (A, B) of every pair of parallel blocks, by (kind, writer, reader)."""
    pairs = {}
    for block in range(blocks):
        w = {part: matrices[f"{block}.{part}"] for part in ("q", "k", "v", "o", "up", "down")}
        size = len(w["q"]) // heads
        spans = [slice(head * size, (head + 1) * size) for head in range(heads)]
        pairs["qk", f"{block}.k", f"{block}.q"] = [(w["k"][span], w["q"][span].T) for span in spans]
        pairs["vo", f"{block}.v", f"{block}.o"] = [(w["v"][span], w["o"][:, span]) for span in spans]
        pairs["mlp", f"{block}.up", f"{block}.down"] = [(w["up"], w["down"])]
        for later in range(block + 1, blocks):
            for writer in ("o", "down"):
                for reader in ("q", "k", "v", "up"):
                    ends = f"{block}.{writer}", f"{later}.{reader}"
                    pairs["across", *ends] = [(matrices[ends[0]], matrices[ends[1]])]
    return pairs


def table_name(matrix: str, blocks: int) -> str:
    """What the tables call a matrix: its source and target layer in the paper's chain."""
    block, part = matrix.split(".")
    after = f"block{int(block) + 1}" if int(block) + 1 < blocks else "output"
    of = f"block{block}"
    ends = {"o": (f"{of}.c", f"{of}.a"), "up": (f"{of}.a", f"{of}.m"), "down": (f"{of}.m", f"{after}.x")}
    return " -> ".join(ends.get(part, (f"{of}.x", f"{of}.{part}")))


def spikes(weights: np.ndarray, bound: float) -> tuple[int, float]:
    """(singular values beyond a bound, their share of the sum of squares)."""
    values = np.linalg.svd(np.asarray(weights, float), compute_uv=False)
    beyond = values[values > bound]
    return len(beyond), float((beyond**2).sum() / (values**2).sum())
