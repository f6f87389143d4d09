"""Messages for tests: one hand-written sample of each type, strategies made from the types, and a second codec.

The second codec knows the layout of docs/protocol.md and uses the msgpack package, so that it shares no code with
`sparrowmq.protocol.codec`.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Any

import msgpack
import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from sparrowmq.protocol import messages as m

KINDS: tuple[type[m.AnyMessage], ...] = typing.get_args(m.AnyMessage)

_JOB = "01jz0000000000000001"
_SPEC = m.JobSpec(m.CALL, "sum", "late-binding", 1.5, 0.0, 3, "", 2, 0.5, ["ValueError"], 0.95, 1.5, True, True)
_WORKER = m.WorkerStatus("worker-1", "box", 77, 4, "alive", 2, 1, 9, 0.25, "0.1.0", "3.11")
_JOB_STATUS = m.JobStatus(
    _JOB, "sum", "batch", "done", 3, 0, 0, [2, 1, 0, 0, 0], 1, "client-1", 1.5e9, 0.5, 1.0, 2.0, 3.0, 6, 1, 2, 0, "x",
    1, 2, 3, 4, True,
)  # fmt: skip
_TASK_STATUS = m.TaskStatus(
    _JOB, 5, "failed", 2, "worker-1", 1500, [m.Event(1.5e9, "launched", 2, "worker-1", "x")], b"no"
)

SAMPLES: tuple[m.AnyMessage, ...] = (
    m.Hello(
        1, "0.1.0", "worker", "worker-1", 5, "3.11", "box", 77, 4,
        [m.Reserved(_JOB, 0, 1, 2)], [m.Held(_JOB, 0, [3, 4], [1, 2])], ["job-a"], 2,
        "5f0e61d3a2b4c6978810", "5f0e61d3a2b4c6978810",
    ),
    m.Welcome("scheduler-1", 6, "0.1.0", ["job-a"]),
    m.Refused("version", "upgrade"),
    m.Submit(_JOB, 1, _SPEC, 2, [b"\x01", b"\x02"], b"m:f", [0, 5], [0, 1], True),
    m.Accepted(_JOB, 1, 10),
    m.Rejected(_JOB, 1, "busy", "full", 0.5),
    m.Probe(_JOB, 1, 2, 3, True),
    m.Load(_JOB, 1, 2, 8, 4, 4),
    m.Request(300, _JOB, 1, 2, 1),
    m.Task(300, _JOB, 1, _SPEC, [5], [2], [b"\x02"], b"m:f", 1, 2, True),
    m.NoOp(300, 2),
    m.Cancel(_JOB, 1, 2),
    m.Recall(9, _JOB, 1, [0, 5]),
    m.Returned(9, _JOB, 1, [5], [2], "drain"),
    m.Result(70_000, _JOB, 1, [0, 5], [1, 2], b"\x00\x01", [120, 70_000], [b"\xc0", b"no"]),
    m.ResultAck(70_000),
    m.Outcome(12, _JOB, 1, [0, 5], b"\x00\x04", [b"\xc0", b""]),
    m.OutcomeAck(12),
    m.Stale(_JOB, 2),
    m.Kill(_JOB, 1, [5], 1.5),
    m.Query(4, "tasks", _JOB, [5]),
    m.Subscribe(4, "summary", 0.25),
    m.Status(4, "scheduler-1", [_JOB_STATUS], [_WORKER], {"jobs": 1}, [_TASK_STATUS], "box", 78, "0.1.0", 1.5e9),
    m.Ping(2**53),
    m.Pong(0),
    m.Goodbye("draining"),
    m.Output(_JOB, 1, 5, 2, 1, b"hello\n", 3),
    m.Follow(7, _JOB, True),
    m.Followed(7, _JOB, "done"),
    m.Drain(8, "worker-1", 10.0),
    m.Verdict(1_700_000_000_000, [m.Judged("worker-1", 3, "dead", 430, "no beat for 430 ms")]),
    m.Hints(1_700_000_000_000, ["worker-1", "worker-2"], [0, 1500]),
    m.Claim(_JOB, 2),
    m.Claimed(_JOB, 2, [5, 6], [1, 2]),
    m.Died(_JOB, 1, [5], [2]),
    m.Proof("worker", "worker-1", b"\x01" * 32),
)  # fmt: skip


def name_of(value: object) -> str:
    """The name of a message or of its type, as a test id."""
    return (value if isinstance(value, type) else type(value)).__name__


def visible(value: object) -> Any:
    """The message as nested lists, with the content of blobs: two messages that say the same are equal so."""
    if isinstance(value, m.Blob):
        return ("blob", bytes(typing.cast(bytes, value.buffer)))
    if isinstance(value, msgspec.Struct):
        return [type(value).__name__, *(visible(getattr(value, name)) for name in value.__struct_fields__)]
    if isinstance(value, list):
        return [visible(item) for item in value]
    return value


def pack(batch: Sequence[m.AnyMessage]) -> list[bytes]:
    """The frames that say ``batch``, by the msgpack package alone."""
    blobs: list[bytes] = []

    def plain(value: object) -> object:
        if isinstance(value, m.Blob):
            blobs.append(bytes(typing.cast(bytes, value.buffer)))
            return len(blobs) - 1
        if isinstance(value, msgspec.Struct):
            tag = [value.__struct_config__.tag] if isinstance(value, m.Message) else []
            return tag + [plain(getattr(value, name)) for name in value.__struct_fields__]
        if isinstance(value, list):
            return [plain(item) for item in value]
        return value

    body = msgpack.packb([plain(message) for message in batch], strict_types=True)
    return [body, *blobs]


def unpack(frames: Sequence[bytes]) -> list[Any]:
    """Each message as (tag, *fields), by the msgpack package alone; frame numbers are left as they are."""
    return msgpack.unpackb(frames[0], use_list=True)


def extends(longer: object, shorter: object) -> bool:
    """Whether two decoded values agree, save for what the longer one has at the ends of its arrays."""
    if isinstance(longer, list) and isinstance(shorter, list):
        return len(longer) >= len(shorter) and all(map(extends, longer, shorter))
    return longer == shorter


def blobs(frames: Sequence[object]) -> list[m.Blob]:
    """The payload frames of a multipart message as blobs, as a transport hands them to the codec."""
    return [m.Blob(frame, len(typing.cast(bytes, frame))) for frame in frames[1:]]


# Strategies, made from the types

_PAYLOADS = st.one_of(st.binary(max_size=8), st.binary(max_size=8).map(lambda data: m.Blob(data, len(data))))
_PARALLEL: dict[type, tuple[str, ...]] = {
    m.Held: ("indices", "attempts"),
    m.Task: ("indices", "attempts"),
    m.Result: ("indices", "attempts", "statuses", "service_us", "payloads"),
    m.Outcome: ("indices", "statuses", "payloads"),
    m.Claimed: ("indices", "attempts"),
    m.Died: ("indices", "deaths"),
    m.Hints: ("workers", "waits_us"),
}


def _values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.IntType(ge=low, le=high, lt=above):
            return st.integers(low, high if high is not None else (above or 2**53) - 1)
        case inspect.FloatType(ge=low, le=high):
            return st.floats(low, high)
        case inspect.StrType(max_length=most):
            return st.text(st.characters(codec="utf-8"), max_size=min(most or 12, 12))
        case inspect.BoolType():
            return st.booleans()
        case inspect.BytesType():
            return st.binary(max_size=8)
        case inspect.UnionType():  # the only one there is: a payload
            return _PAYLOADS
        case inspect.ListType(item_type=item, min_length=least, max_length=most):
            return st.lists(_values(item), min_size=least or 0, max_size=min(most or 3, max(3, least or 0)))
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(_values(key), _values(value), max_size=3)
        case inspect.StructType(cls=cls):
            return _structs(cls)
    raise AssertionError(f"no strategy for {kind}")


@st.composite
def _structs(draw: st.DrawFn, cls: type) -> Any:
    types = {field.name: field.type for field in typing.cast(inspect.StructType, inspect.type_info(cls)).fields}
    values = {name: draw(_values(kind)) for name, kind in types.items()}

    def exactly(name: str, n: int) -> Any:
        if name == "statuses":
            return bytes(draw(st.lists(st.integers(m.SUCCEEDED, m.LOST), min_size=n, max_size=n)))
        return draw(st.lists(_values(typing.cast(inspect.ListType, types[name]).item_type), min_size=n, max_size=n))

    n = draw(st.integers(1, 4))
    values |= {name: exactly(name, n) for name in _PARALLEL.get(cls, ())}
    if cls is m.Task:
        values["payloads"] = exactly("payloads", draw(st.sampled_from([1, n])))
    elif cls is m.Returned:
        values["indices"], values["attempts"] = (
            exactly("indices", n),
            exactly("attempts", draw(st.sampled_from([0, n]))),
        )
    elif cls is m.Submit:
        values["count"] = n
        values["payloads"] = exactly("payloads", draw(st.sampled_from([1, n])))
        values["deaths"] = exactly("deaths", draw(st.sampled_from([0, n])))
        distinct = st.lists(st.integers(0, 99_999), min_size=n, max_size=n, unique=True)
        values["indices"] = draw(st.one_of(st.just([]), distinct))
    return cls(**values)


def messages_of(cls: type) -> st.SearchStrategy[m.AnyMessage]:
    """All valid messages of one type, small ones."""
    return _structs(cls)


def messages() -> st.SearchStrategy[m.AnyMessage]:
    """All valid messages of all types."""
    return st.one_of([messages_of(cls) for cls in KINDS])
