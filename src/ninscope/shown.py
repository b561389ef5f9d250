"""How objects of ninscope show themselves: one line in a terminal, a small table in a notebook."""

from collections.abc import Mapping
from html import escape


class Shown:
    """A mixin; `facts` says what there is to know, in order. Dataclasses take it with repr=False."""

    def facts(self) -> Mapping[str, object]:
        """What is shown, by its name."""
        raise NotImplementedError

    def __repr__(self) -> str:
        told = ", ".join(f"{name} {value_shown(value)}" for name, value in self.facts().items())
        return f"<{type(self).__name__}: {told}>"

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(value_shown(value))}</td></tr>"
            for name, value in self.facts().items()
        )
        return f"<table><caption>{escape(type(self).__name__)}</caption>{cells}</table>"


def value_shown(value: object) -> str:
    """ "0.4302", "10,000" """
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def without_empty(**facts: object) -> dict[str, object]:
    """Those that say something."""
    return {name: value for name, value in facts.items() if value is not None and value != ""}
