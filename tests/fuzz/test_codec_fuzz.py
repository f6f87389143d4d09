"""Mutated and made-up bytes: the codec answers with messages that round-trip, or with ProtocolError, nothing else."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence

import msgpack
from hypothesis import given, settings, strategies as st

from sparrowmq import limits
from sparrowmq.errors import ProtocolError
from sparrowmq.protocol import codec
from tests.support.messages import SAMPLES, blobs, messages, pack, visible

SEED = 20131103
MUTANTS = 300_000
MOST_S = 8.0  # a slow machine tries fewer mutants
HEADERS = bytes([0x80, 0x90, 0x91, 0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xC6, 0xCA, 0xCB, 0xCF, 0xD3, 0xD9, 0xDB, 0xDC, 0xDD])
HEADERS += bytes([0xDE, 0xDF, 0xC7, 0xD4, 0xE0, 0xFF, 0x00, 0x7F])


def check(frames: Sequence[bytes]) -> str:
    """Decode, and where that succeeds encode and decode again; return what came of it."""
    refused: ProtocolError | None = None
    try:
        batch = codec.decode(frames[0], blobs(frames))
    except ProtocolError as error:
        refused = error
    if refused is not None:
        assert len(str(refused)) < limits.DETAIL_CHARS_MAX + 200
        return refused.code
    [again] = codec.Encoder().encode(batch)
    assert visible(codec.decode(again[0], blobs(again))) == visible(batch)  # type: ignore[arg-type]
    return "decoded"


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


def test_mutated_frames() -> None:
    rng = random.Random(SEED)
    seeds = [pack([sample])[0] for sample in SAMPLES]
    seeds += [pack(rng.sample(SAMPLES, 3))[0] for _ in range(20)]
    seen = Counter[str]()
    end = time.monotonic() + MOST_S
    for _ in range(MUTANTS):
        body = mutate(rng, rng.choice(seeds), rng.choice(seeds))
        frames = [body, *[b"payload"] * (rng.random() < 0.1)]
        seen[check(frames)] += 1
        if time.monotonic() > end:
            break
    assert set(seen) == {"decoded", "malformed", "unknown_type", "version"}
    assert seen["decoded"] > sum(seen.values()) / 100


@given(body=st.binary(max_size=200))
@settings(max_examples=500)
def test_any_bytes(body: bytes) -> None:
    check([body])


_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=5), st.binary(max_size=5)
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=8), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=20,
)


@given(tag=st.integers(0, 28), fields=st.lists(_VALUES, max_size=12))
@settings(max_examples=500)
def test_any_fields(tag: int, fields: list[object]) -> None:
    check([msgpack.packb([[tag, *fields]], unicode_errors="surrogatepass")])


@given(batch=st.lists(messages(), min_size=1, max_size=3), frames=st.lists(st.binary(max_size=3), max_size=3))
def test_frames_that_belong_to_other_messages(batch: list[object], frames: list[bytes]) -> None:
    check([pack(batch)[0], *frames])  # type: ignore[arg-type]
