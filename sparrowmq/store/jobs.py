"""Durable jobs in Redis: their keys, what may be written by whom, and how they are read.

Owns: the keys, the scripts that fence every write by owner and epoch, the bytes of submissions and outcomes. Must not
know: when anything is written (`keeper`), what a payload holds, or who waits for a result.

Keys, below the prefix. ``job:<id>`` is a hash: owner ("<scheduler> <incarnation>"), epoch, state ("open", "done",
"cancelled"), spec (the submission, until the job is over), tasks, kind, name, client, detached, submitted_ms, ended_ms,
seq (of the epoch's last outcomes), deaths (msgpack: workers lost, by task) and c0 to c4 (tasks by final status).
``outcomes:<id>`` is a stream, ids <epoch>-<seq>, of the frames of `messages.Outcome`; ``ends:<id>`` has a byte for each
task: 0, or its status + 1. ``jobs:open`` are the ids of unfinished jobs by submission, ``jobs:over`` those of others by
when they expire.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import msgspec

from sparrowmq import ids
from sparrowmq.core.keeping import Orphan
from sparrowmq.core.orphans import left_of
from sparrowmq.errors import ProtocolError
from sparrowmq.protocol import codec, messages as m
from sparrowmq.settings import StoreSettings
from sparrowmq.store.connection import connect, explained
from sparrowmq.store.line import pack

LISTED_MAX: Final = 10_000  # jobs of each kind that a list shows, the newest ...
NAMES_MAX: Final = 100_000  # ... of so many of all owners
ENTRIES_MAX: Final = 200  # outcomes that are read at once
_BODY: Final = b"o"
_FIELDS: Final = ("state", "epoch", "owner", "tasks", "kind", "name", "client", "detached", "submitted_ms", "ended_ms",
                  "c0", "c1", "c2", "c3", "c4")  # fmt: skip

# Every script answers {1, ...} where it has written, {0, epoch} where another scheduler has the job, or it has ended in
# the epoch that _SAVE is for, {-1} where there is no such job. KEYS: job, outcomes, ends, jobs:open, jobs:over.
_SAVE: Final = """\
local had = redis.call('HMGET', KEYS[1], 'epoch', 'owner', 'state')
if had[1] then
  local epoch = tonumber(had[1])
  local over = had[3] ~= 'open' or (had[2] ~= ARGV[1] and had[2] ~= '')
  if epoch > tonumber(ARGV[2]) or (epoch == tonumber(ARGV[2]) and over) then return {0, epoch} end
end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'epoch', ARGV[2], 'spec', ARGV[4], 'state', 'open', 'kind', ARGV[6],
  'name', ARGV[7], 'client', ARGV[8], 'detached', ARGV[9], 'deaths', '')
if had[1] ~= ARGV[2] then redis.call('HSET', KEYS[1], 'seq', '0') end
redis.call('HSETNX', KEYS[1], 'tasks', ARGV[5])
redis.call('HSETNX', KEYS[1], 'submitted_ms', ARGV[10])
redis.call('HDEL', KEYS[1], 'ended_ms')
for i = 1, 3 do redis.call('PERSIST', KEYS[i]) end
redis.call('ZADD', KEYS[4], redis.call('HGET', KEYS[1], 'submitted_ms'), ARGV[3])
redis.call('ZREM', KEYS[5], ARGV[3])
return {1, redis.call('XLEN', KEYS[2])}
"""
_APPEND: Final = """\
local had = redis.call('HMGET', KEYS[1], 'epoch', 'owner', 'seq', 'tasks', 'c3')
if not had[1] then return {-1} end
if had[1] ~= ARGV[2] or had[2] ~= ARGV[1] then return {0, tonumber(had[1])} end
if tonumber(ARGV[4]) <= tonumber(had[3] or '0') then return {1} end
redis.call('HSET', KEYS[1], 'seq', ARGV[4])
if ARGV[7] ~= '' then redis.call('HSET', KEYS[1], 'deaths', ARGV[7]) end
local at = 9
for run = 1, tonumber(ARGV[8]) do
  redis.call('SETRANGE', KEYS[3], ARGV[at], ARGV[at + 1])
  local ends = ARGV[at + 1]
  local counts = {0, 0, 0, 0, 0}
  for k = 1, #ends do
    local status = string.byte(ends, k)
    counts[status] = counts[status] + 1
  end
  for status = 1, 5 do
    if counts[status] > 0 then redis.call('HINCRBY', KEYS[1], 'c' .. (status - 1), counts[status]) end
  end
  at = at + 2
