"""The part of the schema for access logs of distributions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from streamedge.config.schema.values import DurationS, KeyPrefix, Section


class LogConfig(Section):
    """Where the access log of a distribution goes."""

    origin: str = Field(
        default="",
        description="Name of a table under [origins], a folder or a bucket, that gets the access"
        " log; default: there is none.",
        examples=["logs"],
    )
    prefix: KeyPrefix = Field(
        default="",
        description='Text before the names of the log\'s files; a "/" is added where it has none'
        " at its end.",
        examples=["cdn/"],
    )
    interval: DurationS = Field(
        default=300.0,
        description="How often the log is delivered; also at 32 MiB, and when the edge stops.",
        ge=1,
        le=3600,
    )

    @property
    def file_prefix(self) -> str:
        """``prefix`` with a slash at its end, or ""."""
        return f"{self.prefix.rstrip('/')}/" if self.prefix else ""


class RtmpLogConfig(LogConfig):
    """Where the access log of an rtmp distribution goes: CloudFront's log with 17 fields."""


class WebLogConfig(LogConfig):
    """Where the access log of a web distribution goes, and what it has."""

    cookies: bool = Field(default=False, description="Whether the log has the viewers' cookies.")
    format: Literal["standard", "realtime"] = Field(
        default="standard",
        description="Lines of CloudFront's standard log (33 fields), or JSON lines with the fields"
        " of its real-time log (40).",
    )
