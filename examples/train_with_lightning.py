"""Lightning, measured from inside: a small llama learns the bytes of Python's standard library.

    python examples/train_with_lightning.py                          # some 50 s on two cores, into runs/lightning
    python examples/train_with_lightning.py --steps 8 --out little   # a few seconds

Written to `--out`:
    checkpoints/    step=N.ckpt, what Lightning saves after N updates, step 0 too, and config.json, which says what model it is
    metrics/        metrics.csv of Lightning's CSVLogger: the loss, and what was measured
    ninscope/       the run folder: what was measured, for `ninscope status`, `ninscope report` and Python
    emergence.png   E with its controls, alpha0, w and the loss over steps

Whatever logger Lightning has gets what was measured under `ninscope/alpha0`, `ninscope/emergence`, ...
The lines that measure are marked with `# ninscope`.
"""

from pathlib import Path

import lightning
import numpy as np
import pandas as pd
import torch
from common import compare, draw, parse_options, read_text
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from transformers import LlamaConfig, LlamaForCausalLM

import ninscope
from ninscope.integrations import LightningEmergenceCallback  # ninscope

WIDTH, HEADS, BLOCKS, CONTEXT, BATCH = 64, 4, 4, 128, 8


class ByteModel(lightning.LightningModule):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.model = LlamaForCausalLM(config)

    def training_step(self, windows: torch.Tensor, number: int) -> torch.Tensor:
        loss = self.model(input_ids=windows, labels=windows).loss  # the model shifts labels by one
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1)


class SaveStart(lightning.Callback):
    """Step 0, with which E compares: Lightning saves none by itself."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        trainer.save_checkpoint(self.file)


def windows_of(text: np.ndarray) -> torch.Tensor:
    """The text cut into windows: (windows, CONTEXT) int64."""
    return torch.from_numpy(text[: len(text) // CONTEXT * CONTEXT].reshape(-1, CONTEXT).astype(np.int64))


def main() -> None:
    options = parse_options(__doc__, steps=1200, out="runs/lightning")
    checkpoints = options.out / "checkpoints"
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=0,
    )
    config.save_pretrained(checkpoints)  # says beside the checkpoints which model they are of
    callback = LightningEmergenceCallback(every=options.every, log=options.out / "ninscope")  # ninscope
    trainer = lightning.Trainer(
        default_root_dir=options.out,
        max_steps=options.steps,
        accelerator="cpu",
        gradient_clip_val=1.0,
        logger=CSVLogger(options.out, name="", version="metrics"),
        log_every_n_steps=options.every,
        callbacks=[
            callback,
            SaveStart(checkpoints / "step=0.ckpt"),
            ModelCheckpoint(checkpoints, filename="{step}", every_n_train_steps=options.save_every, save_top_k=-1),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    lightning.seed_everything(0)
    loader = torch.utils.data.DataLoader(windows_of(read_text()), BATCH, shuffle=True)
    trainer.fit(ByteModel(config), loader)

    metrics = pd.read_csv(options.out / "metrics" / "metrics.csv").dropna(subset=["loss"])
    losses = dict(zip(metrics["step"] + 1, metrics["loss"], strict=True))  # Lightning counts from 0
    draw(ninscope.open_run(options.out / "ninscope"), losses, options.out / "emergence.png")
    compare(callback.monitor.rows, checkpoints)


if __name__ == "__main__":
    main()
