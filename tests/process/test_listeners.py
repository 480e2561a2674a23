"""The listening sockets that the supervisor binds."""

from __future__ import annotations

import errno
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from streamedge.config.schema.config import Config, ListenConfig
from streamedge.process.listeners import (
    WorkerListeners,
    address_of,
    admin_address_of,
    bind_admin,
    bind_listeners,
    close_admin,
    proxied_listeners,
    with_bound_addresses,
)


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def close_all(stack: ExitStack, listeners: list[WorkerListeners]) -> None:
    for own in listeners:
        for listener in (*own.http, *own.rtmp):
            stack.callback(listener.close)


def test_each_worker_has_its_own_socket_on_each_address(closing: ExitStack) -> None:
    http, rtmp = free_port(), free_port()
    listeners = bind_listeners({"http": [("127.0.0.1", http)], "rtmp": [("127.0.0.1", rtmp)]}, 3)
    close_all(closing, listeners)
    assert len(listeners) == 3
    sockets = [listener for own in listeners for listener in (*own.http, *own.rtmp)]
    assert len({listener.fileno() for listener in sockets}) == 6
    assert {listener.getsockname()[1] for own in listeners for listener in own.http} == {http}
    assert {listener.getsockname()[1] for own in listeners for listener in own.rtmp} == {rtmp}
    assert not any(listener.getblocking() for listener in sockets)
    with socket.create_connection(("127.0.0.1", http)):
        pass  # they listen already


@pytest.mark.parametrize("shared", [False, True])
def test_address_in_use_is_refused(closing: ExitStack, shared: bool) -> None:
    """Even one whose owner would share it: two edges must not mix their viewers."""
    owner = closing.enter_context(socket.socket())
    if shared:
        owner.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    owner.bind(("127.0.0.1", 0))
    owner.listen()
    address = owner.getsockname()
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{address[1]}") as refused:
        bind_listeners({"http": [address]}, 1)
    assert refused.value.errno == errno.EADDRINUSE
    with pytest.raises(OSError, match="cannot listen on"):
        bind_admin(address)


def test_address_of_another_machine_is_refused() -> None:
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:8080"):
        bind_listeners({"http": [("192.0.2.1", 8080)]}, 1)


def test_admin_socket_listens(closing: ExitStack) -> None:
    listener = bind_admin(("127.0.0.1", 0))
    closing.callback(listener.close)
    with socket.create_connection(listener.getsockname()):
        pass


def test_ipv6_socket_does_not_take_ipv4_connections(closing: ExitStack) -> None:
    listener = bind_admin(("::1", 0))
    closing.callback(listener.close)
    assert listener.family is socket.AF_INET6
    assert listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


def test_proxied_listeners_are_selected_by_address(closing: ExitStack) -> None:
    listen = ListenConfig(
        http=(("127.0.0.1", 0), ("127.0.0.2", 0)),
        https=(("127.0.0.3", 0),),
        rtmp=(("127.0.0.4", 0),),
        proxy_protocol=(("127.0.0.2", 0), ("127.0.0.4", 0)),
    )
    addresses = {"http": listen.http, "rtmp": listen.rtmp, "https": listen.https}
    (own,) = bind_listeners(addresses, 1)
    for listener in (*own.http, *own.https, *own.rtmp):
        closing.callback(listener.close)

    assert proxied_listeners(listen, own) == {own.http[1], own.rtmp[0]}


def test_port_that_the_kernel_chooses_is_the_same_for_all_workers(closing: ExitStack) -> None:
    listeners = bind_listeners({"http": [("127.0.0.1", 0)] * 2, "rtmp": [("127.0.0.1", 0)]}, 3)
    close_all(closing, listeners)
    first = [address_of(listener) for listener in (*listeners[0].http, *listeners[0].rtmp)]
    assert len(set(first)) == 3
    for own in listeners:
        assert [address_of(listener) for listener in (*own.http, *own.rtmp)] == first
    admin = closing.enter_context(bind_admin(("127.0.0.1", 0)))
    bound = with_bound_addresses(Config(), listeners[0], admin).listen
    assert [*bound.http, *bound.rtmp] == first
    assert bound.https == ()
    assert bound.admin == address_of(admin)
    assert bound.admin[1] != 0


def test_unix_socket_is_for_its_user_and_group_and_its_file_goes(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    listener = bind_admin(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert admin_address_of(listener) == path
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    close_admin(listener)
    assert not path.exists()


def test_unix_socket_of_a_killed_edge_is_replaced_and_one_in_use_is_not(
    tmp_path: Path, closing: ExitStack
) -> None:
    path = tmp_path / "admin.sock"
    bind_admin(path).close()  # the file stays, as after SIGKILL
    listener = bind_admin(path)
    closing.callback(close_admin, listener)
    with pytest.raises(OSError, match=f"cannot listen on unix:{path}"):
        bind_admin(path)
    other = tmp_path / "notes.txt"
    other.write_text("text")
    with pytest.raises(OSError, match="cannot listen on unix:"):
        bind_admin(other)
    assert other.read_text() == "text"
