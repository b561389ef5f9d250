"""Running sums of a layer's activations from which correlations of neurons follow, without the activations.

Sums are taken of activations less a shift, the mean over the first examples, since those of the activations themselves would lose
their digits where the mean of a neuron is large beside its deviation. A correlation does not depend on the shift.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class LayerSums:
    """Sums over rows (tokens, images, ...) of a layer of n neurons.

    shift: float32 [n]. count: of rows. total, squares: float64 [n], the sums of x - shift and of its square. A neuron that has one
    and the same value in all rows has sums of exactly 0.
    """

    def __init__(self, first: Tensor) -> None:
        """first: rows from which the shift is taken, [rows, n], of any float dtype; they are not counted."""
        import torch

        rows = first.detach().float()
        low, high = torch.aminmax(rows, dim=0)
        self.shift = torch.where(low == high, low, rows.mean(dim=0))
        self.count = 0
        self.total = torch.zeros_like(self.shift, dtype=torch.float64)
        self.squares = torch.zeros_like(self.total)

    @property
    def size(self) -> int:
        """Number of neurons."""
        return len(self.shift)

    def shifted(self, rows: Tensor, out: Tensor) -> Tensor:
        """rows - shift, written to `out`: float32 [rows, n]."""
        import torch

        return torch.sub(rows, self.shift, out=out)

    def add(self, shifted: Tensor) -> None:
        """Count more rows; shifted: float32 [rows, n], what `shifted` gave."""
        import torch

        self.count += len(shifted)
        self.total += shifted.sum(dim=0)
        self.squares += torch.linalg.vector_norm(shifted, dim=0).double().square()

    @property
    def deviations(self) -> Tensor:
        """The square root of the sum of squared deviations from the mean, float64 [n]; exactly 0 where a neuron does not vary."""
        return (self.squares - self.total.square() / max(self.count, 1)).clamp(min=0).sqrt()


def centre(products: Tensor, left: LayerSums, right: LayerSums) -> Tensor:
    """Make sums of products of shifted rows (left.T @ right, float32 [n, m]) those of deviations from the means, in place.

    left (n neurons), right (m): sums over the same rows.
    """
    scale = max(left.count, 1)
    return products.addr_(left.total.float(), (right.total / scale).float(), alpha=-1.0)


def over(products: Tensor, deviations: Tensor, axis: int) -> Tensor:
    """Divide products [n, m] by deviations (float64, of `axis`) in place; what belongs to a deviation of 0 becomes 0."""
    import torch

    factors = torch.where(deviations > 0, 1 / deviations, torch.zeros_like(deviations)).to(products.dtype)
    return products.mul_(factors[:, None] if axis == 0 else factors)
