"""Journeys: a private origin: the bucket's policy lets only the edge's identity read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.support.http.signers import rsa_signer
from tests.support.origins.s3_server import IDENTITIES, S3Server
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import run_edge

THREAT_MODEL = (Path(__file__).parents[3] / "docs" / "security" / "threat-model.md").read_text()
ACCOUNT = "000000000000"  # the account of the test server's identities
BUCKET = "private"
FILM = b"film" * 1000


def documented_policy() -> str:
    """The threat model's example policy, for this bucket and this server's account."""
    match = re.search(r"^```json\n(.*?)^```", THREAT_MODEL, re.MULTILINE | re.DOTALL)
    assert match is not None
    text = match[1].replace("123456789012", ACCOUNT).replace(":::videos", f":::{BUCKET}")
    assert json.loads(text)["Statement"][0]["Principal"] == {
        "AWS": f"arn:aws:iam::{ACCOUNT}:user/edge"
    }
    return text


def status_of(url: str | Request) -> int:
    try:
        with urlopen(url, timeout=PATIENCE_S) as response:
            status: int = response.status
            return status
    except HTTPError as exc:
        with exc:
            return exc.code


RULES = """
[public_keys.K1]
pem = '''{pem}'''
[key_groups.viewers]
keys = ["K1"]
[[distributions]]
id = "EWEB"
type = "web"
origin = "main"
methods = ["GET", "HEAD", "OPTIONS", "PUT", "POST", "DELETE"]
[[distributions.behaviors]]
path = "signed/*"
trusted_key_groups = ["viewers"]
[[distributions.behaviors]]
path = "locked/*"
methods = ["GET", "HEAD"]
"""


def origins(s3: S3Server, identity: str) -> str:
    access_key_id, secret_access_key = IDENTITIES[identity]
    return (
        f'[origins.main]\ntype = "s3"\nbucket = "{BUCKET}"\nendpoint = "{s3.endpoint}"\n'
        f'region = "{s3.region}"\naccess_key_id = "{access_key_id}"\n'
        f'secret_access_key = "{secret_access_key}"\n'
    )


def test_private_bucket_is_readable_only_through_the_edge(tmp_path: Path, s3: S3Server) -> None:
    s3.create_bucket(BUCKET)
    s3.put(BUCKET, "film.mp4", FILM)
    direct = f"{s3.endpoint}/{BUCKET}/film.mp4"
    public = documented_policy().replace(
        json.dumps({"AWS": f"arn:aws:iam::{ACCOUNT}:user/edge"}), '"*"'
    )
    s3.client.put_bucket_policy(Bucket=BUCKET, Policy=public)
    assert status_of(direct) == 200  # so the policy decides
    s3.client.put_bucket_policy(Bucket=BUCKET, Policy=documented_policy())
    assert status_of(direct) == 403
    access_key_id, secret_access_key = IDENTITIES["stranger"]
    other_client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name=s3.region,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret_access_key,
        config=Config(s3={"addressing_style": "path"}),
    )
    with pytest.raises(ClientError, match="AccessDenied"):
        other_client.get_object(Bucket=BUCKET, Key="film.mp4")
    other_client.close()
    with run_edge(tmp_path / "edge", origins(s3, "edge")) as edge:
        for _cold_then_warm in range(2):
            with urlopen(edge.http("film.mp4"), timeout=PATIENCE_S) as response:
                assert response.read() == FILM
    with run_edge(tmp_path / "other", origins(s3, "stranger")) as other:
        assert status_of(other.http("film.mp4")) == 403


def test_bucket_name_in_the_path_bypasses_no_rule(tmp_path: Path, s3: S3Server) -> None:
    s3.create_bucket("ruled")
    for name in ("open", "signed/film", "locked/film"):
        s3.put("ruled", name, FILM)
    origin_toml = origins(s3, "tests").replace(BUCKET, "ruled")
    rules = RULES.format(pem=rsa_signer("K1").public_pem.decode())
    like_s3 = {"Authorization": "AWS4-HMAC-SHA256 Credential=unknown"}

    def status(method: str, path: str, **headers: str) -> int:
        request = Request(edge.http(path), method=method, headers=headers)
        return status_of(request)

    with run_edge(tmp_path, origin_toml, distributions=rules) as edge:
        assert status("GET", "ruled/open", **like_s3) == 200
        for _cold_then_warm in range(2):
            assert status("GET", "signed/film") == 403
            assert status("GET", "ruled/signed/film", **like_s3) == 403
            assert status("GET", "ruled/signed/film?X-Amz-Signature=") == 403
        assert status("DELETE", "locked/film") == 405
        assert status("DELETE", "ruled/locked/film", **like_s3) == 405
        assert status("GET", "locked/film") == 200
