"""A hit has the log lines that the same response has on the general path."""

from __future__ import annotations

import json
from dataclasses import replace
from http import HTTPStatus
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.cache.reader import CacheResult
from streamedge.delivery.http.fast_path.hit_log import (
    cloudfront_hit_lines,
    json_hit_lines,
)
from streamedge.delivery.http.fast_path.remembered import (
    FinishedHits,
    Kind,
    PreparedMessage,
    RememberedRequest,
    SentHit,
)
from streamedge.delivery.http.policy.behaviors import Behavior
from streamedge.delivery.http.request.dispatch import Refused
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.response.access_log import (
    response_line,
    target_fields,
    viewer_fields,
)
from streamedge.delivery.http.response.build import Response
from streamedge.delivery.http.response.cloudfront_log import (
    Content,
    LogRules,
    WebLog,
    content_of,
    results_of,
    results_of_hit,
    web_record,
)
from streamedge.delivery.http.response.end import ResponseEnd
from streamedge.delivery.http.response.response import ResponseHead, ResponseMessage
from streamedge.delivery.http.viewer import Viewer, viewer_at
from streamedge.delivery.net.accept import Peer
from streamedge.logs.cloudfront import encode
from streamedge.logs.spool_names import LogFormat, SpoolTarget
from tests.support.http.requests import request_of

NOW_S = 1.7e9
ID = b"the-id"
RULES = LogRules(SpoolTarget("EWEB", LogFormat.WEB, 300.0), "d1.cloudfront.net", has_cookies=True)
WEB_LOG = WebLog("fra-1", None, rules={"EWEB": RULES})
VIEWER = viewer_at(Peer("2001:db8::1", 4000), "TLSv1.3\tTLS_AES_128_GCM_SHA256")
PLAIN_VIEWER = viewer_at(Peer("192.0.2.1", 4001))

agents = st.none() | st.sampled_from(["wrk/4.1", 'a "b" \\ %s %b \u00e4\t', "x" * 3000])
cuts = st.none() | st.sampled_from(["viewer left", "revoked", "origin broke off"])
ranges = st.none() | st.sampled_from([(b"0", b"9"), (b"5", b""), (b"0", b"1023")])
sizes = st.integers(0, 1 << 40)


def get_of(
    byte_range: tuple[bytes, bytes] | None, agent: str | None, method: str = "GET"
) -> WebRequest:
    fields = [(b"host", b"cdn.example.com"), (b"cookie", b"a=1; CloudFront-Signature=x")]
    if byte_range is not None:
        fields.append((b"range", b"bytes=%b-%b" % byte_range))
    if agent is not None:
        fields.append((b"user-agent", agent.encode("latin-1")))
    return request_of(VIEWER, b"/a%20b?c=1", fields, method=method, request_id=ID.decode())


def remembered_of(request: WebRequest, agent: str | None) -> RememberedRequest[Any, Any]:
    """As ``FastPath.prepare`` makes it, without a target."""
    return RememberedRequest(
        Kind.PLAIN,
        request,
        Refused(HTTPStatus.FORBIDDEN, "", None),
        None,
        PreparedMessage(),
        target_fields(request.host, request.path, "EWEB").encode(),
        viewer_fields(request.http_version, agent, None).encode(),
        "",
        None,
        "EWEB",
        WEB_LOG.prepared(request, "EWEB"),
    )


def cloudfront_line(sent: SentHit, duration_s: float, cut: str | None) -> bytes:
    """The only line of two equal hits; the second one has its parts from the first one."""
    finished = [([sent], NOW_S, duration_s, cut)]
    first = cloudfront_hit_lines(WEB_LOG, finished)
    assert list(cloudfront_hit_lines(WEB_LOG, finished)) == list(first)
    ((target, line),) = first
    assert target == RULES.target
    return line


def general_line(
    request: WebRequest,
    status: int,
    sent_bytes: int,
    result: str,
    reason: str | None,
    duration_s: float,
) -> dict[str, Any]:
    line = response_line(
        request,
        ResponseEnd(NOW_S, sent_bytes, duration_s, 0.0, None),
        process="worker-0",
        status=status,
        result=result,
        distribution="EWEB",
        reason=reason,
    )
    fields: dict[str, Any] = json.loads(line)
    return fields


