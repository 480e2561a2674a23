"""Who signed a request: AWS Signature Version 4, verified.

Owns the reading of an ``Authorization`` header and the arithmetic behind it. It is done in two
steps, so that nothing is read of a stranger's body: ``read_claim`` refuses by the header alone,
``Claim.refusal`` once the body's digest is known. Pure: the time and the keys are given.

What is accepted, and where it is stricter than it might be:
- the algorithm AWS4-HMAC-SHA256 in the header; a presigned query is refused and told so;
- any region, the service ``cloudfront``, a date within five minutes of the edge's;
- ``host`` and every ``x-amz-*`` field must be signed;
- the body always is: UNSIGNED-PAYLOAD is refused, for nothing else would protect it on plain HTTP;
- keys of the configuration have no session token; one that is sent is refused.

Source: AWS IAM User Guide, "Create a signed AWS API request" and "Elements of an AWS API request
signature"; codes: CloudFront API Reference, "Common Errors".
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote_to_bytes

from streamedge.api.errors import ApiError
from streamedge.http_date import parse_http_date_s

ALGORITHM = "AWS4-HMAC-SHA256"
SERVICE = "cloudfront"
SKEW_MAX_S = 300.0
AUTHORIZATION_MAX_CHARACTERS = 4096
UNRESERVED = "-_.~"  # RFC 3986 §2.3, beside letters and digits

_TIMESTAMP = "%Y%m%dT%H%M%SZ"
_TIMESTAMP_FORM = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_SIGNATURE_FORM = re.compile(r"[0-9a-f]{64}")
_PARAMETER_NAMES = ("Credential", "SignedHeaders", "Signature")

_WRONG_SIGNATURE = (
    "The request signature we calculated does not match the signature you provided. Check your AWS"
    " Secret Access Key and signing method."
)


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """The part of a request that a signature is about.

    ``path`` and ``query`` are as they were sent, still percent-encoded; ``fields`` has every
    header field, names in lower case, in order.
    """

    method: str
    path: str
    query: str
    fields: Sequence[tuple[str, str]]

    def values(self, name: str) -> list[str]:
        """All values of a field."""
        return [value for each, value in self.fields if each == name]


@dataclass(frozen=True, slots=True)
class Claim:
    """Whoever sent a request says that this key signed it; ``refusal`` tells whether it did."""

    request: SignedRequest
    key_id: str
    secret: str = field(repr=False)
    timestamp: str
    region: str
    signed_names: tuple[str, ...]
    signature: str

    def refusal(self, body_digest: str) -> ApiError | None:
        """None when it holds; ``body_digest`` is the body's SHA-256 in lower-case hex."""
        for said in self.request.values("x-amz-content-sha256"):
            if said != body_digest:
                return _mismatch("The provided 'x-amz-content-sha256' header is not the body's.")
        path = self.request.path
        # Some of AWS's signers sign a path with the empty segments and dots in it, others without.
        for signed_path in dict.fromkeys((path, normalized_path(path))):
            if hmac.compare_digest(self._signature(signed_path, body_digest), self.signature):
                return None
        return _mismatch(_WRONG_SIGNATURE)

    def _signature(self, path: str, body_digest: str) -> str:
        canonical = hashlib.sha256(self._canonical_request(path, body_digest).encode()).hexdigest()
        date = self.timestamp[:8]
        scope = f"{date}/{self.region}/{SERVICE}/aws4_request"
        key = f"AWS4{self.secret}".encode()
        for part in (date, self.region, SERVICE, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        to_sign = "\n".join((ALGORITHM, self.timestamp, scope, canonical))
        return hmac.digest(key, to_sign.encode(), "sha256").hex()

    def _canonical_request(self, path: str, body_digest: str) -> str:
        request = self.request
        fields = [
            f"{name}:{','.join(' '.join(value.split()) for value in request.values(name))}\n"
            for name in self.signed_names
        ]
        return "\n".join(
            (
                request.method,
                # Encoded once more than it was sent, as for every service but S3.
                quote(path, safe="/" + UNRESERVED),
                _canonical_query(request.query),
                "".join(fields),
                ";".join(self.signed_names),
                body_digest,
            )
        )


def read_claim(request: SignedRequest, keys: Mapping[str, str], now_s: float) -> Claim:
    """What the header says, if it can be so at all. Raises ApiError with AWS's codes.

    ``keys`` has the secret of each access key id; ``now_s`` is in seconds since the epoch.
    """
    parameters = _parameters(_authorization(request))
    key_id, date, region = _scope(parameters["Credential"])
    secret = keys.get(key_id)
    if secret is None or request.values("x-amz-security-token"):
        raise ApiError(
            "InvalidClientTokenId", "The security token included in the request is invalid."
        )
    timestamp = _timestamp(request, now_s)
    if date != timestamp[:8]:
        raise _mismatch(
            f"Date in Credential scope does not match YYYYMMDD from the request's: {date!a} is not"
            f" {timestamp[:8]!a}."
        )
    _check_skew(timestamp, now_s)
    signed_names = _signed_names(parameters["SignedHeaders"], request)
    signature = parameters["Signature"]
    if _SIGNATURE_FORM.fullmatch(signature) is None:
        raise _mismatch(_WRONG_SIGNATURE)
    return Claim(request, key_id, secret, timestamp, region, signed_names, signature)


def normalized_path(path: str) -> str:
    """A path without empty segments and dot segments, as AWS's signers write it."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            kept = kept[:-1]
        elif segment not in {"", "."}:
            kept.append(segment)
    end = "/" if kept and path.endswith("/") else ""
    return "/" + "/".join(kept) + end


def _authorization(request: SignedRequest) -> str:
    match request.values("authorization"):
        case [value]:
            pass
        case []:
            if "X-Amz-Signature=" in request.query or "X-Amz-Algorithm=" in request.query:
                raise _incomplete(
                    "The request is signed in its query, which is not offered: sign it in the"
                    " Authorization header."
                )
            raise ApiError(
                "MissingAuthenticationToken", "The request is missing an Authorization header."
            )
        case _:
            raise _incomplete("The request has several Authorization headers.")
    if len(value) > AUTHORIZATION_MAX_CHARACTERS:
        raise _incomplete("The Authorization header is too long.")
    return value


def _parameters(authorization: str) -> dict[str, str]:
    """``AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…``, each exactly once."""
    algorithm, _, rest = authorization.strip().partition(" ")
    if algorithm != ALGORITHM:
        raise _incomplete(f"The Authorization header's algorithm has to be {ALGORITHM}.")
    parameters: dict[str, str] = {}
    for part in rest.split(","):
        name, separator, value = part.strip().partition("=")
        if not separator or name not in _PARAMETER_NAMES:
            raise _incomplete(f"The Authorization header has no parameter {name[:40]!a}.")
        if name in parameters:
            raise _incomplete(f"The Authorization header has the parameter {name} twice.")
        parameters[name] = value
    for name in _PARAMETER_NAMES:
        if not parameters.get(name):
            raise _incomplete(f"Authorization header requires '{name}' parameter.")
    return parameters


def _scope(credential: str) -> tuple[str, str, str]:
    """Access key id, date and region of ``KEYID/DATE/REGION/cloudfront/aws4_request``."""
    parts = credential.rsplit("/", 4)
    if len(parts) != 5:
        raise _incomplete("Credential must have the form KEYID/DATE/REGION/SERVICE/aws4_request.")
    key_id, date, region, service, terminator = parts
    if service != SERVICE:
        raise _mismatch(f"Credential should be scoped to correct service: '{SERVICE}'.")
    if terminator != "aws4_request":
        raise _mismatch("Credential should be scoped with a valid terminator: 'aws4_request'.")
    return key_id, date, region


def _timestamp(request: SignedRequest, now_s: float) -> str:
    """When it was signed, in ISO 8601's basic form: ``X-Amz-Date`` if there is one, or ``Date``."""
    match request.values("x-amz-date"), request.values("date"):
        case [text], _ if _TIMESTAMP_FORM.fullmatch(text):
            return text
        case [], [text] if (time_s := _date_s(text, now_s)) is not None:
            return _written(time_s)
        case [], []:
            raise _incomplete("The request has neither 'X-Amz-Date' nor 'Date'.")
    raise _incomplete("Date must be in ISO-8601 'basic format', once: '20260131T000000Z'.")


def _date_s(text: str, now_s: float) -> int | None:
    # Signers write e-mail's form of UTC too, which is not HTTP's.
    return parse_http_date_s(re.sub("[+-]0000$", "GMT", text), now_s)


def _written(time_s: float) -> str:
    return datetime.datetime.fromtimestamp(time_s, datetime.UTC).strftime(_TIMESTAMP)


def _check_skew(timestamp: str, now_s: float) -> None:
    try:
        signed = datetime.datetime.strptime(timestamp, _TIMESTAMP).replace(tzinfo=datetime.UTC)
    except ValueError as exc:
        raise _incomplete(f"There is no such time as {timestamp}.") from exc
    ahead_s = signed.timestamp() - now_s
    now, minutes = _written(now_s), f"{SKEW_MAX_S / 60:.0f} min."
    if ahead_s < -SKEW_MAX_S:
        raise _mismatch(f"Signature expired: {timestamp} is earlier than {now} - {minutes}")
    if ahead_s > SKEW_MAX_S:
        raise _mismatch(f"Signature not yet current: {timestamp} is later than {now} + {minutes}")


def _signed_names(listed: str, request: SignedRequest) -> tuple[str, ...]:
    names = tuple(listed.split(";"))
    if list(names) != sorted(set(names)):
        raise _mismatch("SignedHeaders must be sorted, each name once.")
    sent = {name for name, _ in request.fields}
    for name in names:
        if name not in sent:
            raise _mismatch(f"SignedHeaders names {name[:100]!a}, which the request does not have.")
    for name in sorted(sent | {"host"}):
        if (name == "host" or name.startswith("x-amz-")) and name not in names:
            raise _mismatch(f"'{name}' must be a 'SignedHeader' in the Authorization header.")
    return names


def _canonical_query(query: str) -> str:
    """Each name and value decoded and encoded as the algorithm has it, sorted."""
    pairs = []
    for part in query.split("&"):
        if part:
            name, _, value = part.partition("=")
            pairs.append((_encoded_anew(name), _encoded_anew(value)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _encoded_anew(text: str) -> str:
    return quote(unquote_to_bytes(text), safe=UNRESERVED)


def _incomplete(message: str) -> ApiError:
    return ApiError("IncompleteSignature", message)


def _mismatch(message: str) -> ApiError:
    return ApiError("SignatureDoesNotMatch", message)
