"""Runs parsers, which are generators that yield the spans they need, on readers of the cache."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from streamedge.cache.reader import Reader
from streamedge.spans import Span

Result = TypeVar("Result")


async def run_parser(parser: Generator[Span, bytes, Result], reader: Reader) -> Result:
    """Runs a parser on a reader. Raises the errors of both."""
    try:
        span = next(parser)
        while True:
            span = parser.send(await reader.read(span))
    except StopIteration as stop:
        result: Result = stop.value
        return result
    finally:
        parser.close()
