"""How fast a client sends jobs to a scheduler that has called it too fast.

Owns: the line of jobs that wait, and how many may be with the scheduler unanswered. Must not know: what a job is, or
when the scheduler wants to hear of the next.

The scheduler knows its limit and who else uses it up, the client does not. So it feels its way, as TCP does with its
congestion window (RFC 5681, slow start): one job at a time, one more for each that is taken after the first, and one
again as soon as one is refused. Who was never refused is not held to anything.
"""

from __future__ import annotations

from collections import deque


class Pace:
    """The pace towards one scheduler. Jobs are named by their ids; one that has ended stays in line until its turn."""

    def __init__(self) -> None:
        self.blocked = False  # the scheduler has said when to come back, and that is not yet
        self._window = 0  # jobs that may be unanswered; 0: any number
        self._taken = 0  # since one was refused
        self._unanswered: set[str] = set()
        self._again: deque[str] = deque()  # those that were refused come before ...
        self._line: deque[str] = deque()  # ... those that were not sent yet
        self._waiting: set[str] = set()  # all of them

    @property
    def held(self) -> bool:
        """Whether jobs have to stand in line at all."""
        return self._window > 0

    def join(self, job: str) -> None:
        """This one waits for its turn, if it does not yet."""
        if job not in self._waiting:
            self._waiting.add(job)
            self._line.append(job)

    def refused(self, job: str) -> None:
        """The scheduler has sent it back: nothing is sent before `resume`."""
        self._unanswered.discard(job)
        if job not in self._waiting:
            self._waiting.add(job)
            self._again.append(job)
        self._window, self._taken = 1, 0
        self.blocked = True

    def resume(self) -> None:
        """The time that the scheduler has named has come."""
        self.blocked = False

    def taken(self, job: str) -> None:
        """The scheduler has accepted it: it may take more at a time, if there are more."""
        if job in self._unanswered:
            self._unanswered.discard(job)
            if self._waiting:
                self._taken += 1
                self._window = max(self._window, self._taken)

    def ended(self, job: str) -> None:
        """Nothing more is heard of it."""
        self._unanswered.discard(job)

    def next(self) -> str | None:
        """Return the next job of the line, None if none may be sent now; it counts as sent once `sent` says so."""
        if self.blocked or len(self._unanswered) >= self._window:
            return None
        if not self._waiting:
            return None
        job = (self._again or self._line).popleft()
        self._waiting.discard(job)
        return job

    def sent(self, job: str) -> None:
        """It is with the scheduler."""
        self._unanswered.add(job)
