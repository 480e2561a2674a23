"""Operations on origin access identities, and their use by distributions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.api.cloudfront_api import Api, bucket, listing, streaming, web

CALL = "CloudFrontOriginAccessIdentity"
CONFIG = f"{CALL}Config"


@pytest.fixture(name="api")
def _api(tmp_path: Path) -> Api:
    return Api(tmp_path)


def identity(reference: str = "one", comment: str = "of films") -> dict[str, Any]:
    return {CONFIG: {"CallerReference": reference, "Comment": comment}}


def id_and_etag(api: Api, **more: Any) -> tuple[str, str]:
    """The id and ETag of a new one."""
    output = api(f"Create{CALL}", **identity(**more))
    return output[CALL]["Id"], output["ETag"]


def reference_to(identifier: str) -> dict[str, Any]:
    return {"OriginAccessIdentity": f"origin-access-identity/cloudfront/{identifier}"}


def test_identity_is_created_read_updated_listed_and_deleted(api: Api) -> None:
    output = api(f"Create{CALL}", **identity())
    identifier = output[CALL]["Id"]
    assert output["Location"].endswith(f"/origin-access-identity/cloudfront/{identifier}")
    assert output[CALL][CONFIG] == identity()[CONFIG]
    assert len(output[CALL]["S3CanonicalUserId"]) == 96
    assert api(f"Get{CALL}", Id=identifier) == {CALL: output[CALL], "ETag": output["ETag"]}
    assert api(f"Get{CALL}Config", Id=identifier)[CONFIG] == identity()[CONFIG]
    (entry,) = api("ListCloudFrontOriginAccessIdentities")[f"{CALL}List"]["Items"]
    assert (entry["Id"], entry["Comment"]) == (identifier, "of films")
    updated = api(
        f"Update{CALL}", Id=identifier, IfMatch=output["ETag"], **identity(comment="other")
    )
    assert updated["ETag"] != output["ETag"]
    stale_error = api.error(f"Delete{CALL}", Id=identifier, IfMatch=output["ETag"])
    assert stale_error.code == "PreconditionFailed"
    api(f"Delete{CALL}", Id=identifier, IfMatch=updated["ETag"])
    assert api.error(f"Get{CALL}", Id=identifier).code == f"NoSuch{CALL}"


def test_repeated_creation_returns_the_same_identity_and_a_changed_one_is_refused(api: Api) -> None:
    assert id_and_etag(api) == id_and_etag(api)
    error = api.error(f"Create{CALL}", **identity(comment="other"))
    assert (error.code, error.status) == (f"{CALL}AlreadyExists", 409)
    identifier, etag = id_and_etag(api)
    error = api.error(f"Update{CALL}", Id=identifier, IfMatch=etag, **identity("two"))
    assert error.code == "IllegalUpdate"


@pytest.mark.parametrize("kind", ["Distribution", "StreamingDistribution"])
def test_identity_of_a_distribution_must_exist_and_is_not_deleted(api: Api, kind: str) -> None:
    def document(identifier: str) -> dict[str, Any]:
        if kind == "Distribution":
            return web(
                Origins=listing(bucket(S3OriginConfig=reference_to(identifier))), Enabled=False
            )
        s3_origin = {"DomainName": "films.s3.amazonaws.com", **reference_to(identifier)}
        return streaming(S3Origin=s3_origin, Enabled=False)

    unknown = api.error(f"Create{kind}", **{f"{kind}Config": document("E2UNKNOWN")})
    assert (unknown.code, unknown.status) == ("InvalidOriginAccessIdentity", 400)
    identifier, etag = id_and_etag(api)
    distribution = api(f"Create{kind}", **{f"{kind}Config": document(identifier)})
    in_use = api.error(f"Delete{CALL}", Id=identifier, IfMatch=etag)
    assert (in_use.code, in_use.status) == (f"{CALL}InUse", 409)
    api(f"Delete{kind}", Id=distribution[kind]["Id"], IfMatch=distribution["ETag"])
    api(f"Delete{CALL}", Id=identifier, IfMatch=etag)
