"""The config file's shape: every key, its unit, its limits and its default.

Owns names, types and defaults. Reading the file, finding lines and wording mistakes is ``load``'s
business; nothing here does I/O. Each field's ``description`` is the config reference's text, and
its ``examples`` say what is expected when a value will not do. Defaults are in the field's own
unit: bytes, seconds, (host, port).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, Strict
from pydantic import StringConstraints as Text

from streamedge.config.units import (
    SIZE_LIMIT_BYTES,
    parse_address,
    parse_duration_s,
    parse_path,
    parse_size_bytes,
)

SizeBytes = Annotated[int, BeforeValidator(parse_size_bytes)]
DurationS = Annotated[float, BeforeValidator(parse_duration_s)]
Address = Annotated[tuple[str, int], BeforeValidator(parse_address)]
LocalPath = Annotated[Path, BeforeValidator(parse_path)]


@dataclass(frozen=True, slots=True)
class Shape:
    """In words, what a pattern asks for: pydantic passes it over, messages and reference say it."""

    words: str


Name = Annotated[
    str,
    Text(pattern=r"^[A-Za-z0-9_-]{1,64}$"),
    Shape('1 to 64 letters, digits, "_" or "-"'),
]
Url = Annotated[
    str,
    Text(pattern=r"^https?://[^/?#\s]+[^?#\s]*$", max_length=2048),
    Shape("http:// or https://, at most 2048 characters, no query"),
]
HostPattern = Annotated[
    str,
    Text(pattern=r"^(\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)$", max_length=253, to_lower=True),
    Shape('a host name without port, "*" or "*." and a host name'),
]
Application = Annotated[
    str,
    Text(pattern=r"^[^/?#\s]+(/[^/?#\s]+)*$", max_length=256),
    Shape("at most 256 characters, no slash at either end, no query"),
]
# TOML has no tuples: strictness is for the values, not for the list that holds them.
Addresses = Annotated[tuple[Address, ...], Strict(False), Field(max_length=64)]
HostPatterns = Annotated[tuple[HostPattern, ...], Strict(False), Field(max_length=1024)]
Applications = Annotated[tuple[Application, ...], Strict(False), Field(max_length=256)]


class Section(BaseModel):
    """A table of the file: unknown keys are mistakes, nothing is coerced, nothing changes later."""

    # What is refused may be a password: no error of pydantic's shows it either.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class EdgeConfig(Section):
    """This edge as a whole."""

    name: Name = Field(
        default="local", description="Name of this edge, in Via and in logs.", examples=["fra-1"]
    )
    cache: LocalPath = Field(default=Path("var/cache"), description="Folder of the cache.")
    cache_size: SizeBytes = Field(
        default=20 << 30,
        description="Disk space that cached bytes may take.",
        ge=64 << 20,
        le=SIZE_LIMIT_BYTES,
    )
    workers: int = Field(
        default=0, description="Worker processes; 0 is one for each CPU.", ge=0, le=256
    )
    log: Literal["stdout", "stderr"] | LocalPath = Field(
        default="stdout",
        union_mode="left_to_right",
        description="Where log lines go: stdout, stderr or a file's path.",
    )


class ListenConfig(Section):
    """Where connections are accepted; port 0 lets the system choose."""

    http: Addresses = Field(
        default=(("127.0.0.1", 8080),), description="Addresses that serve web distributions."
    )
    rtmp: Addresses = Field(
        default=(("127.0.0.1", 1935),), description="Addresses that serve rtmp distributions."
    )
    admin: Address = Field(
        default=("127.0.0.1", 9090),
        description="Address of /healthz, /metrics and control; keep it private.",
    )


class LimitsConfig(Section):
    """What bounds connections, times, memory and files; over a limit is a clear error."""

    http_connections: int = Field(
        default=10_000, description="Open HTTP connections, each worker.", ge=1, le=1_000_000
    )
    http_idle: DurationS = Field(
        default=30.0,
        description="An HTTP connection with no request is closed after this long.",
        gt=0,
    )
    http_stall: DurationS = Field(
        default=60.0,
        description="A viewer that takes no byte of a response for this long is dropped.",
        gt=0,
    )
    rtmp_connections: int = Field(
        default=10_000, description="Open RTMP connections, each worker.", ge=1, le=1_000_000
    )
    rtmp_handshake: DurationS = Field(
        default=10.0, description="Time for an RTMP client to finish handshake and connect.", gt=0
    )
    rtmp_idle: DurationS = Field(
        default=120.0,
        description="An RTMP client that neither plays nor sends anything is dropped after this.",
        gt=0,
    )
    rtmp_stall: DurationS = Field(
        default=60.0,
        description="An RTMP viewer that takes no byte for this long is dropped.",
        gt=0,
    )
    rtmp_message: SizeBytes = Field(
        default=64 << 10,
        description="Largest message an RTMP client may send.",
        ge=1024,
        le=16 << 20,
    )
    rtmp_streams: int = Field(
        default=16, description="Streams on one RTMP connection.", ge=1, le=1024
    )
    rtmp_ahead: DurationS = Field(
        default=3_600.0,
        description="Most media sent ahead of real time, however large the client's buffer.",
        gt=0,
    )
    rtmp_rate: SizeBytes = Field(
        default=0,
        description="Most bytes per second to one RTMP viewer who fills a buffer; 0 is line rate.",
        ge=0,
    )
    moov: SizeBytes = Field(
        default=64 << 20,
        description="Largest index (moov) of an MP4 that is read.",
        ge=1024,
        le=1 << 30,
    )
    titles: SizeBytes = Field(
        default=256 << 20,
        description="Memory for media indexes, each worker.",
        ge=1 << 20,
        le=1 << 40,
    )
    open_extents: int = Field(
        default=2048, description="Cache files kept open, each worker.", ge=64, le=1 << 20
    )
    origin_retries: int = Field(
        default=4, description="Attempts after the first before a fill fails.", ge=0, le=20
    )


class OriginConfig(Section):
    """What all origins have."""

    prefix: str = Field(default="", description="Put before every object name.", max_length=1024)


class RemoteOriginConfig(OriginConfig):
    """What origins on other machines have."""

    connect_timeout: DurationS = Field(
        default=5.0, description="Time to connect to the origin.", gt=0
    )
    read_timeout: DurationS = Field(
        default=15.0, description="Longest silence of the origin, before or within a body.", gt=0
    )
    connections: int = Field(
        default=256, description="Open connections to the origin, each worker.", ge=1, le=65536
    )


class DirectoryOriginConfig(OriginConfig):
    """A folder of this machine; it has to exist."""

    type: Literal["directory"] = Field(description="A folder of this machine.")
    path: LocalPath = Field(description="The folder.")


class HttpOriginConfig(RemoteOriginConfig):
    """Any HTTP server."""

    type: Literal["http"] = Field(description="Any HTTP server.")
    url: Url = Field(
        description="Base URL, http:// or https://.", examples=["https://media.example.org/films"]
    )


class S3OriginConfig(RemoteOriginConfig):
    """A bucket of AWS or of any server that speaks S3."""

    type: Literal["s3"] = Field(description="An S3 bucket.")
    bucket: str = Field(
        description="Name of the bucket.", examples=["videos"], min_length=1, max_length=255
    )
    region: str = Field(
        default="us-east-1",
        description="Region that requests are signed for.",
        examples=["eu-central-1"],
        min_length=1,
        max_length=64,
    )
    endpoint: Url = Field(
        default="",
        description="URL of another S3 server; left out: AWS.",
        examples=["http://127.0.0.1:9000"],
    )
    access_key_id: str = Field(
        default="",
        description="Key to sign with; left out: the AWS credential chain (boto3).",
        max_length=256,
    )
    secret_access_key: SecretStr = Field(
        default=SecretStr(""), description="Secret of access_key_id.", max_length=1024
    )
    anonymous: bool = Field(default=False, description="Do not sign: a public bucket.")


AnyOriginConfig = Annotated[
    DirectoryOriginConfig | HttpOriginConfig | S3OriginConfig, Field(discriminator="type")
]


class DistributionConfig(Section):
    """What all distributions have."""

    id: Name = Field(description="Name in logs and metrics.", examples=["EWEB"])
    aliases: HostPatterns = Field(
        default=("*",),
        description='Host names served; "*" is any, "*.example.com" any below it.',
        examples=["cdn.example.com", "*"],
    )
    origin: str = Field(description="Name of a table under [origins].", examples=["samples"])
    default_ttl: DurationS = Field(
        default=86_400.0, description="How long an object without Cache-Control is fresh.", ge=0
    )


class WebDistributionConfig(DistributionConfig):
    """Objects over HTTP, chosen by host name."""

    type: Literal["web"] = Field(description="Served over HTTP.")


class RtmpDistributionConfig(DistributionConfig):
    """Media over RTMP, chosen by host name and application."""

    type: Literal["rtmp"] = Field(description="Served over RTMP.")
    application: Applications = Field(
        default=("cfx/st",),
        description="Applications that a client may connect to.",
        examples=["cfx/st"],
    )
    enhanced: Literal["auto", "strict"] = Field(
        default="auto",
        description="Enhanced RTMP codecs (HEVC, AV1, VP9, Opus, AC-3, FLAC): auto sends them to"
        " everybody, strict only to clients that announce them.",
    )


AnyDistributionConfig = Annotated[
    WebDistributionConfig | RtmpDistributionConfig, Field(discriminator="type")
]


class Config(Section):
    """A whole config file; once ``load`` has read it, every path in it is absolute."""

    edge: EdgeConfig = EdgeConfig()
    listen: ListenConfig = ListenConfig()
    limits: LimitsConfig = LimitsConfig()
    origins: dict[Name, AnyOriginConfig] = Field(
        default={}, description="Where objects come from, each a table.", max_length=1024
    )
    distributions: Annotated[tuple[AnyDistributionConfig, ...], Strict(False)] = Field(
        default=(), description="What is served, and how.", max_length=1024
    )
