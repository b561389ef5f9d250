"""Half-open spans of bytes, (start, stop): what several of them cover together, and what they leave out."""

from collections.abc import Iterable, Iterator

Span = tuple[int, int]


def covered(spans: Iterable[Span]) -> list[Span]:
    """The same bytes as spans in order that neither overlap nor touch; empty ones are left out."""
    joined: list[Span] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], stop)
        elif start < stop:
            joined.append((start, stop))
    return joined


def gaps(spans: Iterable[Span], start: int, stop: int) -> Iterator[Span]:
    """What of [start, stop) is in no span."""
    position = start
    for first, last in covered(spans):
        if position < min(first, stop):
            yield position, min(first, stop)
        position = max(position, last)
    if position < stop:
        yield position, stop


def common(spans: Iterable[Span], start: int, stop: int) -> Iterator[Span]:
    """What of [start, stop) is in some span."""
    for first, last in covered(spans):
        if max(first, start) < min(last, stop):
            yield max(first, start), min(last, stop)


def bytes_in(spans: Iterable[Span]) -> int:
    """Bytes that are in some span, each counted once."""
    return sum(stop - start for start, stop in covered(spans))
