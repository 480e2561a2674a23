"""An HTTP/1.1 server in a test's event loop; the base of fakes that decide on each request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Self

import h11

READ_BYTES = 256 << 10


class H11Server:
    """Listens on 127.0.0.1 while it is entered. Subclasses answer requests in ``respond``."""

    def __init__(self) -> None:
        self.url = ""
        self._connections: set[asyncio.Task[None]] = set()

    async def respond(
        self, request: h11.Request, body: AsyncIterator[bytes]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, fields and body of the response; Content-Length is added where it is missing."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER)

        async def next_event() -> object:
            while (event := http.next_event()) is h11.NEED_DATA:
                if http.they_are_waiting_for_100_continue:
                    go_ahead = h11.InformationalResponse(status_code=100, headers=[])
                    writer.write(http.send(go_ahead) or b"")
                http.receive_data(await reader.read(READ_BYTES))
            return event

        async def body() -> AsyncIterator[bytes]:
            while isinstance(event := await next_event(), h11.Data):
                yield bytes(event.data)

        try:
            while isinstance(request := await next_event(), h11.Request):
                pieces = body()
                status, fields, content = await self.respond(request, pieces)
                async for _left in pieces:
                    pass
                if all(name != "Content-Length" for name, _value in fields):
                    fields = [*fields, ("Content-Length", str(len(content)))]
                writer.write(http.send(h11.Response(status_code=status, headers=fields)))
                if request.method != b"HEAD" and status != 304:
                    writer.write(http.send(h11.Data(data=content)))
                writer.write(http.send(h11.EndOfMessage()))
                await writer.drain()
                http.start_next_cycle()
        except (OSError, h11.RemoteProtocolError):
            return
        finally:
            writer.close()
