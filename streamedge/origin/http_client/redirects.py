"""Redirects that the edge may follow.

Pure. Only redirects to the same scheme, host and port are followed, so that no response makes the
edge connect elsewhere; other redirects go to the viewer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urljoin

from streamedge.origin.http_client.request import split_url

_STATUSES = frozenset({301, 302, 303, 307, 308})  # RFC 9110 §15.4
_VISIBLE = re.compile(r"[!-~]+")  # the characters of a URL; some parsers skip others


def redirect_url(url: str, status: int, fields: Iterable[tuple[str, str]]) -> str | None:
    """The target of a redirect of a GET or HEAD of ``url``; None: do not follow.

    A response with several Locations is not followed, because recipients differ in their choice.
    """
    locations = [value.strip() for name, value in fields if name.lower() == "location"]
    if status not in _STATUSES or len(locations) != 1 or not _VISIBLE.fullmatch(locations[0]):
        return None
    try:
        target = urljoin(url, locations[0])
        is_same_endpoint = split_url(target)[0] == split_url(url)[0]
    except ValueError:
        return None
    return target if is_same_endpoint else None
