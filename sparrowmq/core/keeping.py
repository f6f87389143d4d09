"""What was given to the store and is not confirmed: jobs before they are accepted, outcomes before they are told.

Owns: tokens, what each stands for, the bytes that wait. Must not know: what is done once the store has answered
(`durable`, `clients`), or how it keeps anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sparrowmq.core.job import Job
from sparrowmq.protocol import messages as m

PROMISES_MAX: Final = 1_000  # of one job
WAITING_MAX: Final = 1_000  # jobs that are not accepted yet ...
WAITING_BYTES_MAX: Final = 256 * 1024 * 1024  # ... and their payloads


class Promise(NamedTuple):
    """The answer to a recall, which comes after the outcomes that it promises: those up to ``token``."""

    token: int
    client: str
    answer: m.Returned


class Chunk(NamedTuple):
    """Outcomes, or deaths of workers, that the store has not confirmed. ``size`` is what they weigh in bytes."""

    outcome: m.Outcome
    size: int
    over: bool
    deaths: dict[int, int]


@dataclass(slots=True)
class Keep:
    """What a scheduler knows of a durable job beside its task table."""

    seq: int = 0  # of the last outcomes that were given to the store
    held: dict[int, Chunk] = field(default_factory=dict)  # by token, in order
    bytes: int = 0
    promises: list[Promise] = field(default_factory=list)  # in order of their tokens
    check: int = 0  # until this token is answered nothing is launched: another scheduler may have the job
    restore: int = 0  # the store has lost the job, and is being given it again
    idle: bool = False  # nothing was confirmed since this scheduler last looked
    starved: bool = False  # something was not placed: the store does not keep up, or is being asked
    released: bool = False  # its client wanted its outcomes, and has gone


class Waiting(NamedTuple):
    """A submission that waits for the store."""

    client: str
    submit: m.Submit
    size: int


class Orphan(NamedTuple):
    """A job that was another scheduler's: ``submit`` is what is left of it, under its new epoch."""

    submit: m.Submit
    client: str
    submitted_unix_s: float


class Book:
    """The tokens of one scheduler. Each is answered once, so it forgets by itself."""

    def __init__(self) -> None:
        self._last = 0
        self._jobs: dict[int, Waiting] = {}
        self._keys: set[tuple[str, str, int]] = set()  # client, job and epoch of these
        self._outcomes: dict[int, tuple[str, int]] = {}
        self.bytes = 0  # of submissions that wait

    def __len__(self) -> int:
        return len(self._jobs)

    def submitted(self, waiting: Waiting) -> int:
        """Return the token of a submission."""
        self._last += 1
        self._jobs[self._last] = waiting
        self._keys.add((waiting.client, waiting.submit.job, waiting.submit.epoch))
        self.bytes += waiting.size
        return self._last

    def noted(self, job: Job) -> int:
        """Return the token of something that concerns an accepted job."""
        self._last += 1
        self._outcomes[self._last] = (job.id, job.epoch)
        return self._last

    def has_room(self, size: int) -> bool:
        """Whether one more submission of so many bytes may wait."""
        return len(self._jobs) < WAITING_MAX and self.bytes + size <= WAITING_BYTES_MAX

    def waits(self, client: str, job: str, epoch: int) -> bool:
        """Whether this very submission waits already."""
        return (client, job, epoch) in self._keys

    def of(self, client: str) -> set[str]:
        """Return the jobs of this client that wait."""
        return {one.submit.job for one in self._jobs.values() if one.client == client}

    def take_submission(self, token: int) -> Waiting | None:
        """The store has answered: return the submission with this token, None where it is no submission's."""
        waiting = self._jobs.pop(token, None)
        if waiting is not None:
            self.bytes -= waiting.size
            self._keys.discard((waiting.client, waiting.submit.job, waiting.submit.epoch))
        return waiting

    def take_job(self, token: int) -> tuple[str, int]:
        """The store has answered: return the job and epoch that this token concerns."""
        return self._outcomes.pop(token, ("", 0))