@given(ranges, agents, cuts, st.sampled_from([0.0, 0.25]), sizes, st.integers(0, 99), sizes)
def test_plain_hit(
    byte_range: tuple[bytes, bytes] | None,
    agent: str | None,
    cut: str | None,
    duration_s: float,
    sent_bytes: int,
    start: int,
    size: int,
) -> None:
    if byte_range is None:
        start = 0
    status, end = (200 if byte_range is None else 206), start + size
    remembered = remembered_of(get_of(None, agent), agent)
    hit = remembered, byte_range, status, VIEWER, sent_bytes, None, ID, start, end
    request = get_of(byte_range, agent)
    is_part = byte_range is not None
    content = Content(None, size, start if is_part else None, end - 1 if is_part else None)
    record = web_record(
        RULES,
        "fra-1",
        request,
        VIEWER,
        content,
        results_of_hit(cut),
        ResponseEnd(NOW_S, sent_bytes, duration_s, 0.0, cut),
        status=status if sent_bytes or cut is None else 0,
        request_id=ID.decode(),
    )
    assert cloudfront_line(hit, duration_s, cut) == encode(record)
    line = json_hit_lines("worker-0", NOW_S, duration_s, cut, [hit])
    assert line.count(b"\n") == 1
    general = general_line(request, status, sent_bytes, "Hit", cut, duration_s)
    assert json.loads(line) == general


@given(
    ranges, agents, cuts, st.sampled_from(["GET", "HEAD"]), st.sampled_from([None, "reason"]), sizes
)
def test_prepared_hit(
    byte_range: tuple[bytes, bytes] | None,
    agent: str | None,
    cut: str | None,
    method: str,
    reason: str | None,
    sent_bytes: int,
) -> None:
    fields = (("content-type", "text/html"), ("content-length", "7"))
    message = ResponseMessage(ResponseHead(404, fields))
    response = Response(message, None, CacheResult.ERROR, "EWEB", reason, error="not_found")
    request = get_of(byte_range, agent, method)
    hit = remembered_of(request, agent), None, 404, VIEWER, sent_bytes, response, ID, 0, 0
    record = web_record(
        RULES,
        "fra-1",
        request,
        VIEWER,
        content_of(fields),
        results_of(404, response, cut),
        ResponseEnd(NOW_S, sent_bytes, 0.0, 0.0, cut),
        status=404 if sent_bytes or cut is None else 0,
        request_id=ID.decode(),
    )
    assert cloudfront_line(hit, 0.0, cut) == encode(record)
    line = json_hit_lines("worker-0", NOW_S, 0.0, cut, [hit])
    assert json.loads(line) == general_line(request, 404, sent_bytes, "Error", cut or reason, 0.0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([VIEWER, PLAIN_VIEWER]),
            st.sampled_from([b"video/mp4", b"text/html"]),
            st.sampled_from([1024, 1025]),
            st.sampled_from([300, 301]),
        ),
        max_size=20,
    )
)
def test_lines_of_whole_objects_follow_viewer_type_and_size(
    sent: list[tuple[Viewer, bytes, int, int]],
) -> None:
    request = get_of(None, "curl")
    remembered = remembered_of(request, "curl")
    hits: list[SentHit] = []
    expected = b""
    for viewer, content_type, size_bytes, head_bytes in sent:
        target: Any = SimpleNamespace(content_type=content_type)
        sent_bytes = head_bytes + size_bytes
        hits.append(
            (remembered._replace(target=target), None, 200, viewer, sent_bytes, None, ID, 0,
             size_bytes)
        )  # fmt: skip
        record = web_record(
            RULES,
            WEB_LOG.location,
            replace(request, address=viewer.address),
            viewer,
            Content(content_type.decode(), size_bytes, None, None),
            results_of_hit(None),
            ResponseEnd(NOW_S, sent_bytes, 0.0, 0.0, None),
            status=200,
            request_id=ID.decode(),
        )
        expected += encode(record)
    lines = cloudfront_hit_lines(WEB_LOG, [(hits, NOW_S, 0.0, None)])
    assert b"".join(text for _target, text in lines) == expected


