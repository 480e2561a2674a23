"""Decides which clients get aggregate messages (type 22), and which get each frame by itself. Pure.

An aggregate carries up to two seconds of media. It costs the edge least, and players know it: it is
in RTMP 1.0, §7.1.6. Relays are clients too, and some of them do not:

- MediaMTX ends at the first one ("invalid message type: 22"; bluenviron/gortmplib, message/reader).
  It names itself as FFmpeg does, but unlike FFmpeg it also sends objectEncoding.
- nginx-rtmp refuses any message longer than its ``max_message``, 1 MiB by default, which a second
  of 8 Mb/s exceeds. Its name is "LNX.11,1,102,55", with a dot.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

FFMPEG_FLASH_VERSION: Final = "LNX 9,0,124,2"
"""flashVer of FFmpeg's demuxer, the same in all its versions, and of MediaMTX."""

_FLASH_PLAYER: Final = re.compile(r"[A-Z]{3,10} \d{1,3}(,\d{1,5}){1,3}", re.ASCII)


class Aggregation(Enum):
    """The values of a distribution's ``aggregate``."""

    AUTO = "auto"  # to clients that know aggregates
    NEVER = "never"


def takes_aggregates(
    aggregation: Aggregation, flash_version: str, *, has_object_encoding: bool
) -> bool:
    """Whether a client gets aggregates, by the flashVer of its connect.

    In "auto" those do that name a Flash Player, such as "WIN 32,0,0,465": players by Adobe, FFmpeg,
    librtmp and GStreamer. ``has_object_encoding``: whether the connect had objectEncoding.
    """
    if aggregation is Aggregation.NEVER or _FLASH_PLAYER.fullmatch(flash_version) is None:
        return False
    return flash_version != FFMPEG_FLASH_VERSION or not has_object_encoding
