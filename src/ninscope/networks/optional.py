"""Libraries of the extra `graphs`, imported when something is asked of them."""

from importlib import import_module
from types import ModuleType

from ninscope.errors import RequestError

PACKAGES = {"networkx": "networkx", "igraph": "igraph"}  # module -> the package that holds it


def optional(module: str, what: str) -> ModuleType:
    """A module of the extra. what: that it is for, as the subject of the message. Raises RequestError where it is absent."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise RequestError(
            f"{what} needs {PACKAGES[module]}, which is not installed: pip install {PACKAGES[module]}, or ninscope[graphs]"
        ) from None
