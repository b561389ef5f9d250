"""Who does the work, and how it is handed to them."""

from collections.abc import Callable

TELL_AGAIN_SECONDS = 60.0  # between lines that say what is waited for

Tell = Callable[[str], None]
