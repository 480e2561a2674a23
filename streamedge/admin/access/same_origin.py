"""Which calls of web pages the admin address accepts: the guard against CSRF and DNS rebinding.

A page of another site in an operator's browser must not be able to use the admin address. Browsers
state where a call comes from: ``Sec-Fetch-Site`` (Fetch Metadata, §2.3), or where that is absent,
as over plain HTTP beyond loopback, ``Origin`` (Fetch Standard, "Origin header"). A page could also
rebind its own host name to this address and then read responses; the Host of such calls is not a
name of this edge. Programs send none of these fields. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from http import HTTPStatus

from starlette.datastructures import Headers

from streamedge.access.client_address import parse_address
from streamedge.admin.access.rules import SAFE_METHODS, Refusal
from streamedge.delivery.hosts import host_name, is_host

_OWN_SITES = frozenset({"none", "same-origin"})
OTHER_SITE = Refusal(HTTPStatus.FORBIDDEN, "web pages of other sites may not do this")


def page_refusal(
    method: str, scheme: str, fields: Headers, is_own: Callable[[str], bool]
) -> Refusal | None:
    """Why a call is refused for where it comes from; ``is_own`` is for its Host."""
    hosts = fields.getlist("host")
    for host in hosts:
        if not is_own(host):
            reason = (
                f"{host[:100]!a} is not a name of this edge: use its IP address, localhost, the"
                " name in listen.admin or a name in admin.certificate"
            )
            return Refusal(HTTPStatus.MISDIRECTED_REQUEST, reason)
    if method in SAFE_METHODS or comes_from_own_page(
        fields.getlist("sec-fetch-site"), fields.getlist("origin"), scheme, hosts
    ):
        return None
    return OTHER_SITE


def comes_from_own_page(
    sites: Sequence[str], origins: Sequence[str], scheme: str, hosts: Sequence[str]
) -> bool:
    """Whether a call comes from this edge's page, or from no page."""
    if sites:
        return _OWN_SITES.issuperset(sites)
    if not origins:
        return True
    return len(hosts) == 1 and all(one == f"{scheme}://{hosts[0].lower()}" for one in origins)


def is_own_host(host: str, names: Collection[str], certificate_names: Collection[str] = ()) -> bool:
    """Whether a Host is an IP address, one of ``names``, or in the address's certificate.

    A page of another site can use any IP address, but only as its own: then it is another origin.
    """
    if not is_host(host):
        return False  # host_name would repair it
    name = host_name(host)
    if name in names or parse_address(name) is not None:
        return True
    # A wildcard matches one label, the first (RFC 9525 §6.3).
    return name in certificate_names or "*." + name.partition(".")[2] in certificate_names
