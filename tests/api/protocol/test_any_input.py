"""Any input of a shape succeeds or is refused, and never leaves a resource unapplied."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamedge.api.errors import ApiError
from streamedge.api.protocol.model import cloudfront
from streamedge.api.to_config.translation import combine
from tests.support.api.api_operations import OFFERED_OPERATIONS, values
from tests.support.api.cloudfront_api import Api, web

# Other operations use only a marker and a number of their input.
CHANGING_OPERATIONS = [
    name for name in OFFERED_OPERATIONS if not name.startswith(("Get", "List", "Delete"))
]
DOCUMENT: Any = (
    cloudfront().operation("CreateDistribution").input_shape.members["DistributionConfig"]  # type: ignore[union-attr]
)
COMPLEX_MEMBERS = (
    *("Aliases", "CacheBehaviors", "CacheTagConfig", "CustomErrorResponses"),
    *("DefaultCacheBehavior", "OriginGroups", "Origins", "Restrictions", "ViewerCertificate"),
)
slow_examples = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.fixture(name="api", scope="module")
def _api(tmp_path_factory: pytest.TempPathFactory) -> Api:
    """One API for all examples: each starts with the resources of those before it."""
    return Api(tmp_path_factory.mktemp("control"))


def status(api: Api, operation: str, **members: Any) -> int:
    """The status of a call: 200, or that of its error."""
    try:
        api(operation, **members)
    except ApiError as exc:
        return exc.status
    return 200


@pytest.mark.parametrize("operation", CHANGING_OPERATIONS)
@settings(max_examples=8, suppress_health_check=slow_examples)
@given(data=st.data())
def test_any_input_succeeds_or_is_refused(api: Api, operation: str, data: st.DataObject) -> None:
    members = data.draw(values(cloudfront().operation(operation).input_shape))
    assert status(api, operation, **members) < 500
    assert combine(api.from_file, api.store.resources()).problems == ()


@pytest.mark.parametrize("member", COMPLEX_MEMBERS)
@settings(max_examples=20, suppress_health_check=slow_examples)
@given(data=st.data())
def test_any_member_of_a_document_is_accepted_or_refused(
    api: Api, member: str, data: st.DataObject
) -> None:
    document = {**web(), member: data.draw(values(DOCUMENT.members[member]))}
    assert status(api, "CreateDistribution", DistributionConfig=document) < 500
    assert combine(api.from_file, api.store.resources()).problems == ()
