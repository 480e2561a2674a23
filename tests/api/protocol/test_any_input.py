"""Whatever a shape allows is answered or refused by name, and never leaves what is not in force."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamedge.api.errors import ApiError
from streamedge.api.protocol.model import cloudfront
from streamedge.api.to_config.translation import combine
from tests.support.api_operations import OFFERED_OPERATIONS, values
from tests.support.cloudfront_api import Api, web

# What only asks does not look into what it is given, but for a marker and a number.
CHANGING = [name for name in OFFERED_OPERATIONS if not name.startswith(("Get", "List", "Delete"))]
DOCUMENT: Any = (
    cloudfront().operation("CreateDistribution").input_shape.members["DistributionConfig"]  # type: ignore[union-attr]
)
HARD = (
    *("Aliases", "CacheBehaviors", "CacheTagConfig", "CustomErrorResponses"),
    *("DefaultCacheBehavior", "OriginGroups", "Origins", "Restrictions", "ViewerCertificate"),
)
slow_to_make = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.fixture(name="api", scope="module")
def _api(tmp_path_factory: pytest.TempPathFactory) -> Api:
    """One for all examples: what they leave behind is part of what the next one meets."""
    return Api(tmp_path_factory.mktemp("control"))


def status(api: Api, operation: str, **said: Any) -> int:
    """How a call ends: by an answer, or by a refusal of its own."""
    try:
        api(operation, **said)
    except ApiError as exc:
        return exc.status
    return 200


@pytest.mark.parametrize("operation", CHANGING)
@settings(max_examples=8, suppress_health_check=slow_to_make)
@given(data=st.data())
def test_any_input_is_answered_or_refused(api: Api, operation: str, data: st.DataObject) -> None:
    said = data.draw(values(cloudfront().operation(operation).input_shape))
    assert status(api, operation, **said) < 500
    assert combine(api.declared, api.registry.resources()).problems == ()


@pytest.mark.parametrize("member", HARD)
@settings(max_examples=20, suppress_health_check=slow_to_make)
@given(data=st.data())
def test_any_member_of_a_document_is_taken_or_refused(
    api: Api, member: str, data: st.DataObject
) -> None:
    document = {**web(), member: data.draw(values(DOCUMENT.members[member]))}
    assert status(api, "CreateDistribution", DistributionConfig=document) < 500
    assert combine(api.declared, api.registry.resources()).problems == ()
