"""Published versions of the declared config, and the results of reload requests.

The supervisor reads the config file; the processes that it forked read the published config here.
Each accepted config has a generation number. The supervisor keeps the newest in its memory, where
children forked later find it, and writes it to shared memory for running processes. The numbers
are in shared memory too, so checking them costs no system call. Results of reload requests go back
the same way. This module wakes no process: see ``wakeups``.
"""

from __future__ import annotations

import json
import mmap
import pickle
import time
from dataclasses import asdict, dataclass

from streamedge.config.schema.config import Config
from streamedge.ops.shared_buffer import SharedBuffer

_WORD_BYTES = 8
# Words in shared memory. From _APPLIED on there is one for each worker.
_GENERATION, _REQUESTS, _COMPLETED, _RELOAD_MS, _IS_REFUSED, _APPLIED = range(6)


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """The result of reading the file again: ``problems``, one line each, or what changed.

    ``generation`` is the one in use afterwards. ``changed`` and ``needs_restart`` name keys as
    ``process.reload`` does.
    """

    generation: int
    problems: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()


class ConfigVersions:
    """The published configs. The supervisor creates this before it forks."""

    def __init__(self, config: Config, workers: int) -> None:
        self._words = memoryview(mmap.mmap(-1, (_APPLIED + workers) * _WORD_BYTES)).cast("Q")
        self._published = SharedBuffer("streamedge-config")
        self._result = SharedBuffer("streamedge-reload-result")
        # Generation and config. In a child they stay as they were when it was forked.
        self._in_memory = 0, config

    # For the supervisor.

    def publish(self, config: Config) -> int:
        """Makes ``config`` the newest generation and returns its number.

        Raises OSError; then the previous config stays in use.
        """
        generation = self.generation + 1
        self._published.write(pickle.dumps((generation, config)))
        self._in_memory = generation, config
        self._words[_GENERATION] = generation
        return generation

    @property
    def reload_requests(self) -> int:
        """How many reloads have been requested."""
        return self._words[_REQUESTS]

    def publish_result(self, requests: int, result: ReloadResult) -> None:
        """Publishes the result of the first ``requests`` reload requests. Raises OSError."""
        self._words[_RELOAD_MS] = int(time.time() * 1000)
        self._words[_IS_REFUSED] = int(bool(result.problems))
        self._result.write(json.dumps(asdict(result)).encode())
        self._words[_COMPLETED] = requests

    def close(self) -> None:
        self._published.close()
        self._result.close()

    # For every process.

    @property
    def generation(self) -> int:
        """The newest generation; 0 is the config that the edge was started with."""
        return self._words[_GENERATION]

    @property
    def config(self) -> Config:
        """The config that this process was forked with; in the supervisor, the newest one."""
        return self._in_memory[1]

    def read(self) -> tuple[int, Config]:
        """The newest generation and its config. Raises OSError."""
        if self.generation == self._in_memory[0]:
            return self._in_memory
        published: tuple[int, Config] = pickle.loads(self._published.read())  # noqa: S301  # the supervisor's own
        return published

    def request_reload(self) -> int:
        """Requests that the file is read again; returns the request's number."""
        self._words[_REQUESTS] += 1
        return self._words[_REQUESTS]

    def reload_result(self, request: int) -> ReloadResult | None:
        """The result of a reload request, or None while it is pending. Raises OSError."""
        if self._words[_COMPLETED] < request:
            return None
        document = json.loads(self._result.read())
        return ReloadResult(
            document["generation"],
            tuple(document["problems"]),
            tuple(document["changed"]),
            tuple(document["needs_restart"]),
        )

    @property
    def last_reload(self) -> tuple[float, bool]:
        """When the file was read again, since 1970 (0: never), and whether it was valid."""
        return self._words[_RELOAD_MS] / 1000, not self._words[_IS_REFUSED]

    def note_applied(self, worker: int, generation: int) -> None:
        """Notes that a worker has applied a generation, or has failed to."""
        self._words[_APPLIED + worker] = generation

    def applied_generation(self, worker: int) -> int:
        """The newest generation that a worker has tried to apply."""
        return self._words[_APPLIED + worker]
