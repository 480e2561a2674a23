"""Access to an admin address with users and tokens: login, cookie, roles, and header fields."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from http.cookies import SimpleCookie

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from streamedge.admin.access.control import COOKIE, AccessControl
from streamedge.admin.access.login_limit import TRIES
from streamedge.admin.access.passwords import hash_token
from streamedge.admin.app import create_admin_app
from streamedge.config.schema.admin import AdminConfig
from streamedge.coordination.shared_state import SharedState
from tests.support.admin.access import PASSWORD, PASSWORD_HASH, open_access, users
from tests.support.http.asgi_call import exchange
from tests.support.process.shared_memory import close_shared, make_shared

CONFIG = users(anna="operator", rita="reader")
HOST = ("Host", "127.0.0.1:9090")


@pytest.fixture
def shared() -> Iterator[SharedState]:
    state = make_shared(0)
    yield state
    close_shared(state)


def app_of(shared: SharedState, access: AccessControl) -> ASGIApp:
    """The admin address, with one further route that shows and changes something."""

    async def respond(_request: Request) -> Response:
        return JSONResponse({}, headers={"Cache-Control": "max-age=60"})

    routes = [
        Route("/things", respond, methods=["GET", "POST", "DELETE"]),
        Route("/2020-05-31/distribution", respond, methods=["GET", "POST"]),
    ]
    return create_admin_app("fra-1", shared, access, None, routes)


async def request(
    app: ASGIApp, method: str, path: str, *fields: tuple[str, str], body: object = None, **ends: str
) -> tuple[int, SimpleCookie, dict[str, object]]:
    """Status, cookies that are set, and JSON body of a response."""
    content = b"" if body is None else json.dumps(body).encode()
    status, headers, text = await exchange(
        app, method, path, fields=(HOST, *fields), body=content, **ends
    )
    return status, SimpleCookie(headers.get("set-cookie", "")), json.loads(text)


async def log_in(app: ASGIApp, user: str, password: str = PASSWORD, **ends: str) -> tuple[int, str]:
    """The status of a login, and the Cookie field for later calls."""
    body = {"user": user, "password": password}
    status, cookies, _ = await request(app, "POST", "/login", body=body, **ends)
    return status, f"{COOKIE}={cookies[COOKIE].value}" if COOKIE in cookies else ""


async def test_operator_logs_in_changes_something_and_logs_out(shared: SharedState) -> None:
    app = app_of(shared, open_access(shared, CONFIG))
    assert (await request(app, "GET", "/things"))[0] == 401
    assert (await request(app, "GET", "/session"))[0] == 401
    status, cookie = await log_in(app, "anna")
    assert status == 200
    session = ("Cookie", cookie)
    assert (await request(app, "GET", "/things", session))[0] == 200
    assert (await request(app, "POST", "/things", session))[0] == 200
    _, _, document = await request(app, "GET", "/session", session)
    assert document == {"user": "anna", "role": "operator", "has_session": True, "edge": "fra-1"}
    status, cookies, _ = await request(app, "POST", "/logout", session)
    assert status == 200
    assert cookies[COOKIE]["max-age"] == "0"
    assert (await request(app, "GET", "/things", session))[0] == 401


async def test_cookie_is_for_this_host_and_no_script_and_no_other_site(shared: SharedState) -> None:
    app = app_of(shared, open_access(shared, CONFIG))
    body = {"user": "anna", "password": PASSWORD}
    _, cookies, _ = await request(app, "POST", "/login", body=body)
    (name, cookie) = next(iter(cookies.items()))
    assert name.startswith("__Host-")
    assert (cookie["path"], cookie["domain"], cookie["max-age"]) == ("/", "", "")
    assert cookie["secure"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "strict"


async def test_reader_sees_and_does_not_change(shared: SharedState) -> None:
    app = app_of(shared, open_access(shared, CONFIG))
    _, cookie = await log_in(app, "rita")
    assert (await request(app, "GET", "/things", ("Cookie", cookie)))[0] == 200
    for method in ("POST", "DELETE"):
        status, _, document = await request(app, method, "/things", ("Cookie", cookie))
        assert status == 403
        assert "reader" in str(document["error"])
    assert (await request(app, "POST", "/logout", ("Cookie", cookie)))[0] == 200


@pytest.mark.parametrize(
    ("user", "password"),
    [("anna", "wrong password"), ("anna", ""), ("berta", PASSWORD), ("", ""), ("anna\n", PASSWORD)],
)
async def test_wrong_name_or_password_is_refused(
    shared: SharedState, user: str, password: str
) -> None:
    app = app_of(shared, open_access(shared, CONFIG))
    assert await log_in(app, user, password) == (401, "")


@pytest.mark.parametrize(
    "body",
    [[], {}, {"user": "anna"}, {"user": 1, "password": PASSWORD}, {"user": {}, "password": []}],
)
async def test_login_without_name_and_password_is_a_mistake(
    shared: SharedState, body: object
) -> None:
    app = app_of(shared, open_access(shared, CONFIG))
    status, _, document = await request(app, "POST", "/login", body=body)
    assert status == 400
    assert "password" in str(document["error"])


async def test_sixth_wrong_password_of_a_minute_is_not_checked(shared: SharedState) -> None:
    access = open_access(shared, CONFIG)
    app = app_of(shared, access)
    for _ in range(TRIES):
        assert (await log_in(app, "anna", "wrong password"))[0] == 401
    assert (await log_in(app, "anna"))[0] == 429
    assert (await log_in(app, "anna", client="192.0.2.9", server="192.0.2.1", scheme="https"))[
        0
    ] == 200
    assert access.stats() == {"sessions": 1, "addresses": 1}


async def test_logins_are_checked_one_after_another_beside_the_event_loop(
    shared: SharedState,
) -> None:
    app = app_of(shared, open_access(shared, CONFIG))
    ends = {"server": "192.0.2.1", "scheme": "https"}
    tries = [log_in(app, "anna", client=f"192.0.2.{number}", **ends) for number in range(2, 14)]
    statuses = [status for status, _ in await asyncio.gather(*tries)]
    assert sorted(set(statuses)) == [200, 429]
    assert statuses.count(200) >= 8


async def test_changed_password_ends_its_sessions(shared: SharedState) -> None:
    config = CONFIG
    access = AccessControl(lambda: config, shared.open_log("control"))
    app = app_of(shared, access)
    _, cookie = await log_in(app, "anna")
    _, other = await log_in(app, "rita")
    assert (await request(app, "GET", "/things", ("Cookie", cookie)))[0] == 200
    changed = config.users["anna"].model_copy(
        update={"password": type(config.users["anna"].password)(PASSWORD_HASH + "A")}
    )
    config = config.model_copy(update={"users": {**config.users, "anna": changed}})
    assert (await request(app, "GET", "/things", ("Cookie", cookie)))[0] == 401
    assert (await request(app, "GET", "/things", ("Cookie", other)))[0] == 200
    config = config.model_copy(update={"users": {"anna": changed}})
    assert (await request(app, "GET", "/things", ("Cookie", other)))[0] == 401


async def test_changed_role_counts_from_the_next_call_on(shared: SharedState) -> None:
    config = CONFIG
    app = app_of(shared, AccessControl(lambda: config, shared.open_log("control")))
    _, cookie = await log_in(app, "anna")
    assert (await request(app, "POST", "/things", ("Cookie", cookie)))[0] == 200
    config = users(anna="reader")
    assert (await request(app, "POST", "/things", ("Cookie", cookie)))[0] == 403


@pytest.mark.parametrize(
    "cookie", ["", "x", COOKIE, f"{COOKIE}=", f"{COOKIE}=unknown", f"{COOKIE}=é", "a=b; " * 200]
)
async def test_stale_or_odd_cookie_is_no_session(shared: SharedState, cookie: str) -> None:
    app = app_of(shared, open_access(shared, CONFIG))
    assert (await request(app, "GET", "/things", ("Cookie", cookie)))[0] == 401


TOKENS = AdminConfig.model_validate(
    {
        "tokens": {
            "deploy": {"hash": hash_token("secret-token"), "role": "operator"},
            "board": {"hash": hash_token("board-token"), "role": "reader"},
        }
    }
)


@pytest.mark.parametrize(
    ("value", "method", "status"),
    [
        ("Bearer secret-token", "POST", 200),
        ("bearer  secret-token ", "POST", 200),
        ("Bearer board-token", "GET", 200),
        ("Bearer board-token", "POST", 403),
        ("Bearer secret-token2", "GET", 401),
        ("Bearer ", "GET", 401),
        ("Bearer", "GET", 401),
        ("Basic c2VjcmV0LXRva2Vu", "GET", 401),
        ("secret-token", "GET", 401),
    ],
)
async def test_program_sends_a_token(
    shared: SharedState, value: str, method: str, status: int
) -> None:
    app = app_of(shared, open_access(shared, TOKENS))
    actual, _, document = await request(app, method, "/things", ("Authorization", value))
    assert actual == status
    assert ("error" in document) == (status != 200)


async def test_refused_call_has_a_challenge_that_opens_no_dialog(shared: SharedState) -> None:
    app = app_of(shared, open_access(shared, TOKENS))
    _, headers, _ = await exchange(app, "GET", "/things", fields=(HOST,))
    assert headers["www-authenticate"] == 'Bearer realm="streamedge"'


@pytest.mark.parametrize(
    ("config", "scheme", "path", "status"),
    [
        (AdminConfig(), "http", "/things", 403),
        (AdminConfig(), "https", "/things", 403),
        (AdminConfig(), "http", "/session", 403),
        (AdminConfig(), "http", "/metrics", 200),
        (AdminConfig(), "http", "/healthz", 200),
        (AdminConfig(), "http", "/2020-05-31/distribution", 200),
        (TOKENS, "http", "/things", 403),
        (TOKENS, "https", "/things", 200),
        (TOKENS, "http", "/metrics", 200),
    ],
)
async def test_other_machines_get_what_they_prove(
    shared: SharedState, config: AdminConfig, scheme: str, path: str, status: int
) -> None:
    app = app_of(shared, open_access(shared, config))
    fields = (HOST, ("Authorization", "Bearer secret-token"))
    client, server = "198.51.100.7", "198.51.100.1"
    actual, _, _ = await exchange(
        app, "GET", path, fields=fields, client=client, server=server, scheme=scheme
    )
    assert actual == status


@pytest.mark.parametrize(
    ("client", "server", "status"),
    [
        ("127.0.0.1", "127.0.0.1", 200),
        ("::1", "::1", 200),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", 200),
        ("127.0.0.1", "198.51.100.1", 403),
        ("198.51.100.7", "127.0.0.1", 403),
        ("", "", 403),
    ],
)
async def test_connection_is_local_when_both_ends_are(
    shared: SharedState, client: str, server: str, status: int
) -> None:
    app = app_of(shared, open_access(shared))
    assert (await request(app, "POST", "/things", client=client, server=server))[0] == status


async def test_unix_socket_needs_no_password(shared: SharedState) -> None:
    app = app_of(shared, open_access(shared, CONFIG, is_unix=True))
    assert (await request(app, "POST", "/things"))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "host"),
    [
        ("GET", "/things", "127.0.0.1"),
        ("GET", "/healthz", "127.0.0.1"),
        ("GET", "/missing", "127.0.0.1"),
        ("GET", "/things", "attacker.example"),
    ],
)
async def test_all_responses_have_the_fields_of_a_page(
    shared: SharedState, method: str, path: str, host: str
) -> None:
    app = app_of(shared, open_access(shared))
    _, headers, _ = await exchange(app, method, path, fields=(("Host", host),))
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers.getlist("cache-control") == ["no-store"]


async def test_signed_api_keeps_its_own_fields(shared: SharedState) -> None:
    app = app_of(shared, open_access(shared))
    _, headers, _ = await exchange(app, "GET", "/2020-05-31/distribution", fields=(HOST,))
    assert headers["cache-control"] == "max-age=60"
    assert "content-security-policy" not in headers


async def test_login_is_not_needed_without_users(shared: SharedState) -> None:
    app = app_of(shared, open_access(shared))
    assert (await log_in(app, "anna"))[0] == 409
    _, _, document = await request(app, "GET", "/session")
    assert document == {"user": None, "role": "operator", "has_session": False, "edge": "fra-1"}
