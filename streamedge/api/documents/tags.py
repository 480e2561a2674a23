"""Tags of resources, by the rules of CloudFront's service model; at most 50 each. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from streamedge.api.documents.documents import Document
from streamedge.api.errors import ApiError

TAGS_MAX = 50
KEY_CHARACTERS_MAX = 128
VALUE_CHARACTERS_MAX = 256
_RESERVED = "aws:"


def read_tags(document: Document) -> dict[str, str]:
    """Parses ``{"Items": [{"Key": …, "Value": …}]}``. Raises ApiError InvalidTagging."""
    tags: dict[str, str] = {}
    for entry in document.get("Items") or ():
        key, value = entry["Key"], entry.get("Value") or ""
        if not _is_text(key, KEY_CHARACTERS_MAX) or not key or key.lower().startswith(_RESERVED):
            raise ApiError("InvalidTagging", f"{key!a} is not a valid tag key")
        if not _is_text(value, VALUE_CHARACTERS_MAX):
            raise ApiError("InvalidTagging", f"the tag {key!a} has an invalid value")
        if key in tags:
            raise ApiError("InvalidTagging", f"the tag key {key!a} is repeated")
        tags[key] = value
    return check_tag_count(tags)


def check_tag_count(tags: dict[str, str]) -> dict[str, str]:
    """Returns ``tags``. Raises ApiError InvalidTagging if there are more than TAGS_MAX."""
    if len(tags) > TAGS_MAX:
        raise ApiError("InvalidTagging", f"a resource has at most {TAGS_MAX} tags")
    return tags


def tags_document(tags: Mapping[str, str]) -> dict[str, Any]:
    """``tags`` as a document."""
    return {"Items": [{"Key": key, "Value": value} for key, value in tags.items()]}


def without(tags: Mapping[str, str], keys: Iterable[str]) -> dict[str, str]:
    """``tags`` without ``keys``."""
    removed = set(keys)
    return {key: value for key, value in tags.items() if key not in removed}


def _is_text(text: str, characters_max: int) -> bool:
    r"""Whether it is ``[\p{L}\p{Z}\p{N}_.:/=+\-@]*`` of at most this length."""
    return len(text) <= characters_max and all(
        unicodedata.category(character)[0] in "LZN" or character in "_.:/=+-@" for character in text
    )
