"""What clients were shown, against what schedulers reported: over a whole run, for tests and simulation.

Owns: that every task of every job has one outcome, shown once, which a scheduler has reported (I2, I3). Must not know:
machines, or how anything came to be shown.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from sparrowmq.core import effects as fx
from sparrowmq.protocol import messages as m


class Shown:
    """What was submitted, reported by schedulers and shown to clients, over a whole run."""

    def __init__(self) -> None:
        self.tasks: dict[str, int] = {}
        self.outcomes: dict[tuple[str, int], tuple[int, m.Payload]] = {}  # (job, index) -> what was shown
        self.ends: dict[str, fx.JobEnded] = {}
        # (job, index) -> each (status, payload) that a scheduler has sent, and the highest epoch that it was sent in
        self.reported: defaultdict[tuple[str, int], dict[tuple[int, m.Payload], int]] = defaultdict(dict)
        self._open: Counter[str] = Counter()

    def submitted(self, job: str, tasks: int) -> None:
        """A client has submitted a job with tasks 0 to ``tasks`` - 1."""
        self.tasks[job] = tasks
        self._open[job] = tasks

    def committed(self, outcome: m.Outcome) -> None:
        """A scheduler has sent this."""
        rows = zip(outcome.indices, outcome.statuses, outcome.payloads, strict=True)
        for index, status, payload in rows:
            known = self.reported[outcome.job, index]
            known[status, payload] = max(outcome.epoch, known.get((status, payload), 0))

    def shown(self, deliver: fx.Deliver) -> None:
        """I2, I3: each outcome is shown once, and is one that a scheduler has reported (or the client's own cancel)."""
        assert deliver.job not in self.ends, f"an outcome of job {deliver.job}, which has ended"
        for index, status, payload in zip(deliver.indices, deliver.statuses, deliver.payloads, strict=True):
            key = (deliver.job, index)
            assert index < self.tasks.get(deliver.job, 0), f"an outcome of a task that never was: {key}"
            assert key not in self.outcomes, f"a second outcome of {key}: {status} after {self.outcomes[key][0]}"
            own = status == m.CANCELLED and payload in (b"", b"killed")
            assert own or (status, payload) in self.reported[key], f"no scheduler has reported {status} for {key}"
            self.outcomes[key] = (status, payload)
            self._open[deliver.job] -= 1
        if not self._open[deliver.job]:
            del self._open[deliver.job]

    def ended(self, end: fx.JobEnded) -> None:
        """A job was given up: its open tasks have this error."""
        assert end.job in self._open, f"job {end.job} ends twice"
        self.ends[end.job] = end
        del self._open[end.job]

    def abandoned(self, job: str) -> None:
        """Its client is gone: nobody is shown what is open of this job."""
        self._open.pop(job, None)

    def complete(self) -> bool:
        """Return whether every task of every job has its outcome."""
        return not self._open

    def open(self) -> dict[str, int]:
        """Return how many tasks are open, by job."""
        return dict(self._open)

    def statuses(self, job: str) -> list[int | None]:
        """Return what was shown of a job: the status of each task, None where none was."""
        shown = [self.outcomes.get((job, index)) for index in range(self.tasks[job])]
        return [None if outcome is None else outcome[0] for outcome in shown]
