"""The part of the schema for origins and origin groups."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, Strict

from streamedge.config.schema.values import (
    BucketName,
    DurationS,
    Failover,
    HostPolicy,
    LocalPath,
    SecretHeaders,
    Section,
    Url,
)


class OriginConfig(Section):
    """The keys of all origins."""

    prefix: str = Field(default="", description="Prefix of every object name.", max_length=1024)


class RemoteOriginConfig(OriginConfig):
    """The keys of origins on other machines."""

    connect_timeout: DurationS = Field(
        default=5.0, description="Time to connect to the origin, for each attempt.", gt=0
    )
    read_timeout: DurationS = Field(
        default=15.0,
        description="Longest silence of the origin, before or within a body, for each attempt. A"
        " viewer of a silent origin waits this long for each of 1 + limits.origin_retries attempts,"
        " by default 75 s, before 504.",
        gt=0,
    )
    tier: str = Field(
        default="",
        description="Name of a tier under [fleet.tiers]: other edges ask it for the objects of this"
        " origin, so the fleet reads each byte once; default: every edge asks the origin.",
        examples=["eu"],
    )
    connections: int = Field(
        default=256, description="Open connections to the origin, each worker.", ge=1, le=65536
    )


class DirectoryOriginConfig(OriginConfig):
    """A folder of this machine; it must exist."""

    type: Literal["directory"] = Field(description="A folder of this machine.")
    path: LocalPath = Field(description="The folder.")


class HttpOriginConfig(RemoteOriginConfig):
    """Any HTTP server."""

    type: Literal["http"] = Field(description="Any HTTP server.")
    url: Url = Field(
        description="Base URL, http:// or https://; its path precedes the path of every request.",
        examples=["https://media.example.org/films"],
    )
    host: HostPolicy = Field(
        default="origin",
        description='Host that is sent: "origin" (the URL\'s), "viewer" (the viewer\'s, which is'
        " then in the cache key) or a name.",
        examples=["origin", "viewer", "www.example.org"],
    )
    headers: SecretHeaders = Field(
        default={},
        description="Headers sent with every request, such as a shared secret; they replace the"
        " viewer's.",
    )
    verify: bool = Field(
        default=True, description="Whether the server's certificate is verified (https://)."
    )
    ca: LocalPath | None = Field(
        default=None,
        description="PEM file of the CAs to trust; default: the system's. A renewed file is read"
        " at a reload.",
    )
    client_certificate: LocalPath | None = Field(
        default=None,
        description="PEM file of the client certificate (mutual TLS). A renewed file is read at"
        " a reload.",
    )
    client_key: LocalPath | None = Field(
        default=None, description="PEM file of client_certificate's key, unencrypted."
    )
    follow_redirects: int = Field(
        default=0,
        description="Redirects followed for one request, on the origin's own host only.",
        ge=0,
        le=10,
    )
    total_timeout: DurationS = Field(
        default=0.0,
        description="Time for a whole request to the origin, for each attempt; 0 is no limit.",
        ge=0,
    )


class S3OriginConfig(RemoteOriginConfig):
    """A bucket of AWS or of any S3-compatible server."""

    type: Literal["s3"] = Field(description="An S3 bucket.")
    bucket: BucketName = Field(description="Name of the bucket.", examples=["videos"])
    region: str = Field(
        default="us-east-1",
        description="Region that requests are signed for.",
        examples=["eu-central-1"],
        min_length=1,
        max_length=64,
    )
    endpoint: Url = Field(
        default="",
        description="URL of another S3 server; default: AWS.",
        examples=["http://127.0.0.1:9000"],
    )
    access_key_id: str = Field(
        default="",
        description="Key to sign with; default: the AWS credential chain (boto3).",
        max_length=256,
    )
    secret_access_key: SecretStr = Field(
        default=SecretStr(""), description="Secret of access_key_id.", max_length=1024
    )
    anonymous: bool = Field(
        default=False, description="Whether requests are unsigned, for a public bucket."
    )
    path_style: bool | None = Field(
        default=None,
        description="Whether the bucket is in the path (true) or in the host name (false);"
        " default: true with an endpoint, false at AWS.",
    )
    headers: SecretHeaders = Field(
        default={},
        description="Headers sent, and signed, with every request; they replace the viewer's.",
    )


AnyOriginConfig = Annotated[
    DirectoryOriginConfig | HttpOriginConfig | S3OriginConfig, Field(discriminator="type")
]


class OriginGroupConfig(Section):
    """Origins that replace each other on failure; a distribution names it like an origin."""

    origins: Annotated[tuple[str, ...], Strict(False)] = Field(
        description="Names of tables under [origins], in the order they are tried.",
        examples=["site", "backup"],
        min_length=2,
        max_length=8,
    )
    tier: str = Field(
        default="",
        description="Name of a tier under [fleet.tiers], as for an origin.",
        examples=["eu"],
    )
    failover: Annotated[tuple[Failover, ...], Strict(False)] = Field(
        default=(500, 502, 503, 504, "connect", "timeout"),
        description="Failures after which a GET, HEAD or OPTIONS is sent to the next origin: status"
        ' codes, "connect" (no connection, or one lost before a response) and "timeout" (no'
        " response in time).",
        max_length=64,
    )
