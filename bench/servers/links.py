"""Links of edges to their engine, in a process of their own, that delay, are cut, and change over.

A link is a ``TcpProxy``. In another process it delays nothing that is measured in this one.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.managers import BaseManager
from typing import Any

from tests.support.engine.tcp_proxy import TcpProxy, run_proxy


class _Proxies:
    """All links, in their process, by port."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._by_port: dict[int, TcpProxy] = {}

    def open(self, target_port: int) -> int:
        proxy = self._stack.enter_context(run_proxy(target_port))
        self._by_port[proxy.port] = proxy
        return proxy.port

    def call(self, port: int, method: str, *arguments: object) -> None:
        getattr(self._by_port[port], method)(*arguments)

    def close(self) -> None:
        self._stack.close()


class _Manager(BaseManager):
    """The process of the links."""


_Manager.register("proxies", _Proxies)


@dataclass(frozen=True, slots=True)
class Link:
    """A link that listens on ``port``. Methods are those of ``TcpProxy``."""

    port: int
    _proxies: Any

    def delay(self, delay_s: float) -> None:
        self._proxies.call(self.port, "delay", delay_s)

    def cut(self) -> None:
        self._proxies.call(self.port, "cut")

    def restore(self) -> None:
        self._proxies.call(self.port, "restore")

    def switch(self, target_port: int) -> None:
        self._proxies.call(self.port, "switch", target_port)


class Links:
    """Opens links."""

    def __init__(self, proxies: Any) -> None:
        self._proxies = proxies

    def open(self, target_port: int) -> Link:
        return Link(self._proxies.open(target_port), self._proxies)


@contextmanager
def run_links() -> Iterator[Links]:
    """Runs the process of the links until the block ends."""
    with _Manager(ctx=multiprocessing.get_context("spawn")) as manager:
        proxies = manager.proxies()  # type: ignore[attr-defined]  # registered above
        try:
            yield Links(proxies)
        finally:
            proxies.close()
