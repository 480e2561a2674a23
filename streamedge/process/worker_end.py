"""The end of a worker: the signals that cause it, retirement, and the drain."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from streamedge.process.traffic import WorkerTraffic

DRAIN_S = 30.0
RETIRED_POLL_S = 0.5


class Drained(Protocol):
    """A part of the worker that ends its work."""

    async def drain(self, timeout_s: float) -> None: ...


class Server(Drained, Protocol):
    """A server of viewers, or of other edges."""

    @property
    def is_busy(self) -> bool: ...

    def retire(self) -> None: ...


@dataclass(frozen=True, slots=True)
class EndEvents:
    """What ends a worker.

    The first SIGTERM or the supervisor's end stops it, a second SIGTERM aborts the drain. SIGUSR2
    retires it: after an upgrade other workers accept.
    """

    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    aborting: asyncio.Event = field(default_factory=asyncio.Event)
    retiring: asyncio.Event = field(default_factory=asyncio.Event)


def on_signals(loop: asyncio.AbstractEventLoop, lifeline: int) -> EndEvents:
    """The events, which are set from now on."""
    end = EndEvents()

    def terminate() -> None:
        if end.stopping.is_set():
            end.aborting.set()
        end.stopping.set()

    def on_supervisor_end() -> None:
        loop.remove_reader(lifeline)  # it stays readable from now on
        end.stopping.set()

    loop.add_signal_handler(signal.SIGTERM, terminate)
    loop.add_signal_handler(signal.SIGUSR2, end.retiring.set)
    loop.add_reader(lifeline, on_supervisor_end)
    return end


async def wait_for_any(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def retire(
    servers: Sequence[Server],
    timeout_s: float,
    stopping: asyncio.Event,
) -> None:
    """Stops accepting, because other processes do; waits for viewers, ``timeout_s`` at most."""
    for server in servers:
        server.retire()
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s and any(server.is_busy for server in servers):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETIRED_POLL_S):
                await stopping.wait()
                return


async def drain(
    traffic: WorkerTraffic,
    servers: Sequence[Drained],
    aborting: asyncio.Event,
) -> None:
    """Waits for viewers and other edges until they have finished, or DRAIN_S have passed.

    A second SIGTERM ends the wait.
    """
    traffic.stop()
    abort = asyncio.create_task(aborting.wait())
    drain = asyncio.ensure_future(asyncio.gather(*(one.drain(DRAIN_S) for one in servers)))
    await asyncio.wait((drain, abort), return_when=asyncio.FIRST_COMPLETED)
    abort.cancel()
    if not drain.done():
        drain.cancel()
        await asyncio.gather(drain, return_exceptions=True)
        await asyncio.gather(*(one.drain(0.0) for one in servers))
    else:
        await drain
