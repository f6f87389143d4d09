"""Jobs by their id: detached ones, other clients' of the same owner, those of yesterday.

Owns: `JobHandle`, and `Detached`, the view of a client whose jobs outlive it. Must not know: futures, or how a
scheduler is reached.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Unpack

from sparrowmq import ids, limits
from sparrowmq.client import attached, ledger, options as opts, submission
from sparrowmq.client.attached import AttachedJob
from sparrowmq.client.link import Told
from sparrowmq.client.options import JobOptions
from sparrowmq.errors import Refused, TooLarge, Unavailable, UsageError
from sparrowmq.protocol import codec, messages as m

if TYPE_CHECKING:
    from sparrowmq.client.connection import Connection
    from sparrowmq.store.jobs import KeptJob

QUERY_TIMEOUT_S: Final = 1.0
TAKE_OVER_S: Final = 10.0
_POLL_S_MIN: Final = 0.005
_POLL_S_MAX: Final = 0.5


class JobHandle:
    """A job of the cluster, by its id. Of another owner's job (ids.py) nobody tells anything: it is unknown.

    Results went, or go, to the client that sent it; those of a durable job are in Redis besides (`attach`).
    """

    def __init__(self, connection: Connection, id: str) -> None:
        self._connection = connection
        self.id = id

    def status(self) -> m.JobStatus | None:
        """Return the job's ledger (that of its latest epoch), None where no scheduler that answers knows it.

        Of a durable job that no scheduler knows (any more), what Redis knows.
        """
        row = self._row(self._ask())
        kept = self._kept_if_any() if row is None else None
        return row if kept is None else attached.row(kept)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the job is over, up to ``timeout_s``; tell whether it is. Asks 2 to 200 times a second.

        Raises UsageError where every scheduler answers and none knows the job, Unavailable where some have not
        answered for as long as the client waits for schedulers (``ClientSettings.unavailable_after_s``).
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        patient_until = time.monotonic() + self._connection.unavailable_after_s
        pause_s = _POLL_S_MIN
        while True:
            told = self._ask()
            row = self._row(told)
            now = time.monotonic()
            over = row is not None and row.state in ledger.OVER
            kept = self._kept_if_any() if over or row is None else None
            if kept is not None:
                over = kept.state != "open"
            if over:
                return True
            if row is not None or kept is not None:
                patient_until = now + self._connection.unavailable_after_s
            elif told and len(told) >= len(self._connection.addresses):
                raise _unknown(self.id)
            elif now > patient_until:
                raise Unavailable(f"no scheduler that answers knows job {self.id}", hint="did its scheduler end?")
            if deadline is not None and now >= deadline:
                return False
            time.sleep(pause_s if deadline is None else max(0.0, min(pause_s, deadline - now)))
            pause_s = min(_POLL_S_MAX, 1.5 * pause_s)

    def cancel(self, grace_s: float = 1.0) -> bool:
        """End the job: what waits does not start, what runs is interrupted and has ``grace_s``, then it is killed.

        Returns at once; True when a scheduler was told, False when the job was over.
        Raises UsageError where no scheduler knows it.
        """
        grace_s = opts.seconds("grace_s", grace_s)
        told, row = self._ask_until_taken_over()
        if row is None:
            raise _unknown(self.id)
        if row.state in ledger.OVER:
            return False
        kill = m.Kill(self.id, row.epoch, [], grace_s)
        where = [answer.address for answer in told if row in answer.status.jobs]
        query = m.Query(1, "job", self.id)  # its answer tells that what came before it has arrived
        return bool(self._connection.inquire(query, QUERY_TIMEOUT_S, addresses=where, first=[kill]))

    def tasks(self, indices: Iterable[int]) -> list[m.TaskStatus]:
        """Return what happened to these tasks, by index; those that no scheduler remembers are left out."""
        wanted = list(indices)
        for index in wanted:
            if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < limits.TASKS_PER_JOB_MAX:
                raise UsageError(f"{index!r} is no task's number", hint="tasks are numbered from 0")
        rows: list[m.TaskStatus] = []
        for start in range(0, len(wanted), limits.TASK_ROWS_MAX):
            some = wanted[start : start + limits.TASK_ROWS_MAX]
            told = self._connection.inquire(m.Query(1, "tasks", self.id, some), QUERY_TIMEOUT_S)
            rows += ledger.tasks([answer.status for answer in told], self.id)
        return rows

    def failures(self) -> list[m.TaskStatus]:
        """Return the first tasks that did not succeed, at most 20 a scheduler, with their failures where small."""
        told = self._connection.inquire(m.Query(1, "failures", self.id), QUERY_TIMEOUT_S)
        return ledger.tasks([answer.status for answer in told], self.id)

    def logs(self, follow: bool = False) -> Iterator[m.Output]:
        """Yield what the tasks print: what is kept of it, then, with ``follow``, what comes until the job is over.

        Best effort: see ``Output.dropped``. Raises Unavailable where the scheduler is lost before the end.
        """
        return self._connection.follow(self.id, follow)

    def attach(self) -> AttachedJob:
        """Return the durable job: its results, from Redis. Raises UsageError where Redis has none with this id."""
        return attached.attached(self._connection.store, self.id, self._connection.owner)

    @property
    def durable(self) -> bool:
        """Whether Redis has the job: then it survives its scheduler. Raises Unavailable where Redis does not answer."""
        return self._kept() is not None

    def _kept(self) -> KeptJob | None:
        """Return what Redis has of the job, None where it has none, or there is no Redis."""
        if self._connection.store is None:
            return None
        from sparrowmq.store.jobs import JobReader

        reader = JobReader(self._connection.store, self._connection.owner)
        try:
            return reader.find(self.id)
        finally:
            reader.close()

    def _kept_if_any(self) -> KeptJob | None:
        """As `_kept`; None where Redis does not answer, too: schedulers tell what they know without it."""
        try:
            return self._kept()
        except (Unavailable, Refused):
            return None

    def _ask_until_taken_over(self) -> tuple[list[Told], m.JobStatus | None]:
        """Ask; of a durable job that no scheduler has at the moment, until one has it, which takes a second or so."""
        deadline = time.monotonic() + TAKE_OVER_S
        while True:
            told = self._ask()
            row = self._row(told)
            if row is not None and row.state not in ledger.OVER:
                return told, row
            kept = self._kept_if_any()
            if kept is None:
                return told, row
            if kept.state != "open":
                return told, attached.row(kept)
            if time.monotonic() >= deadline:
                raise Unavailable(
                    f"job {self.id} is in Redis, and no scheduler has taken it over",
                    hint="`sparrowmq status` shows them",
                )
            time.sleep(_POLL_S_MAX / 5)

    def _ask(self) -> list[Told]:
        return self._connection.inquire(m.Query(1, "job", self.id), QUERY_TIMEOUT_S)

    def _row(self, told: Sequence[Told]) -> m.JobStatus | None:
        rows = ledger.jobs(answer.status for answer in told)
        return next((row for row in rows if row.id == self.id), None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JobHandle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<JobHandle {self.id}>"


def find(connection: Connection, text: str) -> JobHandle:
    """Return the handle of the job with this id, or whose id starts so.

    Raises UsageError where a prefix fits no job, or several.
    """
    full = ids.JOB_CHARS + len(f".{connection.owner}" if connection.owner else "")
    if not isinstance(text, str) or not text or len(text) > limits.TEXT_CHARS_MAX:
        raise UsageError(f"{text!r:.80} is no job id", hint=f"give an id of {full} characters, or its beginning")
    if len(text) >= full:
        return JobHandle(connection, text)
    told = connection.inquire(m.Query(1, "job", text), QUERY_TIMEOUT_S)
    found = [row.id for row in ledger.jobs(answer.status for answer in told) if row.id.startswith(text)]
    if len(found) == 1:
        return JobHandle(connection, found[0])
    if not found:
        raise _unknown(text)
    shown = ", ".join(found[:5])
    raise UsageError(f"{len(found)} jobs begin with {text!r}: {shown}{', ...' if found[5:] else ''}")


def _unknown(text: str) -> UsageError:
    return UsageError(f"no scheduler knows a job {text!r}", hint="`sparrowmq job list` shows the jobs there are")


class Detached:
    """Submits jobs that outlive this client.

    Where schedulers have a Redis such jobs are durable: they survive their scheduler, and `JobHandle.attach` has their
    results. Otherwise they end with their scheduler, and their results are not kept (`JobHandle.durable` tells). What
    becomes of them is in the schedulers' ledgers. Each method returns once a scheduler has
    accepted the job, and raises what kept it from that: Rejected, Unavailable, and everything that the same method
    of `Client` raises. A detached job is one job of the cluster: TooLarge beyond 100,000 tasks or 60 MiB.
    """

    def __init__(self, connection: Connection, spec: m.JobSpec) -> None:
        self._connection = connection
        self._spec = spec

    def options(self, **options: Unpack[JobOptions]) -> Detached:
        """Return a view whose jobs have these options (see `JobOptions`)."""
        return Detached(self._connection, opts.make_spec(self._spec, **options))

    def map(
        self, fn: Callable[..., Any] | str, /, *iterables: Iterable[Any], **options: Unpack[JobOptions]
    ) -> JobHandle:
        """As `Client.map`."""
        return self.send(submission.mapped(opts.make_spec(self._spec, **options), fn, iterables))

    def starmap(
        self, fn: Callable[..., Any] | str, rows: Iterable[Iterable[Any]], **options: Unpack[JobOptions]
    ) -> JobHandle:
        """As `Client.starmap`."""
        return self.send(submission.calls(opts.make_spec(self._spec, **options), fn, map(tuple, rows)))

    def run_commands(
        self,
        argv: Sequence[str] | Sequence[Sequence[str]],
        *,
        n: int = 1,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        stdin: bytes = b"",
        **options: Unpack[JobOptions],
    ) -> JobHandle:
        """As `Client.run_commands`."""
        spec = opts.make_spec(self._spec, **options)
        return self.send(submission.commands(spec, argv, n, env, cwd, stdin))

    def sleep(self, seconds: Iterable[float], **options: Unpack[JobOptions]) -> JobHandle:
        """As `Client.sleep`."""
        return self.send(submission.sleeps(opts.make_spec(self._spec, **options), seconds))

    def send(self, work: submission.Work) -> JobHandle:
        """Submit ``work`` as one job; return when a scheduler has it. Raises TooLarge where it is more than one."""
        cut = list(submission.parts(work))
        if not cut:
            raise UsageError("a detached job without tasks", hint="a job has at least one task")
        if len(cut) > 1:
            raise TooLarge(
                f"{work.tasks:,} tasks are {len(cut)} jobs of the cluster, and a detached job is one: the limits are "
                f"{limits.TASKS_PER_JOB_MAX:,} tasks and {submission.PART_BYTES_MAX:,} bytes of arguments",
                hint="send it in parts, or pass large data by reference",
            )
        (count, payloads), job = cut[0], self._connection.new_id()
        submit = m.Submit(job, 0, work.spec, count, payloads, submission.wrap(work.function), detached=True)
        codec.check_submit(submit)
        sent = _Acceptance(job)
        self._connection.submit([(submit, sent)])
        sent.reply.result()
        return JobHandle(self._connection, job)


class _Acceptance:
    """Waits for a scheduler to accept a detached job. The session gives up on its own, so that this ends."""

    def __init__(self, job: str) -> None:
        self.id = job
        self.pending = 1
        self.reply: concurrent.futures.Future[None] = concurrent.futures.Future()

    def accepted(self, workers: int) -> None:
        """See `link.Sink`."""
        self.pending = 0
        self.reply.set_result(None)

    def settle(self, indices: Sequence[int], statuses: bytes, payloads: Sequence[m.Payload]) -> None:
        """See `link.Sink`."""

    def fail(self, make: Callable[[], Exception] | None) -> None:
        """See `link.Sink`."""
        self.pending = 0
        self.reply.set_exception(make() if make else UsageError("the client was closed before the job was accepted"))
