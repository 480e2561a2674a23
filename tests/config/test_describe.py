"""The schema in words: types, limits, examples and defaults."""

from __future__ import annotations

import pytest

from streamedge.config.describe import DISTRIBUTIONS, ORIGINS, default, expected, limits
from streamedge.config.schema.admin import AdminConfig
from streamedge.config.schema.config import (
    EdgeConfig,
    LimitsConfig,
    ListenConfig,
    RtmpDistributionConfig,
    S3OriginConfig,
    Section,
)


@pytest.mark.parametrize(
    ("section", "key", "words"),
    [
        (EdgeConfig, "workers", "expected a whole number (0 to 256)"),
        (EdgeConfig, "cache", 'expected a path, such as "var/cache"'),
        (EdgeConfig, "log", 'expected "stdout" or "stderr" or "off" or a path'),
        (LimitsConfig, "moov", 'expected a size (1KiB to 1GiB), such as "20GiB"'),
        (LimitsConfig, "http_idle", 'expected a duration (above 0s), such as "90s"'),
        (S3OriginConfig, "anonymous", "expected true or false"),
        (S3OriginConfig, "type", 'expected "s3"'),
        (AdminConfig, "users", "expected a table (at most 256 entries)"),
        (S3OriginConfig, "secret_access_key", "expected a string (at most 1024 characters)"),
    ],
)
def test_expected_names_the_type_and_limits_of_a_value(
    section: type[Section], key: str, words: str
) -> None:
    assert expected(section.model_fields[key]) == words


def test_expected_distinguishes_a_list_and_its_entries() -> None:
    field = RtmpDistributionConfig.model_fields["application"]
    assert expected(field) == 'expected a list of strings (at most 256 entries), such as "cfx/st"'
    assert expected(field, is_entry=True).startswith("expected a string (at most 256 characters, ")
    assert limits(field).startswith("at most 256 entries, each at most 256 characters, ")


@pytest.mark.parametrize(
    ("section", "key", "toml"),
    [
        (EdgeConfig, "cache_size", '"20GiB"'),
        (EdgeConfig, "workers", "0"),
        (EdgeConfig, "log", '"stdout"'),
        (ListenConfig, "http", '["127.0.0.1:8080"]'),
        (ListenConfig, "admin", '"127.0.0.1:9090"'),
        (LimitsConfig, "rtmp_ahead", '"1h"'),
        (S3OriginConfig, "anonymous", "false"),
        (S3OriginConfig, "bucket", ""),
    ],
)
def test_default_is_formatted_as_toml(section: type[Section], key: str, toml: str) -> None:
    assert default(section.model_fields[key]) == toml


def test_type_selects_the_section_of_origins_and_distributions() -> None:
    assert set(ORIGINS) == {"directory", "http", "s3"}
    assert set(DISTRIBUTIONS) == {"web", "rtmp"}
