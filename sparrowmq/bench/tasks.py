"""The tasks that benchmarks run. Workers import this room, so it imports next to nothing.

Owns: the functions. Must not know: who measures what with them.
"""

from __future__ import annotations

import hashlib
import re
import time

_WORD = re.compile(rb"\w+")


def echo(number: int) -> int:
    """Return ``number``: as little as a task can do while its result can be checked."""
    return number


def nap(duration_s: float) -> tuple[float, float]:
    """Sleep; return when that began (Unix time) and how long it truly took, in seconds."""
    began_unix_s = time.time()
    began_s = time.monotonic()
    time.sleep(duration_s)
    return began_unix_s, time.monotonic() - began_s


def count_words(path: str) -> tuple[int, int, str]:
    """Return how many words a file has, how many different ones, and its SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        text = file.read()
    words = _WORD.findall(text)
    return len(words), len(set(words)), hashlib.sha256(text).hexdigest()
