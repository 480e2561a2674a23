"""Journeys: Amazon's ``aws`` command with the edge as its endpoint and a real bucket."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.origins.aws_cli import AwsCli
from tests.support.origins.s3_server import S3Server
from tests.support.process.edge_process import EdgeProcess, run_edge

BUCKET = "copied"
PIECE_BYTES = 1 << 20
PART_BYTES = 8 * PIECE_BYTES  # the command's default

ORIGIN = """
[origins.main]
type = "s3"
bucket = "{bucket}"
endpoint = "{s3.endpoint}"
region = "{s3.region}"
access_key_id = "{s3.access_key_id}"
secret_access_key = "{s3.secret_access_key}"
"""
DISTRIBUTION = """
[[distributions]]
id = "EBUCKET"
type = "web"
aliases = ["*"]
origin = "main"
methods = ["GET", "HEAD", "OPTIONS", "PUT", "POST", "DELETE"]
"""


@pytest.fixture(scope="module", name="edge")
def _edge(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    s3.create_bucket(BUCKET)
    with run_edge(
        tmp_path_factory.mktemp("edge"),
        ORIGIN.format(bucket=BUCKET, s3=s3),
        workers=2,
        distributions=DISTRIBUTION,
    ) as edge:
        yield edge


def write_file(path: Path, pieces: int, seed: int) -> str:
    """Writes a file of so many MiB, all different; returns its SHA-256."""
    piece, digest = random.Random(seed).randbytes(PIECE_BYTES - 8), hashlib.sha256()
    with path.open("wb") as file:
        for number in range(pieces):
            data = number.to_bytes(8, "big") + piece
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_large_file_is_uploaded_and_downloaded_in_parts(
    edge: EdgeProcess, s3: S3Server, aws: AwsCli, tmp_path: Path
) -> None:
    """Parts are sent in parallel; the download is never an older cached copy."""
    upload, download, target = (
        tmp_path / "here",
        tmp_path / "back",
        f"s3://{BUCKET}/films/large.bin",
    )
    for seed, parts in enumerate((25, 2)):
        digest = write_file(upload, parts * 8, seed)
        aws.run("s3", "cp", "--no-progress", str(upload), target, endpoint=edge.http(""))
        head = s3.client.head_object(Bucket=BUCKET, Key="films/large.bin")
        assert head["ContentLength"] == parts * PART_BYTES
        assert head["ETag"].endswith(f'-{parts}"')
        aws.run("s3", "cp", "--no-progress", target, str(download), endpoint=edge.http(""))
        assert digest_of(download) == digest
    assert s3.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []
    aws.run("s3", "rm", target, endpoint=edge.http(""))
    result = aws.run("s3", "cp", target, str(download), endpoint=edge.http(""), check=False)
    assert result.returncode == 1
    assert "404" in result.stderr


def test_if_none_match_prevents_a_second_put(
    edge: EdgeProcess, aws: AwsCli, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"a small object\n")
    put = ("s3api", "put-object", "--bucket", BUCKET, "--key", "small", "--body", str(small))
    etag = aws.json(*put, "--if-none-match", "*", endpoint=edge.http(""))["ETag"]
    again = aws.run(*put, "--if-none-match", "*", endpoint=edge.http(""), check=False)
    assert "PreconditionFailed" in again.stderr
    head = aws.json(
        *("s3api", "head-object", "--bucket", BUCKET, "--key", "small"), endpoint=edge.http("")
    )
    assert (head["ETag"], head["ContentLength"]) == (etag, 15)


def test_only_the_own_bucket_is_listed(edge: EdgeProcess, aws: AwsCli) -> None:
    """With PUT among the methods: a client that may replace all objects may list them."""
    aws.run("s3", "ls", f"s3://{BUCKET}/", endpoint=edge.http(""))
    other = aws.run("s3", "ls", f"s3://not-{BUCKET}/", endpoint=edge.http(""), check=False)
    assert (other.returncode, other.stdout) == (255, "")
    assert "NoSuchBucket" in other.stderr


def test_sign_command_makes_a_canned_policy_url(aws: AwsCli, tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    (tmp_path / "key.pem").write_bytes(key)
    signed = aws.run(
        *("cloudfront", "sign", "--url", "https://one.example/film", "--key-pair-id", "K1"),
        *("--private-key", f"file://{tmp_path}/key.pem", "--date-less-than", "2100-01-01"),
    ).stdout.strip()
    query = parse_qs(urlsplit(signed).query)
    assert query.keys() == {"Expires", "Signature", "Key-Pair-Id"}
    assert (query["Expires"], query["Key-Pair-Id"]) == (["4102444800"], ["K1"])
