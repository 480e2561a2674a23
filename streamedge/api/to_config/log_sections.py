"""The Logging of a document as the log of a distribution: into an origin of config.toml. Pure."""

from __future__ import annotations

from typing import Any, TypeVar

from streamedge.api.documents.documents import Document, invalid, section
from streamedge.api.documents.inventory import Inventory
from streamedge.api.to_config.origin_sections import origin_of_bucket
from streamedge.config.schema.config import DirectoryOriginConfig, LogConfig, S3OriginConfig

LogSection = TypeVar("LogSection", bound=LogConfig)


def log_section(kind: type[LogSection], inventory: Inventory, document: Document) -> LogSection:
    """The section ``log``; its default if Logging is off. Raises ApiError.

    Bucket is the domain of a bucket that an origin of config.toml has, or the name of a folder or
    bucket there.
    """
    logging = document.get("Logging") or {}
    if not logging.get("Enabled"):
        return kind()
    bucket = logging.get("Bucket") or ""
    origin = inventory.from_file.origins.get(bucket)
    if isinstance(origin, S3OriginConfig | DirectoryOriginConfig):
        name = bucket
    else:
        declared = origin_of_bucket(inventory, bucket)
        if declared is None:
            raise invalid(
                "Logging: Bucket must be BUCKET.s3.amazonaws.com of a bucket under [origins] in"
                " config.toml, or the name of a folder or bucket there"
            )
        name = declared
    values: dict[str, Any] = {"origin": name, "prefix": logging.get("Prefix") or ""}
    if logging.get("IncludeCookies"):
        values["cookies"] = True
    return section(kind, values, "Logging")
