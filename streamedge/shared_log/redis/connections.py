"""Connections to the engine: one attempt for each call, bounded in time.

A connection on which anything went wrong is closed and not used again, because what the engine did
and what it is about to answer are unknown.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.exceptions import NoScriptError, RedisError, ResponseError

from streamedge.shared_log.engine import EngineError
from streamedge.shared_log.redis.address import CONNECT_TIMEOUT_S, Address
from streamedge.shared_log.redis.scripts import Script

CALL_TIMEOUT_S = 1.5
POOLED_MAX = 4
PUSHED_BYTES_MAX = 16 << 20
_TAKEN_MAX = 1000  # lines at a time
_BYTES_PER_S_MIN = 1 << 20  # a call that sends or receives more takes longer

Argument = str | bytes | int


class Link:
    """One connection to the engine; closed for good after a failure."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connection = address.connection()

    async def connect(self) -> None:
        """Connects and logs in. Raises EngineError."""
        try:
            async with self._attempt(CONNECT_TIMEOUT_S):
                await self._connection.connect()  # type: ignore[no-untyped-call]
        except ResponseError as error:
            await self.close()
            raise self._refused(error) from None

    @property
    def is_open(self) -> bool:
        return bool(self._connection.is_connected)

    async def is_idle(self) -> bool:
        """Whether the connection is open and nothing has come from the engine."""
        try:
            return self.is_open and not await self._connection.can_read()
        except RedisError:
            return False

    async def call(self, *command: Argument, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """Sends a command; returns its reply: bytes, numbers, lists. Raises EngineError."""
        try:
            return await self._send(command, timeout_s)
        except ResponseError as error:
            raise self._refused(error) from None

    async def run(
        self,
        script: Script,
        keys: Sequence[str],
        *arguments: Argument,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Any:
        """Runs a script; sends its text only if the engine does not have it. Raises EngineError."""
        rest: list[Argument] = [len(keys), *keys, *arguments]
        try:
            return await self._send(["EVALSHA", script.digest, *rest], timeout_s)
        except NoScriptError:  # nothing was done: the engine was restarted, or forgot its scripts
            return await self.call("EVAL", script.text, *rest, timeout_s=timeout_s)
        except ResponseError as error:
            raise self._refused(error) from None

    async def close(self) -> None:
        await self._connection.disconnect(nowait=True)

    async def _send(self, command: Sequence[Argument], timeout_s: float) -> Any:
        if not self.is_open:  # the connection would open itself again
            raise EngineError(f"the connection to the engine at {self._address.place} is closed")
        async with self._attempt(timeout_s):
            await self._connection.send_command(*command)
            return await self._reply()

    async def _reply(self) -> Any:
        return await self._connection.read_response()

    @asynccontextmanager
    async def _attempt(self, timeout_s: float) -> AsyncIterator[None]:
        place = self._address.place
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except ResponseError:
            raise  # complete, and nothing is left to read
        except TimeoutError:
            await self.close()
            raise EngineError(
                f"the engine at {place} did not answer within {timeout_s:.1f} s"
            ) from None
        except (RedisError, OSError) as error:
            await self.close()
            raise EngineError(f"the engine at {place} failed: {error}") from error
        except BaseException:
            await self.close()
            raise

    def _refused(self, error: ResponseError) -> EngineError:
        return EngineError(f"the engine at {self._address.place} refused: {error}")


class Subscription(Link):
    """A connection that receives the messages of a channel, beside replies to its calls.

    A message is one or more lines. Replies must be no lists: those are messages. Messages and
    replies come in the order in which the engine sent them.
    """

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self.overflowed = False
        """Messages were dropped, because too many came; until the next ``clear``."""
        self.is_queried = False
        """A query was sent, and its answer has not come."""
        self._answer: bytes | ResponseError | None = None

    async def subscribe(self, channel: str) -> None:
        """Connects and subscribes. Raises EngineError."""
        await self.connect()
        try:
            async with self._attempt(CALL_TIMEOUT_S):
                await self._connection.send_command("SUBSCRIBE", channel)
                await self._connection.read_response(push_request=True)  # its confirmation
        except ResponseError as error:
            await self.close()
            raise self._refused(error) from None

    async def query(self, script: Script, keys: Sequence[str], *arguments: Argument) -> None:
        """Sends a call of a script, and does not wait: ``wait`` does. Raises EngineError."""
        self._answer = None
        async with self._attempt(CALL_TIMEOUT_S):
            await self._connection.send_command(
                "EVALSHA", script.digest, len(keys), *keys, *arguments
            )
        self.is_queried = True

    def take_answer(self) -> bytes | ResponseError | None:
        """The answer to the query; None if it has not come. An error may be that the engine does
        not have the script."""
        answer, self._answer = self._answer, None
        return answer

    async def wait(self, wait_s: float) -> bool:
        """Waits for a message or an answer, and takes what has come; False if nothing has within
        ``wait_s``. Behind an answer no message is taken."""
        if self._lines or self.overflowed:
            return True
        async with self._attempt(wait_s + CALL_TIMEOUT_S):
            came = await self._receive(wait_s)
            while came is not None:
                if not isinstance(came, list):
                    self._answer, self.is_queried = came, False
                    break
                self._take(came)
                if len(self._lines) >= _TAKEN_MAX or not await self._connection.can_read():
                    break
                came = await self._receive(None)
        return bool(self._lines) or self.overflowed or self._answer is not None

    def peek(self) -> bytes | None:
        """The oldest line that has come."""
        return self._lines[0] if self._lines else None

    def pop(self) -> None:
        """Removes the oldest line."""
        self._bytes -= len(self._lines.popleft())

    def clear(self) -> None:
        """Removes all messages."""
        self._lines.clear()
        self._bytes = 0
        self.overflowed = False

    async def _receive(self, wait_s: float | None) -> Any:
        """A message (a list), an answer, or an error as an answer; None after ``wait_s``."""
        try:
            return await self._connection.read_response(timeout=wait_s, push_request=True)
        except ResponseError as error:
            return error

    async def _reply(self) -> Any:
        while True:
            reply = await self._receive(None)
            if isinstance(reply, list):
                self._take(reply)
            elif self.is_queried:
                self.is_queried = False  # the answer to a query that is no longer needed
            elif isinstance(reply, ResponseError):
                raise reply
            else:
                return reply

    def _take(self, message: Any) -> None:
        if message[0] != b"message" or self.overflowed:
            return
        lines = message[2].split(b"\n")
        self._bytes += sum(map(len, lines))
        self._lines.extend(lines)
        if self._bytes > PUSHED_BYTES_MAX:
            self.clear()
            self.overflowed = True


class Pool:
    """A few connections for calls, each used by one call at a time."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._idle: list[Link] = []
        self._slots = asyncio.Semaphore(POOLED_MAX)

    @asynccontextmanager
    async def link(self) -> AsyncIterator[Link]:
        """An open connection. A failure closes the idle ones, too, as they have the same path."""
        async with self._slots:
            link = await self._open_link()
            try:
                yield link
            finally:
                if link.is_open:
                    self._idle.append(link)
                else:
                    await self.close()

    async def run(
        self, script: Script, keys: Sequence[str], *arguments: Argument, timeout_s: float = 0.0
    ) -> Any:
        """Runs a script on one of the connections, as ``Link.run``; the default time limit grows
        with the size of the arguments."""
        timeout_s = timeout_s or CALL_TIMEOUT_S + size_of(arguments) / _BYTES_PER_S_MIN
        async with self.link() as link:
            return await link.run(script, keys, *arguments, timeout_s=timeout_s)

    async def close(self) -> None:
        """Closes the connections that are not in use."""
        while self._idle:
            await self._idle.pop().close()

    async def _open_link(self) -> Link:
        while self._idle:
            link = self._idle.pop()
            if await link.is_idle():
                return link
            await link.close()
        link = Link(self._address)
        await link.connect()
        return link


def size_of(arguments: Sequence[Argument]) -> int:
    """The bytes of a command's arguments, about."""
    return sum(len(each) for each in arguments if not isinstance(each, int))
