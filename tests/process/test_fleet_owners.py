"""streamedge/process/fleet/owners.py: which edges own an object, by its URL."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamedge.admin.fleet import OwnerError
from streamedge.config.schema.config import Config
from streamedge.fleet.members import Member
from streamedge.ops.log import open_log
from streamedge.process.fleet.owners import find_owners

MEMBERS = {
    name: Member(name, peer_address="127.0.0.1:1", order=1) for name in ("fra-1", "ams-1", "par-1")
}
CONFIG = Config.model_validate(
    {
        "origins": {
            "films": {"type": "s3", "bucket": "films", "anonymous": True, "tier": "eu"},
            "news": {"type": "http", "url": "http://127.0.0.1:1"},
            "old": {"type": "http", "url": "http://127.0.0.1:1", "tier": "us"},
        },
        "fleet": {"tiers": {"eu": ["fra-1", "ams-1"], "us": ["nyc-1"]}},
        "distributions": [
            {"id": "E", "type": "web", "origin": "films", "aliases": ["cdn.example.com"]},
            {"id": "N", "type": "web", "origin": "news", "aliases": ["news.example.com"]},
            {"id": "O", "type": "web", "origin": "old", "aliases": ["old.example.com"]},
            {
                "id": "S",
                "type": "rtmp",
                "origin": "films",
                "aliases": ["*"],
                "application": ["vod", "vod/hd"],
            },
        ],
    }
)


def owners(tmp_path: Path, url: str) -> dict[str, object]:
    return find_owners(CONFIG, open_log(str(tmp_path / "log"), "test"), url, MEMBERS)


@pytest.mark.parametrize(
    "url",
    [
        "http://cdn.example.com/dir/film.mp4",
        "https://cdn.example.com:8443/dir/film.mp4",
        "rtmp://cdn.example.com/vod/dir/film.mp4",
        "rtmp://cdn.example.com:1935/vod/hd/mp4:dir/film",
    ],
)
def test_every_url_of_an_object_has_the_same_owners(tmp_path: Path, url: str) -> None:
    document = owners(tmp_path, url)
    assert (document["object"], document["origin"], document["tier"]) == (
        "dir/film.mp4",
        "films",
        "eu",
    )
    first = owners(tmp_path, "http://cdn.example.com/dir/film.mp4")["parts"]
    assert document["parts"] == first
    assert isinstance(first, list)
    assert first
    assert all(sorted(part) == ["ams-1", "fra-1"] for part in first)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://elsewhere.example.org/a", "no distribution serves"),
        ("http://news.example.com/a", "the origin news has no tier"),
        ("http://old.example.com/a", "no edge of the tier us serves now"),
        ("rtmp://cdn.example.com/live/a", "no distribution has the application"),
        ("film.mp4", "is no URL: write http://HOST/PATH"),
    ],
)
def test_url_without_owners_is_refused_with_the_reason(
    tmp_path: Path, url: str, reason: str
) -> None:
    with pytest.raises(OwnerError, match=reason):
        owners(tmp_path, url)
