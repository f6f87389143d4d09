"""Fair turns: who sends much at once has its share of it handled in each turn of the loop, the rest in the next ones.

Owns: what messages of clients cost, whose wait, and how many may. Must not know: what a message does.

A hundred thousand messages in one burst would keep everybody else waiting for seconds, and a hundred thousand questions
for hours. So the clients of each key have a share of every turn, and what their questions make it look at is metered.
Messages of a client stay in order; what only answers or acknowledges is never put off. A client whose messages wait
without end is sent away, and sooner where they are questions: nobody reads so many answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, cast

from sparrowmq.core.peers import Client
from sparrowmq.core.quotas import Quota
from sparrowmq.core.state import State
from sparrowmq.limits import JOB_BYTES_MAX
from sparrowmq.protocol import messages as m

SHARE: Final = 1024  # of a key's clients in one turn, in about microseconds
WAITING_MAX: Final = 100_000  # messages of one client
WAITING_ALL_MAX: Final = 200_000  # of all clients together
WAITING_BYTES_MAX: Final = 2 * JOB_BYTES_MAX  # of one client, or a quarter of limits.payload_bytes; twice that of all
QUESTIONS_WAITING_MAX: Final = 256  # of those, what asks for an answer that has to be worked out
ROWS_PER_S: Final = 10_000.0  # of statuses, for one key: about a fifth of a processor
ROWS_PER_QUESTION: Final = 10  # beside those that are looked at
TASKS_PER_ROW: Final = 16  # looking through so many tasks costs as much as a row
JOBS_PER_ROW: Final = 25  # the same of jobs, for a status's counters
ENTRY_BYTES: Final = 48  # of memory that a number or a small payload takes in a list: on the wire it is 2 bytes
BYTES_PER_ROW: Final = 128  # of output that is sent

COSTS: Final[dict[type, int]] = {
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
        self._spent: dict[str, int] = {}  # of this turn's share, by key
        self._crowd: dict[str, float] = {}  # clients with messages that wait, and when they are looked at next
        self._waiting = 0
        self._waiting_bytes = 0
        self._rows = Quota(ROWS_PER_S)

    def __len__(self) -> int:
        """How many messages wait."""
        return self._waiting

    def admits(self, now: float, client: Client, message: m.AnyMessage) -> bool:
        """Return whether to handle this now; if not, it waits, unless `overrun` says that too many do."""
        cost = COSTS.get(type(message))
        if cost is None:
            return True
        if client.waiting or self._spent.get(client.key, 0) >= SHARE or self._wait_s(now, client, message):
            self._put_off(now, client, message)
            return False
        self._spend(now, client, message, cost)
        return True

    def overrun(self, client: Client) -> tuple[Client, str] | None:
        """Return whom to send away because more waits than may, with a sentence that says so; None if it does not.

        It is the one who has just sent something, unless all together are too many: then it is who has the most.
        """
        bound = max(WAITING_BYTES_MAX, self._state.settings.limits.payload_bytes // 4)
        if client.questions > QUESTIONS_WAITING_MAX:
            return client, (
                f"{client.questions:,} questions of {client.id} wait to be answered; {self._state.id} lets no more "
                f"than {QUESTIONS_WAITING_MAX:,} of one client wait"
            )
        if self._waiting > WAITING_ALL_MAX:
            client = self._heaviest(lambda one: len(one.waiting))
        elif self._waiting_bytes > 2 * bound:
            client = self._heaviest(lambda one: one.waiting_bytes)
        elif len(client.waiting) <= WAITING_MAX and client.waiting_bytes <= bound:
            return None
        return client, (
            f"{len(client.waiting):,} messages with {client.waiting_bytes:,} bytes of {client.id} wait to be handled, "
            f"and {self._waiting:,} with {self._waiting_bytes:,} of all clients; {self._state.id} lets no more than "
            f"{WAITING_MAX:,} of {bound:,} bytes of one client wait, and {WAITING_ALL_MAX:,} of {2 * bound:,} of all"
        )

    def _heaviest(self, weight: Callable[[Client], int]) -> Client:
        """Return the client that has the most waiting, of those whose key has: many clients may have one."""
        waiting = [self._state.clients[client_id] for client_id in self._crowd]
        keys: Counter[str] = Counter()
        for client in waiting:
            keys[client.key] += weight(client)
        return max(waiting, key=lambda one: (keys[one.key], one.key, weight(one)))

    def next(self) -> float | None:
        """Return when `tick` is wanted (monotonic seconds), None if nobody waits."""
        return min(self._crowd.values()) if self._crowd else None

    def tick(self, now: float) -> None:
        """Give everybody who waits another share, or what others of its key have left of that."""
        spent: dict[str, int] = {}
        for client_id, due in list(self._crowd.items()):
            client = self._state.clients.get(client_id)
            if due <= now and client is not None and spent.get(client.key, 0) < SHARE:
                spent[client.key] = self._serve(now, client, spent.get(client.key, 0))

    def over(self) -> None:
        """The turn is over: everybody has a whole share again."""
        self._spent.clear()

    def forget(self, client: Client) -> None:
        """The connection is gone, and what came over it and was not handled with it."""
        self._waiting -= len(client.waiting)
        self._waiting_bytes -= client.waiting_bytes
        client.waiting.clear()
        client.waiting_bytes = client.questions = client.excused = 0
        self._crowd.pop(client.id, None)

    def looked_at(self, now: float, client: Client, rows: int) -> None:
        """Charge a client for an answer of so many rows, and for the counters that come with each."""
        self._rows.take(now, client.key, ROWS_PER_QUESTION + rows + len(self._state.jobs) // JOBS_PER_ROW)

    def may_look(self, now: float, client: Client) -> bool:
        """Whether a client has not used up the rows that it may have."""
        return not self._rows.wait_s(now, client.key)

    def _serve(self, now: float, client: Client, spent: int) -> int:
        """Handle what waits of a client, until its key has ``spent`` its share; return what it has."""
        while client.waiting and spent < SHARE:
            message = client.waiting[0]
            wait_s = self._wait_s(now, client, message)
            if wait_s:
                self._crowd[client.id] = now + max(0.001, wait_s)
                return spent
            client.waiting.popleft()
            client.excused = max(0, client.excused - 1)
            self._waiting -= 1
            self._note_bytes(client, -_size(message))
            client.questions -= type(message) in _QUESTIONS
            spent += self._spend(now, client, message, COSTS[type(message)])
            self._crowd.pop(client.id, None)  # whoever else waits comes before the rest of it
            self._handle(now, client, message)
        if client.waiting:
            self._crowd[client.id] = now
        else:
            self._crowd.pop(client.id, None)
        return spent

    def _put_off(self, now: float, client: Client, message: m.AnyMessage) -> None:
        if not client.waiting:
            self._crowd[client.id] = now
            self._state.count("put_off")
        client.waiting.append(message)
        self._note_bytes(client, _size(message))
        client.questions += type(message) in _QUESTIONS
        self._waiting += 1

    def _note_bytes(self, client: Client, count: int) -> None:
        client.waiting_bytes += count
        self._waiting_bytes += count

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
        self._spent[client.key] = self._spent.get(client.key, 0) + cost
        return cost

    def _tasks(self, client: Client, message: m.Kill | m.Recall) -> int:
        if message.indices:
            return len(message.indices)
        # Of another owner's job: what it costs would tell how large that is.
        job = self._state.jobs.get(message.job) if client.owns(message.job) else None
        return 0 if job is None else len(job.state)


def _size(message: m.AnyMessage) -> int:
    """Return about the bytes that a message takes while it waits, beyond a little."""
    kind = type(message)
    if kind is m.Submit:
        submit = cast(m.Submit, message)
        entries = len(submit.payloads) + len(submit.indices) + len(submit.deaths)
        return sum(map(len, submit.payloads)) + len(submit.function) + ENTRY_BYTES * entries
    if kind is m.Kill or kind is m.Recall:
        return ENTRY_BYTES * len(cast("m.Kill | m.Recall", message).indices)
    return 0
