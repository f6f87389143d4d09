"""Identifiers: what they look like and how they are made.

Owns: the text form of job, worker, scheduler and client ids. Must not know: clocks or global random
generators; the caller passes the wall time and the random bits, so that a simulation can replay them.
"""

from __future__ import annotations

import random

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case: nothing looks alike


_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]


def _base32(value: int, length: int) -> str:
    """Return the last ``length`` digits, an even number, two at a time."""
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(5 * length - 10, -1, -10)])


def job_id(unix_ms: int, rng: random.Random) -> str:
    """Return a 20-character job id that sorts by time: 9 characters of ``unix_ms``, 11 random ones (55 bits)."""
    return _base32(unix_ms << 55 | rng.getrandbits(55), 20)


def node_id(role: str, rng: random.Random) -> str:
    """Return ``role-xxxxxxxx`` with 40 random bits, for one scheduler, worker or client."""
    return f"{role}-{_base32(rng.getrandbits(40), 8)}"
