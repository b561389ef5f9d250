"""Rank correlations as their definitions say, one number at a time: the oracle of `ninscope.correlating`."""

import math
from fractions import Fraction
from itertools import pairwise


def ranks(values):
    """How many values are less, and half of those that are equal; each value is equal to itself."""
    return [
        Fraction(sum(other < value for other in values)) + Fraction(1 + sum(other == value for other in values), 2)
        for value in values
    ]


def pearson(x, y):
    """Of exact numbers; NaN where one of them does not vary."""
    n = len(x)
    mean_x, mean_y = sum(x) / n, sum(y) / n
    xy = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    xx, yy = sum((a - mean_x) ** 2 for a in x), sum((b - mean_y) ** 2 for b in y)
    return float(xy) / math.sqrt(xx * yy) if xx and yy else math.nan


def spearman(x, y):
    return pearson(ranks(x), ranks(y))


def partial(x, y, z):
    """The correlation of what is left of the ranks of x and y after a straight line in those of z."""
    x, y, z = ranks(x), ranks(y), ranks(z)
    n, mean = len(z), sum(z) / len(z)
    zz = sum((c - mean) ** 2 for c in z)
    if not zz:
        return math.nan

    def rest(series):
        slope = sum((c - mean) * a for c, a in zip(z, series, strict=True)) / zz
        level = sum(series) / n
        return [a - level - slope * (c - mean) for c, a in zip(z, series, strict=True)]

    return pearson(rest(x), rest(y))


def differences(series):
    """Exact where the series holds fractions."""
    return [later - earlier for earlier, later in pairwise(series)]


def three(x, y):
    """Of levels, of differences, and of levels given the order of the points."""
    return spearman(x, y), spearman(differences(x), differences(y)), partial(x, y, list(range(len(x))))


def quantile(values, share):
    """Linear between the values that are not NaN."""
    known = sorted(value for value in values if not math.isnan(value))
    place = share * (len(known) - 1)
    low = math.floor(place)
    high = min(low + 1, len(known) - 1)
    return known[low] + (place - low) * (known[high] - known[low])


def resampled(x, y, of_levels, of_differences):
    """The three correlations of every resample. of_levels, of_differences: lists of places."""
    dx, dy = differences(x), differences(y)
    rows = []
    for places, steps in zip(of_levels, of_differences, strict=True):
        drawn = [x[i] for i in places], [y[i] for i in places]
        rows.append(
            (
                spearman(*drawn),
                spearman([dx[i] for i in steps], [dy[i] for i in steps]),
                partial(*drawn, list(places)),
            )
        )
    return rows


def curve(series, places):
    """The curve that the differences of a series make in another order."""
    steps = differences(series)
    values = [series[0]]
    for place in places:
        values.append(values[-1] + steps[place])
    return values


def cross(x, y, lag):
    """The sample cross-correlation of the ranks of the differences of x and of y, the latter so many points later."""
    x, y = ranks(differences(x)), ranks(differences(y))
    n, mean = len(x), Fraction(len(x) + 1, 2)
    xy = sum((x[i] - mean) * (y[i + lag] - mean) for i in range(n) if 0 <= i + lag < n)
    xx, yy = sum((a - mean) ** 2 for a in x), sum((b - mean) ** 2 for b in y)
    return float(xy) / math.sqrt(xx * yy) if xx and yy else math.nan
