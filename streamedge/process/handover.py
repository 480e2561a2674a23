"""What a supervisor hands over to the program that replaces it, with the same process id.

An upgrade (SIGUSR2) goes in two steps. First a *trial* runs the new program up to the point where
it would bind sockets: it imports everything, reads the config file and the files that this names,
and reports what is wrong. If nothing is, the supervisor executes the new program in its place. Open
descriptors survive that: listening sockets, the lock of the cache folder, and the memory that its
children use. A JSON document in memory, whose descriptor is in an environment variable, says which
is which.

The new program is started like the old one: the same interpreter path, arguments and folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from streamedge.config.schema.config import Config
from streamedge.errors import StreamEdgeError
from streamedge.process.child import Child

FORMAT = 3  # of the documents; a program with another one must be restarted
HANDOVER_VARIABLE = "STREAMEDGE_HANDOVER"
TRIAL_VARIABLE = "STREAMEDGE_TRIAL"
REASON_CHARACTERS_MAX = 2000
_LISTS = ("admin", "heartbeat_names", "wakeups", "live_edges", "upgrade_status", "viewers")


class HandoverError(StreamEdgeError):
    """The new program cannot take over; the message says why."""


@dataclass(frozen=True, slots=True)
class HandedChild:
    """A running process. ``stack``: the memory for its stack (``process.child``)."""

    name: str
    index: int
    slot: int
    is_worker: bool
    pid: int
    stack: int


@dataclass(frozen=True, slots=True)
class HandedSockets:
    """The sockets of one configured address: one for each worker."""

    kind: str
    host: str
    port: int
    descriptors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Handover:
    """Descriptors and names, in one program and in the next.

    ``metrics``: the parts of the processes, by number; ``past_metrics``: those of ended ones.
    ``tunnel_addresses``: the memory with the addresses of the workers' tunnels; None without mixed
    addresses. ``config``: the new config, pickled by the trial.
    """

    cache: str
    log: str
    folder_lock: int | None
    lifeline: int
    admin: tuple[str, int]
    sockets: tuple[HandedSockets, ...]
    tunnel_addresses: int | None
    children: tuple[HandedChild, ...]
    heartbeat_names: tuple[str, ...]
    heartbeats: int
    log_memory: int
    wakeups: tuple[int, ...]
    replicator: int
    metrics: tuple[tuple[int, ...], ...]
    past_metrics: tuple[tuple[int, ...], ...]
    fleet: int | None
    live_edges: tuple[int, ...]
    upgrade_status: tuple[int, ...]
    history: int
    viewers: tuple[int, ...]
    started_s: float
    config: int

    def descriptors(self) -> Iterator[int]:
        """All descriptors that the next program needs."""
        yield from (self.lifeline, self.admin[1], self.heartbeats, self.log_memory)
        yield from (self.replicator, self.history, self.config)
        for optional in (self.folder_lock, self.fleet, self.tunnel_addresses):
            if optional is not None:
                yield optional
        for sockets in self.sockets:
            yield from sockets.descriptors
        yield from (child.stack for child in self.children)
        yield from self.wakeups
        for part in (*self.metrics, *self.past_metrics):
            yield from part
        yield from self.live_edges
        yield from self.upgrade_status
        yield from self.viewers

    def encode(self) -> bytes:
        return json.dumps({"format": FORMAT, **asdict(self)}).encode()


def decode_handover(text: bytes) -> Handover:
    """The document of ``Handover.encode``. Raises HandoverError."""
    try:
        document = json.loads(text)
        if document.pop("format") != FORMAT:
            raise HandoverError("another version has another format: restart the edge")
        document["sockets"] = tuple(
            HandedSockets(**{**each, "descriptors": tuple(each["descriptors"])})
            for each in document["sockets"]
        )
        document["children"] = tuple(HandedChild(**each) for each in document["children"])
        for name in ("metrics", "past_metrics"):
            document[name] = tuple(map(tuple, document[name]))
        for name in _LISTS:
            document[name] = tuple(document[name])
        return Handover(**document)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise HandoverError(f"the handover cannot be read: {exc!r}") from exc


def program() -> list[str]:
    """How this program was started, and how the next one is."""
    return [sys.executable, *sys.orig_argv[1:]]


def execute(handover: Handover) -> None:
    """Replaces this program; returns only by an exception. Raises OSError."""
    memory = _memory("streamedge-handover", handover.encode())
    descriptors = [memory, *handover.descriptors()]
    try:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, True)
        arguments = program()
        environment = {**os.environ, HANDOVER_VARIABLE: str(memory)}
        os.execve(arguments[0], arguments, environment)  # noqa: S606
    finally:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        os.close(memory)


def receive(environment: MutableMapping[str, str]) -> Handover | None:
    """What the program before this one has handed over; None at a normal start.

    Takes the variable out of the environment. Raises HandoverError.
    """
    number = environment.pop(HANDOVER_VARIABLE, "")
    if not number.isdecimal():
        return None
    memory = int(number)
    try:
        handover = decode_handover(os.pread(memory, os.fstat(memory).st_size, 0))
        for descriptor in handover.descriptors():
            os.set_inheritable(descriptor, False)
        os.close(memory)
    except OSError as exc:
        raise HandoverError(f"the handover cannot be read: {exc}") from exc
    return handover


def handed_config(environment: Mapping[str, str]) -> Config | None:
    """The config that the trial has read; None at a normal start.

    So a file that changes after the trial cannot end the edge.
    """
    number = environment.get(HANDOVER_VARIABLE, "")
    if not number.isdecimal():
        return None
    memory = int(number)
    handover = decode_handover(os.pread(memory, os.fstat(memory).st_size, 0))
    text = os.pread(handover.config, os.fstat(handover.config).st_size, 0)
    config = pickle.loads(text)  # noqa: S301  # of the edge's own trial
    return config if isinstance(config, Config) else None


# --- the trial -------------------------------------------------------------------------------


def handed_children(children: Sequence[Child]) -> tuple[HandedChild, ...]:
    """Those that run."""
    return tuple(
        HandedChild(
            child.name, child.index, child.slot, child.is_worker, child.pid, child.stack_descriptor
        )
        for child in children
        if child.pid
    )


class Trial:
    """A process that tries the new program out. ``pid``: for ``waitpid``."""

    def __init__(self, cache: Path, workers: int) -> None:
        """Starts it. Raises OSError."""
        self.config = os.memfd_create("streamedge-new-config", os.MFD_CLOEXEC)
        self._errors = os.memfd_create("streamedge-trial-errors", os.MFD_CLOEXEC)
        request = {"format": FORMAT, "cache": str(cache), "workers": workers, "config": 3}
        arguments = program()
        self.pid = os.posix_spawn(
            arguments[0],
            arguments,
            {**os.environ, TRIAL_VARIABLE: json.dumps(request)},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, self._errors, 2),
                (os.POSIX_SPAWN_DUP2, self.config, 3),
            ],
            setsigmask=[],
        )

    def reasons(self) -> list[str]:
        """What the trial has printed: why the new program cannot take over."""
        text = os.pread(self._errors, REASON_CHARACTERS_MAX, 0).decode(errors="replace")
        return [line for line in text.splitlines() if line.strip()]

    def close(self) -> None:
        os.close(self.config)
        os.close(self._errors)


@dataclass(frozen=True, slots=True)
class TrialRequest:
    """What the running edge has: the new program must fit. ``config``: where it goes."""

    cache: str
    workers: int
    config: int

    def check(self, config: Config, workers: int) -> None:
        """Raises HandoverError if only a restart can apply the config."""
        if str(config.edge.cache) != self.cache:
            raise HandoverError("edge.cache has changed: restart the edge")
        if workers < self.workers:
            raise HandoverError(
                f"edge.workers is {workers}, and {self.workers} run: an upgrade may add workers;"
                " restart the edge to have fewer"
            )

    def report(self, config: Config) -> None:
        """Hands the config to the program that takes over."""
        os.pwrite(self.config, pickle.dumps(config), 0)


def trial_request(environment: Mapping[str, str]) -> TrialRequest | None:
    """The request, if this process is a trial. Raises HandoverError."""
    text = environment.get(TRIAL_VARIABLE)
    if text is None:
        return None
    request = json.loads(text)
    if request.get("format") != FORMAT:
        raise HandoverError("this version cannot take over from the running one: restart the edge")
    return TrialRequest(request["cache"], request["workers"], request["config"])


def _memory(name: str, text: bytes) -> int:
    memory = os.memfd_create(name, os.MFD_CLOEXEC)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, memory)
        os.pwrite(memory, text, 0)
        stack.pop_all()
    return memory


def free_slots(used: Sequence[int], count: int, end: int) -> list[int]:
    """The lowest ``count`` numbers below ``end`` that are not used. Raises HandoverError."""
    slots = [slot for slot in range(end) if slot not in used][:count]
    if len(slots) < count:
        raise HandoverError(f"at most {end // 2} workers can be upgraded: restart the edge")
    return slots
