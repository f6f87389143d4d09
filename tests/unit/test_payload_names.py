"""Finding a name in a pickle: as a search of all of it would, save in large data, which is not looked at."""

from __future__ import annotations

import fractions
import pickle
import pickletools
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from sparrowmq.payload import names

NAME = b"fractions"
LARGE = 200_000

leaves: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=5),
    st.sampled_from([b"x" * LARGE, "y" * LARGE, bytearray(LARGE), b"z" * 300, "\u20ac" * LARGE, b"X\x08" * LARGE]),
    st.sampled_from([b"x" * (names.SMALL_BYTES + offset) for offset in range(-12, 12, 3)]),
)
named = st.just(fractions.Fraction(1, 3)) | st.just(fractions.gcd if hasattr(fractions, "gcd") else fractions.Fraction)


def values(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner)
    )


@settings(deadline=None)
@given(values(leaves | named))
def test_it_says_what_a_search_of_the_pickle_says(value: Any) -> None:
    data = pickle.dumps(value, 5)
    assert names.mentions(data, NAME) == (NAME in data)


@settings(deadline=None)
@given(st.integers(names.SMALL_BYTES - 40, names.SMALL_BYTES + 40), st.integers(0, 40))
def test_at_the_bounds_of_frames(size: int, small: int) -> None:
    for value in ((b"x" * size, fractions.Fraction), ([0] * small, b"x" * size, [fractions.Fraction]), b"x" * size):
        data = pickle.dumps(value, 5)
        assert names.mentions(data, NAME) == (NAME in data)


def test_large_data_is_not_looked_at() -> None:
    class Data(bytes):
        """Counts what is read of it."""

        read = 0

        def find(self, *where: Any) -> int:
            Data.read += (where[2] if len(where) > 2 else len(self)) - where[1]
            return bytes.find(self, *where)

    for value in (NAME * LARGE, ("fractions" * LARGE, bytearray(NAME * LARGE)), [NAME * LARGE] * 3):
        data = Data(pickle.dumps(value, 5))
        assert not names.mentions(data, NAME)
    assert Data.read < 1000


def test_the_operations_without_an_argument_are_such() -> None:
    plain = {ord(opcode.code) for opcode in pickletools.opcodes if opcode.arg is None}
    assert plain >= names._PLAIN


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_older_pickles_are_searched(protocol: int) -> None:
    data = pickle.dumps((b"x" * LARGE, fractions.Fraction(1, 3)), protocol)
    assert names.mentions(data, NAME)


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x80\x05", b"\x80\x05B" + b"\xff" * LARGE, b"\x80\x05\x95" + bytes(LARGE)]
)
def test_bytes_that_are_no_pickle(data: bytes) -> None:
    assert names.mentions(data, NAME) is False
