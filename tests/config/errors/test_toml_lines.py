"""Lines of keys in TOML: every notation of a key, and random texts."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.config.errors.toml_lines import Key, key_lines, line_of

TEXT = '''# a comment = 1
[edge]  # [not.a.table]
name = "a # b"

listen.http = [
  "127.0.0.1:80", # ] = "
  """x]
  """,
]
note = """
cache = 1
[fake]
"""""
literal = \'\'\'
'fake' = 2 \'\'\'
inline = { a = 1, b = { c = "}" } }
"quoted key".'second.part' = 1
date = 2026-01-01T00:00:00Z
[origins . "b\\u0041d"]
type="s3"

[[distributions]]
id = 1
[[distributions.rules]]
path = 1
[[distributions.rules]]
path = 2
[distributions.sub]
x = 1
[[distributions]]
id = 2
'''


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ((), 1),
        (("edge",), 2),
        (("edge", "name"), 3),
        (("edge", "listen"), 5),
        (("edge", "listen", "http"), 5),
        (("edge", "listen", "http", 1), 5),
        (("edge", "note"), 10),
        (("edge", "literal"), 14),
        (("edge", "inline"), 16),
        (("edge", "inline", "b", "c"), 16),
        (("edge", "quoted key", "second.part"), 17),
        (("edge", "date"), 18),
        (("origins",), 19),
        (("origins", "bAd"), 19),
        (("origins", "bAd", "type"), 20),
        (("origins", "bAd", "region"), 19),
        (("distributions",), 22),
        (("distributions", 0), 22),
        (("distributions", 0, "id"), 23),
        (("distributions", 0, "rules", 0), 24),
        (("distributions", 0, "rules", 1), 26),
        (("distributions", 0, "rules", 1, "path"), 27),
        (("distributions", 0, "sub", "x"), 29),
        (("distributions", 1), 30),
        (("distributions", 1, "id"), 31),
        (("distributions", 1, "origin"), 30),
        (("fake",), 1),
    ],
)
def test_key_lines_handle_every_notation_of_a_key(key: Key, line: int) -> None:
    tomllib.loads(TEXT)  # the locator promises nothing for other text
    assert line_of(key_lines(TEXT), key) == line


def test_key_lines_are_the_same_with_windows_line_ends() -> None:
    assert key_lines(TEXT.replace("\n", "\r\n")) == key_lines(TEXT)


@pytest.mark.parametrize("text", ["", "\n", "# only a comment", "a = 1", "[a]", "[[a]]"])
def test_key_lines_handle_text_without_a_final_newline(text: str) -> None:
    assert set(key_lines(text).values()) <= {1}


names = st.sampled_from(["a", "b", '"a.b"', "'#'", '"="', "c1"])
values = st.sampled_from(
    [
        "1",
        '"x = 1"',
        '"""\n[a]\nb = 1\n"""',
        "'''\n]'''",
        "[\n1, # ]\n2]",
        "{ a = '}' }",
        "[[1], [2]]",
    ]
)
keys = st.lists(names, min_size=1, max_size=3).map(".".join)
statements = st.one_of(
    st.tuples(keys, values).map(" = ".join),
    keys.map(lambda key: f"[{key}]"),
    keys.map(lambda key: f"[[ {key} ]] # note"),
    st.sampled_from(["", "# [a]", "  "]),
)


def _leaves(value: object, key: Key) -> set[Key]:
    leaf_keys = {key}
    if isinstance(value, dict):
        for name, inner in value.items():
            leaf_keys |= _leaves(inner, (*key, name))
    if isinstance(value, list):
        for index, inner in enumerate(value):
            leaf_keys |= _leaves(inner, (*key, index))
    return leaf_keys


@given(st.lists(statements, max_size=8))
def test_key_lines_has_only_keys_of_the_document(parts: list[str]) -> None:
    text = "\n".join(parts)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = key_lines(text)
    assert set(lines) <= _leaves(document, ())
    assert set(document) <= {key[0] for key in lines}
    starts = [1]
    for part in parts:
        starts.append(starts[-1] + part.count("\n") + 1)
    assert set(lines.values()) <= set(starts)
