"""Who is there: the records of schedulers, workers and assistants in Redis, and the thread that keeps them true.

Owns: the keys and their lifetimes. Must not know: what a scheduler, a worker or an assistant does. Redis is never on
the path of a task: whatever happens to it, known schedulers stay known until a successful read says otherwise.

Keys, below the prefix: ``scheduler:<id>``, ``worker:<id>`` and ``assistant:<id>`` hold JSON and expire; ``schedulers``,
``workers`` and ``assistants`` are the ids, sorted by their last refresh and bounded (a reader drops those whose record
has expired, if it may; their owner adds them again at its next refresh; a writer drops what nobody refreshes);
``changed`` is a channel on which changes of the set of schedulers are announced; ``report:<id>`` is what an assistant
last told of itself.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from sparrowmq import limits
from sparrowmq.errors import Refused, Unavailable
from sparrowmq.settings import StoreSettings
from sparrowmq.store.connection import connect, describe, explained

RECORD_BYTES_MAX = 4096
REPORT_BYTES_MAX = 16 * 1024 * 1024
SCHEDULERS_MAX = 1024
WORKERS_MAX = 20_000
ASSISTANTS_MAX = 64
STALE_S = 3600.0  # without a refresh, an id is dropped: by far more than machines' clocks differ
BACKOFF_MIN_S = 0.05
BACKOFF_MAX_S = 1.0

Text = Annotated[str, Meta(max_length=limits.TEXT_CHARS_MAX)]
Id = Annotated[str, Meta(min_length=1, max_length=limits.TEXT_CHARS_MAX)]
Count = Annotated[int, Meta(ge=0, le=limits.INT_MAX)]


class SchedulerRecord(msgspec.Struct, frozen=True):
    """One scheduler: where it listens and who it is.

    ``dead`` is why an assistant has declared this incarnation dead, "" if none has; one that lives unsays it with its
    next refresh.
    """

    id: Id
    incarnation: Count
    address_workers: Id
    address_clients: Id
    host: Text
    pid: Count
    package: Text
    dead: Text = ""


class WorkerRecord(msgspec.Struct, frozen=True):
    """One worker. ``schedulers``: how many it is connected to."""

    id: Id
    incarnation: Count
    host: Text
    pid: Count
    slots: Count
    package: Text
    python: Text = ""
    schedulers: Count = 0


class AssistantRecord(msgspec.Struct, frozen=True):
    """One assistant."""

    id: Id
    incarnation: Count
    host: Text
    pid: Count
    package: Text


Record = SchedulerRecord | WorkerRecord | AssistantRecord
R = TypeVar("R", bound=Record)

# What keys are called, and how many ids are kept.
_KINDS: Final[Mapping[type, tuple[str, int]]] = {
    SchedulerRecord: ("scheduler", SCHEDULERS_MAX),
    WorkerRecord: ("worker", WORKERS_MAX),
    AssistantRecord: ("assistant", ASSISTANTS_MAX),
}
_REPLACE: Final = """\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
"""


class Registry:
    """The records, read and written at once. Every call blocks, at most for the settings' timeouts.

    Calls raise Unavailable (no answer), Refused (credentials) or ConfigError (no URL).
    """

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._redis = connect(settings)
        self._prefix = settings.prefix
        self._ttl_ms = max(1, int(settings.ttl_s * 1000))

    def ping(self) -> None:
        """Return if the server answers."""
        with explained(self._settings):
            self._redis.ping()

    def publish(self, record: Record, *, announce: bool = False) -> None:
        """Write ``record`` for another ``ttl_s``; ``announce`` tells the watchers that the set has changed.

        So does finding that an assistant had declared the scheduler dead.
        """
        with explained(self._settings):
            looks = isinstance(record, SchedulerRecord) and not announce
            with self._redis.pipeline(transaction=True) as pipe:
                if looks:
                    pipe.get(f"{self._prefix}scheduler:{record.id}")
                self._write(pipe, record, announce)
                before = pipe.execute()[0]
            found = _decode(before, SchedulerRecord) if looks else None
            if found is not None and found.dead:
                self._redis.publish(f"{self._prefix}changed", record.id)

    def _write(self, pipe: Any, record: Record, announce: bool) -> None:
        kind, most = _KINDS[type(record)]
        pipe.set(f"{self._prefix}{kind}:{record.id}", msgspec.json.encode(record), px=self._ttl_ms)
        now = time.time()
        pipe.zadd(f"{self._prefix}{kind}s", {record.id: now})
        pipe.zremrangebyscore(f"{self._prefix}{kind}s", "-inf", now - STALE_S)
        pipe.zremrangebyrank(f"{self._prefix}{kind}s", 0, -1 - most)
        if announce:
            pipe.publish(f"{self._prefix}changed", record.id)

    def withdraw(self, record: Record) -> None:
        """Remove ``record`` and announce it, unless another incarnation has taken its id."""
        kind, _ = _KINDS[type(record)]
        key = f"{self._prefix}{kind}:{record.id}"
        with explained(self._settings):
            found = _decode(self._redis.get(key), type(record))
            if found is not None and found.incarnation != record.incarnation:
                return
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.delete(key)
                if isinstance(record, AssistantRecord):
                    pipe.delete(f"{self._prefix}report:{record.id}")
                pipe.zrem(f"{self._prefix}{kind}s", record.id)
                pipe.publish(f"{self._prefix}changed", record.id)
                pipe.execute()

    def condemn(self, id: str, incarnation: int, detail: str) -> bool:
        """Mark this incarnation of a scheduler as dead and announce it; return whether its record was there.

        Nothing happens where the scheduler writes its record meanwhile: it lives.
        """
        key = f"{self._prefix}scheduler:{id}"
        with explained(self._settings):
            before = self._redis.get(key)
            found = _decode(before, SchedulerRecord)
            if found is None or found.id != id or found.incarnation != incarnation:
                return False
            dead = msgspec.structs.replace(found, dead=detail[: limits.TEXT_CHARS_MAX] or "silent")
            after = msgspec.json.encode(dead)
            return bool(self._redis.eval(_REPLACE, 1, key, before, after, f"{self._prefix}changed", id))

    def tell(self, id: str, report: bytes) -> None:
        """Write an assistant's ``report`` of itself for another ``ttl_s``."""
        with explained(self._settings):
            self._redis.set(f"{self._prefix}report:{id}", report, px=self._ttl_ms)

    def reports(self, ids: Iterable[str]) -> dict[str, bytes]:
        """Return the last report of each of these assistants that has written one: anybody may have written there."""
        names = list(ids)
        with explained(self._settings):
            found = self._redis.mget([f"{self._prefix}report:{id}" for id in names]) if names else []
        return {id: value for id, value in zip(names, found, strict=True) if value and len(value) <= REPORT_BYTES_MAX}

    def schedulers(self) -> dict[str, SchedulerRecord]:
        """Return the schedulers by id."""
        return self._read(SchedulerRecord)

    def workers(self) -> dict[str, WorkerRecord]:
        """Return the workers by id."""
        return self._read(WorkerRecord)

    def assistants(self) -> dict[str, AssistantRecord]:
        """Return the assistants by id."""
        return self._read(AssistantRecord)

    def refresh(
        self, record: Record | None, known: Iterable[str], *, announce: bool = False
    ) -> dict[str, SchedulerRecord]:
        """Publish ``record``, if any, and return the schedulers: one round trip when they are the ``known`` ones.

        This is all that most processes ask of Redis as long as they live.
        """
        return self._read(SchedulerRecord, known, record, announce)

    def _read(
        self, kind: type[R], known: Iterable[str] = (), record: Record | None = None, announce: bool = False
    ) -> dict[str, R]:
        name, most = _KINDS[kind]
        members = f"{self._prefix}{name}s"
        prefix = f"{self._prefix}{name}:".encode()
        guess = [identity.encode() for identity in known]
        with explained(self._settings):
            with self._redis.pipeline(transaction=record is not None) as pipe:
                if record is not None:
                    self._write(pipe, record, announce)
                pipe.zrange(members, 0, most - 1, desc=True)
                if guess:
                    pipe.mget([prefix + identity for identity in guess])
                replies = pipe.execute()
            values: dict[bytes, bytes | None] = dict(zip(guess, replies.pop(), strict=True)) if guess else {}
            ids: list[bytes] = replies.pop()
            strangers = [identity for identity in ids if identity not in values]
            if strangers:
                found = self._redis.mget([prefix + identity for identity in strangers])
                values.update(zip(strangers, found, strict=True))
            expired = [identity for identity in ids if values[identity] is None]
            if expired:
                self._drop(members, expired)
        records: dict[str, R] = {}
        for identity in ids:
            decoded = _decode(values[identity], kind)
            if decoded is not None and decoded.id.encode() == identity:
                records[decoded.id] = decoded
        return records

    def _drop(self, members: str, ids: Iterable[bytes]) -> None:
        """Take ids out of a set, where this user may: for others it is no loss, since writers drop them in the end."""
        import redis

        with contextlib.suppress(redis.exceptions.NoPermissionError):
            self._redis.zrem(members, *ids)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


