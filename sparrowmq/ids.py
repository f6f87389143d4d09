"""Identifiers: what they look like and how they are made.

Owns: the text form of job, worker, scheduler and client ids. Must not know: clocks or global random
generators; the caller passes the wall time and the random bits, so that a simulation can replay them.
"""

from __future__ import annotations

import random

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case: nothing looks alike


def _base32(value: int, length: int) -> str:
    digits = []
    for _ in range(length):
        digits.append(_ALPHABET[value & 31])
        value >>= 5
    return "".join(reversed(digits))


def job_id(unix_ms: int, rng: random.Random) -> str:
    """Return a 20-character job id that sorts by time: 9 characters of ``unix_ms``, 11 random ones (55 bits)."""
    return _base32(unix_ms, 9) + _base32(rng.getrandbits(55), 11)


def node_id(role: str, rng: random.Random) -> str:
    """Return ``role-xxxxxxxx`` with 40 random bits, for one scheduler, worker or client."""
    return f"{role}-{_base32(rng.getrandbits(40), 8)}"
