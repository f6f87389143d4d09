"""What each role may do in Redis: one table, and the ACL file that follows from it.

Owns: which commands on which keys each role needs, and how Redis wants that written. Must not know: files, or what the
keys hold (store/). tests/integration/test_store_access.py holds the table to what the roles do.

Redis 7.0 or later, or Valkey, is needed. A row is a selector, so that a command is good for the keys beside it and no
others. What the table cannot tell apart are members of a role: a worker may write the record of another worker. But
clients read durable jobs of their own owner only (ids.py): those that share the clients' secret share a user too, and
each listed key has one of its own. An id without a tag has JOB_CHARS characters, one with a tag always has more.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from sparrowmq import ids
from sparrowmq.errors import SecurityError
from sparrowmq.security.credentials import CLIENT, ROLES, SCHEDULER

USERS: Final = (SCHEDULER, *ROLES)
_PREFIX: Final = re.compile(r"[A-Za-z0-9_.:{}/@-]{1,64}")  # no space, and nothing that a pattern means something by


class Row(NamedTuple):
    """Commands, and the keys on which they are allowed. ``access``: "R" to read, "W" to write, "RW" both."""

    commands: str
    access: str
    keys: str


# Of a connection: finding out whether it is there, choosing the database.
_CONNECTION: Final = "ping select multi exec discard"
_LISTEN: Final = "subscribe unsubscribe"
_FIND: Final = (Row("zrevrange", "R", "schedulers"), Row("get mget", "R", "scheduler:*"))
_BEAT: Final = Row("xadd", "W", "beats")


def _register(kind: str) -> tuple[Row, ...]:
    """Return what publishing a record, keeping it and withdrawing it takes."""
    return (
        Row("get set del", "RW", f"{kind}:*"),
        Row("zadd zrem zremrangebyrank zremrangebyscore", "RW", f"{kind}s"),
    )


def _read_jobs(ids: str) -> tuple[Row, ...]:
    """Return what reading durable jobs takes, and the results of those whose ids match this pattern."""
    return Row("hmget", "R", f"job:{ids}"), Row("xread", "R", f"outcomes:{ids}")


# Commands that concern no key; of @blocking that leaves WAIT and, where it is known, WAITAOF.
ROOT: Final[Mapping[str, str]] = {
    SCHEDULER: f"{_CONNECTION} {_LISTEN} publish info @blocking time",
    "worker": f"{_CONNECTION} {_LISTEN} publish",
    "assistant": f"{_CONNECTION} {_LISTEN} publish time",
    "client": f"{_CONNECTION} {_LISTEN} time info",
}
_JOB_WRITES: Final = (
    "eval hmget hget hset hsetnx hdel hincrby persist pexpire xlen xadd setrange get del zadd zrem zremrangebyscore"
)
TABLE: Final[Mapping[str, tuple[Row, ...]]] = {
    SCHEDULER: (
        *_register("scheduler"),
        *_FIND,
        _BEAT,
        Row(_JOB_WRITES, "RW", "job:* outcomes:* ends:* jobs:open jobs:over"),
        Row("zrange", "R", "jobs:open jobs:over"),
        Row("xread", "R", "outcomes:*"),
    ),
    "worker": (*_register("worker"), *_FIND, _BEAT),
    "assistant": (
        *_register("assistant"),
        *_FIND,
        _BEAT,
        Row("xread", "R", "beats"),
        Row("set del", "W", "report:*"),
        Row("eval get set", "RW", "scheduler:*"),
        Row("eval get set del pttl pexpire", "RW", "lease term"),
    ),
    CLIENT: (
        *_FIND,
        Row("zrevrange", "R", "workers assistants"),
        Row("zrange", "R", "jobs:open jobs:over"),
        Row("get mget", "R", "worker:* assistant:* report:* lease"),
        *_read_jobs("?" * ids.JOB_CHARS),
        Row("xread", "R", "beats"),
    ),
}
_LISTED: Final = re.compile(rf"user {CLIENT}-([0-9a-f]{{20}}) .*#([0-9a-f]{{64}}) ")


def users(prefix: str, passwords: Mapping[str, str]) -> dict[str, str]:
    """Return the line of each user of an ACL file; ``passwords`` by role, of which the file has the SHA-256 only."""
    _check(prefix)
    # Nobody can be this user, and it may do all: as it Redis 7.0 reads its append-only file, dropping what it may not.
    lines = {"default": "user default off resetpass ~* &* +@all"}
    for role in USERS:
        lines[role] = _line(prefix, role, digest(passwords[role]), ROOT[role], TABLE[role])
    return lines


def listed_user(owner: str) -> str:
    """Return the name of the user of a listed client with this owner's tag."""
    return f"{CLIENT}-{owner}"


def listed_line(prefix: str, owner: str, password_digest: str) -> str:
    """Return the line of a listed client's user: it may what clients may, but reads its own durable jobs only."""
    _check(prefix)
    shared, own = _read_jobs("?" * ids.JOB_CHARS), _read_jobs(f"*.{owner}")
    rows = (*(row for row in TABLE[CLIENT] if row not in shared), *own)
    return _line(prefix, listed_user(owner), password_digest, ROOT[CLIENT], rows)


def listed_digests(lines: Iterable[str]) -> dict[str, str]:
    """Return the password's digest of each listed client that has a line here, by the owner's tag."""
    return {found[1]: found[2] for line in lines if (found := _LISTED.match(line))}


def digest(password: str) -> str:
    """Return what stands for a password in an ACL file."""
    return hashlib.sha256(password.encode()).hexdigest()


def _check(prefix: str) -> None:
    if not _PREFIX.fullmatch(prefix):
        raise SecurityError(
            f"store.prefix = {prefix!r} cannot stand in an ACL file of Redis",
            hint="use letters, digits and _ . : - / @ { }",
        )


def _line(prefix: str, user: str, password_digest: str, root: str, rows: Iterable[Row]) -> str:
    commands = " ".join(f"+{command}" for command in root.split())
    selectors = " ".join(_selector(prefix, row) for row in rows)
    allowed = f"resetchannels &{prefix}changed -@all {commands} {selectors}"
    return f"user {user} on resetpass #{password_digest} {allowed}"


def _selector(prefix: str, row: Row) -> str:
    allowed = "~" if row.access == "RW" else f"%{row.access}~"
    commands = " ".join(f"+{command}" for command in row.commands.split())
    patterns = " ".join(f"{allowed}{prefix}{key}" for key in row.keys.split())
    return f"(-@all {commands} {patterns})"
