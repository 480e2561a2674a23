"""The schema of the config file: every key with its type, unit, limits and default.

Nothing here does I/O; ``load`` reads the file. The ``description`` of a field is its text in the
config reference, and ``examples`` are shown in error messages. Defaults are in the unit of the
field: bytes, seconds, (host, port). ``access``, ``limits``, ``origins`` and ``policies`` hold parts
of the schema and are imported here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, Strict

from streamedge.config.schema.access import (
    AccessConfig,
    ApiConfig,
    CountriesConfig,
    KeyGroupConfig,
    PublicKeyConfig,
)
from streamedge.config.schema.admin import AdminConfig, AdminTokenConfig, AdminUserConfig
from streamedge.config.schema.fleet import FleetConfig
from streamedge.config.schema.limits import LimitsConfig
from streamedge.config.schema.logs import LogConfig, RtmpLogConfig, WebLogConfig
from streamedge.config.schema.origins import (
    AnyOriginConfig,
    DirectoryOriginConfig,
    HttpOriginConfig,
    OriginConfig,
    OriginGroupConfig,
    RemoteOriginConfig,
    S3OriginConfig,
)
from streamedge.config.schema.policies import (
    CachePolicyConfig,
    CorsConfig,
    OriginRequestPolicyConfig,
    ResponseHeadersPolicyConfig,
)
from streamedge.config.schema.ttl_defaults import DEFAULT_TTL_S, ERROR_TTL_S
from streamedge.config.schema.units import SIZE_LIMIT_BYTES
from streamedge.config.schema.values import (
    RESTART,
    Address,
    Addresses,
    AdminAddress,
    Applications,
    DurationS,
    FieldName,
    HeaderValue,
    HostPatterns,
    IpAddresses,
    LocalPath,
    Location,
    Methods,
    Name,
    Networks,
    PagePath,
    PagePatterns,
    PathPattern,
    RootObject,
    Section,
    Shape,
    SizeBytes,
    ViewerProtocol,
    WriteMode,
)

__all__ = [
    "AccessConfig",
    "AdminConfig",
    "AdminTokenConfig",
    "AdminUserConfig",
    "AnyDistributionConfig",
    "AnyOriginConfig",
    "ApiConfig",
    "BehaviorConfig",
    "BehaviorRules",
    "CachePolicyConfig",
    "CertificateConfig",
    "Config",
    "CorsConfig",
    "CountriesConfig",
    "DirectoryOriginConfig",
    "DistributionConfig",
    "EdgeConfig",
    "ErrorPageConfig",
    "FleetConfig",
    "HttpOriginConfig",
    "KeyGroupConfig",
    "LimitsConfig",
    "ListenConfig",
    "LogConfig",
    "OriginConfig",
    "OriginGroupConfig",
    "OriginRequestPolicyConfig",
    "PublicKeyConfig",
    "RemoteOriginConfig",
    "ResponseHeadersPolicyConfig",
    "RtmpDistributionConfig",
    "RtmpLogConfig",
    "S3OriginConfig",
    "Section",
    "Shape",
    "WebDistributionConfig",
    "WebLogConfig",
]


class EdgeConfig(Section):
    """Settings of the whole edge."""

    name: Annotated[Name, RESTART] = Field(
        default="local", description="Name of this edge, in Via and in logs.", examples=["fra-1"]
    )
    cache: Annotated[LocalPath, RESTART] = Field(
        default=Path("var/cache"), description="Folder of the cache."
    )
    cache_size: SizeBytes = Field(
        default=20 << 30,
        description="Disk space that the cache may use.",
        ge=64 << 20,
        le=SIZE_LIMIT_BYTES,
    )
    cache_optional: Annotated[bool, RESTART] = Field(
        default=False,
        description="Whether this edge is meant to run without a cache where it cannot use the"
        " folder: that is then no problem in /healthz, and raises no alert.",
    )
    workers: Annotated[int, RESTART] = Field(
        default=0, description="Worker processes; 0 is one for each CPU.", ge=0, le=256
    )
    log: Annotated[Literal["stdout", "stderr", "off"] | LocalPath, RESTART] = Field(
        default="stdout",
        union_mode="left_to_right",
        description="Where log lines go: stdout, stderr or a file's path; off: nowhere.",
    )
    log_responses: bool = Field(
        default=True,
        description="Whether the log has a line for each HTTP response; access logs of"
        " distributions do not depend on it.",
    )
    drain: DurationS = Field(
        default=7200.0,
        description="How long workers from before an upgrade serve the viewers that they have; then"
        " these get another 30 s.",
        ge=1.0,
        le=7 * 86400.0,
    )
    location: Annotated[Location | None, RESTART] = Field(
        default=None,
        description="Latitude and longitude of this edge, for the choice of the nearest one.",
        examples=["[50.11, 8.68]"],
    )
    addresses: Annotated[IpAddresses, RESTART] = Field(
        default=(),
        description="IP addresses that viewers reach this edge by, for DNS.",
        examples=["192.0.2.10"],
    )
    weight: Annotated[float, RESTART] = Field(
        default=1.0,
        description="This edge's share of the objects of its tiers, relative to other edges.",
        gt=0,
        le=1000,
    )


class ListenConfig(Section):
    """Where connections are accepted; port 0 lets the system choose."""

    http: Annotated[Addresses, RESTART] = Field(
        default=(("127.0.0.1", 8080),), description="Addresses that serve web distributions."
    )
    https: Annotated[Addresses, RESTART] = Field(
        default=(), description="Addresses that serve web distributions over TLS 1.2 and 1.3."
    )
    http2: bool = Field(
        default=True, description="Whether https offers HTTP/2, by ALPN, for new connections."
    )
    alt_svc: HeaderValue = Field(
        default="",
        description="Value of Alt-Svc in responses over TLS: where an HTTP/3 server in front of"
        " this edge listens; default: none.",
        examples=['h3=":443"; ma=86400'],
    )
    rtmp: Annotated[Addresses, RESTART] = Field(
        default=(("127.0.0.1", 1935),), description="Addresses that serve rtmp distributions."
    )
    rtmps: Annotated[Addresses, RESTART] = Field(
        default=(), description="Addresses that serve rtmp distributions over TLS 1.2 and 1.3."
    )
    rtmpe: Annotated[bool, RESTART] = Field(
        default=False,
        description="Serves RTMPE on the addresses of rtmp and mixed, for clients that know nothing"
        " else. It protects nothing: use rtmps.",
    )
    mixed: Annotated[Addresses, RESTART] = Field(
        default=(),
        description="Addresses that serve all distributions: RTMP and HTTP, and with a certificate"
        " both over TLS as well; the first byte of a connection decides.",
        examples=["0.0.0.0:80", "0.0.0.0:443", "0.0.0.0:1935"],
    )
    proxies: Annotated[Networks, RESTART] = Field(
        default=(),
        description="Networks of the proxies in front of this edge: X-Forwarded-For,"
        " X-Forwarded-Proto and PROXY headers are trusted only from them.",
        examples=["10.0.0.0/8"],
    )
    proxy_protocol: Annotated[Addresses, RESTART] = Field(
        default=(),
        description="Addresses of http, https, rtmp, rtmps and mixed on which each connection"
        " begins with a PROXY header, version 1 or 2.",
    )
    fleet: Annotated[Address | None, RESTART] = Field(
        default=None,
        description="Address that serves the other edges of the fleet, over TLS with client"
        " certificates; default: none.",
        examples=["10.0.0.1:7443"],
    )
    admin: Annotated[AdminAddress, RESTART] = Field(
        default=("127.0.0.1", 9090),
        description="Address of the operators' page, /healthz, /metrics and control; or unix: and"
        " the path of a socket that the edge's user and group may use. Beyond this machine it"
        " needs [admin].",
        examples=["127.0.0.1:9090", "unix:/run/streamedge/admin.sock"],
    )


class CertificateConfig(Section):
    """A certificate of the listeners for TLS."""

    certificate: LocalPath = Field(
        description="PEM file with the certificate and its chain; it is used for its DNS names."
        " The first certificate is the default.",
        examples=["certs/site.pem"],
    )
    key: LocalPath = Field(
        description="PEM file with its private key, unencrypted.", examples=["certs/site.key"]
    )


class BehaviorRules(AccessConfig):
    """Rules that a web distribution has for all paths, and a behavior for its own."""

    origin: str = Field(
        description="Name of a table under [origins] or [origin_groups].", examples=["samples"]
    )
    default_ttl: DurationS = Field(
        default=DEFAULT_TTL_S,
        description="How long a response is fresh if it has no lifetime; a cache_policy has its"
        " own.",
        ge=0,
    )
    cache_policy: str = Field(
        default="",
        description="Name of a table under [cache_policies], or a managed policy's name or id;"
        " default: no query, header or cookie in the key, and default_ttl.",
        examples=["CachingOptimized"],
    )
    origin_request_policy: str = Field(
        default="",
        description="Name of a table under [origin_request_policies], or a managed policy's name"
        " or id; default: nothing beyond the cache key is forwarded.",
        examples=["AllViewer"],
    )
    response_headers_policy: str = Field(
        default="",
        description="Name of a table under [response_headers_policies], or a managed policy's"
        " name or id; default: the origin's headers are sent as they are.",
        examples=["SecurityHeadersPolicy"],
    )
    methods: Methods = Field(
        default=("GET", "HEAD"), description="Methods that are served; GET and HEAD always are."
    )
    viewer_protocol: ViewerProtocol = Field(
        default="allow-all", description="How requests over plain HTTP are handled."
    )
    compress: bool = Field(
        default=False, description="Whether text is compressed for viewers that accept it."
    )
    write: WriteMode = Field(
        default="through",
        description="When PUT and DELETE get their response: through, once the origin has them;"
        " back, once this edge has them on disk. The first back in a file needs a restart.",
    )
    s3_listing: bool | None = Field(
        default=None,
        description="Whether S3 clients may list the objects of a bucket; default: where PUT is"
        " among methods.",
    )


class BehaviorConfig(BehaviorRules):
    """Rules for the paths of one pattern; omitted keys are inherited from the distribution."""

    path: PathPattern = Field(
        description="Pattern of paths, case-sensitive, without query; the first that matches"
        ' wins. The leading "/" is optional.',
        examples=["images/*.jpg"],
    )
    origin: str = Field(
        default="",
        description="Name of a table under [origins] or [origin_groups].",
        examples=["samples"],
    )


class ErrorPageConfig(Section):
    """A page that replaces an origin's error."""

    status: int = Field(description="Status that is replaced.", examples=[404], ge=400, le=599)
    path: PagePath = Field(
        default="",
        description="Path of the page, in this distribution; default: only ttl is used.",
        examples=["/404.html"],
    )
    response_status: int = Field(
        default=0, description="Status that viewers get; 0 is the origin's.", ge=0, le=599
    )
    ttl: DurationS = Field(
        default=ERROR_TTL_S,
        description="Least time that an error with this status is cached.",
        ge=0,
    )


