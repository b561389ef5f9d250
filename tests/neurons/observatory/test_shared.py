"""What tallies compute once of the same values."""

import pytest

torch = pytest.importorskip("torch")

from ninscope.neurons.observatory.measure import Batch  # noqa: E402
from ninscope.neurons.observatory.places import _Columns  # noqa: E402
from ninscope.neurons.observatory.state_statistics import (  # noqa: E402
    _moments_by_torch,
    moments_of,
    norms_of,
    products_of,
    steps_of,
)


def test_a_function_is_called_once_for_the_same_values_and_again_for_others():
    calls = []

    def total(values):
        calls.append(values)
        return float(values.sum())

    def mean(values):
        return float(values.mean())

    batch, first, second = Batch(0, 0, {}), torch.ones(3), torch.zeros(3)
    assert [batch.shared.of(first, total) for _ in range(2)] == [3, 3]
    assert batch.shared.of(first, mean) == 1
    assert len(calls) == 1
    assert (batch.shared.of(second, total), batch.shared.of(second, mean)) == (0, 0)
    assert batch.shared.of(first, total) == 3  # others were shown meanwhile
    assert len(calls) == 3
    assert Batch(0, 0, {}).shared is not batch.shared


def test_statistics_by_torch_are_those_of_the_kernels():
    values = 3 + torch.randn(2, 60, 6, generator=torch.Generator().manual_seed(0))
    found, wanted = moments_of(values), _moments_by_torch(values.reshape(-1, 6))
    assert found.rows == wanted.rows == 120
    assert found.means == pytest.approx(wanted.means, rel=1e-6)
    assert found.squares == pytest.approx(wanted.squares, rel=1e-5)


def test_half_precision_is_taken_as_float32():
    values, others = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(1)).bfloat16()
    wide, other_wide = values.float(), others.float()
    moments = [moments_of(one) for one in (values, others)]
    assert moments[0].means == pytest.approx(wide.mean((0, 1)).numpy(), abs=1e-6)
    assert norms_of(values, 2).numpy() == pytest.approx(
        wide.unflatten(2, (2, 2)).norm(dim=3).transpose(1, 2).numpy(), rel=1e-6
    )
    off = (wide - wide.mean((0, 1))) * (other_wide - other_wide.mean((0, 1)))
    assert products_of(values, others, *moments) == pytest.approx(off.sum((0, 1)).numpy(), abs=1e-5)
    steps, dots = steps_of(values, others)
    assert steps.numpy() == pytest.approx((other_wide - wide).norm(dim=2).numpy(), rel=1e-6)
    assert dots.numpy() == pytest.approx((wide * other_wide).sum(2).numpy(), abs=1e-5)


COLUMNS = (
    [0], [3], [1, 2, 3], [5, 3, 1], [0, 2, 4], [4, 5, 10, 11, 16, 17], [4, 5, 10, 11, 12, 13], [4, 5, 10, 11, 17, 18], [0, 0, 1],
    [7, 8, 1, 2], [0, 1, 2, 0, 1, 2], [2, 1],
)  # fmt: skip


@pytest.mark.parametrize("columns", COLUMNS, ids=str)
def test_columns_are_those_that_are_picked(columns):
    chosen, numbers = _Columns(torch.tensor(columns)), torch.arange(240.0)
    for values in (numbers.view(3, 4, 20), numbers.view(3, 20, 4).transpose(1, 2), numbers.view(6, 40)[:, ::2]):
        assert torch.equal(chosen.of(values), values.index_select(-1, torch.tensor(columns)))
