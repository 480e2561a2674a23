"""An edge with resources in its config file, and its API's handlers, called without HTTP."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from streamedge.api.errors import ApiError
from streamedge.api.operations.handlers import api_handlers
from streamedge.api.protocol.service import Call, Output
from streamedge.config.schema.config import Config
from streamedge.control.database import ControlDatabase
from streamedge.control.resources import ResourceStore

NOW_S = 1_790_000_000.0
OPTIMIZED = "658327ea-f89d-4fab-a63d-7e88639e58f6"
DISABLED = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
SECRET = "wJalrXUtnFEMI"


def rsa_pem(bits: int = 2048) -> str:
    """A new RSA key's public half."""
    return _pem(rsa.generate_private_key(65_537, bits).public_key())


def ec_pem(curve: ec.EllipticCurve) -> str:
    """A new key's public half."""
    return _pem(ec.generate_private_key(curve).public_key())


def _pem(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


FILE_CONFIG: dict[str, Any] = {
    "edge": {"name": "Fra-1"},
    "listen": {"http": ["127.0.0.1:0"], "https": ["127.0.0.1:0"]},
    "certificates": [{"certificate": "a.pem", "key": "a.key"}],
    "countries": {"database": "countries.mmdb"},
    "origins": {
        "bucket": {
            "type": "s3",
            "bucket": "videos",
            "endpoint": "http://127.0.0.1:9000",
            "access_key_id": "AKIAORIGIN",
            "secret_access_key": SECRET,
        },
        "site": {
            "type": "http",
            "url": "https://www.example.org/base",
            "headers": {"X-Key": SECRET},
        },
        "media": {"type": "directory", "path": "media", "prefix": "films/"},
    },
    "origin_groups": {"both": {"origins": ["site", "media"]}},
    "cache_policies": {"declared": {"query_strings": {"only": ["page"]}}},
    "public_keys": {"KDECLARED": {"pem": ec_pem(ec.SECP256R1())}},
    "key_groups": {"trusted": {"keys": ["KDECLARED"]}},
    "distributions": [
        {
            "id": "EWEB",
            "type": "web",
            "origin": "both",
            "aliases": ["www.example.com", "*"],
            "cache_policy": "CachingOptimized",
            "behaviors": [
                {"path": "films/*", "origin": "bucket", "cache_policy": "declared"},
                {"path": "signed/*", "trusted_key_groups": ["trusted"]},
                {"path": "site/*", "origin": "site"},
                {"path": "media/*", "origin": "media", "methods": ["GET", "HEAD", "OPTIONS"]},
            ],
            "error_pages": [
                {"status": 404, "path": "/404.html", "response_status": 404, "ttl": "1m"}
            ],
        },
        {"id": "ESTREAM", "type": "rtmp", "origin": "bucket", "aliases": ["stream.example.com"]},
    ],
}


class Api:
    """The handlers over a database in ``folder``; ``announced`` counts announced changes."""

    def __init__(self, folder: Path, file_config: Mapping[str, Any] = FILE_CONFIG) -> None:
        folder.mkdir(exist_ok=True)
        self.from_file = Config.model_validate(copy.deepcopy(dict(file_config)))
        self.database = ControlDatabase(folder)
        self.store = ResourceStore(self.database)
        self.announced = 0
        self.now_s = NOW_S
        self.handlers = api_handlers(self.database, lambda: self.from_file, self._announce)

    def _announce(self) -> None:
        self.announced += 1

    def __call__(self, operation: str, **members: Any) -> Output:
        """The output of a call. Raises ApiError."""
        return self.handlers[operation](Call(operation, members, "AKIAEDGE", self.now_s))

    def error(self, operation: str, **members: Any) -> ApiError:
        """The error of a call, which announces and changes nothing."""
        before, announced = self.store.resources(), self.announced
        with pytest.raises(ApiError) as caught:
            self(operation, **members)
        assert self.store.resources() == before
        assert self.announced == announced
        return caught.value


def listing(*entries: Any) -> dict[str, Any]:
    """A list in CloudFront's form."""
    return {"Quantity": len(entries)} | ({"Items": list(entries)} if entries else {})


def bucket(identifier: str = "films", domain: str = "films.s3.amazonaws.com", **more: Any) -> Any:
    """An origin that is a bucket."""
    config = {"OriginAccessIdentity": ""}
    return {"Id": identifier, "DomainName": domain, "S3OriginConfig": config, **more}


def server(identifier: str = "server", domain: str = "origin.example.org", **more: Any) -> Any:
    """An origin that is an HTTP server; ``custom`` goes into its CustomOriginConfig."""
    config = {"HTTPPort": 80, "HTTPSPort": 443, "OriginProtocolPolicy": "https-only"}
    config |= more.pop("custom", {})
    return {"Id": identifier, "DomainName": domain, "CustomOriginConfig": config, **more}


def behavior(target: str = "films", **more: Any) -> dict[str, Any]:
    """A cache behavior with a policy, or with the older ForwardedValues."""
    document = {"TargetOriginId": target, "ViewerProtocolPolicy": "allow-all"}
    if "ForwardedValues" not in more:
        document["CachePolicyId"] = OPTIMIZED
    return document | more


def forwarded(**more: Any) -> dict[str, Any]:
    """ForwardedValues that forward nothing but ``more``."""
    return {"QueryString": False, "Cookies": {"Forward": "none"}, **more}


def web(reference: str = "one", **more: Any) -> dict[str, Any]:
    """A DistributionConfig with only its required members and ``more``."""
    return {
        "CallerReference": reference,
        "Comment": "",
        "Enabled": True,
        "Origins": listing(bucket()),
        "DefaultCacheBehavior": behavior(),
        **more,
    }


def streaming(reference: str = "one", **more: Any) -> dict[str, Any]:
    """A StreamingDistributionConfig in the form of CloudFront's clients."""
    return {
        "CallerReference": reference,
        "S3Origin": {"DomainName": "films.s3.amazonaws.com", "OriginAccessIdentity": ""},
        "Comment": "",
        "TrustedSigners": {"Enabled": False, "Quantity": 0},
        "Enabled": True,
        **more,
    }


def countries(kind: str, *codes: str) -> dict[str, Any]:
    """Restrictions by country."""
    return {"GeoRestriction": {"RestrictionType": kind, **listing(*codes)}}
