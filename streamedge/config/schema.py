"""The config file's shape: every key, its unit, its limits and its default.

Owns names, types and defaults. Reading the file, finding lines and wording mistakes is ``load``'s
business; nothing here does I/O. Each field's ``description`` is the config reference's text, and
its ``examples`` say what is expected when a value will not do. Defaults are in the field's own
unit: bytes, seconds, (host, port). Two parts of it stand in ``origin_schema`` and ``policy_schema``
and are taken from here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, Strict

from streamedge.config.origin_schema import (
    AnyOriginConfig,
    DirectoryOriginConfig,
    HttpOriginConfig,
    OriginConfig,
    OriginGroupConfig,
    RemoteOriginConfig,
    S3OriginConfig,
)
from streamedge.config.policy_schema import (
    CachePolicyConfig,
    CorsConfig,
    OriginRequestPolicyConfig,
    ResponseHeadersPolicyConfig,
)
from streamedge.config.units import SIZE_LIMIT_BYTES
from streamedge.config.values import (
    Address,
    Addresses,
    Applications,
    DurationS,
    HostPatterns,
    LocalPath,
    Methods,
    Name,
    PagePath,
    PathPattern,
    RootObject,
    Section,
    Shape,
    SizeBytes,
    ViewerProtocol,
    WriteMode,
)

__all__ = [
    "AnyDistributionConfig",
    "AnyOriginConfig",
    "BehaviorConfig",
    "BehaviorRules",
    "CachePolicyConfig",
    "CertificateConfig",
    "Config",
    "CorsConfig",
    "DirectoryOriginConfig",
    "DistributionConfig",
    "EdgeConfig",
    "ErrorPageConfig",
    "HttpOriginConfig",
    "LimitsConfig",
    "ListenConfig",
    "OriginConfig",
    "OriginGroupConfig",
    "OriginRequestPolicyConfig",
    "RemoteOriginConfig",
    "ResponseHeadersPolicyConfig",
    "RtmpDistributionConfig",
    "S3OriginConfig",
    "Section",
    "Shape",
    "WebDistributionConfig",
]


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
    https: Addresses = Field(
        default=(), description="Addresses that serve web distributions over TLS 1.2 and 1.3."
    )
    rtmp: Addresses = Field(
        default=(("127.0.0.1", 1935),), description="Addresses that serve rtmp distributions."
    )
    admin: Address = Field(
        default=("127.0.0.1", 9090),
        description="Address of /healthz, /metrics and control; keep it private.",
    )


class CertificateConfig(Section):
    """A certificate of the HTTPS listeners."""

    certificate: LocalPath = Field(
        description="PEM file with the certificate and its chain; its names say which hosts it is"
        " for. The first of several is the default.",
        examples=["certs/site.pem"],
    )
    key: LocalPath = Field(
        description="PEM file with its private key, unencrypted.", examples=["certs/site.key"]
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
    tls_handshake: DurationS = Field(
        default=10.0, description="Time for a viewer to finish the TLS handshake.", gt=0
    )
    url: SizeBytes = Field(
        default=8192,
        description="Longest path and query of a request; over it is 414.",
        ge=256,
        le=16 << 10,
    )
    ranges: int = Field(
        default=8,
        description="Ranges in one request; with more, Range is passed over.",
        ge=1,
        le=256,
    )
    request_body: SizeBytes = Field(
        default=50 << 30,
        description="Largest body of a request; over it is 413.",
        ge=0,
        le=SIZE_LIMIT_BYTES,
    )
    write_queue: SizeBytes = Field(
        default=10 << 30,
        description='Disk space for writes that wait for their origin (write = "back"); over it'
        " is 503.",
        ge=1 << 20,
        le=SIZE_LIMIT_BYTES,
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


class BehaviorRules(Section):
    """What a web distribution says of all paths, and a behavior of its own."""

    origin: str = Field(
        description="Name of a table under [origins] or [origin_groups].", examples=["samples"]
    )
    default_ttl: DurationS = Field(
        default=86_400.0,
        description="How long a response that does not say is fresh; a cache_policy has its own.",
        ge=0,
    )
    cache_policy: str = Field(
        default="",
        description="Name of a table under [cache_policies], or a managed policy's name or id;"
        " left out: no query, header or cookie in the key, and default_ttl.",
        examples=["CachingOptimized"],
    )
    origin_request_policy: str = Field(
        default="",
        description="Name of a table under [origin_request_policies], or a managed policy's name"
        " or id; left out: nothing beyond the cache key is forwarded.",
        examples=["AllViewer"],
    )
    response_headers_policy: str = Field(
        default="",
        description="Name of a table under [response_headers_policies], or a managed policy's"
        " name or id; left out: the origin's headers are sent as they are.",
        examples=["SecurityHeadersPolicy"],
    )
    methods: Methods = Field(
        default=("GET", "HEAD"), description="Methods that are served; GET and HEAD always are."
    )
    viewer_protocol: ViewerProtocol = Field(
        default="allow-all", description="What happens to requests over plain HTTP."
    )
    compress: bool = Field(
        default=False, description="Whether text is compressed for viewers who take it."
    )
    write: WriteMode = Field(
        default="through",
        description="When PUT and DELETE are answered: through, when the origin has them; back,"
        " when this edge has them on disk.",
    )


class BehaviorConfig(BehaviorRules):
    """What holds for the paths of one pattern; what it leaves out is its distribution's."""

    path: PathPattern = Field(
        description="Pattern of paths, case-sensitive, without query; the first that matches"
        ' wins. A "/" in front may be left out.',
        examples=["images/*.jpg"],
    )
    origin: str = Field(
        default="",
        description="Name of a table under [origins] or [origin_groups].",
        examples=["samples"],
    )


