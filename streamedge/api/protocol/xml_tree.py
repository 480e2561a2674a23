"""XML as a tree of elements with text: read within limits, written so that it can be read again.

Owns the syntax alone; what an element means is ``rest_xml``'s. A document type is refused where it
begins, so there are no entities but XML's own five, none that expand, none from outside. Comments
and processing instructions are passed over; attributes other than namespaces mean nothing here.
Names are without their prefix; an element of another namespace than CloudFront's is refused.
Source: XML 1.0 (Fifth Edition), Namespaces in XML 1.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.parsers import expat

from streamedge.api.errors import ApiError

NAMESPACE = "http://cloudfront.amazonaws.com/doc/2020-05-31/"
DEPTH_MAX_ELEMENTS = 32  # a distribution's document has ten
ELEMENTS_MAX = 20_000  # an invalidation of 3,000 paths has as many and five
TEXT_MAX_CHARACTERS = 65_536  # of one element; a public key has 2,000

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REPLACEMENT = "\ufffd"
# A bare CR would be read as LF (XML 1.0 §2.11).
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})


@dataclass(slots=True)
class Element:
    """An element: its local name, and either its children or its text.

    Text that is not white space between children is refused, so one of the two is empty.
    """

    name: str
    children: list[Element] = field(default_factory=list)
    text: str = ""


def read_tree(body: bytes) -> Element:
    """The root of a document in UTF-8, or in UTF-16 with its mark. Raises ApiError MalformedXML."""
    parser = expat.ParserCreate("utf-8", namespace_separator=" ")
    building = _Building()
    parser.StartElementHandler = building.start
    parser.EndElementHandler = building.end
    parser.CharacterDataHandler = building.characters
    parser.StartDoctypeDeclHandler = building.doctype
    parser.buffer_text = True
    try:
        parser.Parse(body, True)
    except expat.ExpatError as exc:
        raise malformed(f"The XML you provided was not well-formed: {exc}") from exc
    except UnicodeError as exc:
        raise malformed("The XML you provided was not UTF-8.") from exc
    assert building.root is not None, "a document without a root is not well-formed"
    return building.root


class _Building:
    """The tree while expat reads; refuses what is over a limit when it begins, not at its end."""

    def __init__(self) -> None:
        self.root: Element | None = None
        self._open: list[Element] = []
        self._count = 0

    def start(self, qualified: str, _attributes: object) -> None:
        namespace, separator, name = qualified.rpartition(" ")
        if separator and namespace != NAMESPACE:
            raise malformed(f"{name[:100]} is of another namespace than {NAMESPACE}.")
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

    def doctype(self, *_declared: object) -> None:
        raise malformed("The XML you provided has a document type, which is not allowed.")

    @staticmethod
    def _refuse_mixture(parent: Element) -> None:
        if parent.text.strip():
            raise malformed(f"{parent.name[:100]} has both elements and text.")


def write_tree(root: Element) -> bytes:
    """The document in UTF-8, its root in CloudFront's namespace.

    A character that XML cannot carry becomes U+FFFD.
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
    """A body whose elements are not those of the operation."""
    return ApiError("MalformedXML", message)
