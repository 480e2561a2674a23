"""The part of the schema for policies: cache keys, forwarding and response headers.

Each policy is a table that several behaviors may use.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict

from streamedge.config.schema.selection import ALL, NONE
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
        description="RFC 9111 to the letter where CloudFront's default differs.",
    )
    viewer_directives: bool = Field(
        default=False,
        description="Whether viewers' Cache-Control and Pragma count. With strict: true.",
    )
    min_ttl: DurationS = Field(
        default=MIN_TTL_S,
        description="Least time that a response is fresh, whatever it says.",
        ge=0,
    )
    default_ttl: DurationS = Field(
        default=DEFAULT_TTL_S,
        description="How long a response that does not say is fresh. With strict the RFC's"
        " heuristics from Last-Modified count instead.",
        ge=0,
    )
    max_ttl: DurationS = Field(
        default=MAX_TTL_S,
        description="Most time that a response is fresh, whatever it says.",
        ge=0,
    )
    query_strings: Selected = Field(
        default=ALL, description="Query parameters in the cache key; they are forwarded too."
    )
    headers: HeaderNames = Field(
        default=(),
        description="Request headers in the cache key; they are forwarded too.",
        examples=["Accept-Language"],
    )
    cookies: Selected = Field(
        default=NONE, description="Cookies in the cache key; they are forwarded too."
    )
    error_ttl: DurationS = Field(
        default=ERROR_TTL_S,
        description="Least time that error responses (404, 414, 500 to 504) are kept; not with"
        " strict.",
        ge=0,
    )


class OriginRequestPolicyConfig(Section):
    """What is forwarded to the origin beyond the cache key."""

    query_strings: Selected = Field(
        default=NONE, description="Query parameters that are forwarded."
    )
    headers: SelectedHeaders = Field(
        default=NONE,
        description="Request headers that are forwarded. Connection headers, conditions, Range,"
        " Host and Accept-Encoding stay the edge's own; those that change what a request means"
        " (X-Forwarded-Host, X-Original-URL and alike), and names with an underscore or a dot, only"
        " by name.",
    )
    cookies: Selected = Field(default=NONE, description="Cookies that are forwarded.")


class CorsConfig(Section):
    """What other sites' pages may read; without origins, no CORS fields are added."""

    origins: Annotated[tuple[CorsOrigin, ...], Strict(False)] = Field(
        default=(),
        description='Origins that may read responses; "*" is any, and "https://*.example.com" any'
        " host below it.",
        examples=["https://a.example"],
        max_length=256,
    )
    methods: Methods = Field(
        default=("GET", "HEAD"), description="Methods that a preflight request is allowed."
    )
    headers: HeaderNames = Field(
        default=(),
        description='Request headers that a preflight request is allowed; "*" is any.',
        examples=["*"],
    )
    expose: HeaderNames = Field(
        default=(), description="Response headers that scripts may read.", examples=["ETag"]
    )
    max_age: DurationS = Field(
        default=600.0, description="How long a browser may remember a preflight's answer.", ge=0
    )
    credentials: bool = Field(
        default=False, description="Whether requests may carry cookies and Authorization."
    )
    override: bool = Field(
        default=True,
        description="Whether this replaces what the origin says; false: only where it says"
        " nothing.",
    )


class ResponseHeadersPolicyConfig(Section):
    """What is changed in the headers that viewers get: removed first, then set, then added."""

    remove: HeaderNames = Field(
        default=(),
        description="Headers of the origin that viewers do not get.",
        examples=["X-Powered-By"],
    )
    set: Headers = Field(default={}, description="Headers that replace the origin's.")
    add: Headers = Field(default={}, description="Headers where the origin sent none.")
    hsts: HeaderValue = Field(
        default="",
        description="Strict-Transport-Security over HTTPS, where the origin sent none.",
        examples=["max-age=63072000; includeSubDomains"],
    )
    cors: CorsConfig = Field(default=CorsConfig(), description="What other sites' pages may read.")
    server_timing: float = Field(
        default=0.0, description="Percent of responses with Server-Timing.", ge=0, le=100
    )
