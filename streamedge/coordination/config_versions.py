"""The declared config in force, from the supervisor that has read it to the processes it started.

Each config that is accepted is a generation with a number of its own. The supervisor keeps the
newest in its memory, where children find it that are forked later, and writes it on a board for
those that run. The numbers lie in memory that all share, so that looking costs nothing. What has
become of a wish to read the file anew goes back the same way. Nobody is called here: waking is the
business of ``bells``.
"""

from __future__ import annotations

import json
import mmap
import pickle
from dataclasses import asdict, dataclass

from streamedge.config.schema.config import Config
from streamedge.ops.shared_buffer import SharedBuffer

_WORD_BYTES = 8
_NUMBER, _ASKED, _ANSWERED, _APPLIED = range(4)  # words; one for each worker from the last on


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of reading the file anew: ``problems``, one line each, or what changed.

    ``generation`` is the one in force afterwards. Keys are named as ``takeover`` does.
    """

    generation: int
    problems: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()


class Generations:
    """Made by the supervisor before it forks."""

    def __init__(self, config: Config, workers: int) -> None:
        self._words = memoryview(mmap.mmap(-1, (_APPLIED + workers) * _WORD_BYTES)).cast("Q")
        self._configs = SharedBuffer("streamedge-config")
        self._outcomes = SharedBuffer("streamedge-outcome")
        self._held = 0, config  # in children: as it was when they were forked

    # The supervisor's part

    def accept(self, config: Config) -> int:
        """Puts a config in force; its number. Raises OSError, and then nothing has changed."""
        number = self.number + 1
        self._configs.write(pickle.dumps((number, config)))
        self._held = number, config
        self._words[_NUMBER] = number
        return number

    @property
    def asked(self) -> int:
        """How often it was wished that the file be read anew."""
        return self._words[_ASKED]

    def answer(self, asked: int, outcome: Outcome) -> None:
        """Tells those whose wish was among the first ``asked``. Raises OSError."""
        self._outcomes.write(json.dumps(asdict(outcome)).encode())
        self._words[_ANSWERED] = asked

    def close(self) -> None:
        self._configs.close()
        self._outcomes.close()

    # Everybody's

    @property
    def number(self) -> int:
        """The generation in force; 0 is the config that the edge was started with."""
        return self._words[_NUMBER]

    @property
    def config(self) -> Config:
        """What this process was forked with; in the supervisor, what is in force."""
        return self._held[1]

    def read(self) -> tuple[int, Config]:
        """The generation in force, its number first. Raises OSError."""
        if self.number == self._held[0]:
            return self._held
        number, config = pickle.loads(self._configs.read())  # noqa: S301  # the supervisor's own
        assert isinstance(config, Config)
        return number, config

    def ask(self) -> int:
        """Wishes that the file be read anew; ``outcome`` has the answer under this number."""
        self._words[_ASKED] += 1
        return self._words[_ASKED]

    def outcome(self, asked: int) -> Outcome | None:
        """What has become of a wish; None as long as nobody has looked. Raises OSError."""
        if self._words[_ANSWERED] < asked:
            return None
        said = json.loads(self._outcomes.read())
        return Outcome(
            said["generation"],
            tuple(said["problems"]),
            tuple(said["changed"]),
            tuple(said["needs_restart"]),
        )

    def applied(self, worker: int, number: int) -> None:
        """A worker serves by a generation now, or has found that it cannot."""
        self._words[_APPLIED + worker] = number

    def applied_by(self, worker: int) -> int:
        """The generation that a worker has come to."""
        return self._words[_APPLIED + worker]
