"""Distributions and origins on the admin address."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from streamedge.admin.app import create_admin_app
from streamedge.admin.inventory import inventory_routes
from streamedge.config.schema.config import Config
from streamedge.coordination.shared_state import SharedState
from tests.support.admin.access import open_access
from tests.support.http.asgi_call import call
from tests.support.process.shared_memory import close_shared, make_shared

CONFIG = Config.model_validate(
    {
        "origins": {
            "films": {"type": "s3", "bucket": "films", "region": "eu-central-1"}
            | {"access_key_id": "AKIA", "secret_access_key": "hunter2"},
            "site": {"type": "http", "url": "https://user:hunter2@site.example", "prefix": "a/"},
            "spare": {"type": "directory", "path": "/srv/spare"},
        },
        "origin_groups": {"sites": {"origins": ["site", "spare"], "failover": [500]}},
        "distributions": [
            {
                "id": "EWEB",
                "type": "web",
                "origin": "sites",
                "aliases": ["cdn.example.com"],
                "behaviors": [{"path": "films/*", "origin": "films"}],
            },
            {"id": "ESTREAM", "type": "rtmp", "origin": "films", "application": ["vod"]},
        ],
    }
)
FILE = CONFIG.model_copy(update={"distributions": CONFIG.distributions[:1]})


@pytest.fixture
def shared() -> Iterator[SharedState]:
    state = make_shared(0)
    yield state
    close_shared(state)


async def test_distributions_name_their_origins_and_where_they_are_declared(
    shared: SharedState,
) -> None:
    routes = inventory_routes(lambda: CONFIG, lambda: FILE)
    app = create_admin_app("fra-1", shared, open_access(shared), routes=routes)
    _, body = await call(app, "GET", "/distributions")
    web, stream = json.loads(body)["distributions"]
    assert (web["id"], web["source"], web["behaviors"]) == ("EWEB", "file", 1)
    assert web["origins"] == ["sites", "films"]
    assert web["aliases"] == ["cdn.example.com"]
    assert (stream["source"], stream["applications"]) == ("api", ["vod"])
    assert not stream["signed"]
    assert stream["countries"] is None


async def test_origins_name_their_users_and_no_secret(shared: SharedState) -> None:
    routes = inventory_routes(lambda: CONFIG, lambda: FILE)
    app = create_admin_app("fra-1", shared, open_access(shared), routes=routes)
    _, body = await call(app, "GET", "/origins")
    assert b"hunter2" not in body
    films, site, spare = json.loads(body)["origins"]
    assert films["distributions"] == ["EWEB", "ESTREAM"]
    assert films["groups"] == []
    assert site == {
        "name": "site",
        "type": "http",
        "place": "https://site.example/a",
        "distributions": ["EWEB"],
        "groups": ["sites"],
    }
    assert spare["place"] == "/srv/spare"