end
if #ARGV >= at then redis.call('XADD', KEYS[2], ARGV[2] .. '-' .. ARGV[4], unpack(ARGV, at)) end
if ARGV[5] == '1' then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local over = now + tonumber(ARGV[6])
  local cancelled = tonumber(redis.call('HGET', KEYS[1], 'c3') or '0') >= tonumber(had[4])
  redis.call('HSET', KEYS[1], 'state', cancelled and 'cancelled' or 'done', 'ended_ms', string.format('%.0f', now))
  redis.call('HDEL', KEYS[1], 'spec')
  for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[6]) end
  redis.call('ZREM', KEYS[4], ARGV[3])
  redis.call('ZADD', KEYS[5], string.format('%.0f', over), ARGV[3])
  redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', string.format('%.0f', now))
end
return {1}
"""
_TAKE: Final = """\
local had = redis.call('HMGET', KEYS[1], 'epoch', 'owner', 'state')
if not had[1] then
  redis.call('ZREM', KEYS[4], ARGV[3])
  return {-1}
end
if had[1] ~= ARGV[2] or had[2] ~= ARGV[4] or had[3] ~= 'open' then return {0, tonumber(had[1])} end
local epoch = tonumber(had[1]) + 1
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'epoch', string.format('%.0f', epoch), 'seq', '0')
local job = redis.call('HMGET', KEYS[1], 'spec', 'client', 'submitted_ms', 'deaths')
return {1, epoch, job[1] or '', redis.call('GET', KEYS[3]) or '', job[2], job[3], job[4] or ''}
"""
_FORGET: Final = """\
local had = redis.call('HMGET', KEYS[1], 'epoch', 'owner')
if not had[1] then return {-1} end
if had[1] ~= ARGV[2] or had[2] ~= ARGV[1] then return {0, tonumber(had[1])} end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
  redis.call('ZREM', KEYS[4], ARGV[3])
else
  redis.call('HSET', KEYS[1], 'owner', '')
end
return {1}
"""


class KeptJob(NamedTuple):
    """A durable job as Redis has it. ``state``: "open", "done", "cancelled"; ``counts``: tasks by final status."""

    id: str
    state: str
    epoch: int
    owner: str
    tasks: int
    kind: int
    name: str
    client: str
    detached: bool
    submitted_unix_s: float
    ended_unix_s: float
    counts: list[int]


class Commands:
    """What a scheduler writes, in the bytes that Redis reads. ``owner``: `orphans.owner_of` that scheduler."""

    def __init__(self, settings: StoreSettings, owner: str) -> None:
        self._prefix = settings.prefix
        self._ttl_ms = max(1, int(settings.results_ttl_s * 1000))
        self._owner = owner
        self._encoder = codec.Encoder()

    def save(self, client: str, submit: m.Submit, tasks: int, submitted_unix_s: float) -> bytes:
        """Write a submission, if the job is not known at this epoch or a later one; answers how many outcomes it has.

        Raises TooLarge for what no message could carry.
        """
        spec = msgspec.msgpack.encode(self._frames(submit))
        about = submit.spec
        return self._script(
            _SAVE, submit.job, submit.epoch, spec, tasks, about.kind, about.name, client, int(submit.detached),
            int(submitted_unix_s * 1000),
        )  # fmt: skip

    def append(self, outcome: m.Outcome, over: bool, deaths: dict[int, int]) -> bytes:
        """Append outcomes, none twice, and note deaths; without any, only ask whose the job is."""
        runs: list[bytes | int] = []
        count = 0
        for first, ends in _runs(outcome):
            runs += (first, ends)
            count += 1
        fields: list[bytes] = []
        if count:
            for number, frame in enumerate(self._frames(outcome)):
                fields += (b"%d" % number if number else _BODY, frame)
        return self._script(
            _APPEND, outcome.job, outcome.epoch, outcome.seq, int(over), self._ttl_ms,
            msgspec.msgpack.encode(deaths) if deaths else b"", count, *runs, *fields,
        )  # fmt: skip

    def take(self, job: str, owner: str, epoch: int) -> bytes:
        """Take the job over, if it is unfinished and still ``owner``'s at this epoch; see `taken`."""
        return self._script(_TAKE, job, epoch, owner)

    def forget(self, job: str, epoch: int) -> bytes:
        """See `effects.ForgetJob`."""
        return self._script(_FORGET, job, epoch)

    def _frames(self, message: m.Submit | m.Outcome) -> list[bytes]:
        (frames,) = self._encoder.encode([message])
        return [frame if isinstance(frame, bytes) else bytes(memoryview(frame)) for frame in frames]  # type: ignore[arg-type]

    def _script(self, script: str, job: str, epoch: int, *arguments: bytes | str | int) -> bytes:
        return pack("EVAL", script, 5, *_keys(self._prefix, job), self._owner, epoch, job, *arguments)


