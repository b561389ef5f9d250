"""Forecasting of frame sequences with a ConvGRU, scored with B-MAE and B-MSE (Shi et al., 2017; MEmeL, appendix F.2).

B-MAE is the mean over all pixels of all frames to be forecast of w |m - m'|, and B-MSE that of w (m - m')^2, where m is the true
and m' the forecast pixel, both from 0 to 255, and w = 1, 2, 5, 10 or 30 the weight of the true one (`radar.pixel_weights`).

Three things that the papers leave open, or do differently:
- The numbers of the MEmeL paper (table 3: B-MAE 312.6, B-MSE 997.5) cannot be such means, whatever the unit: as no weight is more
  than 30, a mean of w |m - m'| is at most the root of 30 times the mean of w (m - m')^2, here 173. Shi et al. sum over a frame's
  pixels, scaled to 0..1. Here the formula that the MEmeL paper prints is kept.
- A forecast is cut to 0..255 before it is scored, since pixels have no other values.
- Where masks are used, the mean is over the pixels that they leave.

Training minimises the mean of w (|e| + e^2), e in units of the full scale: the sum of both that Shi et al. minimise.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from ninscope.errors import RequestError
from ninscope.neurons.convgru import ConvGRU, ConvGRUConfig
from ninscope.neurons.tasks.blobs import FULL_SCALE
from ninscope.neurons.tasks.evaluation import checked_finite, consecutive, evaluating, moved
from ninscope.neurons.tasks.radar import WEIGHTS_OF, pixel_weights
from ninscope.neurons.tasks.sequences import Sequences
from ninscope.neurons.tasks.task import Base, Batch


class Forecasting:
    """A `Task`: the next frames of sequences. A batch holds frames, uint8 [n, input_frames, height, width], targets, uint8
    [n, output_frames, height, width], and, where masks are used, mask, bool of the targets' shape.
    """

    metrics: tuple[str, ...] = ("b_mae", "b_mse")

    def __init__(self, name: str, train: Sequences, held_out: Sequences, weights_of: str = WEIGHTS_OF[0]) -> None:
        """train, held_out: of one shape. weights_of: as `pixel_weights`."""
        self.name, self.train_size = name, train.count
        self._train, self._held_out = train, held_out
        self._weights = torch.from_numpy(pixel_weights(weights_of))

    def check(self, base: Base) -> ConvGRUConfig:
        """The base's configuration. Raises RequestError: the base is no ConvGRU, or has other frames than the task."""
        if base.config.get("model_type") != "convgru":
            kind = base.config.get("model_type")
            raise RequestError(f"{base.name}: is a {kind!r}, which forecasts no frames; name a checkpoint of a convgru")
        config = ConvGRUConfig.from_dict(base.config, base.name)
        for key in ("height", "width", "input_frames", "output_frames"):
            own, needed = getattr(config, key), getattr(self._train.shape, key)
            if own != needed:
                raise RequestError(f"{base.name}: {key} is {own}, and {needed} in the task; set both to the same")
        return config

    def model(self, base: Base) -> nn.Module:
        self.check(base)
        return ConvGRU.from_tensors(base.config, base.tensors, base.name)

    def batch(self, examples: np.ndarray) -> Batch:
        return self._batch(self._train, [int(number) for number in examples])

    def held_out(self, size: int) -> Iterator[Batch]:
        for numbers in consecutive(self._held_out.count, size):
            yield self._batch(self._held_out, numbers.tolist())

    def _batch(self, sequences: Sequences, numbers: list[int]) -> Batch:
        if wrong := [number for number in numbers if not 0 <= number < sequences.count]:
            raise RequestError(
                f"{self.name}: there is no sequence {wrong[0]}; numbers go from 0 to {sequences.count - 1}"
            )
        frames = torch.from_numpy(np.stack([sequences.frames(number) for number in numbers]))
        seen = sequences.shape.input_frames
        batch = {"frames": frames[:, :seen].contiguous(), "targets": frames[:, seen:].contiguous()}
        masks = [mask for number in numbers if (mask := sequences.mask(number)) is not None]
        return batch | {"mask": torch.from_numpy(np.stack(masks))} if masks else batch

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        targets = batch["targets"]
        error: torch.Tensor = (model(_scaled(batch["frames"])) - _scaled(targets)).float()
        weights, pixels = self._weights_of(batch)
        return (weights * (error.abs() + error**2)).sum() / pixels.clamp(min=1)  # 0 for a batch without a pixel

    def evaluate(self, model: nn.Module, size: int, device: torch.device) -> dict[str, float]:
        """As Task. Raises CheckpointError: forecasts are not finite. Raises RequestError: masks leave no pixel to score."""
        totals = torch.zeros(3, dtype=torch.float64)
        with evaluating(model):
            for batch in self.held_out(size):
                totals += self._totals(model, moved(batch, device)).cpu()
        absolute, squared, pixels = totals.tolist()
        if not pixels:
            raise RequestError(
                f"{self.name}: masks leave no pixel of any held-out frame; choose other held-out days, or use no masks"
            )
        return {"b_mae": absolute / pixels, "b_mse": squared / pixels}

    def _totals(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The sums over a batch's pixels of w |m - m'| and of w (m - m')^2, and the number of pixels that count; float64 [3]."""
        forecast = checked_finite(model(_scaled(batch["frames"])), self.name).double() * FULL_SCALE
        error = forecast.clamp(0, FULL_SCALE) - batch["targets"].double()
        weights, pixels = self._weights_of(batch)
        weights = weights.double()
        return torch.stack([(weights * error.abs()).sum(), (weights * error**2).sum(), pixels.double()])

    def _weights_of(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(weights of the targets' pixels, 0 where a mask leaves a pixel out; the number of pixels that count)"""
        targets = batch["targets"]
        weights = self._weights.to(targets.device)[targets.long()]
        if "mask" not in batch:
            return weights, torch.tensor(targets.numel(), device=targets.device)
        return weights * batch["mask"], batch["mask"].sum()


def _scaled(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float() / FULL_SCALE
