"""Ids of requests: unique, of one form, and random in the half that tells them apart."""

from __future__ import annotations

import re

from streamedge.delivery.http.request.request_ids import IDS_AT_ONCE, RequestIds, no_id

FORM = re.compile(rb"[A-Za-z0-9_-]{56}")


def test_ids_are_unique_and_have_one_form() -> None:
    ids = RequestIds()
    several = [ids.next() for _ in range(3 * IDS_AT_ONCE + 1)]
    assert all(map(FORM.fullmatch, several))
    assert len(set(several)) == len(several)
    assert len({request_id[28:] for request_id in several}) == len(several)


def test_ids_of_processes_differ() -> None:
    assert RequestIds().next() != RequestIds().next()


def test_requests_between_edges_have_no_id() -> None:
    assert no_id() == b""
