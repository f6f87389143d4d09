"""The tasks that benchmarks run. Workers import this room, so it imports next to nothing.

Owns: the functions. Must not know: who measures what with them.
"""

from __future__ import annotations

import hashlib
import time


def echo(number: int) -> int:
    """Return ``number``: as little as a task can do while its result can be checked."""
    return number


def nap(duration_s: float) -> tuple[float, float]:
    """Sleep; return when that began (Unix time) and how long it truly took, in seconds."""
    began_unix_s = time.time()
    began_s = time.monotonic()
    time.sleep(duration_s)
    return began_unix_s, time.monotonic() - began_s


def count_words(path: str) -> tuple[int, str]:
    """Return how many words a file has, and its SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        text = file.read()
    return len(text.split()), hashlib.sha256(text).hexdigest()
