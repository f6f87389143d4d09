"""What stands between user threads and the connection's thread: the two sides' views of each other.

Owns: `Link`, what futures, streams and handles ask of the connection, and `Sink`, who is told how a job ends.
Must not know: how either is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future as Reply
from typing import NamedTuple, Protocol

from sparrowmq.protocol import messages as m

Question = m.Query | m.Drain


class Told(NamedTuple):
    """A scheduler's answer, and the address where it gave it."""

    address: str
    status: m.Status


class Sink(Protocol):
    """Where the outcomes of one wire job go; called by the connection's thread only, and never blocks it."""

    @property
    def id(self) -> str:
        """The job's id."""

    @property
    def pending(self) -> int:
        """How many outcomes are to come; at 0 the connection forgets the job."""

    def accepted(self, workers: int) -> None:
        """A scheduler has the job; ``workers`` could run it at that moment."""

    def settle(self, indices: Sequence[int], statuses: bytes, payloads: Sequence[m.Payload]) -> None:
        """Outcomes: parallel lists, one status byte a task; each task once."""

    def fail(self, make: Callable[[], Exception] | None) -> None:
        """Nothing more will come: what is pending ends with an error from ``make``, or cancelled where it is None."""


class Link(Protocol):
    """What everything above the connection needs of it; any thread may call."""

    answer_timeout_s: float  # how long an answer may take

    def check_process(self) -> None:
        """Raise UsageError in a fork, where no answer ever comes."""

    def new_id(self) -> str:
        """Return a fresh job id."""

    def submit(self, jobs: Sequence[tuple[m.Submit, Sink]], *, flight: bool = False) -> None:
        """Send jobs; with ``flight`` two at a time, the next when one ends. Returns at once."""

    def start_recall(self, sink: Sink, indices: Sequence[int]) -> Reply[None]:
        """Cancel those of the tasks that have not started; the reply is set when the answer is in."""

    def kill(self, job: str, indices: Sequence[int], grace_s: float = 0.0) -> None:
        """End tasks, running ones too (none given: all); returns at once."""

    def inquire(
        self,
        question: Question,
        timeout_s: float,
        *,
        addresses: Iterable[str] | None = None,
        first: Sequence[m.AnyMessage] = (),
    ) -> list[Told]:
        """Ask the schedulers at ``addresses`` (None: all known), after having told them ``first``.

        Returns the answers that came within ``timeout_s``.
        """
