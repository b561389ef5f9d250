"""Running sums of a layer's activations from which correlations of neurons follow, without the activations.

Sums are taken of activations less a shift, the mean over the first examples, since those of the activations themselves would lose
their digits where the mean of a neuron is large beside its deviation. A correlation does not depend on the shift.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_ROWS = 256  # that are held in double precision at once
_SMALL = 512 * 512  # products of fewer pairs of neurons are added up in double precision


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
        self.count += len(shifted)
        for rows in shifted.split(_ROWS):
            double = rows.double()
            self.total += double.sum(dim=0)
            self.squares += double.square_().sum(dim=0)

    @property
    def deviations(self) -> Tensor:
        """The square root of the sum of squared deviations from the mean, float64 [n]; exactly 0 where a neuron does not vary."""
        return (self.squares - self.total.square() / max(self.count, 1)).clamp(min=0).sqrt()


def centre(products: Tensor, left: LayerSums, right: LayerSums) -> Tensor:
    """Make sums of products of shifted rows (left.T @ right, [n, m]) those of deviations from the means, in place.

    left (n neurons), right (m): sums over the same rows.
    """
    scale = max(left.count, 1)
    return products.addr_(left.total.to(products.dtype), (right.total / scale).to(products.dtype), alpha=-1.0)


def no_products(left: LayerSums, right: LayerSums) -> Tensor:
    """Zeros [n, m], to which `add_products` adds: float64 for small layers, whose digits cost little, float32 for large ones."""
    import torch

    dtype = torch.float64 if left.size * right.size <= _SMALL else torch.float32
    return left.shift.new_zeros((left.size, right.size), dtype=dtype)


def add_products(products: Tensor, left: Tensor, right: Tensor) -> None:
    """products += left.T @ right, of shifted rows, float32 [rows, n] and [rows, m]."""
    products.addmm_(left.T.to(products.dtype), right.to(products.dtype))


def over(products: Tensor, deviations: Tensor, axis: int) -> Tensor:
    """Divide products [n, m] by deviations (float64, of `axis`) in place; what belongs to a deviation of 0 becomes 0."""
    import torch

    factors = torch.where(deviations > 0, 1 / deviations, torch.zeros_like(deviations)).to(products.dtype)
    return products.mul_(factors[:, None] if axis == 0 else factors)
