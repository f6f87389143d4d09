"""The largest payload.

Owns: the check every payload passes before it leaves. Must not know: what is inside.
"""

from __future__ import annotations

from sparrowmq import limits
from sparrowmq.errors import TooLarge


def checked(data: bytes, what: str) -> bytes:
    """Return ``data``; raise TooLarge, naming ``what``, when it does not fit into one frame of the protocol."""
    if len(data) > limits.FRAME_BYTES_MAX:
        excess = len(data) - limits.FRAME_BYTES_MAX
        raise TooLarge(
            f"{what}: {len(data):,} bytes are {excess:,} more than the limit of {limits.FRAME_BYTES_MAX:,} bytes",
            hint="pass large data by reference (a path, a URL)",
        )
    return data
