"""What can go wrong, in two kinds: the request is wrong, or one checkpoint is.

A request that is wrong stops (exit code 2). A checkpoint that is wrong is recorded with its status and message, and the
others go on (exit code 1). Every message is one line, names the thing and says what to do.
"""

from ninscope.wording import joined_clauses

STATUSES = ("ok", "duplicate", "missing", "corrupt", "nonfinite", "unsupported")

MAX_MESSAGE = 600


def printable(text: str) -> str:
    """The text with what would move the cursor or end a line written out, a line feed as \\x0a."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


def one_line(text: str) -> str:
    """The text as one printable line of bounded length: names in messages may come from strangers."""
    if len(text) > MAX_MESSAGE:  # before anything is made of it
        text = f"{text[: MAX_MESSAGE // 2]} ... {text[-MAX_MESSAGE // 2 :]}"
    plain = printable(text)
    return plain if len(plain) <= MAX_MESSAGE else f"{plain[: MAX_MESSAGE // 2]} ... {plain[-MAX_MESSAGE // 2 :]}"


def described(error: BaseException) -> str:
    """An error that nobody foresaw, in one line: its type, its message and the notes that were added to it."""
    return one_line(joined_clauses(f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())))


class NinscopeError(Exception):
    """Base of all errors raised on purpose by ninscope; the message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class RequestError(NinscopeError, ValueError):
    """What was asked for cannot be done: an unknown key, a missing folder, a value out of range."""


class NoRepository(RequestError):
    """A Hub has no such repository, or shows it to others only."""


class NonFiniteError(RequestError):
    """A model computed NaN or infinity, with which nothing can go on."""


class InterruptedRun(NinscopeError):
    """Ctrl-C during a run, its workers stopped."""


class CheckpointError(NinscopeError):
    """One checkpoint cannot be analysed. `status` is one of STATUSES, as in the table `checkpoints`.

    passing: a server did not answer, so that nothing was learned about the checkpoint; it may well be there another time.
    """

    def __init__(self, status: str, message: str, passing: bool = False) -> None:
        if status not in STATUSES or status == "ok":
            raise ValueError(f"no such checkpoint status: {status!r}")
        super().__init__(message)
        self.status, self.passing = status, passing

    def __reduce__(self) -> tuple[type, tuple[str, str, bool]]:  # exceptions cross process boundaries on a cluster
        return (type(self), (self.status, str(self), self.passing))
