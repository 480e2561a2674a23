"""Types of values in the config, the base class of its tables, and the restart marker.

A type checks one value alone; the other modules of this folder assign types to keys. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, Strict
from pydantic import StringConstraints as Text

from streamedge.config.schema.countries import CountryList, parse_country_list
from streamedge.config.schema.selection import (
    Selection,
    parse_access_keys,
    parse_failover,
    parse_header_selection,
    parse_headers,
    parse_secret_headers,
    parse_selection,
)
from streamedge.config.schema.units import (
    IpNetwork,
    parse_address,
    parse_admin_address,
    parse_duration_s,
    parse_ip_address,
    parse_location,
    parse_network,
    parse_path,
    parse_size_bytes,
)

SizeBytes = Annotated[int, BeforeValidator(parse_size_bytes)]
DurationS = Annotated[float, BeforeValidator(parse_duration_s)]
Address = Annotated[tuple[str, int], BeforeValidator(parse_address)]
AdminAddress = Annotated[tuple[str, int] | Path, BeforeValidator(parse_admin_address)]
Network = Annotated[IpNetwork, BeforeValidator(parse_network)]
IpAddressText = Annotated[str, BeforeValidator(parse_ip_address)]
LocalPath = Annotated[Path, BeforeValidator(parse_path)]
Selected = Annotated[Selection, BeforeValidator(parse_selection)]
SelectedHeaders = Annotated[Selection, BeforeValidator(parse_header_selection)]
Headers = Annotated[dict[str, str], BeforeValidator(parse_headers)]
SecretHeaders = Annotated[dict[str, SecretStr], BeforeValidator(parse_secret_headers)]
AccessKeys = Annotated[dict[str, SecretStr], BeforeValidator(parse_access_keys)]
Countries = Annotated[CountryList, BeforeValidator(parse_country_list)]
Failover = Annotated[int | str, BeforeValidator(parse_failover)]
Method = Literal["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]
ViewerProtocol = Literal["allow-all", "https-only", "redirect-to-https"]
WriteMode = Literal["through", "back"]


@dataclass(frozen=True, slots=True)
class Shape:
    """Describes a pattern in messages and in the reference. Pydantic ignores it."""

    description: str


@dataclass(frozen=True, slots=True)
class NeedsRestart:
    """Marks a key that processes read only when they start. Keys without it are live."""


RESTART = NeedsRestart()


@dataclass(frozen=True, slots=True)
class HoldsSecret:
    """Marks a text that may hold a secret, and so may be kept elsewhere (``config.secrets``)."""


HOLDS_SECRET = HoldsSecret()


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
BucketName = Annotated[
    str,
    Text(pattern=r"^[A-Za-z0-9._:-]{1,255}$"),
    Shape('1 to 255 letters, digits or "._:-", without s3:// and a path'),
]
EngineUrl = Annotated[
    str,
    Text(pattern=r"^$|^rediss?://[^?#\s]+$", max_length=2048),
    Shape("redis:// or rediss://, at most 2048 characters, no query"),
    HOLDS_SECRET,
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
HostPolicy = Annotated[
    str,
    Text(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(:[0-9]{1,5})?$", max_length=259),
    Shape('"origin", "viewer" or a host name'),
]
HeaderName = Annotated[
    str,
    Text(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}$"),
    Shape("a header name"),
]
FieldName = Annotated[
    str,
    Text(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{0,256}$"),
    Shape("a header name"),
]
HeaderValue = Annotated[
    str,
    Text(pattern=r"^([!-~]([ \t!-~]*[!-~])?)?$", max_length=2048),
    Shape("at most 2048 visible ASCII characters"),
]
PathPattern = Annotated[
    str,
    Text(pattern=r"^[!-\"$-~]+$", max_length=255),
    Shape('at most 255 visible ASCII characters, no "#"; "*" is any text, "?" one character'),
]
PagePath = Annotated[
    str,
    Text(pattern=r"^(/[!-\"$->@-~]*)?$", max_length=1024),
    Shape('begins with "/", at most 1024 visible ASCII characters, no query'),
]
RootObject = Annotated[
    str,
    Text(pattern=r"^([!-\"$-.0->@-~][!-\"$->@-~]*)?$", max_length=255),
    Shape('at most 255 visible ASCII characters, no leading "/", no query'),
]
KeyPrefix = Annotated[
    str,
    Text(pattern=r"^([A-Za-z0-9!_.=()-][A-Za-z0-9!_.=()/-]*)?$", max_length=256),
    Shape('at most 256 letters, digits or "!_.=()-/", no leading "/"'),
]
CorsOrigin = Annotated[
    str,
    Text(pattern=r"^(\*|null|[a-z][a-z0-9+.-]*://(\*\.)?[^/?#\s*]+)$", max_length=512),
    Shape('"*" or a scheme and a host, such as https://a.example or https://*.example.com'),
]
PagePattern = Annotated[
    str,
    Text(pattern=r"^[!-~]+$", max_length=2048),
    Shape('at most 2048 visible ASCII characters; "*" is any text'),
]
# TOML has lists, not tuples: only the entries are checked strictly.
Addresses = Annotated[tuple[Address, ...], Strict(False), Field(max_length=64)]
Location = Annotated[
    tuple[float, float], BeforeValidator(parse_location), Shape("[latitude, longitude] in degrees")
]
IpAddresses = Annotated[tuple[IpAddressText, ...], Strict(False), Field(max_length=64)]
Networks = Annotated[tuple[Network, ...], Strict(False), Field(max_length=1024)]
HostPatterns = Annotated[tuple[HostPattern, ...], Strict(False), Field(max_length=1024)]
Applications = Annotated[tuple[Application, ...], Strict(False), Field(max_length=256)]
PagePatterns = Annotated[tuple[PagePattern, ...], Strict(False), Field(max_length=256)]
Names = Annotated[tuple[Name, ...], Strict(False), Field(max_length=256)]
HeaderNames = Annotated[tuple[HeaderName, ...], Strict(False), Field(max_length=256)]
Methods = Annotated[tuple[Method, ...], Strict(False), Field(max_length=7)]


class Section(BaseModel):
    """A table of the file. Unknown keys are errors, no type is coerced, instances are frozen."""

    # A refused value may be a password, so pydantic must not show it in its errors.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)
