"""The largest payload.

Owns: the check every payload passes before it leaves. Must not know: what is inside.
"""

from __future__ import annotations

from sparrowmq import limits
from sparrowmq.errors import TooLarge


def check(size: int, what: str) -> None:
    """Raise TooLarge, naming ``what``, when ``size`` bytes do not fit into one frame of the protocol."""
    if size > limits.FRAME_BYTES_MAX:
        excess = size - limits.FRAME_BYTES_MAX
        raise TooLarge(
            f"{what}: {size:,} bytes are {excess:,} more than the limit of {limits.FRAME_BYTES_MAX:,} bytes",
            hint="pass large data by reference (a path, a URL)",
        )


def checked(data: bytes, what: str) -> bytes:
    """Return ``data``; raise TooLarge, naming ``what``, when it does not fit into one frame of the protocol."""
    check(len(data), what)
    return data
