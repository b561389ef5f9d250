"""The Trainer of transformers, measured from inside: a small GPT-NeoX learns the bytes of Python's standard library.

    python examples/train_with_trainer.py                          # some 50 s on two cores, into runs/trainer
    python examples/train_with_trainer.py --steps 8 --out little   # a few seconds

Written to `--out`:
    checkpoint-N/    what the Trainer saves after N updates; step 0 too, which it would not save by itself
    ninscope/        the run folder: what was measured, for `ninscope status`, `ninscope report` and Python
    emergence.png    E with its controls, alpha0, w and the loss over steps

The Trainer's own history, and whatever it reports to, has what was measured under `ninscope/alpha0`, `ninscope/emergence`, ...
The lines that measure are marked with `# ninscope`.
"""

import numpy as np
import torch
from common import compare, draw, parse_options, read_text
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, Trainer, TrainingArguments, logging, set_seed

import ninscope
from ninscope.integrations import EmergenceCallback  # ninscope

WIDTH, HEADS, BLOCKS, CONTEXT, BATCH = 64, 4, 4, 128, 8


class Windows(torch.utils.data.Dataset):
    """The text cut into windows of CONTEXT bytes."""

    def __init__(self, text: np.ndarray) -> None:
        self.windows = text[: len(text) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        window = torch.from_numpy(self.windows[index].astype(np.int64))
        return {"input_ids": window, "labels": window}  # the model shifts labels by one


def build_model() -> GPTNeoXForCausalLM:
    config = GPTNeoXConfig(
        vocab_size=256,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPTNeoXForCausalLM(config)


def main() -> None:
    options = parse_options(__doc__, steps=1200, out="runs/trainer")
    logging.disable_progress_bar()
    set_seed(0)
    arguments = TrainingArguments(
        output_dir=str(options.out),
        max_steps=options.steps,
        per_device_train_batch_size=BATCH,
        learning_rate=4e-3,
        weight_decay=0.1,
        adam_beta2=0.95,
        lr_scheduler_type="cosine",
        logging_steps=options.every,
        save_steps=options.save_every,
        report_to="none",  # "tensorboard", "wandb", ... have it too
        disable_tqdm=True,
        seed=0,
    )
    callback = EmergenceCallback(every=options.every)  # ninscope: its run folder is output_dir/ninscope
    trainer = Trainer(build_model(), arguments, train_dataset=Windows(read_text()), callbacks=[callback])
    trainer.save_model(str(options.out / "checkpoint-0"))
    trainer.train()

    losses = {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
    draw(ninscope.open_run(options.out / "ninscope"), losses, options.out / "emergence.png")
    compare(callback.monitor.rows, options.out)


if __name__ == "__main__":
    main()
