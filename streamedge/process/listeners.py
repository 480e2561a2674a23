"""The listening sockets: bound once by the supervisor, one for each worker and address.

Each worker accepts from its own socket, and the kernel distributes connections over them
(SO_REUSEPORT). The supervisor keeps them open, so that connections in the backlog of a killed
worker are served by its successor.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from streamedge.config.schema.config import Config, ListenConfig
from streamedge.delivery.net.listening import BACKLOG
from streamedge.delivery.rtmp.tunnel.peers import (
    TunnelAddresses,
    TunnelPeers,
    bind_tunnel_peers,
)

UNIX_MODE = 0o660  # of the admin address as a Unix socket
LISTENER_KINDS = ("http", "rtmp", "https", "fleet", "rtmps", "mixed")
"""The first fields of ``WorkerListeners``, in order."""

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class WorkerListeners:
    """A worker's own sockets."""

    http: tuple[socket.socket, ...]
    rtmp: tuple[socket.socket, ...]
    https: tuple[socket.socket, ...] = ()
    fleet: tuple[socket.socket, ...] = ()
    rtmps: tuple[socket.socket, ...] = ()
    mixed: tuple[socket.socket, ...] = ()
    tunnel: TunnelPeers | None = field(default=None, kw_only=True)
    """How the workers reach each other, with mixed addresses."""


@dataclass(frozen=True, slots=True)
class Handed:
    """Sockets from before an upgrade, by kind and configured address: one for each worker.

    An address that the config has twice has two entries. ``tunnels``: the addresses of the workers
    from before; None if they had no mixed addresses.
    """

    sockets: Mapping[tuple[str, Address], Sequence[Sequence[socket.socket]]] = field(
        default_factory=dict
    )
    tunnels: TunnelAddresses | None = None


def addresses_by_kind(config: Config) -> dict[str, Sequence[Address]]:
    """The addresses on which the edge listens, by kind of listener."""
    listen = config.listen
    fleet = () if listen.fleet is None or not config.fleet.engine else (listen.fleet,)
    return {
        "http": listen.http,
        "rtmp": listen.rtmp,
        "https": listen.https,
        "fleet": fleet,
        "rtmps": listen.rtmps,
        "mixed": listen.mixed,
    }


def bind_listeners(
    addresses: Mapping[str, Sequence[Address]],
    workers: int,
    *,
    slots: Sequence[int] = (),
    handed: Handed | None = None,
) -> list[WorkerListeners]:
    """Binds every address once for each worker. Raises OSError, with the address in its text.

    ``addresses``: by kind, a field of WorkerListeners. ``slots``: the workers' numbers for tunnels;
    by default from 0. ``handed``: the sockets from before an upgrade, which are used where the
    config has the same address.
    """
    handed = handed or Handed()
    left = {place: list(each) for place, each in handed.sockets.items()}
    plan = [
        (kind, address, left[kind, address].pop(0) if left.get((kind, address)) else ())
        for kind, configured in addresses.items()
        for address in configured
    ]
    with ExitStack() as undo:
        for _kind, address, held in plan:
            if not held:
                # SO_REUSEPORT would let a second edge share the address: check that it is free.
                _bind(address, shared=False).close()
        bound = []
        for kind, address, held in plan:
            sockets = list(held)
            while len(sockets) < workers:
                sockets.append(_listen(address_of(sockets[0]) if sockets else address))
                undo.callback(sockets[-1].close)
            bound.append((kind, sockets))
        undo.pop_all()

    def of(kind: str, worker: int) -> tuple[socket.socket, ...]:
        return tuple(sockets[worker] for each, sockets in bound if each == kind)

    listeners = [
        WorkerListeners(*(of(kind, worker) for kind in LISTENER_KINDS)) for worker in range(workers)
    ]
    if not addresses.get("mixed"):
        return listeners
    tunnels = bind_tunnel_peers(slots or range(workers), handed.tunnels)
    return [replace(each, tunnel=tunnel) for each, tunnel in zip(listeners, tunnels, strict=True)]


def address_of(listener: socket.socket) -> Address:
    """The address of a listening socket; the kernel has chosen the port if the config has 0."""
    host, port = listener.getsockname()[:2]
    return host, port


def with_bound_addresses(config: Config, own: WorkerListeners, admin: socket.socket) -> Config:
    """The config with the ports that the kernel chose in place of port 0."""
    listen = config.listen.model_copy(
        update={
            "http": tuple(map(address_of, own.http)),
            "https": tuple(map(address_of, own.https)),
            "rtmp": tuple(map(address_of, own.rtmp)),
            "rtmps": tuple(map(address_of, own.rtmps)),
            "mixed": tuple(map(address_of, own.mixed)),
            "fleet": address_of(own.fleet[0]) if own.fleet else None,
            "admin": admin_address_of(admin),
        }
    )
    return config.model_copy(update={"listen": listen})


def proxied_listeners(listen: ListenConfig, own: WorkerListeners) -> frozenset[socket.socket]:
    """The worker's sockets whose connections begin with a PROXY header."""
    bound = zip(
        (*listen.http, *listen.https, *listen.rtmp, *listen.rtmps, *listen.mixed),
        (*own.http, *own.https, *own.rtmp, *own.rtmps, *own.mixed),
        strict=True,
    )
    return frozenset(listener for address, listener in bound if address in listen.proxy_protocol)


def bind_admin(address: Address | Path) -> socket.socket:
    """Binds the admin address, or the path of a Unix socket. Raises OSError."""
    listener = _bind_unix(address) if isinstance(address, Path) else _bind(address, shared=False)
    listener.listen(128)
    return listener


def close_admin(listener: socket.socket) -> None:
    """Closes the admin address; removes the file of a Unix socket."""
    if listener.family == socket.AF_UNIX:
        with contextlib.suppress(OSError):
            os.unlink(listener.getsockname())
    listener.close()


def admin_address_of(listener: socket.socket) -> Address | Path:
    """The address of the admin listener, or the path of its Unix socket."""
    if listener.family == socket.AF_UNIX:
        return Path(listener.getsockname())
    return address_of(listener)


def _bind_unix(path: Path) -> socket.socket:
    """Binds a Unix socket that its user and group may use; replaces one that no process serves."""
    _remove_unserved(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o777 & ~UNIX_MODE)
    try:
        listener.bind(str(path))
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        raise OSError(exc.errno, f"cannot listen on unix:{path}: {exc.strerror}") from exc
    finally:
        os.umask(umask)
    return listener


def _remove_unserved(path: Path) -> None:
    """Removes the socket of an edge that was killed."""
    if not path.is_socket():
        return  # if it is another file, the bind fails
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            return  # the bind says why


def _listen(address: Address) -> socket.socket:
    listener = _bind(address, shared=True)
    listener.listen(BACKLOG)
    return listener


def _bind(address: Address, *, shared: bool) -> socket.socket:
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        raise OSError(exc.errno, f"cannot listen on {host}:{port}: {exc.strerror}") from exc
    return listener
