"""Where a redirect leads, if the edge may follow it there.

Pure. Owns the rule that no answer makes the edge connect to another place than it was asked of:
scheme, host and port are the first URL's, or the redirect is left to the viewer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urljoin

from streamedge.origin.http_client.request import split_url

_STATUSES = frozenset({301, 302, 303, 307, 308})  # RFC 9110 §15.4
_VISIBLE = re.compile(r"[!-~]+")  # what a URL is made of, other than what some parsers pass over


def redirect_url(url: str, status: int, fields: Iterable[tuple[str, str]]) -> str | None:
    """The URL that the answer to a GET or HEAD of ``url`` leads to; None: do not follow.

    An answer with several Locations leads nowhere: others might choose another of them.
    """
    locations = [value.strip() for name, value in fields if name.lower() == "location"]
    if status not in _STATUSES or len(locations) != 1 or not _VISIBLE.fullmatch(locations[0]):
        return None
    try:
        target = urljoin(url, locations[0])
        is_same_place = split_url(target)[0] == split_url(url)[0]
    except ValueError:
        return None
    return target if is_same_place else None
