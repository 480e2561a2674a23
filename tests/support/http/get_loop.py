"""Loops of GET requests that notice each response that is cut, refused or wrong."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field

from tests.support.http.http_viewer import Viewer, open_viewer


@dataclass(slots=True)
class GetLoop:
    """Requests one object over and over, from ``start`` to ``stop``.

    ``keeps_alive``: on one connection for as long as the server keeps it; else each on a new one.
    ``served``: the complete responses so far. ``connections``: how many it has opened.
    """

    port: int
    path: str
    expected: bytes
    keeps_alive: bool
    tls: ssl.SSLContext | None = None
    server_name: str = ""
    served: int = 0
    connections: int = 0
    _task: asyncio.Task[None] | None = None
    _is_stopping: bool = False
    _progress: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ends the loop; raises what it has noticed."""
        assert self._task is not None
        self._is_stopping = True
        await self._task

    async def serve_more(self, count: int) -> None:
        """Waits until ``count`` more responses have come; raises what the loop has noticed."""
        assert self._task is not None
        until = self.served + count
        while self.served < until:
            if self._task.done():
                await self._task
            self._progress.clear()
            await self._progress.wait()

    async def _run(self) -> None:
        try:
            while not self._is_stopping:
                self.connections += 1
                async with open_viewer(
                    self.port, tls=self.tls, server_name=self.server_name
                ) as viewer:
                    while await self._get(viewer) and not self._is_stopping:
                        pass
        finally:
            self._progress.set()

    async def _get(self, viewer: Viewer) -> bool:
        """Whether the connection may be used again."""
        fields = {} if self.keeps_alive else {"connection": "close"}
        try:
            response = await viewer.get(self.path, host=self.server_name or "edge", **fields)
        except (OSError, EOFError) as exc:
            raise AssertionError(f"{viewer.name} was cut after {self.served}: {self}") from exc
        assert response.status == 200, response
        assert response.body == self.expected
        self.served += 1
        self._progress.set()
        await asyncio.sleep(0)
        return response.fields.get("connection") != "close"
