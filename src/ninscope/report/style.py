"""How figures look, in one place."""

STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "axes.titlesize": 10, "legend.frameon": False,
}  # fmt: skip


def say_nothing(axes, message: str) -> None:
    """An empty panel that says why it is empty."""
    axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center", va="center", wrap=True)
