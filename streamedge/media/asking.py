"""Driving the parsers that ask for bytes: they yield spans, a reader answers."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from streamedge.cache.reader import Reader
from streamedge.spans import Span

Answer = TypeVar("Answer")


async def answer_asks(parser: Generator[Span, bytes, Answer], reader: Reader) -> Answer:
    """Runs a parser to its end. Raises what it raises, and the reader's failures."""
    try:
        span = next(parser)
        while True:
            span = parser.send(await reader.read(span))
    except StopIteration as stop:
        answer: Answer = stop.value
        return answer
    finally:
        parser.close()