def taken(reply: Sequence[Any]) -> tuple[int, Orphan | None]:
    """Return what `Commands.take` has answered: the job's epoch now, and what is left of it.

    0 where it was not to be had; None beside an epoch where nothing can be run of it.
    """
    if reply[0] != 1:
        return 0, None
    epoch, spec, ends = int(reply[1]), reply[2], reply[3]
    client, submitted_ms = _text(reply[4]), int(reply[5] or 0)
    try:
        frames = msgspec.msgpack.decode(spec, type=list[bytes])
        (submit,) = codec.decode(frames[0], [m.Blob(frame, len(frame)) for frame in frames[1:]])
        deaths = msgspec.msgpack.decode(reply[6], type=dict[int, int]) if reply[6] else {}
    except (msgspec.DecodeError, ProtocolError, IndexError, ValueError):
        return epoch, None
    if not isinstance(submit, m.Submit):
        return epoch, None
    left = left_of(submit, epoch, ends, deaths)
    return epoch, None if left is None else Orphan(left, client, submitted_ms / 1e3)


def _runs(outcome: m.Outcome) -> Iterator[tuple[int, bytes]]:
    """Yield (first task, status + 1 of each) for every run of tasks that follow each other."""
    rows = sorted(zip(outcome.indices, outcome.statuses, strict=True))
    cuts = [k for k, (one, other) in enumerate(pairwise(rows), 1) if other[0] != one[0] + 1]
    for begin, end in pairwise([0, *cuts, len(rows)] if rows else []):
        yield rows[begin][0], bytes(status + 1 for _, status in rows[begin:end])


def _keys(prefix: str, job: str) -> tuple[str, ...]:
    return (f"{prefix}job:{job}", f"{prefix}outcomes:{job}", f"{prefix}ends:{job}", *_sets(prefix))


def _sets(prefix: str) -> tuple[str, str]:
    return f"{prefix}jobs:open", f"{prefix}jobs:over"


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


