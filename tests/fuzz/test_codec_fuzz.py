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
from tests.support.mutation import mutate, mutate_fields

SEED = 20131103
MUTANTS = 300_000
MOST_S = 8.0  # a slow machine tries fewer mutants


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


def test_mutated_frames() -> None:
    rng = random.Random(SEED)
    seeds = [pack([sample])[0] for sample in SAMPLES]
    seeds += [pack(rng.sample(SAMPLES, 3))[0] for _ in range(20)]
    seen = Counter[str]()
    end = time.monotonic() + MOST_S
    for _ in range(MUTANTS):
        seed = rng.choice(seeds)
        body = mutate(rng, seed, rng.choice(seeds)) if rng.random() < 0.7 else mutate_fields(rng, seed)
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


@given(tag=st.integers(0, 40), fields=st.lists(_VALUES, max_size=12))
@settings(max_examples=500)
def test_any_fields(tag: int, fields: list[object]) -> None:
    check([msgpack.packb([[tag, *fields]], unicode_errors="surrogatepass")])


@given(batch=st.lists(messages(), min_size=1, max_size=3), frames=st.lists(st.binary(max_size=3), max_size=3))
def test_frames_that_belong_to_other_messages(batch: list[object], frames: list[bytes]) -> None:
    check([pack(batch)[0], *frames])  # type: ignore[arg-type]
