"""docs/protocol.md says what the code does: its tables are those of the types, its examples are real bytes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import msgpack
import pytest
from msgspec import NODEFAULT, inspect

from sparrowmq import limits
from sparrowmq.protocol import codec, messages as m
from tests.support.messages import KINDS, extends, pack

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"
RECORDS = (m.JobSpec, m.Reserved, m.Held, m.JobStatus, m.WorkerStatus, m.TaskStatus, m.Event, m.Judged)


@pytest.fixture(scope="module")
def text() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def notation(kind: inspect.Type) -> str:
    """How the document writes a type."""
    match kind:
        case inspect.IntType(ge=0, le=limits.INT_MAX):
            return "count"
        case inspect.IntType(ge=0, lt=limits.TASKS_PER_JOB_MAX):
            return "index"
        case inspect.IntType(ge=low, le=int(high)):
            return f"int {low:,} to {high:,}"
        case inspect.FloatType(ge=0.0, le=most) if most == limits.INT_MAX:
            return "amount"
        case inspect.FloatType(ge=float(low), le=float(high)):
            return f"float {low:,g} to {high:,.0f}"
        case inspect.StrType(max_length=limits.TEXT_CHARS_MAX):
            return "text"
        case inspect.StrType(max_length=limits.DETAIL_CHARS_MAX):
            return "detail"
        case inspect.BytesType(max_length=limits.TASKS_PER_JOB_MAX):
            return "statuses"
        case inspect.BytesType(max_length=int(most)):
            return f"bin, {most:,}"
        case inspect.BoolType():
            return "bool"
        case inspect.UnionType():
            return "payload"
        case inspect.ListType(item_type=item, min_length=least, max_length=int(most)):
            return f"list of {notation(item)}, {'exactly ' if least == most else ''}{most:,}"
        case inspect.DictType(key_type=key, value_type=value, max_length=int(most)):
            return f"map of {notation(key)} to {notation(value)}, {most:,}"
        case inspect.StructType(cls=cls):
            return snake(cls.__name__)
    raise AssertionError(f"the document has no notation for {kind}")


def fields_of(cls: type) -> str:
    """The cell of the document's tables that lists the fields of ``cls``."""
    parts = []
    for field in cast(inspect.StructType, inspect.type_info(cls)).fields:
        default = field.default if field.default is not NODEFAULT else None
        if default is None and not field.required:
            default = cast("type[list[object]]", field.default_factory)()
        shown = f'"{default}"' if isinstance(default, str) else "empty" if default == b"" else repr(default)
        parts.append(f"`{field.name}` {notation(field.type)}" + ("" if field.required else f" = {shown}"))
    return "; ".join(parts)


def table(text: str, heading: str) -> list[list[str]]:
    """The rows of the table under ``heading``, without its head."""
    section = text.split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_message_table(text: str) -> None:
    rows = [(row[0], row[1], row[3]) for row in table(text, "### Messages")]
    expected = [(str(kind.__struct_config__.tag), f"`{snake(kind.__name__)}`", fields_of(kind)) for kind in KINDS]
    assert rows == expected


def test_record_table(text: str) -> None:
    assert table(text, "### Records") == [[f"`{snake(cls.__name__)}`", fields_of(cls)] for cls in RECORDS]


def test_limit_table(text: str) -> None:
    rows = {row[0]: row[1] for row in table(text, "## Limits")}
    assert rows == {
        "bytes of a frame": f"{limits.FRAME_BYTES_MAX:,}",
        "frames of a multipart message": f"{limits.FRAMES_MAX:,}",
        "messages in a body": f"{limits.MESSAGES_MAX:,}",
        "tasks of a job": f"{limits.TASKS_PER_JOB_MAX:,}",
        "payload bytes of a job": f"{limits.JOB_BYTES_MAX:,}",
        "characters of a text": f"{limits.TEXT_CHARS_MAX:,}",
        "characters of a detail": f"{limits.DETAIL_CHARS_MAX:,}",
        "largest count": f"2^53 = {limits.INT_MAX:,}",
    }


def test_numbers_that_stand_for_something(text: str) -> None:
    kinds = {"PYTHON": m.PYTHON, "CALL": m.CALL, "COMMAND": m.COMMAND, "SLEEP": m.SLEEP}
    rows = [row[:2] for row in table(text, "## Tasks and their payloads")]
    assert rows == [[str(number), f"`{name.lower()}`"] for name, number in kinds.items()]
    rows = [row[:2] for row in table(text, "### Statuses")]
    assert rows == [[str(number), f"`{name}`"] for number, name in enumerate(m.STATUS_NAMES)]
    assert f"This is version {m.PROTOCOL} of the protocol" in text


def test_codes_of_the_codec_are_listed(text: str) -> None:
    listed = {row[0].strip("`") for row in table(text, "### Codes of `refused`")}
    source = Path(codec.__file__).read_text(encoding="utf-8")
    used = set(re.findall(r'ProtocolError\(\s*"(\w+)"', source))
    assert used == {"malformed", "unknown_type", "too_large", "version"}
    assert used <= listed


# The worked example

_SPEC = m.JobSpec(m.CALL, "roots", "late-binding", 2.0, 0.0, 3, "")
_JOB = "01jc8x2m9k7q4w3e5r6t"
EXAMPLES: dict[str, m.AnyMessage] = {
    "hello": m.Hello(1, "0.1.0", "client", "client-7k2m9q4x", 1_730_000_000_000),
    "welcome": m.Welcome("scheduler-9d3f5h7j", 1_729_999_000_000, "0.1.0"),
    "submit": m.Submit(
        _JOB, 0, _SPEC, 2, [msgpack.packb([[16.0], {}]), msgpack.packb([[2], {}])], b"math:sqrt"
    ),
    "accepted": m.Accepted(_JOB, 0, 4),
    "outcome": m.Outcome(1, _JOB, 0, [1, 0], b"\0\0", [msgpack.packb(2**0.5), msgpack.packb(4.0)]),
    "outcome_ack": m.OutcomeAck(1),
}  # fmt: skip


def blocks(text: str) -> dict[str, bytes]:
    found = re.findall(r"```hex (\w+)\n(.*?)```", text, flags=re.DOTALL)
    return {name: bytes.fromhex("".join(line.split("#")[0] for line in body.splitlines())) for name, body in found}


def test_examples_are_all_there(text: str) -> None:
    assert list(blocks(text)) == list(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_bytes(text: str, name: str) -> None:
    body = blocks(text)[name]
    assert codec.decode(body) == [EXAMPLES[name]]
    full = pack([EXAMPLES[name]])[0]
    assert len(body) <= len(full)  # optional fields may be left out, nothing else may differ
    assert extends(msgpack.unpackb(full), msgpack.unpackb(body))
