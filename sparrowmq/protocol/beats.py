"""Heartbeats: what workers and schedulers put into the store's stream, and its bytes.

Owns: the fields of a beat and their bounds. Must not know: the stream, clocks, or what is concluded from a beat.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from sparrowmq.errors import ProtocolError
from sparrowmq.protocol.records import Count, Text

BEAT_BYTES_MAX: Final = 64 * 1024
_Probes = Annotated[dict[Text, Count], Meta(max_length=1024)]


class Beat(msgspec.Struct, frozen=True, array_like=True):
    """One heartbeat. ``sequence`` is the number of intervals since its incarnation began: a frozen process skips some.

    Load is that of a worker at the moment of the beat: ``running`` counts busy slots, ``queued`` reservations and
    pushed tasks that wait, and ``pushed`` the tasks among them; ``service_us`` is what tasks have lately taken (0: not
    known). Of a scheduler ``queued`` is how many tasks the reservations that it has left stand for. ``probes``:
    reservations and pushed tasks received so far from each scheduler, by its id; of a scheduler, under its own id, how
    many tasks it has looked for places for by hints. ``leaving``: the last beat of a process that ends in order.
    """

    kind: Text  # "worker" or "scheduler"
    id: Text
    incarnation: Count
    sequence: Count
    interval_ms: Count
    slots: Count = 0
    running: Count = 0
    queued: Count = 0
    service_us: Count = 0
    probes: _Probes = {}
    draining: bool = False
    leaving: bool = False
    pushed: Count = 0


_decoder = msgspec.msgpack.Decoder(Beat)


def encode(beat: Beat) -> bytes:
    """Return the bytes of a beat."""
    return msgspec.msgpack.encode(beat)


def decode(data: bytes) -> Beat:
    """Return the beat in these bytes; raise ProtocolError for what is none: anybody may have written there."""
    if len(data) > BEAT_BYTES_MAX:
        raise ProtocolError("too_large", f"a beat of {len(data):,} bytes: the limit is {BEAT_BYTES_MAX:,}")
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError("malformed", f"no beat: {error}") from None
