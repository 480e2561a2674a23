"""Documents of the API: XML to values and back, by botocore's shapes.

``parse`` reads the documents that clients send, and ``serialize`` writes the documents that they
read; both leave structures as they are (a list stays ``Quantity`` and ``Items``). Pure: returns a
value or raises ``ApiError``, which names the member:

    MalformedXML            an element is unknown or repeated, or there is text in its place
    InvalidArgument         a member is missing, has the wrong type or is out of range
    InconsistentQuantities  ``Quantity`` is not the number of ``Items``

CloudFront's model has no maps, flattened lists or attributes, and no request has a timestamp or
blob, so they are not supported here; a test checks this for every operation of this edge.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping
from typing import Any

from botocore.model import ListShape, Shape, StringShape, StructureShape

from streamedge.api.errors import ApiError
from streamedge.api.protocol.xml_tree import Element, malformed, read_tree, write_tree

QUOTED_MAX_CHARACTERS = 100  # of a caller's value in an error message

_INTEGER = re.compile(r"-?[0-9]{1,19}")
_DOUBLE = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")
_BOOLEANS: Mapping[str, bool] = {"true": True, "false": False}
_INTEGER_BITS: Mapping[str, int] = {"integer": 32, "long": 64}


def parse(shape: StructureShape, name: str, body: bytes) -> dict[str, Any]:
    """Parses a body with the root ``name`` to the members of ``shape``. Raises ApiError."""
    root = read_tree(body)
    if root.name != name:
        raise malformed(f"The root of the body is {name}, not {quoted(root.name)}.")
    return _structure(shape, root, name)


def serialize(shape: StructureShape, name: str, value: Mapping[str, Any]) -> bytes:
    """The document with the root ``name``; members that are None are left out.

    Raises KeyError if ``value``, which comes from a handler, has a member that the shape lacks.
    """
    return write_tree(_element(shape, name, value))


def read_scalar(shape: Shape, text: str, path: str) -> str | int | float | bool:
    """Parses a scalar; ``path`` names the member in the error message.

    Raises ApiError InvalidArgument.
    """
    match shape.type_name:
        case "boolean":
            if (flag := _BOOLEANS.get(text.strip())) is None:
                raise _invalid(path, f"{quoted(text)} is neither true nor false")
            return flag
        case "integer" | "long":
            return _integer(shape, text.strip(), path)
        case "double":
            return _double(shape, text.strip(), path)
        case "string":
            _check_bounds(shape, len(text), path, "characters")
            if isinstance(shape, StringShape) and shape.enum and text not in shape.enum:
                allowed = ", ".join(shape.enum)
                raise _invalid(path, f"{quoted(text)} is not one of {allowed}")
            return text
    raise NotImplementedError(f"{path}: no request has a {shape.type_name}")


def quoted(text: str) -> str:
    """A caller's value for an error message: in quotes, and shortened if it is long."""
    if len(text) > QUOTED_MAX_CHARACTERS:
        text = text[:QUOTED_MAX_CHARACTERS] + "…"
    return f"'{text}'"


def _value(shape: Shape, element: Element, path: str) -> Any:
    if isinstance(shape, StructureShape):
        return _structure(shape, element, path)
    if isinstance(shape, ListShape):
        return _list(shape, element, path)
    if element.children:
        raise malformed(f"{path} has a value, not elements.")
    return read_scalar(shape, element.text, path)


def _structure(shape: StructureShape, element: Element, path: str) -> dict[str, Any]:
    _refuse_text(element, path)
    members = shape.members
    value: dict[str, Any] = {}
    for child in element.children:
        # In requests, the element of a member always has the member's name.
        if (member := members.get(child.name)) is None:
            raise malformed(f"{path} has no member {quoted(child.name)}.")
        if child.name in value:
            raise malformed(f"{path}.{child.name} is repeated.")
        value[child.name] = _value(member, child, f"{path}.{child.name}")
    for required in shape.required_members:
        if required not in value:
            raise _invalid(f"{path}.{required}", "it is required")
    _check_quantity(shape, value, path)
    return value


def _check_quantity(shape: StructureShape, value: dict[str, Any], path: str) -> None:
    if "Quantity" not in value or "Items" not in shape.members:
        return
    count = len(value.get("Items", ()))
    if value["Quantity"] != count:
        raise ApiError(
            "InconsistentQuantities",
            f"The value of Quantity and the size of Items don't match: {path} says"
            f" {value['Quantity']} and has {count}.",
        )


def _list(shape: ListShape, element: Element, path: str) -> list[Any]:
    _refuse_text(element, path)
    name = _member_name(shape)
    items = []
    for index, child in enumerate(element.children):
        if child.name != name:
            raise malformed(f"{path} is a list of {name}, not of {quoted(child.name)}.")
        items.append(_value(shape.member, child, f"{path}[{index}]"))
    _check_bounds(shape, len(items), path, "items")
    return items


def _member_name(shape: ListShape) -> str:
    name: str = shape.member.serialization.get("name", "member")
    return name


def _refuse_text(element: Element, path: str) -> None:
    if element.text.strip():
        raise malformed(f"{path} has elements, not text.")


def _integer(shape: Shape, text: str, path: str) -> int:
    if _INTEGER.fullmatch(text) is None:
        raise _invalid(path, f"{quoted(text)} is not an integer")
    number = int(text)
    limit = 1 << (_INTEGER_BITS[shape.type_name] - 1)
    if not -limit <= number < limit:
        raise _invalid(path, f"{text} does not fit {shape.type_name}")
    _check_bounds(shape, number, path, "")
    return number


def _double(shape: Shape, text: str, path: str) -> float:
    number = float(text) if _DOUBLE.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise _invalid(path, f"{quoted(text)} is not a number")
    _check_bounds(shape, number, path, "")
    return number


def _check_bounds(shape: Shape, measure: float, path: str, unit: str) -> None:
    minimum, maximum = shape.metadata.get("min"), shape.metadata.get("max")
    if minimum is not None and measure < minimum:
        raise _invalid(path, f"{measure} is less than {minimum} {unit}".rstrip())
    if maximum is not None and measure > maximum:
        raise _invalid(path, f"{measure} is more than {maximum} {unit}".rstrip())


def _invalid(path: str, reason: str) -> ApiError:
    return ApiError("InvalidArgument", f"The parameter {path} is not valid: {reason}.")


def _element(shape: Shape, name: str, value: Any) -> Element:
    if isinstance(shape, StructureShape):
        unknown = value.keys() - shape.members.keys()
        if unknown:
            raise KeyError(f"{shape.name} has no members {sorted(unknown)}")
        children = [
            _element(member, member.serialization.get("name", member_name), value[member_name])
            for member_name, member in shape.members.items()
            if value.get(member_name) is not None
        ]
        return Element(name, children)
    if isinstance(shape, ListShape):
        item = _member_name(shape)
        return Element(name, [_element(shape.member, item, each) for each in value])
    return Element(name, text=_scalar(shape, value))


def _scalar(shape: Shape, value: Any) -> str:
    match shape.type_name:
        case "boolean":
            return "true" if value else "false"
        case "timestamp":
            return _timestamp(value)
    return str(value)


def _timestamp(time: datetime.datetime) -> str:
    """ISO 8601 in UTC with milliseconds, as CloudFront writes times."""
    text = time.astimezone(datetime.UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"