class ErrorPageConfig(Section):
    """What viewers get instead of an origin's error."""

    status: int = Field(description="Status that is replaced.", examples=[404], ge=400, le=599)
    path: PagePath = Field(
        default="",
        description="Path of the page, in this distribution; left out: only ttl counts.",
        examples=["/404.html"],
    )
    response_status: int = Field(
        default=0, description="Status that viewers get; 0 is the origin's.", ge=0, le=599
    )
    ttl: DurationS = Field(
        default=10.0, description="Least time that an error of this status is kept.", ge=0
    )


class DistributionConfig(Section):
    """What all distributions have."""

    id: Name = Field(description="Name in logs and metrics.", examples=["EWEB"])
    aliases: HostPatterns = Field(
        default=("*",),
        description='Host names served; "*" is any, "*.example.com" any below it.',
        examples=["cdn.example.com", "*"],
    )


class WebDistributionConfig(DistributionConfig, BehaviorRules):
    """Objects over HTTP, chosen by host name."""

    type: Literal["web"] = Field(description="Served over HTTP.")
    default_root_object: RootObject = Field(
        default="", description='Object that "/" means; left out: none.', examples=["index.html"]
    )
    behaviors: Annotated[tuple[BehaviorConfig, ...], Strict(False)] = Field(
        default=(), description="What holds for some paths instead.", max_length=1024
    )
    error_pages: Annotated[tuple[ErrorPageConfig, ...], Strict(False)] = Field(
        default=(), description="What viewers get instead of errors.", max_length=200
    )

    def rules_for(self, behavior: BehaviorConfig | None = None) -> BehaviorRules:
        """What ``behavior`` says, and for what it leaves out, or without one, what this says."""
        said = behavior.model_fields_set if behavior else frozenset[str]()
        return BehaviorRules.model_construct(
            **{
                key: getattr(behavior if key in said else self, key)
                for key in BehaviorRules.model_fields
            }
        )


class RtmpDistributionConfig(DistributionConfig):
    """Media over RTMP, chosen by host name and application."""

    type: Literal["rtmp"] = Field(description="Served over RTMP.")
    origin: str = Field(
        description="Name of a table under [origins] or [origin_groups].", examples=["samples"]
    )
    default_ttl: DurationS = Field(
        default=86_400.0, description="How long an object without Cache-Control is fresh.", ge=0
    )
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
    certificates: Annotated[tuple[CertificateConfig, ...], Strict(False)] = Field(
        default=(), description="What HTTPS listeners show, chosen by name.", max_length=1024
    )
    origins: dict[Name, AnyOriginConfig] = Field(
        default={}, description="Where objects come from, each a table.", max_length=1024
    )
    origin_groups: dict[Name, OriginGroupConfig] = Field(
        default={}, description="Origins that stand in for each other.", max_length=1024
    )
    cache_policies: dict[Name, CachePolicyConfig] = Field(
        default={}, description="Cache keys and times.", max_length=1024
    )
    origin_request_policies: dict[Name, OriginRequestPolicyConfig] = Field(
        default={}, description="What is forwarded beyond the key.", max_length=1024
    )
    response_headers_policies: dict[Name, ResponseHeadersPolicyConfig] = Field(
        default={}, description="What is changed in response headers.", max_length=1024
    )
    distributions: Annotated[tuple[AnyDistributionConfig, ...], Strict(False)] = Field(
        default=(), description="What is served, and how.", max_length=1024
    )
