"""The part of the schema for a fleet of edges."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from streamedge.config.schema.values import (
    RESTART,
    DurationS,
    EngineUrl,
    LocalPath,
    Name,
    Names,
    Section,
)

TIERS_MAX = 64
WhenLost = Literal["validate", "serve", "refuse"]


class FleetConfig(Section):
    """The fleet that this edge belongs to; without an engine, it is a fleet of one."""

    engine: Annotated[EngineUrl, RESTART] = Field(
        default="",
        description="URL of the Redis or Valkey server that the edges share, redis:// or rediss://;"
        " default: none, this edge is alone.",
        examples=["redis://127.0.0.1:6379/0"],
    )
    prefix: Annotated[Name, RESTART] = Field(
        default="streamedge",
        description="Prefix of the fleet's keys in the engine; fleets that share an engine differ"
        " in it.",
    )
    ca: Annotated[LocalPath | None, RESTART] = Field(
        default=None,
        description="PEM file of the CA that signs the certificates of this fleet's edges. Renewed"
        " files of ca, certificate and key are used without a restart.",
        examples=["fleet-ca.pem"],
    )
    certificate: Annotated[LocalPath | None, RESTART] = Field(
        default=None,
        description="PEM file with this edge's certificate; its DNS name is edge.name.",
        examples=["fra-1.pem"],
    )
    key: Annotated[LocalPath | None, RESTART] = Field(
        default=None,
        description="PEM file with the certificate's private key, unencrypted.",
        examples=["fra-1.key"],
    )
    lease: Annotated[DurationS, RESTART] = Field(
        default=10.0,
        description="Silence of the engine after which this edge is LOST, and others no longer"
        " wait for it.",
        ge=2,
        le=600,
    )
    when_lost: WhenLost = Field(
        default="validate",
        description="How a LOST edge answers viewers: validate, cached objects only after the"
        " origin has confirmed them; serve, as before; refuse, 503.",
    )
    tiers: dict[Name, Names] = Field(
        default={},
        description="Names of the edges of each tier; they ask the origin, and other edges ask"
        " them.",
        examples=['{ eu = ["fra-1", "ams-1"] }'],
        max_length=TIERS_MAX,
    )
