"""The part of the schema for policies: cache keys, forwarding and response headers.

Each policy is a table that several behaviors may use.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict

from streamedge.config.schema.selection import SELECT_ALL, SELECT_NONE
from streamedge.config.schema.ttl_defaults import (
    DEFAULT_TTL_S,
    ERROR_TTL_S,
    MAX_TTL_S,
    MIN_TTL_S,
)
from streamedge.config.schema.values import (
    CorsOrigin,
    DurationS,
    HeaderNames,
    Headers,
    HeaderValue,
    Methods,
    Section,
    Selected,
    SelectedHeaders,
)


class CachePolicyConfig(Section):
    """The cache key, and how long responses are fresh."""

    strict: bool = Field(
        default=False,
        description="Follow RFC 9111 exactly where CloudFront's defaults differ.",
    )
    viewer_directives: bool = Field(
        default=False,
        description="Whether Cache-Control and Pragma of viewers are applied; default with"
        " strict: true.",
    )
    min_ttl: DurationS = Field(
        default=MIN_TTL_S,
        description="Least time that a response is fresh, whatever its headers say.",
        ge=0,
    )
    default_ttl: DurationS = Field(
        default=DEFAULT_TTL_S,
        description="How long a response is fresh if it has no lifetime. With strict, the RFC's"
        " heuristic from Last-Modified is used instead.",
        ge=0,
    )
    max_ttl: DurationS = Field(
        default=MAX_TTL_S,
        description="Most time that a response is fresh, whatever its headers say.",
        ge=0,
    )
    query_strings: Selected = Field(
        default=SELECT_ALL,
        description="Query parameters in the cache key; they are also forwarded.",
    )
    headers: HeaderNames = Field(
        default=(),
        description="Request headers in the cache key; they are also forwarded.",
        examples=["Accept-Language"],
    )
    cookies: Selected = Field(
        default=SELECT_NONE, description="Cookies in the cache key; they are also forwarded."
    )
    error_ttl: DurationS = Field(
        default=ERROR_TTL_S,
        description="Least time that error responses (404, 414, 500 to 504) are cached; ignored"
        " with strict.",
        ge=0,
    )


class OriginRequestPolicyConfig(Section):
    """What is forwarded to the origin beyond the cache key."""

    query_strings: Selected = Field(
        default=SELECT_NONE, description="Query parameters that are forwarded."
    )
    headers: SelectedHeaders = Field(
        default=SELECT_NONE,
        description="Request headers that are forwarded. Connection headers, conditions, Range,"
        " Host and Accept-Encoding are set by the edge. Headers that change what a request means"
        " (such as X-Forwarded-Host or X-Original-URL), and names with an underscore or a dot, are"
        " forwarded only if named.",
    )
    cookies: Selected = Field(default=SELECT_NONE, description="Cookies that are forwarded.")


class CorsConfig(Section):
    """What pages of other sites may read; without origins, no CORS fields are added."""

    origins: Annotated[tuple[CorsOrigin, ...], Strict(False)] = Field(
        default=(),
        description='Origins that may read responses; "*" is any origin, "https://*.example.com"'
        " any subdomain.",
        examples=["https://a.example"],
        max_length=256,
    )
    methods: Methods = Field(
        default=("GET", "HEAD"), description="Methods that a preflight request may ask for."
    )
    headers: HeaderNames = Field(
        default=(),
        description='Request headers that a preflight request may ask for; "*" is any.',
        examples=["*"],
    )
    expose: HeaderNames = Field(
        default=(), description="Response headers that scripts may read.", examples=["ETag"]
    )
    max_age: DurationS = Field(
        default=600.0, description="How long a browser may cache a preflight response.", ge=0
    )
    credentials: bool = Field(
        default=False, description="Whether requests may carry cookies and Authorization."
    )
    override: bool = Field(
        default=True,
        description="Whether these fields replace the origin's; false: they are added only if the"
        " origin sent none.",
    )


class ResponseHeadersPolicyConfig(Section):
    """Changes of response headers: some are removed, then some set, then some added."""

    remove: HeaderNames = Field(
        default=(),
        description="Headers of the origin that are not sent to viewers.",
        examples=["X-Powered-By"],
    )
    set: Headers = Field(default={}, description="Headers that replace the origin's.")
    add: Headers = Field(default={}, description="Headers that are added if the origin sent none.")
    hsts: HeaderValue = Field(
        default="",
        description="Strict-Transport-Security over HTTPS, if the origin sent none.",
        examples=["max-age=63072000; includeSubDomains"],
    )
    cors: CorsConfig = Field(
        default=CorsConfig(), description="What pages of other sites may read."
    )
    server_timing: float = Field(
        default=0.0, description="Percent of responses with Server-Timing.", ge=0, le=100
    )