def test_texts_of_one_hit_of_a_request_are_remembered() -> None:
    """They have the target and the agent, so those of each cipher or length of a range would take
    long texts many times.
    """
    remembered = remembered_of(get_of(None, None), None)
    logged = remembered.logged_request
    assert logged is not None
    for digits in range(1, 19):
        viewer = viewer_at(Peer("192.0.2.1", 4000), f"TLSv1.3\tCIPHER_{digits}")
        whole = remembered, None, 200, viewer, 10, None, ID, 0, 10
        assert f"\tCIPHER_{digits}\t".encode() in cloudfront_line(whole, 0.0, None)
        byte_range = b"0" * digits, b"9"
        part = remembered, byte_range, 206, viewer, 10, None, ID, 0, 10
        assert f"\tCIPHER_{digits}\t".encode() in cloudfront_line(part, 0.0, None)
        assert len(logged.hit_texts) <= 2


OTHER_RULES = RULES._replace(target=SpoolTarget("EOTHER", LogFormat.WEB, 60.0), domain="d2.example")
REALTIME_RULES = RULES._replace(
    target=SpoolTarget("EREAL", LogFormat.REALTIME, 300.0), behaviors=(Behavior("*", "origin"),)
)
THREE_LOGS = WebLog(
    "fra-1", None, rules={"EWEB": RULES, "EOTHER": OTHER_RULES, "EREAL": REALTIME_RULES}
)
VIEWERS = (
    VIEWER,
    PLAIN_VIEWER,
    viewer_at(Peer("192.0.2.9", 4002), "TLSv1.2\tECDHE-RSA-AES256-SHA"),
)
NOT_FOUND = Response(
    ResponseMessage(ResponseHead(404, (("content-type", "text/html"),))),
    None,
    CacheResult.ERROR,
    "EWEB",
    error="not_found",
)


def any_request(random: Random) -> RememberedRequest[Any, Any]:
    """One of two requests to one of four distributions, of which three have a log."""
    distribution = random.choice([*THREE_LOGS.rules, ""])
    request = get_of(None, random.choice(["curl", "wrk"]))
    target: Any = SimpleNamespace(content_type=random.choice([b"video/mp4", b"text/html"]))
    return remembered_of(request, None)._replace(
        target=target,
        distribution=distribution,
        logged_request=THREE_LOGS.prepared(request, distribution),
    )


def any_hit(request: RememberedRequest[Any, Any], random: Random) -> SentHit:
    """A hit of a whole object, of a range, or with a prepared response."""
    viewer, size = random.choice(VIEWERS), random.choice([9, 10])
    sent_bytes = random.choice([299, 300, 301]) + size
    match random.choice(["whole", "whole", "range", "prepared"]):
        case "whole":
            return request, None, 200, viewer, sent_bytes, None, ID, 0, size
        case "range":
            byte_range = random.choice([(b"5", b"9"), (b"10", b""), (b"10", b"1023")])
            return request, byte_range, 206, viewer, sent_bytes, None, ID, 10, 10 + size
    return request, None, 404, viewer, sent_bytes, NOT_FOUND, ID, 0, 0


@pytest.mark.parametrize("seed", range(100))
def test_hits_that_are_formatted_together_have_the_lines_that_each_has_alone(seed: int) -> None:
    random = Random(seed)
    requests = [any_request(random) for _ in range(2)]
    finished: list[FinishedHits] = []
    alone: dict[SpoolTarget, bytes] = {}
    for _ in range(random.randint(1, 6)):
        ended_s = random.choice([NOW_S, NOW_S + 0.25, NOW_S + 1.5])
        duration_s = random.choice([0.0, 0.0, 0.25, 1.5])
        cut = random.choice([None, None, "viewer left"])
        hits = [any_hit(random.choice(requests), random) for _ in range(random.randint(1, 40))]
        finished.append((hits, ended_s, duration_s, cut))
        for hit in hits:
            request = hit[0]
            logged = THREE_LOGS.prepared(request.request, request.distribution)
            new_hit = (request._replace(logged_request=logged), *hit[1:])
            only = [new_hit], ended_s, duration_s, cut
            for log, line in cloudfront_hit_lines(THREE_LOGS, [only]):
                alone[log] = alone.get(log, b"") + line
    assert dict(cloudfront_hit_lines(THREE_LOGS, finished)) == alone


def test_lines_of_distributions_without_a_log_are_left_out() -> None:
    other = remembered_of(get_of(None, None), None)._replace(logged_request=None)
    hit = other, None, 200, VIEWER, 9, None, ID, 0, 9
    assert list(cloudfront_hit_lines(WEB_LOG, [([hit], NOW_S, 0.0, None)])) == []
