"""The types that the API's routes and its handlers share: calls, outputs and the handler table.

A handler is a plain function of a call: it knows no XML, no signature and no connection. It is
called in a thread, possibly at the same time as others; the resources that it changes have their
own transactions. It returns the operation's output or raises ``ApiError``. A call of an operation
that is not in the table gets the status 501.

Values have the form of boto3, with the member names of CloudFront's shapes: structures are dicts
(lists stay ``{"Quantity": 2, "Items": [...]}``), timestamps are aware datetimes, and a member that
was not sent is absent. ``input`` has the members of the path, the query, the headers and the body:

    {"Id": "E2EXAMPLE", "IfMatch": "E1ETAG", "DistributionConfig": {"CallerReference": …}}

``Output`` has all members of the result, including those that are sent as headers:

    {"Distribution": {…}, "ETag": "E1ETAG", "Location": "/2020-05-31/distribution/E2EXAMPLE"}

A ``Location`` is a path here; the response has the address of the request before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

API_VERSION = "2020-05-31"
"""The version of the API: the first segment of every path, and the version of botocore's model."""


@dataclass(frozen=True, slots=True)
class Call:
    """One verified and parsed request.

    ``operation`` is CloudFront's name (``CreateDistribution``), ``caller`` the access key id of the
    signature, ``now_s`` the time of arrival in seconds since the epoch.
    """

    operation: str
    input: Mapping[str, Any]
    caller: str
    now_s: float


Output: TypeAlias = dict[str, Any]
Handler: TypeAlias = Callable[[Call], Output]
Handlers: TypeAlias = Mapping[str, Handler]