def _decode(value: bytes | None, kind: type[R]) -> R | None:
    """Return the record, or None for what is none: anybody may have written there."""
    if value is None or len(value) > RECORD_BYTES_MAX:
        return None
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class _Condemned(NamedTuple):
    id: str
    incarnation: int
    detail: str
    until_s: float  # later, it would be old news


class StoreThread:
    """Keeps a process registered and tells it which schedulers there are.

    ``record`` is published at once, refreshed, and withdrawn by `stop`. ``on_schedulers`` gets a new dict of
    records by id whenever the set or a record in it changed; it is called through ``post``, which must be
    thread-safe (`Loop.post`). ``log`` (level, event, fields) is called in this thread. With the server down it
    goes on trying, says so once, and the schedulers known before stay known; after an outage none is removed
    before ``ttl_s`` have passed, since a server that came back empty knows nobody yet.
    """

    def __init__(
        self,
        settings: StoreSettings,
        *,
        record: Record | None = None,
        on_schedulers: Callable[[dict[str, SchedulerRecord]], None] | None = None,
        post: Callable[[Callable[[], None]], None] = lambda callback: callback(),
        log: Callable[[str, str, Mapping[str, Any]], None] = lambda level, event, fields: None,
    ) -> None:
        self._settings = settings
        self._registry = Registry(settings)
        self._record = record
        self._on_schedulers = on_schedulers
        self._post = post
        self._log = log
        self._wake = threading.Event()
        self._stopping = False
        self._published: Record | None = None
        self._report = b""
        self._reported = b""
        self._condemned: deque[_Condemned] = deque(maxlen=SCHEDULERS_MAX)
        self._refresh_at = 0.0
        self._look_at = 0.0
        self._announced = False
        self._known: dict[str, SchedulerRecord] = {}
        self._down = False
        self._removals_from = 0.0  # an outage: no scheduler is removed before this moment
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._listener = threading.Thread(target=self._listen, name="store-listener", daemon=True)

    def start(self) -> None:
        """Start the threads. Call it after the last fork."""
        self._thread.start()
        if self._on_schedulers is not None:
            self._listener.start()

    def update(self, record: Record) -> None:
        """Publish ``record`` from now on. Thread-safe; returns at once."""
        self._record = record
        self._wake.set()

    def tell(self, report: bytes) -> None:
        """Write this assistant's report of itself (`Registry.tell`). Thread-safe; returns at once."""
        self._report = report
        self._wake.set()

    def condemn(self, id: str, incarnation: int, detail: str) -> None:
        """Mark a scheduler as dead (`Registry.condemn`), soon or not at all. Thread-safe; returns at once."""
        self._condemned.append(_Condemned(id, incarnation, detail, time.monotonic() + self._settings.ttl_s))
        self._wake.set()

    def stop(self, timeout_s: float = 1.0) -> None:
        """Withdraw the record and end the thread; waits for at most ``timeout_s``."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        backoff_s = BACKOFF_MIN_S
        while not self._stopping:
            try:
                wait_s = self._turn(time.monotonic())
                backoff_s = BACKOFF_MIN_S
            except (Unavailable, Refused) as error:
                self._outage(error)
                wait_s, backoff_s = backoff_s, min(backoff_s * 2, BACKOFF_MAX_S)
            self._wake.wait(wait_s)
            self._wake.clear()
        if self._published is not None:
            try:
                self._registry.withdraw(self._published)
            except (Unavailable, Refused) as error:
                self._log("warning", "not withdrawn from Redis; the record expires", {"reason": str(error)})
        self._registry.close()

    def _turn(self, now: float) -> float:
        """Publish what is due, read the schedulers, return how long to wait."""
        record = self._record
        due = record if record is not self._published or now >= self._refresh_at else None
        announce = isinstance(due, SchedulerRecord) and (self._published is None or self._down)
        looks = self._on_schedulers is not None and (due is not None or self._announced or now >= self._look_at)
        if looks:
            self._announced = False
            self._tell(self._registry.refresh(due, self._known, announce=announce), now)
            self._look_at = now + self._settings.poll_interval_s
        elif due is not None:
            self._registry.publish(due, announce=announce)
        elif self._down:
            self._registry.ping()
        if due is not None:
            self._published = due
            self._refresh_at = now + self._settings.refresh_interval_s
        if self._down:
            self._down = False
            self._log("info", "Redis answers again", {"redis": describe(self._settings.url)})
        self._run_errands(now)
        if self._on_schedulers is None:
            return max(0.0, self._refresh_at - now) if record is not None else self._settings.refresh_interval_s
        return max(0.0, min(self._look_at, self._refresh_at if record is not None else self._look_at) - now)

    def _run_errands(self, now: float) -> None:
        while self._condemned:
            condemned = self._condemned[0]
            if now < condemned.until_s:
                self._registry.condemn(condemned.id, condemned.incarnation, condemned.detail)
            self._condemned.popleft()
        report = self._report
        if report is not self._reported and self._record is not None:
            self._registry.tell(self._record.id, report)
            self._reported = report

    def _tell(self, found: dict[str, SchedulerRecord], now: float) -> None:
        if self._down:
            self._removals_from = now + self._settings.ttl_s
        if now < self._removals_from:
            found = {**self._known, **found}
        if found != self._known:
            self._known = found
            callback, told = self._on_schedulers, dict(found)
            if callback is not None:
                self._post(lambda: callback(told))

    def _outage(self, error: Exception) -> None:
        self._refresh_at = self._look_at = 0.0  # back empty: register at once
        if not self._down:
            self._down = True
            self._log("warning", "Redis does not answer; going on without it", {"reason": str(error)})

    def _listen(self) -> None:
        """Wake the other thread at each announcement, and once subscribed: what was announced before is lost.

        Errors are the other thread's business: here they only mean: wait.
        """
        import redis

        client = connect(self._settings, listener=True)
        while not self._stopping:
            try:
                with client.pubsub() as channel:
                    channel.subscribe(f"{self._settings.prefix}changed")
                    while not self._stopping:
                        # A short wait: `stop` does not reach this thread otherwise.
                        if channel.get_message(timeout=self._settings.poll_interval_s) is not None:
                            self._announced = True
                            self._wake.set()
            except redis.RedisError:
                self._announced = True
                self._wake.set()  # it finds out, and logs, whether the server is gone
                time.sleep(BACKOFF_MAX_S)
        client.close()
