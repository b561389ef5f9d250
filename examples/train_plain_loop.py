"""A training loop of one's own, measured from inside: a small GPT learns the bytes of Python's standard library.

    python examples/train_plain_loop.py                          # some 50 s on two cores, into runs/plain-loop
    python examples/train_plain_loop.py --steps 8 --out little   # a few seconds

Written to `--out`:
    checkpoints/ckpt_N.pt   weights and optimizer after N updates, step 0 too, as nanoGPT saves them
    ninscope/               the run folder: what was measured, for `ninscope status`, `ninscope report` and Python
    emergence.png           E with its controls, alpha0, w and the loss over steps

The lines that measure are marked with `# ninscope`.
"""

import math
from pathlib import Path

import numpy as np
import torch
from common import compare, draw, parse_options, read_text
from torch import nn
from torch.nn import functional

import ninscope
from ninscope.integrations import EmergenceMonitor  # ninscope

WIDTH, HEADS, BLOCKS, CONTEXT, BATCH = 64, 4, 4, 128, 8
RATE, WARMUP, WEIGHT_DECAY = 4e-3, 20, 0.1

# Which matrix joins which neurons: ninscope does not know this model. Without it, every matrix would be read by itself.
JOINS = {
    "query": ("block{n}.x", "block{n}.q"), "key": ("block{n}.x", "block{n}.k"), "value": ("block{n}.x", "block{n}.v"),
    "dense": ("block{n}.c", "block{n}.a"), "up": ("block{n}.a", "block{n}.m"), "down": ("block{n}.m", "block{n+1}.x"),
}  # fmt: skip
ARCHITECTURE = {
    "blocks": [
        {"tensor": f"blocks.{{n}}.{name}.weight", "source": source, "target": target}
        for name, (source, target) in JOINS.items()
    ]
}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.dense = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm(x)
        heads = [part(normed).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)]
        context = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.dense(context.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.mlp_norm(x))))


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(256, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def get_batch(text: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and, one byte on, targets: (BATCH, CONTEXT) int64 each."""
    starts = torch.randint(len(text) - CONTEXT, (BATCH,)).tolist()
    windows = torch.from_numpy(np.stack([text[start : start + CONTEXT + 1] for start in starts]).astype(np.int64))
    return windows[:, :-1], windows[:, 1:]


def learning_rate(step: int, steps: int) -> float:
    """Rate of update number `step`, from 1: linear warm-up, then a cosine to a tenth."""
    return RATE * min(1, step / WARMUP) * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))


def train_step(model: GPT, optimizer: torch.optim.Optimizer, text: np.ndarray, rate: float) -> float:
    """One update of the weights. Returns the loss of its batch, in nats a byte."""
    inputs, targets = get_batch(text)
    loss = functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return loss.item()


def save(model: GPT, optimizer: torch.optim.Optimizer, step: int, folder: Path) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    torch.save(state, folder / f"ckpt_{step}.pt")


def main() -> None:
    options = parse_options(__doc__, steps=1200, out="runs/plain-loop")
    checkpoints = options.out / "checkpoints"
    checkpoints.mkdir(parents=True)
    read_text().tofile(options.out / "text.bin")
    text = np.memmap(options.out / "text.bin", np.uint8, "r")  # of a large text only what is used is in memory

    torch.manual_seed(0)
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY)
    run_folder = options.out / "ninscope"
    monitor = EmergenceMonitor(model, options.every, log=run_folder, architecture=ARCHITECTURE)  # ninscope
    losses = {}
    for step in range(options.steps + 1):
        if step > 0:
            losses[step] = train_step(model, optimizer, text, learning_rate(step, options.steps))
        row = monitor.update(step)  # ninscope: measures where the step is due, step 0 first, which E compares with
        if row is not None and step > 0:
            print(
                f"step {step:4d}  loss {losses[step]:.3f}  alpha0 {row.alpha0:.3f}  w {row.width:.3f}  E {row.emergence:.3f}"
            )
        if step % options.save_every == 0:
            save(model, optimizer, step, checkpoints)
    monitor.finish()  # ninscope: the last tables of the run folder

    draw(ninscope.open_run(run_folder), losses, options.out / "emergence.png")
    compare(monitor.rows, checkpoints, architecture=ARCHITECTURE)


if __name__ == "__main__":
    main()
