"""Media types for objects whose origin sends none, guessed from the file name.

A type that an origin sends is never replaced, not even S3's ``binary/octet-stream``: the uploader
chose it.
"""

from __future__ import annotations

from mimetypes import MimeTypes
from posixpath import splitext

UNKNOWN = "application/octet-stream"

# Types that are missing or outdated in the standard library, or that it reads from system files.
_MEDIA = {
    ".aac": "audio/aac",
    ".flac": "audio/flac",
    ".flv": "video/x-flv",
    ".m3u8": "application/vnd.apple.mpegurl",  # RFC 8216 §4
    ".m4a": "audio/mp4",  # RFC 4337
    ".m4s": "video/iso.segment",
    ".m4v": "video/mp4",
    ".mkv": "video/x-matroska",
    ".mov": "video/quicktime",
    ".mp3": "audio/mpeg",  # RFC 3003
    ".mp4": "video/mp4",  # RFC 4337
    ".mpd": "application/dash+xml",
    ".ogg": "audio/ogg",  # RFC 5334
    ".opus": "audio/ogg",
    ".ts": "video/mp2t",  # RFC 3555
    ".vtt": "text/vtt",
    ".webm": "video/webm",
}
_TYPES = MimeTypes().types_map[True] | _MEDIA


def guess_media_type(name: str) -> str:
    """The media type of ``name``'s extension (upper or lower case); UNKNOWN for others."""
    return _TYPES.get(splitext(name)[1].lower(), UNKNOWN)
