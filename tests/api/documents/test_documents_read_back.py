"""Any accepted document reads back as it was sent, and every worker can apply it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.api.errors import ApiError
from streamedge.api.to_config.translation import combine
from tests.support.api.cloudfront_api import (
    OPTIMIZED,
    Api,
    behavior,
    bucket,
    forwarded,
    listing,
    server,
    web,
)

NAMES = st.text("abc-", min_size=1, max_size=5).map(lambda name: f"x{name}x.example.org")
TIMES = st.sampled_from([0, 1, 60, 86_400, 31_536_000])
POLICIES = [OPTIMIZED, OPTIMIZED, "declared", "declared", "unknown"]
TARGETS = ["films", "films", "server", "server", "nowhere"]
PROTOCOLS = [("TLSv1.2",), ("TLSv1", "TLSv1.2"), ("SSLv3", "TLSv1")]
METHODS = st.sampled_from([("GET", "HEAD"), ("GET", "HEAD", "OPTIONS")])


@st.composite
def behaviors(draw: st.DrawFn) -> dict[str, Any]:
    more: dict[str, Any] = {
        "ViewerProtocolPolicy": draw(
            st.sampled_from(["allow-all", "https-only", "redirect-to-https"])
        ),
        "Compress": draw(st.booleans()),
        "SmoothStreaming": draw(st.booleans()),
        "AllowedMethods": {
            **listing(*draw(METHODS)),
            "CachedMethods": listing("GET", "HEAD"),
        },
    }
    if draw(st.booleans()):
        least, standard, most = draw(st.tuples(TIMES, TIMES, TIMES))
        more |= {
            "ForwardedValues": forwarded(
                QueryString=draw(st.booleans()),
                Headers=listing(*draw(st.sets(st.sampled_from(["Accept", "Host", "Origin"])))),
            ),
            "MinTTL": least,
            "DefaultTTL": standard,
            "MaxTTL": most,
        }
    else:
        more["CachePolicyId"] = draw(
            st.sampled_from([OPTIMIZED, OPTIMIZED, "declared", "declared", "unknown"])
        )
    return behavior(
        draw(st.sampled_from(["films", "films", "server", "server", "nowhere"])), **more
    )


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    paths = draw(st.lists(st.sampled_from(["/a/*", "b", "*.mp4", "/a/*"]), max_size=2))
    policy = draw(st.sampled_from(["http-only", "https-only", "match-viewer"]))
    protocols = draw(st.sampled_from(PROTOCOLS))
    custom = {"OriginProtocolPolicy": policy, "OriginSslProtocols": listing(*protocols)}
    return web(
        draw(st.text(min_size=1, max_size=5)),
        Comment=draw(st.text(max_size=20)),
        Enabled=draw(st.booleans()),
        Aliases=listing(*draw(st.lists(NAMES, max_size=3))),
        DefaultRootObject=draw(
            st.sampled_from(["", "", "index.html", "index.html", "/index.html"])
        ),
        HttpVersion=draw(st.sampled_from(["http1.1", "http2", "http3", "http2and3"])),
        PriceClass=draw(st.sampled_from(["PriceClass_100", "PriceClass_All"])),
        Origins=listing(
            bucket(OriginPath=draw(st.sampled_from(["", "/v1"]))), server(custom=custom)
        ),
        DefaultCacheBehavior=draw(behaviors()),
        CacheBehaviors=listing(*({"PathPattern": path, **draw(behaviors())} for path in paths)),
    )


def is_part_of(sent: Any, received: Any) -> bool:
    if isinstance(sent, dict):
        return all(is_part_of(value, received.get(name)) for name, value in sent.items())
    if isinstance(sent, list):
        return len(sent) == len(received) and all(map(is_part_of, sent, received))
    return bool(sent == received)


@settings(deadline=None, max_examples=60)
@given(documents(), documents())
def test_accepted_document_reads_back_as_sent_and_is_applied(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        api = Api(Path(folder))
        try:
            created = api("CreateDistribution", DistributionConfig=first)
        except ApiError:
            assert api.store.resources() == ()
            return
        identifier, etag = created["Distribution"]["Id"], created["ETag"]
        assert is_part_of(first, created["Distribution"]["DistributionConfig"])
        etag = check(api, identifier, etag)
        second = {**second, "CallerReference": first["CallerReference"]}
        stale_error = api.error(
            "UpdateDistribution", Id=identifier, IfMatch="E0STALE", DistributionConfig=second
        )
        assert stale_error.code == "PreconditionFailed"
        try:
            updated = api(
                "UpdateDistribution", Id=identifier, IfMatch=etag, DistributionConfig=second
            )
        except ApiError:
            check(api, identifier, etag)
            return
        assert updated["ETag"] != etag
        assert is_part_of(second, updated["Distribution"]["DistributionConfig"])
        check(api, identifier, updated["ETag"])
        api.database.close()


def check(api: Api, identifier: str, etag: str) -> str:
    """Checks that it is applied, sends it back unchanged, and returns the new ETag."""
    received = api("GetDistributionConfig", Id=identifier)
    assert received["ETag"] == etag
    effective = combine(api.from_file, api.store.resources())
    assert effective.problems == ()
    assert identifier in {one.id for one in effective.config.distributions}
    resent = api(
        "UpdateDistribution",
        Id=identifier,
        IfMatch=etag,
        DistributionConfig=received["DistributionConfig"],
    )
    assert resent["Distribution"]["DistributionConfig"] == received["DistributionConfig"]
    return str(resent["ETag"])
