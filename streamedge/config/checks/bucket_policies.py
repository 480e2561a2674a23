"""Names that policies must not contain where the origin is a bucket.

Requests to a bucket have the edge's own rights. So a viewer's query only ever selects the content
of an object, and a viewer's credentials and x-amz-* fields are not forwarded. A policy that names
one of these would have no effect. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

# Sub-resources that operations similar to GetObject read (Amazon S3 API Reference).
_SUB_RESOURCES = frozenset(
    {
        *("acl", "annotation", "attributes", "legal-hold", "retention", "tagging", "torrent"),
        *("uploadId", "uploads"),
    }
)


def not_for_buckets(query_strings: Iterable[str], headers: Iterable[str]) -> str:
    """The first of the parameters and fields that is never sent to a bucket, or ""."""
    for name in query_strings:
        if name in _SUB_RESOURCES:
            return name
    for name in headers:
        if name.lower() == "authorization" or name.lower().startswith("x-amz-"):
            return name
    return ""
