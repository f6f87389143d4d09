"""Whether a pickle names something, without reading the large data in it.

Owns: so much of the pickle format as tells large data from the rest. Must not know: what is named, or why.

To look for a name in 1 MiB of noise takes twenty times as long as to pickle it. But pickle (protocol 4 and later)
writes large data beside its frames, and names are short: they are in the frames.
"""

from __future__ import annotations

import pickle
from typing import Final

SMALL_BYTES: Final = 64 * 1024  # what is smaller pickle puts into frames, too
_HEADER_BYTES: Final = 2  # the protocol
# What may stand beside the frames: bytes of the length that follows it. All but FRAME is data of the user's.
_LENGTH_BYTES: Final = {
    opcode[0]: size
    for opcode, size in (
        (pickle.FRAME, 8),
        (pickle.BINBYTES, 4),
        (pickle.BINBYTES8, 8),
        (pickle.BYTEARRAY8, 8),
        (pickle.BINUNICODE, 4),
        (pickle.BINUNICODE8, 8),
    )
}
_FRAME: Final = pickle.FRAME[0]
# Operations without an argument: three of them may stand between large data without a frame.
_PLAIN: Final = frozenset(b"(.02NRabdelostu)]}\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98")


def mentions(data: bytes, name: bytes) -> bool:
    """Return whether the pickle ``data`` names ``name``, other than in large data of the user's own.

    True may be wrong (the user has such a text), False never is.
    """
    if len(data) < SMALL_BYTES:
        return name in data
    at, end = _HEADER_BYTES, len(data)
    while at < end:
        opcode = data[at]
        size = _LENGTH_BYTES.get(opcode)
        if size is not None:
            start = at + 1 + size
            at = start + int.from_bytes(data[at + 1 : start], "little")
            if (opcode == _FRAME or at - start < SMALL_BYTES) and data.find(name, start, at) >= 0:
                return True
        elif opcode in _PLAIN:
            at += 1
        else:  # an argument too short for a frame, or a pickle made otherwise
            return data.find(name, at) >= 0
    return False
