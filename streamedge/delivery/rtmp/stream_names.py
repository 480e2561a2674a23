"""Parses applications and stream names, and lists the objects that a name may mean.

Pure. A player has one URL, such as ``rtmp://HOST/cfx/st/mp4:dir/film.mp4``, and splits it into an
application for connect (with tcUrl, the URL up to there) and a name for play. Players split it at
different positions:

    player                     app                      name
    ffmpeg, mpv, VLC           cfx/st                   mp4:dir/film.mp4    (".flv" dropped)
    rtmpdump, gst rtmpsrc      cfx/st/mp4:dir           mp4:film            (extension dropped)
    gst rtmp2src               cfx/st/mp4:dir           film.mp4            (at the last slash)
    JW Player                  cfx/st/                  mp4:dir/film.mp4    (before the prefix)
    nginx-rtmp's pull          cfx                      st/mp4:dir/film.mp4
    rtmpdump -r URL -y NAME    cfx                      NAME

So application and name are joined again; the part after the configured application belongs to the
name. A client that sends only the beginning of an application gets that application if there is
only one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

from streamedge.delivery.object_names import object_name

_KNOWN_EXTENSIONS = frozenset(
    [
        "mp4",
        "m4v",
        "m4a",
        "mov",
        "f4v",
        "f4a",
        "flv",
        "mp3",
        "3gp",
        "3g2",
        "qt",
        "mkv",
        "mka",
        "webm",
        "ts",
        "m2ts",
        "mts",
        "aac",
    ]
)
# The extensions that a name with this prefix may lack; the name without one is tried too.
_EXTENSIONS = {
    "mp4": ("mp4", "m4a", "mov", "m4v", "f4v"),
    "flv": ("flv",),
    "mp3": ("mp3",),
    "": ("flv", "mp4", "mp3"),
}
DEFAULT_INSTANCE = "_definst_"  # Flash Media Server's name for an application's only instance
_PREFIXES = re.compile(r"(?:(mp4|flv|mp3)(?::|%3A))+", re.IGNORECASE)


class ApplicationMatch(NamedTuple):
    """The configured application that a client connects to, and the rest of its connect.

    ``folder``: the beginning of the stream's path, as the client sent it. ``query``: the beginning
    of the stream's query, if the player split the URL inside the query. ``missing``: the end of the
    application, if the client names only its beginning. ``has_instance``: the client named the
    default instance.
    """

    application: str
    folder: str = ""
    query: str = ""
    missing: str = ""
    has_instance: bool = False


class StreamName(NamedTuple):
    """A parsed stream name below its application, not decoded.

    ``path`` has neither prefixes nor the instance. ``prefix`` is the last one that was sent, in
    lower case; ``has_inner_prefix``: it stood before a later segment than the first.
    ``query`` is what follows the first "?".
    """

    prefix: str
    path: str
    query: str
    has_inner_prefix: bool = False
    has_instance: bool = False


def choose_application(
    app: str, tc_url: str, offers: Sequence[Sequence[str]]
) -> tuple[int, ApplicationMatch] | None:
    """Chooses the application, of ``offers`` (one list for each distribution).

    ``app`` decides when it names an application in full. Otherwise tcUrl does, if ``app`` is its
    beginning. Otherwise both may name the beginning of one application alone. The first offer wins
    among equals. None: no such application, or more than one.
    """
    path, _, query = app.partition("?")
    sent = _segments(path)
    in_url = _segments(_url_path(tc_url)) or sent
    for index, applications in enumerate(offers):
        match = _named_in_full(sent, applications)
        if match is not None:
            is_cut_query = bool(query) and _names_media(match.folder)
            return index, match._replace(query=query if is_cut_query else "")
    if in_url[: len(sent)] != sent:
        return None
    for index, applications in enumerate(offers):
        match = _named_in_full(in_url, applications)
        if match is not None:
            return index, match._replace(missing=_end_of(match.application, sent))
    beginnings: dict[str, int] = {}
    for index, applications in enumerate(offers):
        for application in applications:
            if in_url and _segments(application)[: len(in_url)] == in_url:
                beginnings.setdefault(application, index)
    if len(beginnings) != 1:
        return None
    ((application, index),) = beginnings.items()
    return index, ApplicationMatch(application, missing=_end_of(application, sent))


def stream_names(match: ApplicationMatch, name: str) -> tuple[StreamName, ...]:
    """The readings of a play's ``name``: one, or two with the likelier first.

    There are two when the client sent only the beginning of its application: then the name may
    begin with the rest of it, or with a folder of that name.
    """
    path, query = split_query(name)
    if match.query:  # the name is the end of the query
        return (_stream_name(match.folder, f"{match.query}/{name}", match),)
    path = path.lstrip("/")
    below = f"{match.folder}/{path}" if match.folder else path
    paths = [below]
    if match.missing:
        rest = path.removeprefix(f"{match.missing}/")
        paths = [below, path] if rest == path else [rest, path]
    return tuple(_stream_name(each, query, match) for each in dict.fromkeys(paths))


def candidates(stream: StreamName) -> list[str]:
    """The objects that a stream name may mean, the likeliest first; empty if it is not valid.

    A name with an extension means the object of this name; if its prefix stands for another
    extension, that one may have been dropped (librtmp plays clip.mov.mp4 as "mp4:clip.mov").
    Without an extension the prefix decides which ones are tried.
    """
    decoded = object_name(stream.path)
    if decoded is None:
        return []
    extension = known_extension(decoded)
    if extension:
        dropped = _EXTENSIONS[stream.prefix][0]
        is_whole = not stream.prefix or extension == dropped
        return [decoded] if is_whole else [decoded, f"{decoded}.{dropped}"]
    with_extensions = [f"{decoded}.{extension}" for extension in _EXTENSIONS[stream.prefix]]
    return [with_extensions[0], decoded, *with_extensions[1:]]


def split_stream_name(name: str) -> StreamName:
    """Splits prefixes and query from a stream name, encoded or not."""
    path, query = split_query(name)
    return _stream_name(path, query, ApplicationMatch(""))


def known_extension(path: str) -> str:
    """The extension of a name in lower case, without dot; empty if it is no media extension."""
    _, dot, extension = path.rpartition("/")[2].rpartition(".")
    extension = extension.lower()
    return extension if dot and extension in _KNOWN_EXTENSIONS else ""


def usual_prefix(extension: str) -> str:
    """The prefix that players put before names with an extension; empty if none does."""
    return next(
        (prefix for prefix, extensions in _EXTENSIONS.items() if extension in extensions), ""
    )


def _segments(path: str) -> list[str]:
    return path.strip("/").split("/") if path.strip("/") else []


def _end_of(application: str, sent: Sequence[str]) -> str:
    """The end of an application of which only the beginning was sent."""
    return "/".join(_segments(application)[len(sent) :])


def _url_path(url: str) -> str:
    _, separator, rest = url.partition("://")
    return rest.partition("?")[0].partition("/")[2] if separator else ""


def _named_in_full(sent: Sequence[str], applications: Sequence[str]) -> ApplicationMatch | None:
    """The longest of ``applications`` that a path is, or begins with."""
    for application in sorted(applications, key=len, reverse=True):
        segments = _segments(application)
        if sent[: len(segments)] == segments:
            folder = "/".join(sent[len(segments) :]).lstrip("/")
            first, _, below = folder.partition("/")
            if first == DEFAULT_INSTANCE:
                return ApplicationMatch(application, below.lstrip("/"), has_instance=True)
            return ApplicationMatch(application, folder)
    return None


def _names_media(folder: str) -> bool:
    """Whether the end of an application is a stream name and not a folder."""
    return bool(known_extension(folder)) or any(map(_PREFIXES.match, folder.split("/")))


def split_query(name: str) -> tuple[str, str]:
    """Path and query of a name whose "?", "=" and "&" may be encoded, as Flash pages do it."""
    if "?" not in name and "%3f" in name.lower():
        at = name.lower().index("%3f")
        name = f"{name[:at]}?{unquote(name[at + 3 :])}"
    path, _, query = name.partition("?")
    if "=" not in query and "%3d" in query.lower():
        query = unquote(query)  # only the query was encoded
    return path, query


def _stream_name(path: str, query: str, match: ApplicationMatch) -> StreamName:
    has_instance = match.has_instance
    first, slash, below = path.partition("/")
    if slash and first == DEFAULT_INSTANCE:
        path, has_instance = below, True
    prefix, has_inner_prefix = "", False
    segments = []
    for number, segment in enumerate(path.rstrip("/").split("/")):
        prefixes = _PREFIXES.match(segment)
        if prefixes is not None:
            prefix, has_inner_prefix = prefixes[1].lower(), number > 0
        segments.append(segment if prefixes is None else segment[prefixes.end() :])
    return StreamName(prefix, "/".join(segments), query, has_inner_prefix, has_instance)