class DistributionConfig(Section):
    """The keys of all distributions."""

    id: Name = Field(description="Name in logs and metrics.", examples=["EWEB"])
    aliases: HostPatterns = Field(
        default=("*",),
        description='Host names served; "*" is any, "*.example.com" any below it.',
        examples=["cdn.example.com", "*"],
    )
    enabled: bool = Field(
        default=True,
        description="Whether it is served; if not, requests are handled as if it did not exist.",
    )


class WebDistributionConfig(DistributionConfig, BehaviorRules):
    """Objects over HTTP, chosen by host name."""

    type: Literal["web"] = Field(description="Served over HTTP.")
    default_root_object: RootObject = Field(
        default="", description='Object that "/" returns; default: none.', examples=["index.html"]
    )
    behaviors: Annotated[tuple[BehaviorConfig, ...], Strict(False)] = Field(
        default=(), description="Rules for some paths.", max_length=1024
    )
    http2: bool = Field(
        default=True, description="Whether its hosts are offered HTTP/2, where listen.http2 is."
    )
    cache_tag_header: FieldName = Field(
        default="",
        description="Response header of the origin with an object's cache tags, separated by"
        " commas, for invalidations by tag; default: none.",
        examples=["Cache-Tag"],
    )
    error_pages: Annotated[tuple[ErrorPageConfig, ...], Strict(False)] = Field(
        default=(), description="Pages that replace errors.", max_length=200
    )

    log: WebLogConfig = Field(default=WebLogConfig(), description="The access log.")
    nearest: bool = Field(
        default=False,
        description="Whether GET and HEAD of large objects are redirected (302) to the nearest edge"
        " of the fleet, at its name below the alias.",
    )
    nearest_from: SizeBytes = Field(
        default=1 << 20,
        description="Size from which objects are redirected by nearest.",
        ge=0,
    )

    def rules_for(self, behavior: BehaviorConfig | None = None) -> BehaviorRules:
        """The rules of ``behavior`` with those it inherits; without one, the distribution's own."""
        own_keys = behavior.model_fields_set if behavior else frozenset[str]()
        return BehaviorRules.model_construct(
            **{
                key: getattr(behavior if key in own_keys else self, key)
                for key in BehaviorRules.model_fields
            }
        )


