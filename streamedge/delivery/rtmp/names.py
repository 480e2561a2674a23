"""How players spell applications and streams, and which objects they may mean.

Pure. The spellings are those of knowledge gathered from players: ffmpeg takes the first one or two
path segments as the application and drops ``.flv``; rtmpdump drops every extension it knows and
puts ``mp4:`` or ``mp3:`` instead; Flash pages percent-encode ``?=&``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote

from streamedge.delivery.names import object_name

_KNOWN_EXTENSIONS = frozenset(
    {"mp4", "m4v", "m4a", "mov", "f4v", "f4a", "flv", "mp3", "3gp", "3g2", "qt"}
)
# What a prefix, or none, may leave out; the name as it stands is tried too.
_EXTENSIONS = {
    "mp4": ("mp4", "m4a", "mov", "m4v", "f4v"),
    "flv": ("flv",),
    "mp3": ("mp3",),
    "": ("flv", "mp4", "mp3"),
}
_INSTANCE_DEFAULT = "_definst_"
_PREFIX = re.compile(r"(mp4|flv|mp3)(?::|%3A)", re.IGNORECASE)


class StreamName(NamedTuple):
    """A stream name taken apart. ``query`` is what follows the first "?", undecoded."""

    prefix: str
    path: str
    query: str


class ApplicationMatch(NamedTuple):
    """Which configured application a client's is, and what of its path belongs to names."""

    application: str
    rest: str


def match_application(app: str, configured: Iterable[str]) -> ApplicationMatch | None:
    """The longest configured application that ``app`` is, or begins with.

    Players that cannot know where the application ends send part of the stream's path with it.
    """
    path = app.partition("?")[0].strip("/")
    segments = [segment for segment in path.split("/") if segment != _INSTANCE_DEFAULT]
    spelled = "/".join(segments)
    for application in sorted(configured, key=len, reverse=True):
        if spelled == application:
            return ApplicationMatch(application, "")
        if spelled.startswith(application + "/"):
            return ApplicationMatch(application, spelled[len(application) + 1 :])
    return None


def split_stream_name(name: str) -> StreamName:
    """Takes prefix and query off a stream name, encoded or not."""
    if "?" not in name and "%3f" in name.lower():
        at = name.lower().index("%3f")
        name = f"{name[:at]}?{unquote(name[at + 3 :])}"
    path, _, query = name.partition("?")
    if "=" not in query and "%3d" in query.lower():
        query = unquote(query)  # only what follows the "?" was encoded
    prefix = _PREFIX.match(path)
    if prefix is None:
        return StreamName("", path, query)
    return StreamName(prefix[1].lower(), path[prefix.end() :], query)


def known_extension(path: str) -> str:
    """The extension of a name in lower case, without dot; empty if it is none of media's."""
    _, dot, extension = path.rpartition("/")[2].rpartition(".")
    extension = extension.lower()
    return extension if dot and extension in _KNOWN_EXTENSIONS else ""


def usual_prefix(extension: str) -> str:
    """The prefix that players put before names with an extension; empty if none does."""
    return next((prefix for prefix, known in _EXTENSIONS.items() if extension in known), "")


def candidates(name: str, folder: str = "") -> list[str]:
    """The objects that a stream name may mean, the likeliest first; empty: it is no name.

    ``folder`` is what the player sent with the application. A name with an extension means one
    object; without, its prefix says which extensions it may have lost.
    """
    parsed = split_stream_name(name)
    path = parsed.path.lstrip("/")
    decoded = object_name(f"{folder}/{path}" if folder else path)
    if decoded is None:
        return []
    if known_extension(decoded):
        return [decoded]
    guesses = [f"{decoded}.{extension}" for extension in _EXTENSIONS[parsed.prefix]]
    return [guesses[0], decoded, *guesses[1:]]
