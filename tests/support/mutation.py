"""Frames that are nearly right: bytes flipped, cut and copied, and fields that have another value than they should."""

from __future__ import annotations

import copy
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from sparrowmq import limits
from sparrowmq.errors import ProtocolError
from sparrowmq.protocol import beats, codec, messages as m
from tests.support.maker import Step
from tests.support.messages import blobs

HEADERS = bytes([0x80, 0x90, 0x91, 0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xC6, 0xCA, 0xCB, 0xCF, 0xD3, 0xD9, 0xDB, 0xDC, 0xDD])
HEADERS += bytes([0xDE, 0xDF, 0xC7, 0xD4, 0xE0, 0xFF, 0x00, 0x7F])
BLOB = b"a payload in a frame of its own"

_INTEGERS = (0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 5, 7, 255, 65_536, 99_999, 100_000, limits.INT_MAX, limits.INT_MAX + 1, -1)
_FLOATS = (0.0, -0.0, 0.001, 1.0, 1e300, 86_400.0, limits.TIMEOUT_S_MAX, -1.0, math.nan, math.inf)
_TEXTS = (
    "a",
    "b",
    "c",
    "n1",
    "n2",
    "n3",
    "s1",
    "w1",
    "c1",
    "x",
    "",
    "?",
    "é" * 256,
    "y" * 257,
    "leaving",
    "dead",
    "\0",
)
_OTHERS = (None, True, False, 0, 1.5, "a", b"a", [], {}, [0], [[1]])
_UNCHANGED = 0.2  # of the messages of a play: a machine that is only told nonsense never gets anywhere
_ENDS = 0.01  # of frames that are none end the connection: more would leave none standing


def mutate(rng: random.Random, body: bytes, other: bytes) -> bytes:
    """Return ``body`` with one to four small changes."""
    data = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.choice(HEADERS)
            case 2:
                data.insert(at, rng.choice(HEADERS))
            case 3:
                del data[at : at + rng.randint(1, 8)]
            case 4:
                data[at:at] = data[at : at + rng.randint(1, 16)]
            case 5:
                cut = rng.randrange(len(other) + 1)
                data[at:] = other[cut:]
            case _:
                data[at:at] = rng.choice(HEADERS).to_bytes(1, "big") + rng.randbytes(rng.choice([1, 2, 4, 8]))
    return bytes(data)


def mutate_fields(rng: random.Random, body: bytes) -> bytes:
    """Return ``body``, which is a msgpack array of arrays, with another value in one to three places."""
    tree: list[Any] = msgspec.msgpack.decode(body)
    for _ in range(rng.choice((1, 1, 2, 3))):
        place, depth = tree, 0
        while True:
            if not place:
                place.append(_other(rng, 0))
                break
            spared = depth == 1 and len(place) > 1 and rng.random() < 0.9  # a message's tag
            at = rng.randrange(spared, len(place))
            if not isinstance(place[at], list) or (depth and rng.random() < 0.2):
                _change(rng, place, at)
                break
            place, depth = place[at], depth + 1
    return msgspec.msgpack.encode(tree)


def _change(rng: random.Random, place: list[Any], at: int) -> None:
    kind = rng.random()
    if kind < 0.8:
        place[at] = _other(rng, place[at])
    elif kind < 0.85:
        del place[at]
    elif kind < 0.9:
        place.insert(at, copy.deepcopy(place[at]))
    else:
        place[at] = copy.deepcopy(rng.choice(_OTHERS))


def _other(rng: random.Random, value: Any) -> Any:
    """Return a value of the same kind that some code may not expect."""
    match value:
        case bool():
            return not value
        case int():
            return rng.choice(_INTEGERS)
        case float():
            return rng.choice(_FLOATS)
        case str():
            return rng.choice(_TEXTS)
        case bytes():  # among statuses and payloads: an integer names a frame
            return rng.choice((b"", bytes(len(value)), b"\xff" * len(value), value[1:], value + b"\1", 0, 0, 1))
        case list():
            return copy.deepcopy(rng.choice(([], value[::-1], value + value, value[:1], value * 40)))
    return copy.deepcopy(rng.choice(_OTHERS))


class Mutator:
    """Turns the messages of a play into mutated frames, and these into what a transport would make of them.

    ``counts`` has how many frames there were, and what the codec said of them.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.counts = Counter[str]()
        self._encoder = codec.Encoder()
        self._before = self._encode(m.Ping(1))

    def _encode(self, message: m.AnyMessage) -> bytes:
        [[body]] = self._encoder.encode([message])
        assert isinstance(body, bytes)
        return body

    def frames(self, message: m.AnyMessage) -> list[bytes]:
        """Return a mutant of this message, on its own or behind another one."""
        rng, body = self.rng, self._encode(message)
        other, self._before = self._before, body
        mutant = mutate_fields(rng, body) if rng.random() < 0.6 else mutate(rng, body, other)
        return [mutant, BLOB] if rng.random() < 0.05 else [mutant]

    def decoded(self, frames: Sequence[bytes]) -> list[m.AnyMessage]:
        """Return what the codec makes of them: nothing, where it refuses them as it should."""
        self.counts["frames"] += 1
        try:
            batch = codec.decode(frames[0], blobs(frames))
        except ProtocolError as error:
            self.counts[error.code] += 1
            return []
        self.counts["decoded"] += 1
        return batch

    def steps(self, steps: Iterable[Step]) -> Iterator[Step]:
        """Yield the steps of a play with its messages, and its beats, mutated."""
        for step in steps:
            *head, last = step
            if step[0] != "submit" and isinstance(last, m.Message) and self.rng.random() >= _UNCHANGED:
                batch = self.decoded(self.frames(last))  # type: ignore[arg-type]
                for message in batch:
                    yield *head, message
                if not batch and self.rng.random() < _ENDS:
                    yield "lost", head[-1]
            elif step[0] == "heard":
                yield *head, [beat for beat in map(self._beat, last) if beat is not None]
            else:
                yield step

    def _beat(self, beat: beats.Beat) -> beats.Beat | None:
        if self.rng.random() < _UNCHANGED:
            return beat
        self.counts["frames"] += 1
        body = beats.encode(beat)
        mutant = mutate_fields(self.rng, body) if self.rng.random() < 0.6 else mutate(self.rng, body, body)
        try:
            changed = beats.decode(mutant)
        except ProtocolError as error:
            self.counts[error.code] += 1
            return None
        self.counts["decoded"] += 1
        return changed