class JobReader:
    """Reads durable jobs, in any process that reaches Redis. Every call blocks, at most for the settings' timeouts.

    ``of``: the owner's tag that jobs' ids bear (ids.py). Others are left out, which Redis lets nobody read
    (redis_acl.py). None: all jobs, for schedulers. Calls raise Unavailable (no answer), Refused (credentials) or
    ConfigError (no URL).
    """

    def __init__(self, settings: StoreSettings, of: str | None = None) -> None:
        self._settings = settings
        self._prefix = settings.prefix
        self._of = of
        self._redis = connect(settings)

    def find(self, id: str) -> KeptJob | None:
        """Return the job with this full id, None where Redis has none."""
        if not self._wanted(id):
            return None
        with explained(self._settings):
            return _kept(id, self._redis.hmget(f"{self._prefix}job:{id}", _FIELDS))

    def open(self, first: int, count: int) -> list[KeptJob]:
        """Return unfinished jobs, oldest first, from number ``first`` on."""
        return self._listed([(_sets(self._prefix)[0], first, first + count - 1)], count)

    def jobs(self) -> list[KeptJob]:
        """Return the newest unfinished jobs and those that are kept, oldest first."""
        return self._listed([(key, -NAMES_MAX, -1) for key in _sets(self._prefix)], LISTED_MAX)

    def _listed(self, ranges: Iterable[tuple[str, int, int]], most: int) -> list[KeptJob]:
        with explained(self._settings), self._redis.pipeline(transaction=False) as pipe:
            for key, first, last in ranges:
                pipe.zrange(key, first, last)
            named = [filter(self._wanted, map(_text, members)) for members in pipe.execute()]
        found = [id for names in named for id in list(names)[-most:]]
        jobs = self._jobs(dict.fromkeys(found))
        return sorted(jobs.values(), key=lambda job: (job.submitted_unix_s, job.id))

    def _wanted(self, id: str) -> bool:
        return self._of is None or ids.owner_of(id) == self._of

    def _jobs(self, wanted: Iterable[str]) -> dict[str, KeptJob]:
        """Return those of these jobs that are there and may be read: a client in another language chose its ids."""
        import redis  # it has been loaded since there is a connection

        names = list(wanted)
        with explained(self._settings), self._redis.pipeline(transaction=False) as pipe:
            for id in names:
                pipe.hmget(f"{self._prefix}job:{id}", _FIELDS)
            rows = pipe.execute(raise_on_error=False)
            for row in rows:
                if isinstance(row, Exception) and not isinstance(row, redis.exceptions.NoPermissionError):
                    raise row
        found = [(id, row) for id, row in zip(names, rows, strict=True) if not isinstance(row, Exception)]
        return {id: job for id, row in found if (job := _kept(id, row)) is not None}

    def outcomes(self, id: str, after: str = "0-0", *, block_s: float = 0.0) -> tuple[str, list[m.Outcome]]:
        """Return outcomes that were appended after the entry ``after``, ENTRIES_MAX at most, and the last one's id.

        Waits up to ``block_s`` for the first. What is no outcome is left out: anybody may have written there.
        """
        key = f"{self._prefix}outcomes:{id}"
        with explained(self._settings):
            reply = self._redis.xread({key: after}, count=ENTRIES_MAX, block=int(block_s * 1000) or None)
        entries = reply[0][1] if reply else []
        found = [outcome for _, fields in entries if (outcome := _outcome(fields)) is not None]
        return (_text(entries[-1][0]) if entries else after), found

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()


def _kept(id: str, row: Sequence[bytes | None]) -> KeptJob | None:
    if row[0] is None:
        return None
    try:
        numbers = [int(row[k] or 0) for k in (1, 3, 4, 8, 9, *range(10, 15))]
    except ValueError:
        return None
    epoch, tasks, kind, submitted_ms, ended_ms, *counts = numbers
    return KeptJob(
        id, _text(row[0]), epoch, _text(row[2]), tasks, kind, _text(row[5]), _text(row[6]), row[7] == b"1",
        submitted_ms / 1e3, ended_ms / 1e3, counts,
    )  # fmt: skip


def _outcome(fields: dict[bytes, bytes]) -> m.Outcome | None:
    body = fields.get(_BODY, b"")
    frames = [fields[name] for number in range(1, len(fields)) if (name := b"%d" % number) in fields]
    try:
        (outcome,) = codec.decode(body, [m.Blob(frame, len(frame)) for frame in frames])
    except (ProtocolError, ValueError):
        return None
    return outcome if isinstance(outcome, m.Outcome) else None