class RtmpDistributionConfig(DistributionConfig, AccessConfig):
    """Media over RTMP, chosen by host name and application."""

    type: Literal["rtmp"] = Field(description="Served over RTMP.")
    origin: str = Field(
        description="Name of a table under [origins] or [origin_groups].", examples=["samples"]
    )
    default_ttl: DurationS = Field(
        default=DEFAULT_TTL_S,
        description="How long an object without Cache-Control is fresh.",
        ge=0,
    )
    application: Applications = Field(
        default=("cfx/st",),
        description="Applications that a client may connect to.",
        examples=["cfx/st"],
    )
    pages: PagePatterns = Field(
        default=(),
        description='Pages whose players may connect, by the pageUrl that they send; "*" matches'
        " any text; default: any page, and players without one.",
        examples=["https://www.example.com/*"],
    )
    enhanced: Literal["auto", "strict"] = Field(
        default="auto",
        description="Enhanced RTMP codecs (HEVC, AV1, VP9, Opus, AC-3, FLAC): auto sends them to"
        " all clients, strict only to clients that announce them.",
    )
    aggregate: Literal["auto", "never"] = Field(
        default="auto",
        description="Aggregate messages, which carry up to 2 s of media and cost the edge least:"
        " auto sends them to players, but not to relays such as nginx-rtmp and MediaMTX, which do"
        " not accept them; never sends each frame by itself to all clients.",
    )
    tracks: Literal["one", "announced", "all"] = Field(
        default="announced",
        description="Who gets all audio tracks of a file, as multitrack packets of Enhanced RTMP:"
        " no client, clients that announce that they play them (capsEx 2), or all clients. Other"
        " clients get the default track, or the one that ?audio= on the stream name chooses.",
    )
    log: RtmpLogConfig = Field(default=RtmpLogConfig(), description="The access log.")
    nearest: bool = Field(
        default=False,
        description="Whether clients that announce that they follow a redirect (capsEx 1, or"
        " redirect=302 in tcUrl's query) are redirected to the nearest edge of the fleet.",
    )


