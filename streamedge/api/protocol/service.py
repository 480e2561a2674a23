"""What the API's front and its handlers agree on: a call, what answers it, and the table of them.

Owns these types and the API's version only. A handler is a plain function of a call: it knows no
XML, no signature and no connection. It is called in a thread, possibly beside others, so what it
shares (the registry) brings its own transactions. It gives the operation's output or raises
``ApiError``; an operation that the table does not name is answered 501.

Values are those of boto3, member by member as CloudFront's shapes name them: structures are dicts
(lists stay ``{"Quantity": 2, "Items": [...]}``), timestamps are aware datetimes, a member that was
not sent is not there. ``input`` has the members of the path, the query, the headers and the body:

    {"Id": "E2EXAMPLE", "IfMatch": "E1ETAG", "DistributionConfig": {"CallerReference": …}}

``Output`` likewise has the members of the result, those that travel as headers too:

    {"Distribution": {…}, "ETag": "E1ETAG", "Location": "/2020-05-31/distribution/E2EXAMPLE"}

A ``Location`` is given as a path; the front puts the address before it by which it was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

VERSION = "2020-05-31"
"""Of CloudFront's API: the first segment of every path, and the model that botocore has of it."""


@dataclass(frozen=True, slots=True)
class Call:
    """One verified and parsed request.

    ``operation`` is CloudFront's name (``CreateDistribution``), ``caller`` the access key id that
    signed it, ``now_s`` the time it came, in seconds since the epoch.
    """

    operation: str
    input: Mapping[str, Any]
    caller: str
    now_s: float


Output: TypeAlias = dict[str, Any]
Handler: TypeAlias = Callable[[Call], Output]
Handlers: TypeAlias = Mapping[str, Handler]
