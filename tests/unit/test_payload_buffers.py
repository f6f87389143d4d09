"""Large buffers beside their pickle: what comes back, what it may do, and what is left as it was."""

from __future__ import annotations

import pickle
import struct
import sys
from array import array
from typing import Any

import pytest
from hypothesis import given, strategies as st

from sparrowmq import limits
from sparrowmq.errors import NotSerializable, TooLarge
from sparrowmq.payload import buffers, python

LARGE = python.BUFFER_BYTES_MIN


class Array:
    """What an array of numpy does when it is pickled with protocol 5."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Array, (pickle.PickleBuffer(self.data),)


@given(st.binary(max_size=100), st.lists(st.binary(max_size=200), min_size=1, max_size=5), st.booleans())
def test_a_container_gives_back_what_was_put_in(pickled: bytes, parts: list[bytes], writable: bool) -> None:
    packed = buffers.pack(pickled, [memoryview(part) for part in parts])
    assert buffers.is_packed(packed)
    assert len(packed) == buffers.size(pickled, [memoryview(part) for part in parts])
    found, views = buffers.unpack(bytearray(packed) if writable else packed)
    assert (bytes(found), list(map(bytes, views))) == (pickled, parts)
    assert not any(view.readonly for view in views)
    for view, (offset, size) in zip(views, struct.iter_unpack("<QQ", packed[16 : 16 + 16 * len(parts)]), strict=True):
        assert (offset % 64, size) == (0, len(view))


@given(st.binary(max_size=60))
def test_broken_containers_are_errors_and_nothing_else(data: bytes) -> None:
    broken = bytes([buffers.MARK]) + data
    try:
        _, views = buffers.unpack(broken)
    except ValueError:
        return
    assert all(len(view) <= len(broken) for view in views)


def test_no_pickle_starts_like_a_container() -> None:
    constants = (getattr(pickle, name) for name in pickle.__all__ if name.isupper())
    opcodes = {constant[0] for constant in constants if isinstance(constant, bytes)}
    assert opcodes
    assert buffers.MARK not in opcodes
    assert not buffers.is_packed(b"")


def test_the_layout_is_the_documented_one() -> None:
    packed = buffers.pack(b"PICKLE", [memoryview(b"first"), memoryview(b"second")])
    assert packed[:4] == b"\xb5\0\0\0"
    assert struct.unpack_from("<IQ", packed, 4) == (2, 6)
    assert struct.unpack_from("<4Q", packed, 16) == (64, 5, 128, 6)
    assert packed[48:54] == b"PICKLE"
    assert (packed[64:69], packed[128:]) == (b"first", b"second")


def test_large_buffers_stand_beside_the_pickle_and_are_writable_on_the_other_side() -> None:
    data = bytearray(range(256)) * 1000
    payload = python.dump_call((Array(data), 1), {})
    assert buffers.is_packed(payload)
    assert len(payload) - len(data) < 300
    (copy, one), _ = python.load_call(payload)
    assert (bytes(copy.data), one) == (bytes(data), 1)
    copy.data[0] = 77
    assert python.load_call(payload)[0][0].data[0] == 0  # bytes stay as they are


def test_writable_memory_is_not_copied_again() -> None:
    payload = bytearray(python.dump_result(Array(bytearray(LARGE))))
    found = python.load(payload)
    found.data[5] = 99
    offset = len(payload) - LARGE
    assert payload[offset + 5] == 99


def test_what_could_not_be_written_to_cannot_be_on_the_other_side() -> None:
    found = python.load(python.dump_result(Array(bytes(LARGE))))
    assert found.data.readonly


def test_small_buffers_stay_in_a_plain_pickle() -> None:
    payload = python.dump_result([Array(bytearray(b"small")), Array(b"constant")])
    assert pickle.loads(payload)[0].data == bytearray(b"small")
    mixed = python.load(python.dump_result([Array(bytearray(b"small")), Array(bytearray(LARGE))]))
    assert (mixed[0].data, bytes(mixed[1].data)) == (b"small", bytes(LARGE))


def test_bytes_and_bytearrays_are_copied_once_as_pickle_does_it() -> None:
    for value in (bytes(LARGE * 4), bytearray(LARGE * 4), array("d", range(10_000))):
        payload = python.dump_result(value)
        assert payload[0] == 0x80
        found = python.load(payload)
        assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("size", [0, 8, LARGE])
@pytest.mark.parametrize("format", ["B", "i", "d"])
def test_memoryviews_travel_with_format_shape_and_rights(size: int, format: Any) -> None:
    view = memoryview(bytearray(range(256)) * (size // 256) + bytearray(size % 256)).cast(format)
    for original in (view, view.toreadonly(), view[::2], view.toreadonly()[::2]):
        found, _ = python.load(python.dump_result([original, "beside"]))
        assert (type(found), found.format, found.shape) == (memoryview, original.format, original.shape)
        assert found.tobytes() == original.tobytes()
        assert found.readonly == original.readonly


def test_a_memoryview_of_two_dimensions_travels() -> None:
    view = memoryview(bytearray(range(12))).cast("B", [3, 4])
    found = python.load(python.dump_result(view))
    assert (found.tolist(), found.shape) == (view.tolist(), (3, 4))


def test_what_beside_a_buffer_cannot_be_pickled_is_named() -> None:
    with pytest.raises(NotSerializable, match=r"args\[1\] cannot be pickled"):
        python.dump_call((Array(bytearray(LARGE)), sys._getframe()), {})


def test_functions_of_main_beside_a_buffer_travel_by_value() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("def double(x): return 2 * x", namespace)
    function, found = python.load(python.dump_result((namespace["double"], Array(bytearray(LARGE)))))
    assert (function(4), len(found.data)) == (8, LARGE)


def test_64_mib_fit_and_more_is_refused_before_it_is_copied() -> None:
    whole = bytearray(64 * 1024 * 1024)
    payload = python.dump_call((Array(whole),), {})
    assert len(payload) <= limits.FRAME_BYTES_MAX
    assert len(python.load_call(payload)[0][0].data) == len(whole)
    whole += bytes(limits.FRAME_BYTES_MAX - len(whole))
    for dump, what in ((python.dump_result, "result"), (lambda value: python.dump_call((value,), {}), "arguments")):
        with pytest.raises(TooLarge, match=f"{what}: 67,1.* bytes are .* more than the limit of 67,112,960 bytes"):
            dump(Array(whole))
        with pytest.raises(TooLarge, match=what):
            dump(bytes(whole))


def test_arrays_of_numpy_are_writable_whatever_their_size_and_order() -> None:
    np = pytest.importorskip("numpy")
    for original in (
        np.arange(5), np.arange(100_000), np.arange(100_000)[::3], np.asfortranarray(np.ones((300, 500))),
        np.zeros((0, 5)), np.arange(100_000).astype("datetime64[s]"),
    ):  # fmt: skip
        payload = python.dump_call((original,), {"again": {"deep": [original]}})
        for data in (payload, bytearray(payload)):
            (found,), kwargs = python.load_call(data)
            assert (found.dtype, found.shape) == (original.dtype, original.shape)
            assert (found == original).all()
            assert (kwargs["again"]["deep"][0] == original).all()
            assert found.flags.writeable
    constant = np.ones(100_000)
    constant.flags.writeable = False
    assert not python.load(python.dump_result(constant)).flags.writeable
