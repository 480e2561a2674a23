"""Journeys: Amazon's ``aws cloudfront`` creates a distribution that a running edge serves."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.support.http.http_viewer import fetch
from tests.support.origins.aws_cli import ACCESS_KEY_ID, SECRET_ACCESS_KEY, AwsCli
from tests.support.process.edge_process import run_edge

CONFIG = """
[origins.main]
type = "directory"
path = "{media}"

[api]
keys = {{ "{key}" = "{secret}" }}
"""


async def test_distribution_with_an_identity_is_created_listed_and_served(
    tmp_path: Path, aws: AwsCli
) -> None:
    media = tmp_path / "media"
    media.mkdir()
    (media / "a").write_bytes(b"content")
    config = CONFIG.format(media=media, key=ACCESS_KEY_ID, secret=SECRET_ACCESS_KEY)
    with run_edge(tmp_path / "edge", config, workers=2) as edge:
        endpoint = f"http://127.0.0.1:{edge.admin_port}"

        def create() -> str:
            identity = aws.json(
                *("cloudfront", "create-cloud-front-origin-access-identity"),
                *("--cloud-front-origin-access-identity-config", "CallerReference=one,Comment=of"),
                endpoint=endpoint,
            )["CloudFrontOriginAccessIdentity"]["Id"]
            identity_path = f"origin-access-identity/cloudfront/{identity}"
            cache_policy_id = "83da9c7e-98b4-4e11-a168-04f0df8e2c65"
            origin = {
                "Id": "main",
                "DomainName": "films.s3.amazonaws.com",
                "S3OriginConfig": {"OriginAccessIdentity": identity_path},
            }
            document = {
                "CallerReference": "one",
                "Comment": "",
                "Enabled": True,
                "Aliases": {"Quantity": 1, "Items": ["made.example.org"]},
                "Origins": {"Quantity": 1, "Items": [origin]},
                "DefaultCacheBehavior": {
                    "TargetOriginId": "main",
                    "ViewerProtocolPolicy": "allow-all",
                    "CachePolicyId": cache_policy_id,
                },
            }
            created = aws.json(
                *("cloudfront", "create-distribution"),
                *("--distribution-config", json.dumps(document)),
                endpoint=endpoint,
            )["Distribution"]["Id"]
            matches = aws.json(
                *("cloudfront", "list-distributions-by-cache-policy-id"),
                *("--cache-policy-id", cache_policy_id),
                endpoint=endpoint,
            )["DistributionIdList"]["Items"]
            assert matches == [created]
            again = aws.run(
                *("cloudfront", "create-distribution"),
                *("--distribution-config", json.dumps(document)),
                endpoint=endpoint,
                check=False,
            )
            assert "DistributionAlreadyExists" in again.stderr
            return str(created)

        identifier = await asyncio.to_thread(create)
        response = await fetch(edge.http_port, "/a", host="made.example.org")
        assert (response.status, response.body) == (200, b"content")
        listing = await asyncio.to_thread(
            aws.json, "cloudfront", "list-distributions", endpoint=endpoint
        )
        assert [one["Id"] for one in listing["DistributionList"]["Items"]] == ["EWEB", identifier]
