"""Numbers of the page with as many digits as are read."""

import numpy as np


def with_digits(values: np.ndarray, digits: int) -> np.ndarray:
    """values: float64 of any shape, rounded to so many significant digits, so that their shortest text has no more.

    0, NaN and infinities stay as they are, and so does what would be infinite.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        places = digits - 1 - np.floor(np.log10(np.abs(values)))
        up = 10.0 ** np.clip(places, 0, 300)
        down = 10.0 ** np.clip(-places, 0, 300)
        rounded = np.rint(values * up / down) * down / up
    return np.where(np.isfinite(values) & (values != 0) & np.isfinite(rounded), rounded, values)
