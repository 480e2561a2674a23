"""Messages to the service manager, and what its environment means."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.process.notify import ServiceManager, socket_address, watchdog_interval_s
from tests.support.process.service_manager import NotifySocket


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[NotifySocket]:
    receiver = NotifySocket(tmp_path / "notify")
    yield receiver
    receiver.close()


def manager_for(receiver: NotifySocket, **variables: str) -> ServiceManager:
    return ServiceManager({"NOTIFY_SOCKET": str(receiver.path), **variables})


def test_messages_are_datagrams_of_variables(receiver: NotifySocket) -> None:
    manager = manager_for(receiver)
    manager.ready("2 of 2 workers serve")
    assert receiver.receive() == {"READY": "1", "STATUS": "2 of 2 workers serve"}
    manager.reloading("reads the config file")
    message = receiver.receive()
    assert (message["RELOADING"], message["STATUS"]) == ("1", "reads the config file")
    assert int(message["MONOTONIC_USEC"]) > 0
    manager.stopping("lets viewers finish")
    assert receiver.receive() == {"STOPPING": "1", "STATUS": "lets viewers finish"}


def test_status_is_sent_only_when_it_changes(receiver: NotifySocket) -> None:
    manager = manager_for(receiver)
    manager.ready("two")
    manager.status("two")
    manager.status("one")
    manager.status("one")
    assert [message["STATUS"] for message in receiver.take_waiting()] == ["two", "one"]


@given(st.text())
def test_status_never_becomes_another_variable(status: str) -> None:
    peer, own = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with peer, own:
        name = f"\0streamedge-test-{os.getpid()}-{id(own)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(name.encode())
            ServiceManager({"NOTIFY_SOCKET": "@" + name[1:]}).ready(status)
            lines = receiver.recv(65536).decode().split("\n")
    assert [line.partition("=")[0] for line in lines] == ["READY", "STATUS"]


def test_watchdog_gets_four_messages_in_its_interval(receiver: NotifySocket) -> None:
    manager = manager_for(receiver, WATCHDOG_USEC="60000000")
    for now_s in range(0, 61, 5):
        manager.keep_alive(float(now_s))
    assert receiver.take_waiting() == [{"WATCHDOG": "1"}] * 5  # at 0, 15, 30, 45 and 60 s


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "8000000"}, 2.0),
        ({"WATCHDOG_USEC": "8000000", "WATCHDOG_PID": "42"}, 2.0),
        ({"WATCHDOG_USEC": "8000000", "WATCHDOG_PID": "43"}, None),
    ],
)
def test_watchdog_is_only_for_the_process_that_it_names(
    variables: dict[str, str], expected: float | None
) -> None:
    assert watchdog_interval_s(variables, 42) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("/run/notify", "/run/notify"), ("@abstract", "\0abstract"), ("", None), ("vsock:2:3", None)],
)
def test_notify_socket_is_a_path_or_an_abstract_name(name: str, expected: str | None) -> None:
    assert socket_address(name) == expected


def test_manager_that_is_gone_is_ignored(tmp_path: Path) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nothing")})
    manager.ready("up")
    assert manager.is_present
    assert not ServiceManager({}).is_present
