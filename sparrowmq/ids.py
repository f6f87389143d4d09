"""Identifiers: what they look like and how they are made.

Owns: the text form of job, worker, scheduler and client ids, and whose a job's id says that it is. Must not know:
clocks or global random generators; the caller passes the wall time and the random bits, so that a simulation can
replay them.

The id of a job bears its owner: after the last dot stands the owner's tag. Clients that share the role's secret, and
all where there are no keys, have the tag "" and ids without a dot; they share their jobs. A listed client's tag is the
fingerprint of its key (security/credentials.py), and its jobs are its own.
"""

from __future__ import annotations

import random
from typing import Final

JOB_CHARS: Final = 20  # of a job id, without its owner's tag: Redis tells ids with and without a tag apart by it
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case: nothing looks alike


_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]


def _base32(value: int, length: int) -> str:
    """Return the last ``length`` digits, an even number, two at a time."""
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(5 * length - 10, -1, -10)])


def job_id(unix_ms: int, rng: random.Random, owner: str = "") -> str:
    """Return a job id that sorts by time: 9 characters of ``unix_ms``, 11 random ones (55 bits), the owner's tag."""
    base = _base32(unix_ms << 55 | rng.getrandbits(55), JOB_CHARS)
    return f"{base}.{owner}" if owner else base


def owner_of(job_id: str) -> str:
    """Return the tag of the owner that a job's id bears, "" where it bears none."""
    return job_id.rpartition(".")[2] if "." in job_id else ""


def node_id(role: str, rng: random.Random) -> str:
    """Return ``role-xxxxxxxx`` with 40 random bits, for one scheduler, worker or client."""
    return f"{role}-{_base32(rng.getrandbits(40), 8)}"
