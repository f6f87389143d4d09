"""The tasks that benchmarks run. Workers import this room, so it imports next to nothing.

Owns: the functions. Must not know: who measures what with them.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import time
from typing import Any, Final

_WORD = re.compile(rb"\w+")
_NUMBER_BYTES: Final = 8


def echo(number: int) -> int:
    """Return ``number``: as little as a task can do while its result can be checked."""
    return number


def nap(duration_s: float) -> tuple[float, float]:
    """Sleep; return when that began (Unix time) and how long it truly took, in seconds."""
    began_unix_s = time.time()
    began_s = time.monotonic()
    time.sleep(duration_s)
    return began_unix_s, time.monotonic() - began_s


def block(number: int, size_bytes: int) -> bytes:
    """Return ``size_bytes`` (at least 8) that begin with ``number`` and go on at random: nothing to compress."""
    return number.to_bytes(_NUMBER_BYTES) + _noise(size_bytes - _NUMBER_BYTES)


def array_block(number: int, size_bytes: int) -> Any:
    """Return `block` as a numpy array of bytes."""
    import numpy

    return numpy.frombuffer(block(number, size_bytes), dtype=numpy.uint8)


def label(data: Any) -> tuple[int, int]:
    """Return the number and the size in bytes of a `block`, bytes or array."""
    return int.from_bytes(bytes(data[:_NUMBER_BYTES])), len(data)


@functools.lru_cache(maxsize=1)
def _noise(size_bytes: int) -> bytes:
    return os.urandom(size_bytes)


def count_words(path: str) -> tuple[int, int, str]:
    """Return how many words a file has, how many different ones, and its SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        text = file.read()
    words = _WORD.findall(text)
    return len(words), len(set(words)), hashlib.sha256(text).hexdigest()
