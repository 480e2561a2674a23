"""CloudFront's resource patterns: wildcards that match within one section of a URL.

``*`` stands for any characters, ``?`` for exactly one, ``\\?`` for a question mark. A URL has four
sections, ``protocol://domain/path?query``; a ``*`` ends where its section ends, but a ``*``
at the end of the pattern matches the whole rest. The name of a stream has only the last two
sections. Pure; the
time is linear in the text, for any pattern.

Source: CloudFront Developer Guide, "Creating a signed URL using a custom policy", Resource.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Whether a text begins with a protocol; a query may hold "://" as well.
_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)")
_PROTOCOL_PATTERN = re.compile(r"[A-Za-z0-9+.*?-]+(?=://)")
_SYMBOL = re.compile(r"\\\?|[\s\S]")
_OPENING = re.compile(r"[^*?\\]*\*")
_SEPARATOR = "://"


@dataclass(frozen=True, slots=True)
class Wildcards:
    """A section's pattern as an automaton whose states are the bits of an integer.

    Bit i of a state set: the first i characters of the pattern have matched. ``transitions`` has
    bit i for the character that leads from state i to i + 1, ``any_character`` has it where any
    character does, ``loops`` where there is a ``*``; ``accepting`` is the last state.
    """

    prefix: str  # the literal text before the first wildcard
    is_prefix_all: bool  # the pattern has no wildcard
    is_prefix_open: bool  # the pattern is the prefix and one "*"
    transitions: dict[str, int]
    any_character: int
    loops: int
    accepting: int

    def match(self, text: str, boundary: int = -1) -> bool:
        """Whether it matches ``text``; only a final ``*`` may match past index ``boundary``."""
        if not text.startswith(self.prefix):
            return False
        if self.is_prefix_all:
            return len(text) == len(self.prefix)
        if self.is_prefix_open:
            return True
        states = 1
        for index, character in enumerate(text):
            stay = self.loops & self.accepting if index == boundary else self.loops
            advance = self.any_character | self.transitions.get(character, 0)
            states = (states & advance) << 1 | states & stay
            if not states:
                return False
        return bool(states & self.accepting)


def _compile(pattern: str) -> Wildcards:
    transitions: dict[str, int] = {}
    any_character = loops = length = 0
    prefix: list[str] = []
    for symbol in _SYMBOL.findall(pattern):
        if symbol == "*":
            loops |= 1 << length
            continue
        if symbol == "?":
            any_character |= 1 << length
        else:
            character = symbol[-1]
            transitions[character] = transitions.get(character, 0) | 1 << length
            if not loops and not any_character:
                prefix.append(character)
        length += 1
    return Wildcards(
        prefix="".join(prefix),
        is_prefix_all=length == len(prefix) and not loops,
        is_prefix_open=length == len(prefix) and loops == 1 << length,
        transitions=transitions,
        any_character=any_character,
        loops=loops,
        accepting=1 << length,
    )


_ANYTHING = _compile("*")


@dataclass(frozen=True, slots=True)
class ResourcePattern:
    """A compiled Resource of a policy; ``protocol`` is None where it cannot match a URL."""

    protocol: Wildcards | None
    domain: Wildcards
    url_rest: Wildcards  # pattern of the path and query of a URL
    name: Wildcards | None  # of a stream's name with its query; None if it matches only URLs
    opening: str | None = None  # the prefix of a pattern that is a prefix and "*": the fast case

    def match(self, resource: str) -> bool:
        """Whether it matches a URL, or a stream's name with the rest of its query."""
        if self.opening is not None and resource.startswith(self.opening):
            return True
        protocol = _PROTOCOL.match(resource)
        if protocol is None:
            return self.name is not None and self.name.match(resource, resource.find("?"))
        if self.protocol is None or not self.protocol.match(protocol[0]):
            return False
        begin = protocol.end() + len(_SEPARATOR)
        slash = resource.find("/", begin)
        end = len(resource) if slash < 0 else slash
        if not self.domain.match(resource[begin:end]):
            return False
        rest = resource[end:]
        return self.url_rest.match(rest, rest.find("?"))


def compile_pattern(pattern: str) -> ResourcePattern:
    """Compiles a Resource; an empty one and ``*`` match everything.

    A pattern without a protocol that begins with ``*`` matches URLs too: the star stands for
    protocol and domain. Patterns are case-sensitive.
    """
    if pattern in {"", "*"}:
        return ResourcePattern(_ANYTHING, _ANYTHING, _ANYTHING, _ANYTHING)
    protocol = _PROTOCOL_PATTERN.match(pattern)
    if protocol is not None:
        domain, slash, rest = pattern[protocol.end() + len(_SEPARATOR) :].partition("/")
        is_open = domain.endswith("*") and not slash
        return ResourcePattern(
            _compile(protocol[0]),
            _compile(domain),
            _ANYTHING if is_open else _compile(slash + rest),
            None,
            pattern[:-1] if _OPENING.fullmatch(pattern) else None,
        )
    name = _compile(pattern)
    if not pattern.startswith("*"):
        return ResourcePattern(None, _ANYTHING, _ANYTHING, name)
    domain, slash, rest = pattern.partition("/")
    if not slash:
        return ResourcePattern(_ANYTHING, _ANYTHING, name, name)
    return ResourcePattern(_ANYTHING, _compile(domain), _compile(slash + rest), name)


def resource_matches(pattern: str, resource: str) -> bool:
    """Whether a policy's Resource matches ``resource``: a URL, or a stream's name."""
    return compile_pattern(pattern).match(resource)
