"""The thread that brings a scheduler's durable jobs to Redis, in order, and takes over those whose scheduler is gone.

Owns: the order of writes, what is tried again and what is given up, what counts as written, and who is an orphan.
Must not know: what becomes of a job (core/durable.py), or how it looks in Redis (`jobs`).

What is "written" depends on the server, which is asked at each new connection. With an append-only file and WAITAOF
(Redis 7.2, Valkey) an answer waits until the server says that it is on its disk; otherwise the server's memory is all
there is (docs/guarantees.md). A submission is given up after GIVE_UP_S, if it was not even sent; outcomes are never
given up, and nothing overtakes.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from sparrowmq.core.durable import FENCED, GONE
from sparrowmq.core.effects import ForgetJob, SaveJob, SaveOutcomes
from sparrowmq.core.keeping import Orphan
from sparrowmq.core.orphans import SCAN_JOBS_MAX, SCAN_S, TAKE_MAX, Owners, owner_of
from sparrowmq.errors import Refused, Unavailable
from sparrowmq.protocol import messages as m
from sparrowmq.settings import StoreSettings
from sparrowmq.store.connection import describe
from sparrowmq.store.jobs import Commands, JobReader, KeptJob, taken
from sparrowmq.store.line import Line, Log, pack
from sparrowmq.store.registry import Registry

GIVE_UP_S: Final = 0.8  # a submission that could not be sent, and a second more for each ...
BYTES_PER_S: Final = 32 * 1024 * 1024  # ... of so many bytes
SYNC_S: Final = 0.1  # one wait for the disk: what comes meanwhile is sent after it
SYNC_S_MAX: Final = 3.0  # a submission that does not get there is given up
UNANSWERED_MAX: Final = 1_000
CONNECT_S: Final = 0.2
STOP_S: Final = 1.0

Saved = Callable[[int, str, int, list[m.Outcome]], None]


class _Op:
    """Something to be written."""

    __slots__ = ("answered", "effect", "epoch", "error", "known", "sent", "since")

    def __init__(self, effect: SaveJob | SaveOutcomes | ForgetJob) -> None:
        self.effect = effect
        self.answered = False
        self.sent = False  # Redis has executed it
        self.since = 0.0
        self.error, self.epoch = "", 0
        self.known: list[m.Outcome] = []

    @property
    def impatient(self) -> bool:
        """Whether it is a submission whose client waits for an answer."""
        return isinstance(self.effect, SaveJob) and not self.effect.patient


class Keeper:
    """Writes what it is told to, and tells of jobs that it has taken over.

    ``on_saved(token, error, epoch, outcomes)`` and ``on_orphans`` are called through ``post``, which must be
    thread-safe (`Loop.post`); ``later(delay_s, callback)`` is `Loop.call_later`. ``may_adopt`` is asked in this thread
    before anything is taken over; ``log`` (level, event, fields) is called in it, too.
    """

    def __init__(
        self,
        settings: StoreSettings,
        *,
        id: str,
        incarnation: int,
        rng: random.Random,
        post: Callable[[Callable[[], None]], None],
        later: Callable[[float, Callable[[], None]], object],
        on_saved: Saved,
        on_orphans: Callable[[list[Orphan]], None],
        may_adopt: Callable[[], bool],
        log: Log,
    ) -> None:
        self._settings = settings
        self._me = (id, incarnation)
        self._rng = rng
        self._post, self._later = post, later
        self._on_saved, self._on_orphans, self._may_adopt = on_saved, on_orphans, may_adopt
        self._log = log
        self._line = Line(settings, "saving of durable jobs", log)
        self._commands = Commands(settings, owner_of(id, incarnation))
        self._reader = JobReader(settings)
        self._registry = Registry(settings)
        self._changed = threading.Condition()  # guards the queue and what is answered
        self._queue: deque[_Op] = deque()
        self._waits_for_disk: bool | None = None  # not known for this connection yet
        self._retry_at = 0.0
        self._owners = Owners()
        self._absence_counts_from = 0.0
        self._unanswered: dict[str, int] = {}  # jobs that were perhaps taken over, with the epoch they then have
        self._scan_at = 0.0
        self._scanned = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    # -- called by the loop

    def start(self) -> None:
        """Start the thread. Call it after the last fork."""
        self._thread.start()

    def write(self, effect: SaveJob | SaveOutcomes | ForgetJob) -> None:
        """Carry this out after what came before; `on_saved` follows, except for `ForgetJob`. Returns at once."""
        op = _Op(effect)
        if op.impatient:
            submit = effect.submit  # type: ignore[union-attr]
            size = sum(map(len, submit.payloads)) + len(submit.function)
            self._later(GIVE_UP_S + size / BYTES_PER_S, lambda: self._overdue(op))
        with self._changed:
            self._queue.append(op)
            self._changed.notify()

    def stop(self, timeout_s: float = STOP_S) -> None:
        """Write what is left, and end; waits for at most ``timeout_s``."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _overdue(self, op: _Op) -> None:
        if not op.sent:
            self._answer(op, self._unreachable())

    # -- the thread

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._queue or self._line.down:
                    now = time.monotonic()
                    until = self._retry_at if self._line.down else self._scan_at
                    if not self._stopping and not any(op.impatient for op in self._queue):
                        self._changed.wait(max(0.0, until - now))
                if self._stopping and (not self._queue or self._line.down):
                    break
            try:
                self._turn(time.monotonic())
            except Exception as error:  # what Redis says may be anything; the jobs of others go on
                self._log("error", "saving durable jobs failed", {"error": repr(error)[:300]})
                time.sleep(SYNC_S)
        self._line.close()
        self._reader.close()
        self._registry.close()

    def _turn(self, now: float) -> None:
        if self._line.down and now < self._retry_at:
            self._refuse_submissions()
            return
        if self._line.down and self._line.ask(pack("PING")) is None:
            self._outage()
            return
        self._write()
        if now >= self._scan_at and not self._line.down and not self._stopping:
            self._scan_at = now + SCAN_S * self._rng.uniform(0.5, 1.5)
            if self._may_adopt():
                self._scan()

    def _next(self) -> _Op | None:
        """Return the next thing to write. What was given up meanwhile is nothing any more."""
        with self._changed:
            while self._queue and self._queue[0].answered:
                self._queue.popleft()
            return self._queue[0] if self._queue else None

    def _write(self) -> None:
        """Send what there is, wait for the disk, and answer; until nothing is left, or Redis does not answer."""
        unsynced: list[_Op] = []
        while True:
            while (op := self._next()) is not None:
                if not self._send(op):
                    break
                with self._changed:
                    self._queue.popleft()
                unsynced.append(op)
            if self._line.down:
                self._take_back(unsynced)
                self._outage()
                return
            stuck = op is not None  # Redis refuses it: out of memory, read-only, a full disk
            if unsynced:
                synced = self._sync()
                if self._line.down:
                    continue
                if synced:
                    for done in unsynced:
                        self._finish(done)
                    unsynced.clear()
                else:
                    unsynced = self._give_up(unsynced)
            if stuck and not unsynced:
                self._retry_at = time.monotonic() + SCAN_S / 2
                with self._changed:
                    if not self._stopping:
                        self._changed.wait(SCAN_S / 2)
                return
            if not unsynced and self._next() is None:
                return

    def _send(self, op: _Op) -> bool:
        """Have Redis execute it; return whether it has."""
        if self._waits_for_disk is None:
            self._find_out()
        effect = op.effect
        try:
            reply = self._line.ask(self._packed(effect))
        except Exception as error:  # a bug: neither may the thread end of it, nor an outcome be dropped
            self._log("error", "cannot be saved", {"what": type(effect).__name__, "error": repr(error)[:300]})
            op.error = f"it cannot be kept in Redis: {error}"
            return op.impatient
        if reply is None:
            if not self._line.down and op.impatient:  # it is not for want of an answer
                op.error = f"Redis at {describe(self._settings.url)} does not take it: see the scheduler's log"
                return True
            return False
        code, *more = reply[0]
        if isinstance(effect, SaveJob):
            self._unanswered.pop(effect.submit.job, None)  # it is known here
        op.sent, op.since = True, time.monotonic()
        if code == 0:
            op.error, op.epoch = FENCED, int(more[0])
        elif code == -1:
            op.error = GONE
        elif op.impatient and more and int(more[0]):
            op.known = self._known(op, effect)
        return True

    def _packed(self, effect: SaveJob | SaveOutcomes | ForgetJob) -> bytes:
        if isinstance(effect, SaveJob):
            return self._commands.save(effect.client, effect.submit, effect.tasks, effect.submitted_unix_s)
        if isinstance(effect, SaveOutcomes):
            return self._commands.append(effect.outcome, effect.over, effect.deaths)
        return self._commands.forget(effect.job, effect.epoch)

    def _known(self, op: _Op, effect: SaveJob | SaveOutcomes | ForgetJob) -> list[m.Outcome]:
        """Return what Redis has of a job that is submitted again: those outcomes count."""
        assert isinstance(effect, SaveJob)
        wanted = set(effect.submit.indices or range(effect.submit.count))
        after, known = "0-0", list[m.Outcome]()
        try:
            while True:
                after, found = self._reader.outcomes(effect.submit.job, after)
                known += [outcome for outcome in found if not wanted.isdisjoint(outcome.indices)]
                if not found:
                    return known
        except (Unavailable, Refused):
            op.error = self._unreachable()
            return []

    def _find_out(self) -> None:
        """Find out whether the server tells when it is on the disk: never where it leaves that to its system."""
        info = self._line.ask(pack("INFO", "persistence"))
        if info is not None and b"aof_enabled:1" not in bytes(info[0]):
            self._waits_for_disk = False
        elif info is not None:
            policy = self._line.ask(pack("CONFIG", "GET", "appendfsync"), optional=True)  # mostly forbidden
            self._waits_for_disk = policy is None or policy[0][1:] != [b"no"]

    def _sync(self) -> bool:
        """Return whether what was sent is where it is to be."""
        if not self._waits_for_disk:
            return True
        reply = self._line.ask(pack("WAITAOF", 1, 0, int(SYNC_S * 1000)))
        if reply is None and not self._line.down:
            self._waits_for_disk = False  # an older server: it has written, and does not tell when
            return True
        return reply is not None and int(reply[0][0]) >= 1

    def _give_up(self, unsynced: list[_Op]) -> list[_Op]:
        """Return what goes on waiting for the disk."""
        now, left = time.monotonic(), list[_Op]()
        for op in unsynced:
            if op.impatient and now - op.since > SYNC_S_MAX:
                op.error = f"it has not reached the disk of Redis within {SYNC_S_MAX:g} s"
                self._finish(op, undo=True)
            else:
                left.append(op)
        return left

    def _take_back(self, unsynced: Iterable[_Op]) -> None:
        """The connection is gone before these had reached the disk: they are sent again, but for submissions."""
        with self._changed:
            self._queue.extendleft(reversed(list(unsynced)))

    def _outage(self) -> None:
        now = time.monotonic()
        self._waits_for_disk = None
        self._retry_at = now + self._line.wait_s
        self._absence_counts_from = now + self._settings.ttl_s  # schedulers have to register anew
        self._refuse_submissions()

    def _refuse_submissions(self) -> None:
        with self._changed:
            refused = [op for op in self._queue if op.impatient]
            self._queue = deque(op for op in self._queue if not op.impatient)
        for op in refused:
            op.error = self._unreachable()
            self._finish(op, undo=True)

    def _unreachable(self) -> str:
        return f"Redis at {describe(self._settings.url)} does not answer: nothing can be kept there now"

    def _finish(self, op: _Op, *, undo: bool = False) -> None:
        """Answer. A submission that was given up and may be in Redis all the same is removed again."""
        late = not self._answer(op, op.error)
        effect = op.effect
        in_vain = op.sent and op.error != FENCED and (late or bool(op.error))
        if isinstance(effect, SaveJob) and op.impatient and (undo or in_vain):
            with self._changed:
                self._queue.append(_Op(ForgetJob(effect.submit.job, effect.submit.epoch)))

    def _answer(self, op: _Op, error: str) -> bool:
        """Answer, unless it was answered; return whether this was the answer."""
        with self._changed:
            if op.answered:
                return False
            op.answered = True
        effect = op.effect
        if not isinstance(effect, ForgetJob):
            token, epoch, known = effect.token, op.epoch, op.known
            self._post(lambda: self._on_saved(token, error, epoch, known))
        return True

    # -- orphans

    def _scan(self) -> None:
        """Take over unfinished jobs whose scheduler is gone."""
        try:
            jobs = self._reader.open(self._scanned, SCAN_JOBS_MAX)
            if not jobs and self._scanned:
                self._scanned = 0
                jobs = self._reader.open(0, SCAN_JOBS_MAX)
            self._scanned = self._scanned + len(jobs) if len(jobs) == SCAN_JOBS_MAX else 0
            gone = self._gone({job.owner for job in jobs} - {owner_of(*self._me)})
        except (Unavailable, Refused):
            self._absence_counts_from = time.monotonic() + self._settings.ttl_s
            return  # the next write finds out, and says so
        orphans = [job for job in jobs if job.owner in gone or self._is_unheard_of(job)]
        self._rng.shuffle(orphans)  # schedulers that look at the same time try different ones
        found = [one for job in orphans[:TAKE_MAX] if (one := self._take(job)) is not None]
        if found:
            self._post(lambda: self._on_orphans(found))

    def _gone(self, owners: set[str]) -> set[str]:
        """Return those owners that are no more."""
        records = self._registry.schedulers() if owners else {}
        counts = time.monotonic() >= self._absence_counts_from
        return self._owners.gone(owners, records, lambda id: _listens(records[id].address_clients), counts=counts)

    def _take(self, job: KeptJob) -> Orphan | None:
        if not self._may_adopt():
            return None
        self._unanswered.pop(job.id, None)
        reply = self._line.ask(self._commands.take(job.id, job.owner, job.epoch))
        if reply is None:
            self._note_unanswered(job.id, job.epoch + 1)
            return None
        epoch, orphan = taken(reply[0])
        if epoch and orphan is None:  # all of it has ended, or nothing can be read of it: it is over
            last = m.Outcome(1, job.id, epoch, [], b"", [])
            if self._line.ask(self._commands.append(last, True, {})) is None:
                self._note_unanswered(job.id, epoch)
        return orphan

    def _note_unanswered(self, job: str, epoch: int) -> None:
        """Redis may have given it to this scheduler, whose machine does not know: nobody else would take it over."""
        if len(self._unanswered) >= UNANSWERED_MAX:
            del self._unanswered[next(iter(self._unanswered))]
        self._unanswered[job] = epoch

    def _is_unheard_of(self, job: KeptJob) -> bool:
        """Whether it was given to this scheduler and the answer was lost."""
        return job.owner == owner_of(*self._me) and self._unanswered.get(job.id) == job.epoch


def _listens(address: str) -> bool:
    """Return whether something accepts connections there, or may: a machine that does not answer says nothing."""
    scheme, _, where = address.partition("://")
    target: Any = where
    if scheme == "tcp":
        host, _, port = where.rpartition(":")
        target = (host.strip("[]"), int(port) if port.isdecimal() else 0)
    elif scheme != "ipc" or where.startswith("@"):
        return True
    try:
        if scheme == "tcp":
            socket.create_connection(target, CONNECT_S).close()
        else:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(CONNECT_S)
                probe.connect(target)
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except OSError:
        return True
    return True
