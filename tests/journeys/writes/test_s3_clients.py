"""Journeys: S3's own clients whose endpoint is the edge, before a real bucket.

boto3 with both signatures, both places of the bucket's name, headers and presigned URLs; the aws
command; rclone. What they list, read and write is what lies at the bucket below the origin's
prefix, and an error is one that they understand.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.support.origins.aws_cli import AwsCli
from tests.support.origins.s3_server import S3Server
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, run_edge

BUCKET = "clients"
PREFIX = "site/a+b"
ODD_NAMES = [
    "plain.txt",
    "dir/in it.txt",
    "dir/a+b=c&d;e.txt",
    "dir/%41%2F.txt",
    "dir/é€𝄞.txt",
    "dir/'quoted' (1)!*~@:,$.txt",
    f"{BUCKET}/same as the bucket.txt",
    "dir/sub/deep.txt",
    "dir2/other.txt",
]

CONFIG = """
[origins.main]
type = "s3"
bucket = "{bucket}"
prefix = "{prefix}"
endpoint = "{s3.endpoint}"
region = "{s3.region}"
access_key_id = "{s3.access_key_id}"
secret_access_key = "{s3.secret_access_key}"
[origins.folder]
type = "directory"
path = "objects"
[cache_policies.overrides]
query_strings = {{ only = ["response-content-disposition", "response-content-type"] }}
"""
DISTRIBUTIONS = """
[[distributions]]
id = "EREAD"
type = "web"
aliases = ["read.test", "*.read.test"]
origin = "main"
[[distributions]]
id = "ELISTED"
type = "web"
aliases = ["listed.test"]
origin = "main"
s3_listing = true
[[distributions.behaviors]]
path = "elsewhere/*"
origin = "folder"
[[distributions.behaviors]]
path = "hidden/*"
s3_listing = false
[[distributions]]
id = "EPART"
type = "web"
aliases = ["part.test"]
origin = "main"
[[distributions.behaviors]]
path = "dir/*"
methods = ["GET", "HEAD", "PUT", "POST", "DELETE"]
[[distributions]]
id = "EWRITE"
type = "web"
origin = "main"
methods = ["GET", "HEAD", "OPTIONS", "PUT", "POST", "DELETE"]
[[distributions.behaviors]]
path = "overridden/*"
cache_policy = "overrides"
"""


@dataclass(frozen=True, slots=True)
class Setup:
    """An edge, its bucket, and clients of both."""

    edge: EdgeProcess
    s3: S3Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.edge.http_port}"

    def client(self, style: Any = "path", version: str = "s3v4", host: str = "edge.test") -> Any:
        """A boto3 client with the edge as its endpoint, by the name ``host``."""
        client: Any = boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{self.edge.http_port}",
            region_name="us-east-1",
            aws_access_key_id="any",
            aws_secret_access_key="any",
            config=Config(
                signature_version=version,
                s3={"addressing_style": style},
                retries={"total_max_attempts": 1},
                connect_timeout=5,
                read_timeout=20,
            ),
        )
        client.meta.events.register("before-send", self._send_here)
        return client

    def _send_here(self, request: Any, **_more: Any) -> None:
        """Sends a request to this machine, whatever its host name is."""
        parts = urlsplit(request.url)
        request.headers["Host"] = parts.netloc
        request.url = urlunsplit(parts._replace(netloc=f"127.0.0.1:{self.edge.http_port}"))

    def open_url(self, url: str, method: str = "GET", body: bytes | None = None) -> bytes:
        """The response body for a URL that a client has presigned."""
        parts = urlsplit(url)
        here = urlunsplit(parts._replace(netloc=f"127.0.0.1:{self.edge.http_port}"))
        request = urllib.request.Request(
            here, method=method, data=body, headers={"Host": parts.netloc}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            answer: bytes = response.read()
            return answer

    def at_bucket(self) -> set[str]:
        """All keys of the bucket."""
        pages = self.s3.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return {one["Key"] for page in pages for one in page.get("Contents", ())}


@pytest.fixture(scope="module", name="setup")
def _stand(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    s3.create_bucket(BUCKET)
    folder = tmp_path_factory.mktemp("edge")
    (folder / "objects").mkdir()
    for name in ODD_NAMES:
        s3.put(BUCKET, f"{PREFIX}/{name}", name.encode())
    s3.put(BUCKET, "outside.txt", b"not below the prefix")
    s3.put(BUCKET, f"{PREFIX}c.txt", b"begins as the prefix does")
    config = CONFIG.format(bucket=BUCKET, prefix=PREFIX, s3=s3)
    with run_edge(folder, config, distributions=DISTRIBUTIONS) as edge:
        yield Setup(edge, s3)


def test_listing_has_keys_relative_to_the_origin_prefix(setup: Setup) -> None:
    client = setup.client()
    first = client.list_objects_v2(Bucket=BUCKET)
    assert {one["Key"] for one in first["Contents"]} >= set(ODD_NAMES)
    assert not any(one["Key"].startswith(("site", "outside")) for one in first["Contents"])
    assert first["KeyCount"] == len(first["Contents"])
    objects = {one["Key"]: one for one in first["Contents"]}
    assert objects["plain.txt"]["Size"] == len("plain.txt")
    assert (
        objects["plain.txt"]["ETag"] == client.head_object(Bucket=BUCKET, Key="plain.txt")["ETag"]
    )
    assert "Owner" not in objects["plain.txt"]


@pytest.mark.parametrize("call", ["list_objects_v2", "list_objects"])
def test_listing_works_in_pages_and_by_folder(setup: Setup, call: str) -> None:
    client = setup.client()
    pages = client.get_paginator(call).paginate(
        Bucket=BUCKET, Prefix="dir/", PaginationConfig={"PageSize": 2}
    )
    keys = [one["Key"] for page in pages for one in page.get("Contents", ())]
    assert keys == sorted(name for name in ODD_NAMES if name.startswith("dir/"))
    pages = client.get_paginator(call).paginate(
        Bucket=BUCKET, Delimiter="/", PaginationConfig={"PageSize": 2}
    )
    whole = list(pages)
    folders = {one["Prefix"] for page in whole for one in page.get("CommonPrefixes", ())}
    assert folders >= {"dir/", "dir2/", f"{BUCKET}/"}
    assert "plain.txt" in {one["Key"] for page in whole for one in page.get("Contents", ())}
    start = {"StartAfter": "dir/z"} if call == "list_objects_v2" else {"Marker": "dir/z"}
    rest = getattr(client, call)(Bucket=BUCKET, Prefix="dir", **start)["Contents"]
    assert {one["Key"] for one in rest} == {"dir/é€𝄞.txt", "dir2/other.txt"}


def test_head_bucket_and_location_work(setup: Setup) -> None:
    client = setup.client()
    assert client.head_bucket(Bucket=BUCKET)["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert client.get_bucket_location(Bucket=BUCKET)["LocationConstraint"] in (None, "us-east-1")
    with pytest.raises(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=BUCKET)
    with pytest.raises(client.exceptions.NoSuchBucket):
        client.list_objects_v2(Bucket="another")


def test_listing_needs_permission(setup: Setup) -> None:
    for host, allowed in (("read.test", False), ("listed.test", True)):
        client = setup.client(host=host)
        if allowed:
            listed = client.list_objects_v2(Bucket=BUCKET, Prefix="dir/")
            assert listed["KeyCount"] == len([n for n in ODD_NAMES if n.startswith("dir/")])
        for prefix in ("", "hid", "hidden/x", "elsewhere/") if allowed else ("", "dir/"):
            with pytest.raises(ClientError) as caught:
                client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
            assert caught.value.response["Error"]["Code"] == "AccessDenied"
        assert client.get_object(Bucket=BUCKET, Key="plain.txt")["Body"].read() == b"plain.txt"


def test_listing_of_a_folder_with_a_behavior_of_its_own_needs_no_other_permission(
    setup: Setup,
) -> None:
    client = setup.client(host="part.test")
    for prefix in ("dir/", "dir/sub"):
        listed = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        assert listed["KeyCount"] == len([n for n in ODD_NAMES if n.startswith(prefix)])
    for prefix in ("", "di", "dir", "dir2/"):
        with pytest.raises(ClientError) as caught:
            client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        assert caught.value.response["Error"]["Code"] == "AccessDenied"


@pytest.mark.parametrize("version", ["s3", "s3v4"])
@pytest.mark.parametrize("style", ["path", "virtual"])
def test_objects_are_written_and_read(setup: Setup, version: str, style: str) -> None:
    client = setup.client(style, version)
    before = setup.at_bucket()
    for number, name in enumerate(ODD_NAMES):
        body = f"{name} {number}".encode()
        key = f"{version} {style}/{name}"
        client.put_object(Bucket=BUCKET, Key=key, Body=body)
        assert setup.at_bucket() - before == {f"{PREFIX}/{key}"}
        assert client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == body
        assert client.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == len(body)
        client.delete_object(Bucket=BUCKET, Key=key)
        assert setup.at_bucket() == before
        with pytest.raises(client.exceptions.NoSuchKey):
            client.get_object(Bucket=BUCKET, Key=key)


@pytest.mark.parametrize("version", ["s3", "s3v4"])
@pytest.mark.parametrize("style", ["path", "virtual"])
def test_presigned_urls_reach_their_key(setup: Setup, version: str, style: str) -> None:
    client = setup.client(style, version)
    before = setup.at_bucket()
    for name in ODD_NAMES:
        key = f"signed {version} {style}/{name}"
        params = {"Bucket": BUCKET, "Key": key}
        put = client.generate_presigned_url("put_object", Params=params)
        setup.open_url(put, "PUT", name.encode())
        assert setup.at_bucket() - before == {f"{PREFIX}/{key}"}
        assert (
            setup.open_url(client.generate_presigned_url("get_object", Params=params))
            == name.encode()
        )
        setup.open_url(client.generate_presigned_url("delete_object", Params=params), "DELETE")
        assert setup.at_bucket() == before
    listed = setup.open_url(
        client.generate_presigned_url("list_objects_v2", Params={"Bucket": BUCKET})
    )
    assert b"<Key>plain.txt</Key>" in listed


def test_errors_are_s3_error_documents(setup: Setup) -> None:
    client = setup.client()
    cases: list[tuple[str, int, dict[str, Any], str]] = [
        ("get_object", 404, {"Key": "none"}, "NoSuchKey"),
        ("head_object", 404, {"Key": "none"}, "404"),
        ("get_object", 416, {"Key": "plain.txt", "Range": "bytes=100-"}, "InvalidRange"),
        ("get_object", 412, {"Key": "plain.txt", "IfMatch": '"x"'}, "PreconditionFailed"),
        ("get_object", 501, {"Key": "plain.txt", "VersionId": "1"}, "NotImplemented"),
        ("get_object", 501, {"Key": "plain.txt", "PartNumber": 1}, "NotImplemented"),
        ("get_object_acl", 501, {"Key": "plain.txt"}, "NotImplemented"),
        ("get_object_tagging", 501, {"Key": "plain.txt"}, "NotImplemented"),
        (
            "put_object",
            400,
            {"Key": "new", "ACL": "public-read"},
            "AccessControlListNotSupported",
        ),
        ("put_object", 501, {"Key": "new", "WriteOffsetBytes": 3}, "NotImplemented"),
        ("delete_bucket", 501, {}, "NotImplemented"),
        ("get_bucket_acl", 501, {}, "NotImplemented"),
        ("list_object_versions", 501, {}, "NotImplemented"),
        ("list_multipart_uploads", 501, {}, "NotImplemented"),
    ]
    before = setup.at_bucket()
    for call, status, parameters, code in cases:
        with pytest.raises(ClientError) as caught:
            getattr(client, call)(Bucket=BUCKET, **parameters)
        response = caught.value.response
        assert response["ResponseMetadata"]["HTTPStatusCode"] == status, call
        assert response["Error"]["Code"] == code, call
    etag = client.head_object(Bucket=BUCKET, Key="plain.txt")["ETag"]
    with pytest.raises(ClientError) as caught:
        client.get_object(Bucket=BUCKET, Key="plain.txt", IfNoneMatch=etag)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 304
    with pytest.raises(ClientError) as caught:
        client.list_buckets()
    assert caught.value.response["Error"]["Code"] == "NotImplemented"
    assert setup.at_bucket() == before


def test_read_only_distribution_stores_nothing(setup: Setup) -> None:
    client = setup.client(host="read.test")
    before = setup.at_bucket()
    with pytest.raises(ClientError) as caught:
        client.put_object(Bucket=BUCKET, Key="new", Body=b"new")
    assert caught.value.response["Error"]["Code"] == "MethodNotAllowed"
    assert setup.at_bucket() == before


def test_response_fields_are_overridden_if_the_policy_has_the_parameters(setup: Setup) -> None:
    client = setup.client()
    client.put_object(Bucket=BUCKET, Key="overridden/a.txt", Body=b"a")
    disposition = "attachment; filename=new name.pdf"
    response = client.get_object(
        Bucket=BUCKET, Key="overridden/a.txt", ResponseContentDisposition=disposition
    )
    assert (response["ContentDisposition"], response["Body"].read()) == (disposition, b"a")
    assert "ContentDisposition" not in client.get_object(Bucket=BUCKET, Key="overridden/a.txt")
    with pytest.raises(ClientError) as caught:
        client.get_object(Bucket=BUCKET, Key="plain.txt", ResponseContentDisposition=disposition)
    assert caught.value.response["Error"]["Code"] == "NotImplemented"
    client.delete_object(Bucket=BUCKET, Key="overridden/a.txt")


@pytest.fixture(name="aws")
def _aws(tmp_path: Path) -> AwsCli:
    folder = tmp_path / "home"
    folder.mkdir()
    return AwsCli(folder)


def test_aws_command_lists_and_syncs(setup: Setup, aws: AwsCli, tmp_path: Path) -> None:
    local = tmp_path / "local"
    (local / "deep").mkdir(parents=True)
    (local / "one.txt").write_bytes(b"one")
    (local / "deep" / "two.txt").write_bytes(b"two")
    where = f"s3://{BUCKET}/synced"
    aws.run("s3", "sync", str(local), where, endpoint=setup.url)
    listed = aws.run("s3", "ls", "--recursive", where, endpoint=setup.url).stdout
    assert {line.split()[-1] for line in listed.splitlines()} == {
        "synced/one.txt",
        "synced/deep/two.txt",
    }
    (local / "one.txt").unlink()
    (local / "three.txt").write_bytes(b"three")
    aws.run("s3", "sync", "--delete", where, str(local), endpoint=setup.url)
    assert {path.name for path in local.rglob("*.txt")} == {"one.txt", "two.txt"}
    aws.run("s3", "rm", "--recursive", where, endpoint=setup.url)
    assert not any("/synced/" in key for key in setup.at_bucket())
    nothing = aws.run(
        "s3", "sync", "--delete", "s3://none", str(local), endpoint=setup.url, check=False
    )
    assert nothing.returncode != 0
    assert {path.name for path in local.rglob("*.txt")} == {"one.txt", "two.txt"}


def test_rclone_syncs(setup: Setup, tmp_path: Path) -> None:
    program = shutil.which("rclone")
    assert program is not None, "tools/install_programs.sh installs it"
    (tmp_path / "rclone.conf").write_text(
        "[edge]\ntype = s3\nprovider = Other\naccess_key_id = any\nsecret_access_key = any\n"
        f"endpoint = {setup.url}\nforce_path_style = true\n"
    )
    local = tmp_path / "local"
    local.mkdir()
    (local / "hello.txt").write_bytes(b"hello")

    def rclone(*arguments: str) -> str:
        base = [program, "--config", str(tmp_path / "rclone.conf"), "--retries", "1"]
        result = subprocess.run(
            [*base, *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    rclone("sync", str(local), f"edge:{BUCKET}/cloned")
    assert rclone("lsf", f"edge:{BUCKET}/cloned").split() == ["hello.txt"]
    (local / "hello.txt").unlink()
    (local / "gone.txt").write_bytes(b"gone")
    rclone("sync", f"edge:{BUCKET}/cloned", str(local))
    assert [(path.name, path.read_bytes()) for path in local.iterdir()] == [("hello.txt", b"hello")]
    rclone("delete", f"edge:{BUCKET}/cloned")
    assert not any("/cloned/" in key for key in setup.at_bucket())
