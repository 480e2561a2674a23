"""The schema used from code: parsed values are accepted, and types are not coerced."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from streamedge.config.schema.config import (
    Config,
    DirectoryOriginConfig,
    EdgeConfig,
    LimitsConfig,
    ListenConfig,
    S3OriginConfig,
    WebDistributionConfig,
)


def test_config_accepts_parsed_values() -> None:
    config = Config(
        edge=EdgeConfig(cache=Path("/var/cache"), cache_size=1 << 30, log=Path("/var/log/edge")),
        listen=ListenConfig(http=(("127.0.0.1", 0), ("::1", 0)), admin=("127.0.0.1", 0)),
        limits=LimitsConfig(http_idle=0.5),
        origins={"samples": DirectoryOriginConfig(type="directory", path=Path("/srv"))},
        distributions=(WebDistributionConfig(type="web", id="E", origin="samples"),),
    )
    assert config.listen.http == (("127.0.0.1", 0), ("::1", 0))
    assert config.edge.log == Path("/var/log/edge")
    assert config.limits.http_idle == 0.5
    assert config.distributions[0].aliases == ("*",)


@pytest.mark.parametrize("workers", [True, "1", 1.0, None])
def test_types_are_not_coerced(workers: object) -> None:
    with pytest.raises(ValidationError):
        EdgeConfig.model_validate({"workers": workers})


def test_config_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Config().edge.workers = 2


def test_refused_value_is_not_in_the_error() -> None:
    with pytest.raises(ValidationError) as caught:
        S3OriginConfig.model_validate({"type": "s3", "bucket": "b", "endpoint": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_secret_is_not_in_the_repr_or_json_of_the_config() -> None:
    origin = S3OriginConfig(
        type="s3", bucket="b", access_key_id="AKIA", secret_access_key=SecretStr("hunter2")
    )
    assert "hunter2" not in repr(origin) + str(origin) + origin.model_dump_json()
