"""Binds members of operations to parts of HTTP messages: path, query, header fields, body.

The service model's "location" says which part a member belongs to. Pure: returns values or raises
``ApiError``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from botocore.model import OperationModel, Shape, StructureShape

from streamedge.api.errors import ApiError
from streamedge.api.protocol.model import OperationMatch
from streamedge.api.protocol.responses import ApiResponse
from streamedge.api.protocol.rest_xml import parse, quoted, read_scalar, serialize
from streamedge.api.protocol.service import Output


def read_path(path: str) -> tuple[str, ...]:
    """The decoded segments of a percent-encoded path. Raises ApiError InvalidArgument."""
    return tuple(_decoded(segment, "path") for segment in path.removeprefix("/").split("/"))


def read_query(query: str) -> dict[str, str]:
    """The decoded parameters of a percent-encoded query; ``WithTags`` has an empty value.

    Raises ApiError InvalidArgument for a repeated name and for text that is not UTF-8.
    """
    values: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if not part:
            continue
        name = _decoded(name, "query")
        if name in values:
            raise ApiError("InvalidArgument", f"The query has {quoted(name)} twice.")
        values[name] = _decoded(value, "query")
    return values


def read_input(
    match: OperationMatch, query: Mapping[str, str], fields: Mapping[str, str], body: bytes
) -> dict[str, Any]:
    """The members of an operation's input; ``fields`` by name in lower case.

    Raises ApiError, also for a missing member that is required.
    """
    shape = match.operation.input_shape
    if shape is None:
        return {}
    value: dict[str, Any] = {}
    for member_name, member in shape.members.items():
        name = member.serialization.get("name", member_name)
        match member.serialization.get("location"):
            case "uri":
                text = match.path_parameters.get(name)
            case "querystring":
                text = query.get(name)
            case "header":
                text = fields.get(name.lower())
            case _:
                continue
        if text is not None:
            value[member_name] = read_scalar(member, text, member_name)
    _read_payload(shape, body, value)
    for required in shape.required_members:
        if required not in value:
            raise ApiError("InvalidArgument", f"The parameter {required} is required.")
    return value


def _read_payload(shape: StructureShape, body: bytes, value: dict[str, Any]) -> None:
    """Reads the member that is the body, or all members without another location."""
    payload = shape.serialization.get("payload")
    if payload is None:
        members = shape.members.values()
        if body and any("location" not in member.serialization for member in members):
            value.update(parse(shape, shape.serialization.get("name", shape.name), body))
        return
    member = shape.members[payload]
    if not body:
        if payload in shape.required_members:
            raise ApiError("MissingBody", f"This operation requires a body: {payload}.")
        return
    value[payload] = parse(_structure(member), member.serialization.get("name", payload), body)


def write_output(operation: OperationModel, output: Output, address: str) -> ApiResponse:
    """The response of a successful operation; ``address`` is the start of a ``Location``.

    Raises KeyError if ``output``, which comes from a handler, has a member that the shape lacks.
    """
    status = operation.http["responseCode"]
    shape = operation.output_shape
    if shape is None:
        if output:
            raise KeyError(f"{operation.name} has no output, not {sorted(output)}")
        return ApiResponse(status, {}, b"")
    fields, body = {}, b""
    for member_name, value in output.items():
        member = shape.members[member_name]
        name = member.serialization.get("name", member_name)
        if member.serialization.get("location") == "header":
            fields[name] = address + value if name == "Location" else str(value)
        elif member_name == shape.serialization.get("payload"):
            body = serialize(_structure(member), name, value)
        else:
            raise KeyError(f"{operation.name}: {member_name} has no place in a response")
    return ApiResponse(status, fields, body)


def _decoded(text: str, part: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError as exc:
        raise ApiError("InvalidArgument", f"The {part} is not UTF-8.") from exc


def _structure(shape: Shape) -> StructureShape:
    if not isinstance(shape, StructureShape):
        raise TypeError(f"{shape.name}: a body is a structure")
    return shape
