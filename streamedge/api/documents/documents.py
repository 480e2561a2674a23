"""Reading, checking and completing CloudFront documents.

These rules hold for every document: the Quantity of a list is its length, a missing member has
CloudFront's default, and errors of a config section name the document's member. A document is a
dict in boto3's form. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from pydantic import ValidationError

from streamedge.api.errors import ApiError
from streamedge.config.describe import expected
from streamedge.config.schema.config import Section

Document: TypeAlias = Mapping[str, Any]
SectionKind = TypeVar("SectionKind", bound=Section)


def listing(entries: Sequence[object]) -> dict[str, Any]:
    """``entries`` in CloudFront's form of a list; an empty list has no Items."""
    return {"Quantity": len(entries)} | ({"Items": list(entries)} if entries else {})


def entries_of(document: Document, member: str) -> list[Any]:
    """The entries of the list at ``member``; [] if it is absent."""
    return list((document.get(member) or {}).get("Items") or ())


def required(document: Document, member: str) -> Any:
    """The value at ``member``. Raises ApiError if it is absent."""
    if document.get(member) is None:
        raise invalid(f"{member} is missing")
    return document[member]


def normalize(value: Any, path: str = "") -> Any:
    """``value`` without empty Items and None, and with every Quantity checked.

    Raises ApiError InconsistentQuantities, which names the list.
    """
    if isinstance(value, Mapping):
        members = {
            name: normalize(member, f"{path}.{name}" if path else name)
            for name, member in value.items()
        }
        if "Quantity" in members:
            count = len(members.get("Items") or ())
            if members["Quantity"] != count:
                text = f"{path or 'the list'}: Quantity is {members['Quantity']}, Items has {count}"
                raise ApiError("InconsistentQuantities", text)
            if not count:
                members.pop("Items", None)
        return {name: member for name, member in members.items() if member is not None}
    if isinstance(value, list | tuple):
        return [normalize(entry, f"{path}[{index}]") for index, entry in enumerate(value)]
    return value


def with_defaults(document: Document, defaults: Document) -> dict[str, Any]:
    """``document``, with missing members from ``defaults``."""
    return {**defaults, **document}


def section(kind: type[SectionKind], values: Mapping[str, Any], where: str) -> SectionKind:
    """The config section of ``values``. Raises ApiError InvalidArgument that names ``where``.

    The message never repeats a value, which may be a secret.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        key = str(error["loc"][0]) if error["loc"] else ""
        field = kind.model_fields.get(key)
        if error["type"] == "value_error":
            text = str(error["ctx"]["error"])
        elif field is not None and error["type"] not in {"missing", "too_long"}:
            text = expected(field)
        else:
            text = error["msg"]
        raise invalid(f"{where}: {key}: {text}") from exc


def invalid(text: str) -> ApiError:
    """The error for an invalid document."""
    return ApiError("InvalidArgument", text)


def not_offered(member: str, reason: str = "") -> ApiError:
    """The error for a CloudFront feature that this edge does not have."""
    return invalid(f"{member} is not offered by this edge" + (f": {reason}" if reason else ""))
