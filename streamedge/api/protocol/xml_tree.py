"""XML as a tree of elements with text: parsed within limits, and serialized.

This module has the syntax; ``rest_xml`` interprets the elements. A document type declaration is
refused where it begins, so XML's five predefined entities are the only ones: none expands, and none
is loaded from elsewhere. Comments, processing instructions and attributes are ignored. Names are
without their prefix; an element in a namespace other than CloudFront's is refused.
Source: XML 1.0 (Fifth Edition), Namespaces in XML 1.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.parsers import expat

from streamedge.api.errors import ApiError

NAMESPACE = "http://cloudfront.amazonaws.com/doc/2020-05-31/"
DEPTH_MAX_ELEMENTS = 32  # the document of a distribution needs ten
ELEMENTS_MAX = 20_000  # an invalidation of 3,000 paths has 3,005
TEXT_MAX_CHARACTERS = 65_536  # of one element; a public key has 2,000

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REPLACEMENT = "\ufffd"
# A bare CR would be read as LF (XML 1.0 §2.11).
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})


@dataclass(slots=True)
class Element:
    """An element: its local name, and either its children or its text; the other one is empty."""

    name: str
    children: list[Element] = field(default_factory=list)
    text: str = ""


def read_tree(body: bytes) -> Element:
    """Parses a document in UTF-8, or in UTF-16 with a byte order mark, and returns its root.

    Raises ApiError MalformedXML.
    """
    parser = expat.ParserCreate("utf-8", namespace_separator=" ")
    builder = _TreeBuilder()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.characters
    parser.StartDoctypeDeclHandler = builder.doctype
    parser.buffer_text = True
    try:
        parser.Parse(body, True)
    except expat.ExpatError as exc:
        raise malformed(f"The XML you provided was not well-formed: {exc}") from exc
    except UnicodeError as exc:
        raise malformed("The XML you provided was not UTF-8.") from exc
    if builder.root is None:
        raise malformed("The XML you provided has no root element.")
    return builder.root


class _TreeBuilder:
    """Builds the tree from the events of expat; stops where a limit is exceeded."""

    def __init__(self) -> None:
        self.root: Element | None = None
        self._open: list[Element] = []
        self._count = 0

    def start(self, qualified: str, _attributes: object) -> None:
        namespace, separator, name = qualified.rpartition(" ")
        if separator and namespace != NAMESPACE:
            raise malformed(f"{name[:100]} is not in the namespace {NAMESPACE}.")
        self._count += 1
        if self._count > ELEMENTS_MAX:
            raise malformed(f"The XML you provided has more than {ELEMENTS_MAX} elements.")
        if len(self._open) == DEPTH_MAX_ELEMENTS:
            raise malformed(f"The XML you provided is nested deeper than {DEPTH_MAX_ELEMENTS}.")
        element = Element(name)
        if self._open:
            parent = self._open[-1]
            self._refuse_mixture(parent)
            parent.text = ""
            parent.children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def characters(self, text: str) -> None:
        element = self._open[-1]
        if element.children:
            if text.strip():
                raise malformed(f"{element.name[:100]} has both elements and text.")
            return
        element.text += text
        if len(element.text) > TEXT_MAX_CHARACTERS:
            raise malformed(f"{element.name[:100]} is longer than {TEXT_MAX_CHARACTERS}.")

    def end(self, _qualified: str) -> None:
        self._open.pop()

    def doctype(self, *_declaration: object) -> None:
        raise malformed("The XML you provided has a document type, which is not allowed.")

    @staticmethod
    def _refuse_mixture(parent: Element) -> None:
        if parent.text.strip():
            raise malformed(f"{parent.name[:100]} has both elements and text.")


def write_tree(root: Element) -> bytes:
    """The document in UTF-8, its root in CloudFront's namespace.

    A character that XML does not allow becomes U+FFFD.
    """
    pieces = ['<?xml version="1.0" encoding="UTF-8"?>\n', f'<{root.name} xmlns="{NAMESPACE}">']
    _write_content(root, pieces)
    pieces.append(f"</{root.name}>")
    return "".join(pieces).encode()


def _write_content(element: Element, pieces: list[str]) -> None:
    if element.text:
        pieces.append(_NOT_XML.sub(_REPLACEMENT, element.text).translate(_ESCAPES))
    for child in element.children:
        pieces.append(f"<{child.name}>")
        _write_content(child, pieces)
        pieces.append(f"</{child.name}>")


def malformed(message: str) -> ApiError:
    """The error for a body that does not have the elements of the operation."""
    return ApiError("MalformedXML", message)
