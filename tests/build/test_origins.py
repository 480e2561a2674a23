"""Origins and origin groups built from a config."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from streamedge.build.origins import bind_origins
from streamedge.config.schema.config import Config
from streamedge.delivery.hosts import OriginBinding
from streamedge.errors import OriginError
from streamedge.keys import join_key
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counts
from streamedge.origin.directory.origin import DirectoryOrigin
from streamedge.origin.group.origin import OriginGroup
from streamedge.origin.http.origin import HttpOrigin
from streamedge.origin.s3.origin import S3Origin
from tests.support.certificate_authority import CertificateAuthority
from tests.support.origins.scripted_origin import Reply, ScriptedOrigin, read_all

DIRECTORY = {"type": "directory", "path": "/media"}
HTTP = {"type": "http", "url": "https://media.example.org"}
S3 = {"type": "s3", "bucket": "videos", "access_key_id": "key", "secret_access_key": "secret"}


async def bind(**origins: dict[str, Any]) -> dict[str, OriginBinding]:
    config = Config.model_validate({"origins": origins})
    return bind_origins(config, open_log("stderr", "test"), Counts())


async def test_origin_is_built_by_its_type() -> None:
    bindings = await bind(a=DIRECTORY, b=HTTP, c=S3)
    kinds = {name: type(binding.origin) for name, binding in bindings.items()}
    assert kinds == {"a": DirectoryOrigin, "b": HttpOrigin, "c": S3Origin}
    assert [binding.name for binding in bindings.values()] == ["a", "b", "c"]
    for binding in bindings.values():
        await binding.origin.close()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (DIRECTORY, {**DIRECTORY, "path": "/other"}),
        (DIRECTORY, {**DIRECTORY, "prefix": "films/"}),
        (HTTP, {**HTTP, "url": "http://media.example.org"}),
        (HTTP, {**HTTP, "prefix": "films/"}),
        (HTTP, {**HTTP, "host": "viewer"}),
        (HTTP, {**HTTP, "host": "www.example.org"}),
        (S3, {**S3, "bucket": "other"}),
        (S3, {**S3, "region": "eu-central-1"}),
        (S3, {**S3, "endpoint": "http://127.0.0.1:9000"}),
        (S3, {**S3, "prefix": "films/"}),
        (
            {**S3, "endpoint": "http://s3.test"},
            {**S3, "endpoint": "http://s3.test", "path_style": False},
        ),
        (DIRECTORY, HTTP),
        (HTTP, {**HTTP, "headers": {"X-Secret": "s"}}),
        ({**HTTP, "headers": {"X-Secret": "t"}}, {**HTTP, "headers": {"X-Secret": "s"}}),
        (HTTP, {**HTTP, "client_certificate": "edge.pem", "client_key": "edge.key"}),
        (S3, {**S3, "headers": {"X-Secret": "s"}}),
        (
            S3,
            {key: value for key, value in S3.items() if "access" not in key} | {"anonymous": True},
        ),
    ],
)
async def test_different_origins_have_different_identities(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    bindings = await bind(one=one, other=other)
    assert bindings["one"].identity != bindings["other"].identity
    for binding in bindings.values():
        await binding.origin.close()


async def tier_identities(**certificates: Path) -> dict[str, str]:
    """The identities of an origin in a tier, whose client certificates are in these files."""
    sections = {
        name: {**HTTP, "tier": "eu", "client_certificate": str(path), "client_key": "k"}
        for name, path in certificates.items()
    }
    bindings = await bind(**sections)
    for binding in bindings.values():
        await binding.origin.close()
    return {name: binding.identity for name, binding in bindings.items()}


async def test_identity_in_a_tier_is_that_of_the_certificate_and_not_of_its_path(
    tmp_path: Path,
) -> None:
    """All edges of the tier need the same identity, whatever folders they have."""
    for name, content in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).write_text(content)
    identities = await tier_identities(**{name: tmp_path / name for name in "abc"})
    assert identities["a"] == identities["b"]
    assert identities["a"] != identities["c"]


async def test_renewed_client_certificate_leaves_the_identity_in_a_tier_as_it_was(
    tmp_path: Path,
) -> None:
    """Otherwise each renewal would lose what is cached of the origin."""
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    authority = CertificateAuthority(tmp_path / "before")
    first, other = authority.issue("client"), authority.issue("client")  # with other subjects
    renewed = CertificateAuthority(tmp_path / "after").issue("client")  # with the first's subject
    identities = await tier_identities(
        first=first.certificate, other=other.certificate, renewed=renewed.certificate
    )
    assert identities["renewed"] == identities["first"]
    assert identities["other"] != identities["first"]


@pytest.mark.parametrize(
    ("origin", "change"),
    [
        (HTTP, {"connections": 4, "read_timeout": "1s"}),
        (S3, {"access_key_id": "new", "secret_access_key": "other"}),
        (S3, {"connect_timeout": "1s"}),
        (S3, {"path_style": True}),
        (HTTP, {"follow_redirects": 3, "verify": False}),
        ({**HTTP, "headers": {"X-A": "1", "X-B": "2"}}, {"headers": {"X-B": "2", "x-a": "1"}}),
    ],
)
async def test_identity_does_not_depend_on_name_keys_or_limits(
    origin: dict[str, Any], change: dict[str, Any]
) -> None:
    bindings = await bind(before=origin, after={**origin, **change})
    assert bindings["before"].identity == bindings["after"].identity
    for binding in bindings.values():
        await binding.origin.close()


async def test_identity_contains_no_secret() -> None:
    bindings = await bind(bucket={**S3, "headers": {"X-Key": "a-secret"}})
    assert "secret" not in bindings["bucket"].identity
    await bindings["bucket"].origin.close()


# --- groups -----------------------------------------------------------------------------------


async def bind_group(*members: dict[str, Any]) -> dict[str, OriginBinding]:
    origins = {f"o{number}": member for number, member in enumerate(members)}
    groups = {"both": {"origins": list(origins)}}
    config = Config.model_validate({"origins": origins, "origin_groups": groups})
    return bind_origins(config, open_log("stderr", "test"), Counts())


OTHER = {**HTTP, "url": "https://backup.example.org"}


@pytest.mark.parametrize(
    ("members", "is_site"),
    [((HTTP, OTHER), True), ((HTTP, S3), False), ((S3, DIRECTORY), False)],
)
async def test_group_is_a_site_if_all_its_origins_are(
    members: tuple[dict[str, Any], ...], is_site: bool
) -> None:
    bindings = await bind_group(*members)
    group = bindings["both"]
    assert isinstance(group.origin, OriginGroup)
    assert group.upstream is group.origin
    assert group.is_site is is_site
    for binding in bindings.values():
        await binding.origin.close()


async def test_identity_of_a_group_depends_on_the_order_of_its_members() -> None:
    identities = []
    for members in ((HTTP, OTHER), (OTHER, HTTP), (HTTP, S3)):
        bindings = await bind_group(*members)
        identities += [binding.identity for binding in bindings.values()]
        for binding in bindings.values():
            await binding.origin.close()
    assert len(set(identities)) == 3 + 3  # three origins, three groups


async def test_writes_to_a_group_go_to_its_first_origin() -> None:
    bindings = await bind_group(S3, DIRECTORY)
    first, second, group = (bindings[name] for name in ("o0", "o1", "both"))
    assert group.write_target is first
    assert first.write_target is first
    both = (join_key(first.identity, "film"), join_key(group.identity, "film"))
    assert group.write_keys("film") == first.write_keys("film") == both
    assert second.write_keys("film") == (join_key(second.identity, "film"), both[1])
    for binding in bindings.values():
        await binding.origin.close()


async def test_group_sends_the_viewers_host_if_a_member_does() -> None:
    bindings = await bind_group(HTTP, {**OTHER, "host": "viewer"})
    sends = {name: binding.sends_viewer_host for name, binding in bindings.items()}
    assert sends == {"o0": False, "o1": True, "both": True}
    for binding in bindings.values():
        await binding.origin.close()


async def test_requests_have_the_configured_headers_host_and_redirects(tmp_path: Path) -> None:
    async with ScriptedOrigin() as server:
        server.put("videos/film.mp4", b"film")
        headers = {"headers": {"X-Secret": "s"}}
        site = {"type": "http", "url": server.url, "host": "www.test", "follow_redirects": 1}
        bucket = {"type": "s3", "bucket": "videos", "endpoint": server.url, "anonymous": True}
        bindings = await bind(site={**site, **headers}, bucket={**bucket, **headers})
        server.script(Reply(status=302, headers=(("Location", "/videos/film.mp4"),)))
        assert await read_all(await bindings["site"].origin.read("old")) == b"film"
        assert await read_all(await bindings["bucket"].origin.read("film.mp4")) == b"film"
        assert [request.headers["host"] for request in server.requests[:2]] == ["www.test"] * 2
        assert {request.headers["x-secret"] for request in server.requests} == {"s"}
        for binding in bindings.values():
            await binding.origin.close()


async def test_requests_use_the_configured_tls_files(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    server_pair, client_pair = authority.issue("localhost"), authority.issue("edge")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_pair.certificate, server_pair.key)
    context.load_verify_locations(authority.root)
    context.verify_mode = ssl.CERT_REQUIRED
    async with ScriptedOrigin(tls=context) as server:
        server.put("film.mp4", b"film")
        site = {"type": "http", "url": server.url}
        client = {
            "client_certificate": str(client_pair.certificate),
            "client_key": str(client_pair.key),
        }
        bindings = await bind(
            good={**site, **client, "ca": str(authority.root)},
            lax={**site, **client, "verify": False},
            plain=site,
        )
        for name in ("good", "lax"):
            assert await read_all(await bindings[name].origin.read("film.mp4")) == b"film"
        with pytest.raises(OriginError, match="CERTIFICATE_VERIFY_FAILED"):
            await bindings["plain"].origin.read("film.mp4")
        for binding in bindings.values():
            await binding.origin.close()
