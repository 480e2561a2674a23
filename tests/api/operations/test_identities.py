"""Origin access identities: made, named by distributions, and removed when nothing names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.cloudfront_api import Api, bucket, listing, streaming, web

CALL = "CloudFrontOriginAccessIdentity"
CONFIG = f"{CALL}Config"


@pytest.fixture(name="api")
def _api(tmp_path: Path) -> Api:
    return Api(tmp_path)


def identity(reference: str = "one", comment: str = "of films") -> dict[str, Any]:
    return {CONFIG: {"CallerReference": reference, "Comment": comment}}


def made(api: Api, **more: Any) -> tuple[str, str]:
    """The id and ETag of a new one."""
    output = api(f"Create{CALL}", **identity(**more))
    return output[CALL]["Id"], output["ETag"]


def named(identifier: str) -> dict[str, Any]:
    return {"OriginAccessIdentity": f"origin-access-identity/cloudfront/{identifier}"}


def test_it_is_made_read_changed_listed_and_removed(api: Api) -> None:
    output = api(f"Create{CALL}", **identity())
    identifier = output[CALL]["Id"]
    assert output["Location"].endswith(f"/origin-access-identity/cloudfront/{identifier}")
    assert output[CALL][CONFIG] == identity()[CONFIG]
    assert len(output[CALL]["S3CanonicalUserId"]) == 96
    assert api(f"Get{CALL}", Id=identifier) == {CALL: output[CALL], "ETag": output["ETag"]}
    assert api(f"Get{CALL}Config", Id=identifier)[CONFIG] == identity()[CONFIG]
    (listed,) = api("ListCloudFrontOriginAccessIdentities")[f"{CALL}List"]["Items"]
    assert (listed["Id"], listed["Comment"]) == (identifier, "of films")
    changed = api(
        f"Update{CALL}", Id=identifier, IfMatch=output["ETag"], **identity(comment="other")
    )
    assert changed["ETag"] != output["ETag"]
    stale = api.error(f"Delete{CALL}", Id=identifier, IfMatch=output["ETag"])
    assert stale.code == "PreconditionFailed"
    api(f"Delete{CALL}", Id=identifier, IfMatch=changed["ETag"])
    assert api.error(f"Get{CALL}", Id=identifier).code == f"NoSuch{CALL}"


def test_the_same_call_twice_makes_one_and_another_is_refused(api: Api) -> None:
    assert made(api) == made(api)
    refused = api.error(f"Create{CALL}", **identity(comment="other"))
    assert (refused.code, refused.status) == (f"{CALL}AlreadyExists", 409)
    identifier, etag = made(api)
    refused = api.error(f"Update{CALL}", Id=identifier, IfMatch=etag, **identity("two"))
    assert refused.code == "IllegalUpdate"


@pytest.mark.parametrize("kind", ["Distribution", "StreamingDistribution"])
def test_one_that_is_named_has_to_exist_and_stays(api: Api, kind: str) -> None:
    def document(identifier: str) -> dict[str, Any]:
        if kind == "Distribution":
            return web(Origins=listing(bucket(S3OriginConfig=named(identifier))), Enabled=False)
        s3_origin = {"DomainName": "films.s3.amazonaws.com", **named(identifier)}
        return streaming(S3Origin=s3_origin, Enabled=False)

    unknown = api.error(f"Create{kind}", **{f"{kind}Config": document("E2UNKNOWN")})
    assert (unknown.code, unknown.status) == ("InvalidOriginAccessIdentity", 400)
    identifier, etag = made(api)
    distribution = api(f"Create{kind}", **{f"{kind}Config": document(identifier)})
    in_use = api.error(f"Delete{CALL}", Id=identifier, IfMatch=etag)
    assert (in_use.code, in_use.status) == (f"{CALL}InUse", 409)
    api(f"Delete{kind}", Id=distribution[kind]["Id"], IfMatch=distribution["ETag"])
    api(f"Delete{CALL}", Id=identifier, IfMatch=etag)
