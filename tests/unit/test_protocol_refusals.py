"""What the codec refuses: wrong types and ranges of every field, broken bytes, hostile sizes. Always by name."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from typing import Any, cast

import msgpack
import msgspec
import pytest
from msgspec import inspect

from sparrowmq import limits
from sparrowmq.errors import ProtocolError
from sparrowmq.protocol import codec, messages as m
from tests.support.messages import SAMPLES, name_of, pack, unpack

SCALARS: dict[type[inspect.Type], list[object]] = {
    inspect.IntType: [None, True, 1.0, "1", b"1", [], {}, -1, 2**63, 2**64 - 1],
    inspect.FloatType: [None, True, "1", b"1", [], math.nan, math.inf, -math.inf, -1, 1e300],
    inspect.StrType: [None, True, 1, 1.0, b"text", []],
    inspect.BytesType: [None, True, 1, "text", []],
    inspect.UnionType: [None, True, 1.0, "text", [], -1, limits.FRAMES_MAX, 0],
}


def wrong(kind: inspect.Type, good: Any) -> Iterator[object]:
    """Values that do not belong where ``good`` stands, down into nested ones."""
    yield from SCALARS.get(type(kind), [None, 1, "text", b"bytes"])
    match kind:
        case inspect.IntType(le=int(most)) | inspect.StrType(max_length=int(most)) if isinstance(kind, inspect.IntType):
            yield most + 1
        case inspect.IntType(lt=int(above)):
            yield above
        case inspect.FloatType(le=float(most)):
            yield most * (1 + 1e-9)
        case inspect.StrType(max_length=int(most)):
            yield "x" * (most + 1)
        case inspect.BytesType(max_length=int(most)):
            yield bytes(most + 1)
        case inspect.ListType(item_type=item, max_length=int(most)):
            yield [good[0]] * (most + 1)
            for bad in wrong(item, good[0]):
                yield [bad, *good[1:]]
        case inspect.DictType(value_type=value, max_length=int(most)):
            yield {str(n): 1 for n in range(most + 1)}
            for bad in wrong(value, 1):
                yield {"key": bad}
            yield {1: 1}
        case inspect.StructType(fields=fields):
            yield good[:-1] if fields[-1].required else []
            for position, field in enumerate(fields):
                for bad in wrong(field.type, good[position]):
                    yield [*good[:position], bad, *good[position + 1 :]]


def shown(value: object) -> str:
    return repr(value)[:60]


def refusal(body: bytes) -> ProtocolError:
    with pytest.raises(ProtocolError) as raised:
        codec.decode(body)
    assert len(str(raised.value)) < limits.DETAIL_CHARS_MAX + 200
    return raised.value


@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
def test_wrong_fields(sample: m.AnyMessage) -> None:
    [[tag, *good]] = unpack(pack([sample]))
    fields = cast(inspect.StructType, inspect.type_info(type(sample))).fields
    tried = 0
    for position, field in enumerate(fields):
        for bad in wrong(field.type, good[position]):
            if isinstance(field.type, inspect.StructType) and bad == []:  # every field of a job spec has a default
                continue
            body = msgpack.packb([[tag, *good[:position], bad, *good[position + 1 :]]])
            try:
                codec.decode(body)
            except ProtocolError as error:
                assert error.code in ("malformed", "version")  # noqa: PT017 - one try for thousands of values
            else:
                pytest.fail(f"{field.name} = {shown(bad)} was taken")
            tried += 1
    assert tried >= 6 * len(fields)


@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
def test_missing_fields(sample: m.AnyMessage) -> None:
    [fields] = unpack(pack([sample]))
    needed = sum(field.required for field in cast(inspect.StructType, inspect.type_info(type(sample))).fields)
    for n in range(needed + 1):
        assert refusal(msgpack.packb([fields[:n]])).code == "malformed"


PARALLEL = {
    "task attempts": [10, 1, "j", 0, [], [0, 1], [1], [b"", b""]],
    "task payloads": [10, 1, "j", 0, [], [0, 1, 2], [1, 1, 1], [b"", b""]],
    "task without payload": [10, 1, "j", 0, [], [0], [1], []],
    "result attempts": [15, 1, "j", 0, [0], [], b"\0", [1], [b""]],
    "result statuses": [15, 1, "j", 0, [0], [1], b"", [1], [b""]],
    "result durations": [15, 1, "j", 0, [0], [1], b"\0", [], [b""]],
    "result payloads": [15, 1, "j", 0, [0], [1], b"\0", [1], []],
    "result status 6": [15, 1, "j", 0, [0], [1], b"\6", [1], [b""]],
    "outcome statuses": [17, 1, "j", 0, [0], b"\0\0", [b""]],
    "outcome payloads": [17, 1, "j", 0, [0, 1], b"\0\0", [b""]],
    "outcome status 255": [17, 1, "j", 0, [0], b"\xff", [b""]],
    "submit payloads": [4, "j", 0, [], 3, [b"", b""]],
    "submit no payload": [4, "j", 0, [], 1, []],
    "submit indices": [4, "j", 0, [], 2, [b""], b"", [0]],
    "submit an index twice": [4, "j", 0, [], 2, [b""], b"", [7, 7]],
    "submit deaths": [4, "j", 0, [], 2, [b""], b"", [], [1]],
    "claimed attempts": [34, "j", 1, [0], []],
    "died deaths": [35, "j", 1, [0, 1], [1]],
    "hints waits": [32, 1, ["w"], []],
    "returned attempts": [14, 1, "j", 0, [0, 1], [1]],
    "hello held": [1, 1, "0", "worker", "w", 1, "", "", 0, 1, [], [["j", 0, [0], []]]],
}


@pytest.mark.parametrize("what", PARALLEL)
def test_parallel_lists_have_one_length(what: str) -> None:
    error = refusal(msgpack.packb([PARALLEL[what]]))
    assert error.code == "malformed"
    assert str(error).startswith(what.split()[0])


# Broken bytes


@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
def test_truncation_at_each_byte(sample: m.AnyMessage) -> None:
    [body] = pack([sample])
    for end in range(len(body)):
        error = refusal(body[:end])
        assert error.code == "malformed"
        assert "truncated" in str(error)


@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
def test_trailing_bytes(sample: m.AnyMessage) -> None:
    [body] = pack([sample])
    for tail in (b"\0", b"\xc0", b"\xc1", body):
        error = refusal(body + tail)
        assert error.code == "malformed"
        assert "trailing" in str(error)


@pytest.mark.parametrize(
    "tag", [0, 37, 127, 128, 2**32, 2**64 - 1, -1, -128, None, True, False, 1.0, "ping", b"\x18", [], [24], {}]
)
def test_unknown_tags(tag: object) -> None:
    error = refusal(msgpack.packb([[24, 1], [tag, 1]]))
    assert error.code == "unknown_type"
    if type(tag) is int:
        assert str(error) == f"unknown message type {tag}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 40,
        msgpack.packb(None),
        msgpack.packb([]),
        msgpack.packb([[]]),
        msgpack.packb([None]),
        msgpack.packb({}),
        msgpack.packb([24, 1]),
        msgpack.packb([24]),
        msgpack.packb("[[24, 1]]"),
        msgpack.packb([{"n": 1}]),
        msgpack.packb([[24, msgpack.ExtType(5, b"x")]]),
        msgpack.packb([[24, msgpack.Timestamp(1, 2)]]),
        msgpack.packb([[24, 1]]).replace(b"\x01", b"\xc1"),
    ],
)
def test_what_is_no_message(body: bytes) -> None:
    assert refusal(body).code == "malformed"


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"ok\x80"])
def test_text_that_is_not_utf8(text: bytes) -> None:
    field = bytes([0xA0 + len(text)]) + text
    for body in (b"\x91\x92\x1a" + field, b"\x91\x93\x1a" + field + b"\x01"):
        error = refusal(body)
        assert (error.code, str(error)) == ("malformed", "a text is not UTF-8")


def test_errors_do_not_repeat_what_the_peer_sent() -> None:
    secret = "hunter2" * 10
    for bad in ([secret, 1], [26, [secret]], [24, secret], [17, secret, secret], {secret: secret}):
        assert "hunter2" not in str(refusal(msgpack.packb([bad])))


# Hostile sizes


def peak_bytes(body: bytes) -> int:
    """How much memory it takes to refuse ``body``."""
    tracemalloc.start()
    try:
        refusal(body)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


HUGE = {
    "array": b"\xdd\xff\xff\xff\xff",
    "map": b"\xdf\xff\xff\xff\xff",
    "text": b"\xdb\xff\xff\xff\xff",
    "bytes": b"\xc6\xff\xff\xff\xff",
    "extension": b"\xc9\xff\xff\xff\xff\x01",
}


@pytest.mark.parametrize("what", HUGE)
@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
def test_a_huge_declared_length_is_not_allocated(sample: m.AnyMessage, what: str) -> None:
    [fields] = unpack(pack([sample]))
    parts = [msgpack.packb(field) for field in fields]
    for position in range(len(parts) + 1):
        tail = b"".join(parts[position + 1 :]) + b"\0" * 100
        body = b"\x91" + msgpack.Packer().pack_array_header(max(len(parts), position + 1))
        body += b"".join(parts[:position]) + HUGE[what] + tail
        assert peak_bytes(body) < 100_000


@pytest.mark.parametrize("body", list(HUGE.values()) + [b"\x91" + huge for huge in HUGE.values()])
def test_a_huge_declared_batch_is_not_allocated(body: bytes) -> None:
    assert peak_bytes(body) < 100_000
    assert peak_bytes(body + b"\x92\x18\x01" * 10_000) < 100_000


def test_more_messages_than_the_limit_are_not_built() -> None:
    n = 1_000_000
    assert peak_bytes(b"\xdd" + n.to_bytes(4, "big") + b"\x92\x18\x01" * n) < 100_000
    most = b"\xdc" + limits.MESSAGES_MAX.to_bytes(2, "big") + b"\x92\x18\x01" * limits.MESSAGES_MAX
    assert len(codec.decode(most)) == limits.MESSAGES_MAX


@pytest.mark.parametrize("start", [b"\x63", b"\x18\xc0", b"\x18\x01\xc1", b"\x1a\x01"])
def test_explaining_an_error_does_not_build_what_is_wrong(start: bytes) -> None:
    n = 1_000_000
    junk = {"maps": b"\x80" * n, "texts": b"\xa3abc" * n, "floats": b"\xcb" + b"?" * 8 + b"\x80" * (n - 1)}
    for body in junk.values():
        message = b"\x91\xdd" + (n + len(start)).to_bytes(4, "big") + start + body
        assert peak_bytes(message) < 100_000


@pytest.mark.parametrize("nest", [b"\x91", b"\x81\x01", b"\x81"])
@pytest.mark.parametrize(
    ("start", "depth"),
    [
        (b"", 1_000),
        (b"\x91", 1_000),
        (b"\x91\x92\x18", 1_000),  # in a field
        (b"\x91\x92\x63", 1_000),  # in a message of unknown type
        (b"\x91\x93\x18\x01", 5_000_000),  # in a field of the future, which is skipped and may be deep
        (b"\x91\x92\x18", 5_000_000),
    ],
)
def test_deep_nesting(start: bytes, depth: int, nest: bytes) -> None:
    assert peak_bytes(start + nest * depth + b"\xc0") < 200_000


def test_too_large_by_frame_and_by_number() -> None:
    ping = msgpack.packb([[24, 1]])
    zeros = bytes(limits.FRAME_BYTES_MAX + 1)
    for body, blobs in (
        (zeros, []),
        (ping, [m.Blob(b"", limits.FRAME_BYTES_MAX + 1)]),
        (ping, [m.Blob(b"", 0)] * limits.FRAMES_MAX),
    ):
        with pytest.raises(ProtocolError, match="the limits are 1,024 frames of 67,112,960 bytes") as raised:
            codec.decode(body, blobs)
        assert raised.value.code == "too_large"


def test_every_number_and_text_has_a_bound() -> None:
    """A field without a bound is a way to make a machine raise or swell."""

    def unbounded(kind: inspect.Type, path: str) -> Iterator[str]:
        match kind:
            case inspect.IntType(ge=None) | inspect.IntType(le=None, lt=None):
                yield path
            case inspect.FloatType(ge=None) | inspect.FloatType(le=None):
                yield path
            case inspect.StrType(max_length=None) | inspect.BytesType(max_length=None) if not path.endswith("|"):
                yield path
            case inspect.ListType(max_length=None) | inspect.DictType(max_length=None):
                yield path
        match kind:
            case inspect.ListType(item_type=item):
                yield from unbounded(item, f"{path}[]")
            case inspect.DictType(key_type=key, value_type=value):
                yield from unbounded(key, f"{path} key")
                yield from unbounded(value, f"{path} value")
            case inspect.UnionType(types=types):
                for one in types:
                    yield from unbounded(one, f"{path}|")  # payload bytes: bounded by the frame
            case inspect.StructType(fields=fields):
                for field in fields:
                    yield from unbounded(field.type, f"{path}.{field.name}")

    found = [path for sample in SAMPLES for path in unbounded(inspect.type_info(type(sample)), name_of(sample))]
    assert found == []


def test_samples_are_whole() -> None:
    """`test_wrong_fields` looks into the first item of each list, so no sample may have an empty one."""
    for sample in SAMPLES:
        for name in sample.__struct_fields__:
            value = getattr(sample, name)
            assert value not in ([], {}), f"{name_of(sample)}.{name}"
            assert not isinstance(value, msgspec.Struct) or isinstance(value, m.JobSpec)
