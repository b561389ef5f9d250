"""What MEmeL's settings can be and what they are by default, for recipes and for the layer itself. Needs no torch."""

import math

from ninscope.errors import RequestError

# d h' / d h of a deactivated value (MEmeL, equations 4 to 6): h' = -h + (mean + h), mean, and h + (mean - h), where what is in
# parentheses, and the mean alone, has no gradient.
METHODS = {"reversed": -1.0, "naive_mean": 0.0, "naive_shift": 1.0}
NEURONS = ("features", "positions")
LAYERS = "middle:4"  # after the middle four attention layers (MEmeL, appendix F.1)
SELECT = "top-1"
LATE_START = 10  # batches; the authors'
EPSILON = 0.01  # of variance compensation; the authors' 1/100


def check_method(method: str) -> None:
    if method not in METHODS:
        raise RequestError(f"method is {method!r}; one of {', '.join(METHODS)}")


def check_layers(layers: object) -> None:
    if not layers:
        raise RequestError(f'layers is empty; give "{LAYERS}", or names of modules')


def check_late_start(late_start: object) -> None:
    if isinstance(late_start, bool) or not isinstance(late_start, int) or late_start < 0:
        raise RequestError(f"late_start is {late_start!r}; a number of batches was expected, 0 for none")


def check_neurons(neurons: str) -> None:
    if neurons not in NEURONS:
        raise RequestError(f"neurons is {neurons!r}; one of {', '.join(NEURONS)}")


def check_forget(forget: object) -> None:
    if forget is not None and (isinstance(forget, bool) or not isinstance(forget, int) or forget < 1):
        raise RequestError(f"forget is {forget!r}; a positive number of batches was expected, or None for never")


def check_epsilon(epsilon: float) -> None:
    if not isinstance(epsilon, int | float) or not 0 <= epsilon < math.inf:
        raise RequestError(f"epsilon is {epsilon!r}; a number of 0 or more was expected")
