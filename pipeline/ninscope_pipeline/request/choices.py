"""Keys of a DAG file that take one of several names, which a table elsewhere lists."""

from collections.abc import Iterable
from typing import Any

from pydantic import BeforeValidator
from pydantic_core import PydanticKnownError


def one_of(names: Iterable[str]) -> BeforeValidator:
    """What checks `Annotated[str, one_of(names)]`, as `Literal` checks names that are written out; it has the same error."""
    *others, last = known = tuple(names)
    expected = f"{', '.join(map(repr, others))} or {last!r}" if others else repr(last)

    def check(value: Any) -> Any:
        if value not in known:
            raise PydanticKnownError("literal_error", {"expected": expected})
        return value

    return BeforeValidator(check)
