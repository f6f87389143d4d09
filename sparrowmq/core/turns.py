"""Fair turns: who sends much at once has its share of it handled in each turn of the loop, the rest in the next ones.

Owns: what messages of clients cost, whose wait, and how many may. Must not know: what a message does.

A hundred thousand messages in one burst would keep everybody else waiting for seconds, and a hundred thousand questions
for hours. So each client has a share of every turn, and what its questions have others look at is metered by its key.
Messages of a client stay in order; what only answers or acknowledges is never put off. A client whose messages wait
without end is sent away, and sooner where they are questions: nobody reads so many answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from sparrowmq.core.peers import Client
from sparrowmq.core.quotas import Quota
from sparrowmq.core.state import State
from sparrowmq.protocol import messages as m

SHARE: Final = 1024  # of a client in one turn, in about microseconds
WAITING_MAX: Final = 100_000  # messages of one client
WAITING_ALL_MAX: Final = 200_000  # of all clients together
UNHEARD_MAX: Final = (
    10_000  # of one that has not answered yet: as many jobs as a client's settings let it have under way
)
QUESTIONS_WAITING_MAX: Final = 256  # of those, what asks for an answer that has to be worked out
ROWS_PER_S: Final = 10_000.0  # of statuses, for one key: about a fifth of a processor
ROWS_PER_QUESTION: Final = 10  # beside those that are looked at
TASKS_PER_ROW: Final = 16  # looking through so many tasks costs as much as a row
JOBS_PER_ROW: Final = 25  # the same of jobs, for a status's counters
BYTES_PER_ROW: Final = 128  # of output that is sent

_COSTS: Final[dict[type, int]] = {
    m.Submit: 32, m.Recall: 16, m.Kill: 16, m.Drain: 64, m.Query: 64, m.Subscribe: 64, m.Follow: 64, m.Ping: 1,
}  # fmt: skip
_QUESTIONS: Final = frozenset({m.Drain, m.Query, m.Subscribe, m.Follow})
_METERED: Final = _QUESTIONS | {m.Recall, m.Kill}

Handle = Callable[[float, Client, m.AnyMessage], None]


class Turns:
    """Which messages of clients are handled now. ``handle`` is called for those that had to wait."""

    def __init__(self, state: State, handle: Handle) -> None:
        self._state = state
        self._handle = handle
        self._spenders: list[Client] = []  # who have used some of this turn's share
        self._crowd: dict[str, float] = {}  # clients with messages that wait, and when they are looked at next
        self._waiting = 0
        self._rows = Quota(ROWS_PER_S)

    def __len__(self) -> int:
        """How many messages wait."""
        return self._waiting

    def admits(self, now: float, client: Client, message: m.AnyMessage) -> bool:
        """Return whether to handle this now; if not, it waits, unless `overrun` says that too many do."""
        cost = _COSTS.get(type(message))
        if cost is None:
            return True
        if client.waiting or client.spent >= SHARE or self._wait_s(now, client, message) or _waits(client, message):
            self._put_off(now, client, message)
            return False
        self._spend(now, client, message, cost)
        return True

    def overrun(self, client: Client) -> str:
        """Return "", or, where more waits than may, a sentence that says so."""
        if client.warned and not client.knows and len(client.waiting) > UNHEARD_MAX:
            return (
                f"{client.id} was told that it submits too fast (scheduler.limits.submits_per_s), does not answer, and "
                f"has sent {len(client.waiting):,} more messages"
            )
        size, bound = client.waiting_bytes, self._state.settings.limits.payload_bytes // 4
        if client.questions > QUESTIONS_WAITING_MAX:
            return (
                f"{client.questions:,} questions of {client.id} wait to be answered; {self._state.id} lets no more "
                f"than {QUESTIONS_WAITING_MAX:,} of one client wait"
            )
        if len(client.waiting) <= WAITING_MAX and self._waiting <= WAITING_ALL_MAX and size <= bound:
            return ""
        return (
            f"{len(client.waiting):,} messages with {size:,} bytes of {client.id} wait to be handled, and "
            f"{self._waiting:,} of all clients; {self._state.id} lets no more than {WAITING_MAX:,} of {bound:,} bytes "
            f"of one client wait, and {WAITING_ALL_MAX:,} of all"
        )

    def next(self) -> float | None:
        """Return when `tick` is wanted (monotonic seconds), None if nobody waits."""
        return min(self._crowd.values()) if self._crowd else None

    def tick(self, now: float) -> None:
        """Give everybody who waits another share."""
        for client_id, due in list(self._crowd.items()):
            client = self._state.clients.get(client_id)
            if due <= now and client is not None:
                self._serve(now, client)

    def wake(self, now: float, client: Client) -> None:
        """What this client's messages have waited for may have come."""
        if client.waiting:
            self._crowd[client.id] = now

    def over(self) -> None:
        """The turn is over: everybody has a whole share again."""
        for client in self._spenders:
            client.spent = 0
        self._spenders.clear()

    def forget(self, client: Client) -> None:
        """The connection is gone, and what came over it and was not handled with it."""
        self._waiting -= len(client.waiting)
        client.waiting.clear()
        client.waiting_bytes = client.questions = client.excused = 0
        self._crowd.pop(client.id, None)

    def looked_at(self, now: float, client: Client, rows: int) -> None:
        """Charge a client for an answer of so many rows, and for the counters that come with each."""
        self._rows.take(now, client.key, ROWS_PER_QUESTION + rows + len(self._state.jobs) // JOBS_PER_ROW)

    def may_look(self, now: float, client: Client) -> bool:
        """Whether a client has not used up the rows that it may have."""
        return not self._rows.wait_s(now, client.key)

    def _serve(self, now: float, client: Client) -> None:
        spent = 0
        while client.waiting and spent < SHARE:
            message = client.waiting[0]
            wait_s = self._wait_s(now, client, message)
            if wait_s:
                self._crowd[client.id] = now + max(0.001, wait_s)
                return
            if _waits(client, message):
                self._crowd.pop(client.id, None)  # until `wake`
                return
            client.waiting.popleft()
            client.excused = max(0, client.excused - 1)
            self._waiting -= 1
            client.waiting_bytes -= _size(message)
            client.questions -= type(message) in _QUESTIONS
            spent += self._spend(now, client, message, _COSTS[type(message)])
            self._handle(now, client, message)
        if client.waiting:
            self._crowd[client.id] = now
        else:
            self._crowd.pop(client.id, None)

    def _put_off(self, now: float, client: Client, message: m.AnyMessage) -> None:
        if not client.waiting:
            self._crowd[client.id] = now
            self._state.count("put_off")
        client.waiting.append(message)
        client.waiting_bytes += _size(message)
        client.questions += type(message) in _QUESTIONS
        self._waiting += 1

    def _wait_s(self, now: float, client: Client, message: m.AnyMessage) -> float:
        return self._rows.wait_s(now, client.key) if type(message) in _METERED else 0.0

    def _spend(self, now: float, client: Client, message: m.AnyMessage, cost: int) -> int:
        """Take what a message costs from its client's share of this turn and, where it is metered, from its rows."""
        kind = type(message)
        if kind is m.Submit:
            cost += cast(m.Submit, message).count // TASKS_PER_ROW
        elif kind is m.Kill or kind is m.Recall:
            tasks = self._tasks(client, cast("m.Kill | m.Recall", message))
            cost += tasks
            self._rows.take(now, client.key, tasks / TASKS_PER_ROW)
        elif kind is m.Follow:
            followed = cast(m.Follow, message).job
            job = self._state.job(followed) if client.owns(followed) else None
            size = len(job.transcript) if job is not None and job.transcript is not None else 0
            self._rows.take(now, client.key, 1 + size / BYTES_PER_ROW)
        if not client.spent:
            self._spenders.append(client)
        client.spent += cost
        return cost

    def _tasks(self, client: Client, message: m.Kill | m.Recall) -> int:
        if message.indices:
            return len(message.indices)
        # Of another owner's job: what it costs would tell how large that is.
        job = self._state.jobs.get(message.job) if client.owns(message.job) else None
        return 0 if job is None else len(job.state)


def _waits(client: Client, message: m.AnyMessage) -> bool:
    """Whether a client first has to answer that it has heard how fast it may submit (see `haste`)."""
    return client.warned > 0 and not client.knows and type(message) is m.Submit


def _size(message: m.AnyMessage) -> int:
    """Return the bytes of payloads in a message of a client."""
    return sum(map(len, message.payloads)) + len(message.function) if type(message) is m.Submit else 0
