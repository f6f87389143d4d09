"""The functions that every system runs. Importable by their processes, so that none has to send code.

Owns: the functions. Must not know: which system runs them.
"""

from __future__ import annotations

import functools
import os
import time

_NUMBER_BYTES = 8


def echo(number: int) -> int:
    """Return ``number``: a no-op whose result can be checked."""
    return number


def nap(duration_s: float) -> float:
    """Sleep."""
    time.sleep(duration_s)
    return duration_s


def label(data: bytes) -> list[int]:
    """Return the number and the size of a `block`."""
    return [int.from_bytes(data[:_NUMBER_BYTES], "big"), len(data)]


def block(row: tuple[int, int]) -> bytes:
    """Return a block of the number and size in ``row``: nothing to compress, no two alike."""
    number, size_bytes = row
    return number.to_bytes(_NUMBER_BYTES, "big") + _noise(size_bytes - _NUMBER_BYTES)


@functools.lru_cache(maxsize=1)
def _noise(size_bytes: int) -> bytes:
    return os.urandom(size_bytes)
