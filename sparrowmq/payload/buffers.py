"""A pickle and the large buffers that it refers to, side by side in one payload.

Owns: the container's layout (docs/protocol.md has it, too). Must not know: what the pickle is of.

    0   marker 0xB5, which no pickle starts with; 3 zero bytes
    4   u32 number of buffers
    8   u64 length of the pickle
    16  for each buffer: u64 offset from the start of the payload, u64 length
    ..  the pickle
    ..  each buffer, on a 64-byte boundary of the payload, zeros between

Integers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

MARK: Final = 0xB5
ALIGNMENT: Final = 64
_HEAD: Final = struct.Struct("<B3xIQ")
_ROW: Final = struct.Struct("<QQ")

Payload = bytes | bytearray | memoryview


def size(pickled: bytes, buffers: Sequence[memoryview]) -> int:
    """Return how many bytes `pack` returns."""
    *_, end = _layout(pickled, buffers)
    return end


def _layout(pickled: bytes, buffers: Sequence[memoryview]) -> list[int]:
    """Return the offset of each buffer, and the end of all."""
    at = _HEAD.size + _ROW.size * len(buffers) + len(pickled)
    offsets = []
    for buffer in buffers:
        at = -(-at // ALIGNMENT) * ALIGNMENT
        offsets.append(at)
        at += buffer.nbytes
    return [*offsets, at]


def pack(pickled: bytes, buffers: Sequence[memoryview]) -> bytes:
    """Return the container. ``buffers`` are flat; each is copied once."""
    *offsets, _ = _layout(pickled, buffers)
    pieces: list[bytes | memoryview] = [_HEAD.pack(MARK, len(buffers), len(pickled))]
    pieces += [_ROW.pack(offset, buffer.nbytes) for offset, buffer in zip(offsets, buffers, strict=True)]
    pieces.append(pickled)
    at = _HEAD.size + _ROW.size * len(buffers) + len(pickled)
    for offset, buffer in zip(offsets, buffers, strict=True):
        pieces += [bytes(offset - at), buffer]
        at = offset + buffer.nbytes
    return b"".join(pieces)


def is_packed(data: Payload) -> bool:
    """Tell a container from a plain pickle."""
    return len(data) > 0 and data[0] == MARK


def unpack(data: Payload) -> tuple[memoryview, list[memoryview]]:
    """Return the pickle and the buffers of a container: views of ``data`` where that is writable, else of a copy.

    Raises ValueError where the table does not fit the data.
    """
    view = memoryview(data)
    if view.readonly:
        view = memoryview(bytearray(view))
    try:
        _, count, length = _HEAD.unpack_from(view)
        start = _HEAD.size + _ROW.size * count
        rows = [_ROW.unpack_from(view, _HEAD.size + _ROW.size * number) for number in range(count)]
    except struct.error as error:
        raise ValueError(f"a container of {len(view):,} bytes is cut short: {error}") from None
    if start + length > len(view) or any(offset + size > len(view) for offset, size in rows):
        raise ValueError(f"a container of {len(view):,} bytes is cut short")
    return view[start : start + length], [view[offset : offset + size] for offset, size in rows]
