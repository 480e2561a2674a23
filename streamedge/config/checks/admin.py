"""Checks of the keys of the admin address: its certificate, and where passwords may be sent. Pure.

Like ``references``, it checks the parsed document before validation and ignores values of the wrong
type.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from streamedge.config.errors.mistakes import Mistake, string, table
from streamedge.config.schema.config import ListenConfig
from streamedge.config.schema.units import parse_admin_address


def admin_mistakes(document: dict[str, object]) -> Iterator[Mistake]:
    """All mistakes of ``[admin]`` in ``document``."""
    admin, listen = table(document.get("admin")), table(document.get("listen"))
    certificate, key = string(admin, "certificate"), string(admin, "key")
    if certificate and not key:
        yield Mistake(("admin", "key"), "missing; a certificate needs its private key")
    if key and not certificate:
        yield Mistake(("admin", "certificate"), "missing; the key belongs to a certificate")
    try:
        address = parse_admin_address(
            listen.get("admin", ListenConfig.model_fields["admin"].default)
        )
    except ValueError:
        return  # the schema reports it
    if not isinstance(address, tuple):
        if certificate:
            text = "a Unix socket is not served over TLS: remove certificate and key"
            yield Mistake(("admin", "certificate"), text)
        return
    names = [name for name in ("users", "tokens") if table(admin.get(name))]
    if names and not certificate and not is_loopback(address[0]):
        text = (
            "beyond loopback, passwords and tokens need TLS: set admin.certificate and admin.key,"
            " or let listen.admin be an address of 127.0.0.0/8"
        )
        yield Mistake(("admin", names[0]), text)


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can connect to a host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
