"""XML trees: parsing within limits, and serializing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.api.errors import ApiError
from streamedge.api.protocol.xml_tree import (
    DEPTH_MAX_ELEMENTS,
    ELEMENTS_MAX,
    NAMESPACE,
    TEXT_MAX_CHARACTERS,
    Element,
    read_tree,
    write_tree,
)

BILLION_LAUGHS = (
    b'<!DOCTYPE lolz [<!ENTITY a "lol">'
    + b"".join(
        b'<!ENTITY %c "%s">' % (letter + 1, b"&%c;" % letter * 10) for letter in range(97, 106)
    )
    + b"]><lolz>&j;</lolz>"
)
EXTERNAL = b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]><x>&e;</x>'
PARAMETER = b'<!DOCTYPE x [<!ENTITY %% p SYSTEM "http://127.0.0.1/x">%%p;]><x/>'


def refused(body: bytes) -> str:
    """The message of the MalformedXML error."""
    with pytest.raises(ApiError) as raised:
        read_tree(body)
    assert raised.value.code == "MalformedXML"
    return raised.value.message


@pytest.mark.parametrize(
    "body",
    [
        b"<a><b>x</b><c/></a>",
        b'<?xml version="1.0" encoding="UTF-8"?>\n<a>\n  <b>x</b>\n  <c></c>\n</a>\n',
        f'<a xmlns="{NAMESPACE}"><b>x</b><c/></a>'.encode(),
        f'<n:a xmlns:n="{NAMESPACE}"><n:b>x</n:b><n:c/></n:a>'.encode(),
        b'<a at="1"><!-- <d/> --><b><![CDATA[x]]></b><?php no?><c/></a>',
        "\ufeff<a><b>&#120;</b><c/></a>".encode(),
        "<a><b>x</b><c/></a>".encode("utf-16"),
        # The encoding in the declaration is ignored: an API body is UTF-8.
        b'<?xml version="1.0" encoding="idna"?><a><b>x</b><c/></a>',
    ],
)
def test_documents_with_the_same_elements_are_equal(body: bytes) -> None:
    assert read_tree(body) == Element("a", [Element("b", text="x"), Element("c")])


@pytest.mark.parametrize("body", [BILLION_LAUGHS, EXTERNAL, PARAMETER, b"<!DOCTYPE x><x/>"])
def test_document_type_is_refused(body: bytes) -> None:
    assert "document type" in refused(body)


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b" ",
            b"<",
            b"<a>",
            b"<a></b>",
            b"<a/><a/>",
            b"<a/>x",
            b"x<a/>",
            b"<a b='1' b='2'/>",
        ),
        *(b"<a>&unknown;</a>", b"<a>\x00</a>", b"<a>\xff</a>", b"<a>&#0;</a>", b"<n:a/>"),
        b"<a>\xed\xa0\x80</a>",
    ],
)
def test_document_that_is_not_well_formed_is_refused(body: bytes) -> None:
    assert "not well-formed" in refused(body)


@pytest.mark.parametrize("body", [b"<a>x<b/></a>", b"<a><b/>x</a>", b"<a><b/> <c/>&#120;</a>"])
def test_mixed_elements_and_text_are_refused(body: bytes) -> None:
    assert "both elements and text" in refused(body)


def test_other_namespace_is_refused() -> None:
    other = NAMESPACE.replace("2020-05-31", "2019-03-26").encode()
    assert "namespace" in refused(b'<a xmlns="%s"/>' % other)
    assert "namespace" in refused(b'<a><b xmlns="%s"/></a>' % other)


def test_depth_is_limited() -> None:
    nested = b"<a>" * DEPTH_MAX_ELEMENTS + b"</a>" * DEPTH_MAX_ELEMENTS
    assert read_tree(nested).name == "a"
    assert "nested deeper" in refused(b"<a>" + nested + b"</a>")
    assert "nested deeper" in refused(b"<a>" * 300_000)


def test_elements_are_limited() -> None:
    root = read_tree(b"<a>" + b"<b/>" * (ELEMENTS_MAX - 1) + b"</a>")
    assert len(root.children) == ELEMENTS_MAX - 1
    assert f"more than {ELEMENTS_MAX} elements" in refused(b"<a>" + b"<b/>" * ELEMENTS_MAX)


def test_text_is_limited() -> None:
    longest = b"x" * TEXT_MAX_CHARACTERS
    assert len(read_tree(b"<a>%s</a>" % longest).text) == TEXT_MAX_CHARACTERS
    assert f"longer than {TEXT_MAX_CHARACTERS}" in refused(b"<a>%sx</a>" % longest)
    assert f"longer than {TEXT_MAX_CHARACTERS}" in refused(b"<a>" + b"&lt;" * 200_000)


@pytest.mark.parametrize("cut", range(len(b"<a><b>x</b></a>")))
def test_truncated_document_is_refused(cut: int) -> None:
    assert "not well-formed" in refused(b"<a><b>x</b></a>"[:cut])


MARKUP = st.lists(
    st.sampled_from(
        [
            *(
                "<a>",
                "</a>",
                "<b>",
                "</b>",
                "<c/>",
                "text",
                " ",
                "&lt;",
                "&x;",
                "<!--",
                "-->",
                "]]>",
            ),
            *("<![CDATA[", "<!DOCTYPE x>", "<?p?>", "\x00", "é", f'<a xmlns="{NAMESPACE}">', '="'),
        ]
    )
).map(lambda pieces: "".join(pieces).encode())


@given(st.binary(max_size=200) | MARKUP)
def test_any_bytes_are_a_tree_or_refused(body: bytes) -> None:
    outcome = "a tree"
    try:
        read_tree(body)
    except ApiError as exc:
        outcome = exc.code
    assert outcome in {"a tree", "MalformedXML"}


NAMES = st.sampled_from(["Id", "Items", "Comment"])
TREES = st.recursive(
    st.builds(Element, NAMES, st.just([]), st.text()),
    lambda trees: st.builds(Element, NAMES, st.lists(trees, min_size=1, max_size=3)),
    max_leaves=10,
)


def _as_written(element: Element) -> Element:
    text = "".join(
        character
        if character in "\t\n\r" or (character >= " " and character not in "\ufffe\uffff")
        else "\ufffd"
        for character in element.text
    )
    return Element(element.name, [_as_written(child) for child in element.children], text)


@given(TREES)
def test_written_document_is_read_back(tree: Element) -> None:
    assert read_tree(write_tree(tree)) == _as_written(tree)


def test_character_that_xml_does_not_allow_is_replaced() -> None:
    body = write_tree(Element("a", text="x\x00y\ud800\r<&>"))
    assert (
        body
        == (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<a xmlns="{NAMESPACE}">x\ufffdy\ufffd&#13;&lt;&amp;&gt;</a>'
        ).encode()
    )