AnyDistributionConfig = Annotated[
    WebDistributionConfig | RtmpDistributionConfig, Field(discriminator="type")
]


class Config(Section):
    """A whole config file; after ``load``, all its paths are absolute."""

    edge: EdgeConfig = EdgeConfig()
    listen: ListenConfig = ListenConfig()
    fleet: FleetConfig = FleetConfig()
    limits: LimitsConfig = LimitsConfig()
    certificates: Annotated[tuple[CertificateConfig, ...], Strict(False)] = Field(
        default=(),
        description="Certificates of https, rtmps and mixed, by host name.",
        max_length=1024,
    )
    public_keys: dict[Name, PublicKeyConfig] = Field(
        default={}, description="Keys that verify signatures.", max_length=1024
    )
    key_groups: dict[Name, KeyGroupConfig] = Field(
        default={}, description="Public keys that are trusted together.", max_length=1024
    )
    countries: CountriesConfig = CountriesConfig()
    api: ApiConfig = ApiConfig()
    admin: AdminConfig = AdminConfig()
    origins: dict[Name, AnyOriginConfig] = Field(
        default={}, description="Where objects come from, each a table.", max_length=1024
    )
    origin_groups: dict[Name, OriginGroupConfig] = Field(
        default={}, description="Origins that replace each other on failure.", max_length=1024
    )
    cache_policies: dict[Name, CachePolicyConfig] = Field(
        default={}, description="Cache keys and lifetimes.", max_length=1024
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

    @property
    def serves_https(self) -> bool:
        """Whether viewers reach web distributions over TLS."""
        return bool(self.listen.https or (self.listen.mixed and self.certificates))

    @property
    def serves_tls(self) -> bool:
        """Whether any listener for viewers needs the certificates."""
        return self.serves_https or bool(self.listen.rtmps)
