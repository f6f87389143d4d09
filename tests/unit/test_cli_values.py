"""Values of options: durations, quantiles, addresses, variables; and arguments of calls as JSON."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import click
import pytest

from sparrowmq.cli import calls
from sparrowmq.cli.calls import Call
from sparrowmq.cli.values import Address, Duration, Hedge, KeyValue, Whole
from sparrowmq.errors import UsageError


def convert(kind: click.ParamType, text: str) -> object:
    return kind.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("14s", 14.0), ("500ms", 0.5), ("2m", 120.0), ("1.5h", 5400.0), ("3", 3.0), ("0.1", 0.1), (".5s", 0.5),
     ("1d", 86_400.0), ("2 min", 120.0)],
)  # fmt: skip
def test_durations(text, seconds):
    assert convert(Duration(), text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "1 week", "1e3", "nan", "inf", "1s2", "0x10", "9" * 400])
def test_what_is_no_duration(text):
    with pytest.raises(click.BadParameter, match="is no duration"):
        convert(Duration(), text)


def test_bounds_of_durations():
    with pytest.raises(click.BadParameter, match="expected 0 to 86,400 seconds"):
        convert(Duration(), "25h")
    with pytest.raises(click.BadParameter, match="more than 0"):
        convert(Duration(positive=True), "0ms")


def test_hedges_are_quantiles_or_durations():
    assert convert(Hedge(), "p95") == "p95"
    assert convert(Hedge(), "P99.5") == "p99.5"
    assert convert(Hedge(), "250ms") == 0.25
    for text in ("p0", "p100", "p", "px"):
        with pytest.raises(click.BadParameter, match="quantile"):
            convert(Hedge(), text)


def test_whole_numbers():
    assert convert(Whole(1, 10_000), "1_000") == 1000
    for text in ("1.0", "ten", "", "0", "10001"):
        with pytest.raises(click.BadParameter, match="expected 1 to 10,000"):
            convert(Whole(1, 10_000), text)


@pytest.mark.parametrize("text", ["tcp://127.0.0.1:0", "tcp://*:7701", "tcp://[::1]:*", "ipc:///tmp/x"])
def test_addresses(text):
    assert convert(Address(), text) == text


@pytest.mark.parametrize("text", ["127.0.0.1:1", "tcp://h", "tcp://:1", "tcp://h:99999", "tcp://h:-1", "ipc://", ""])
def test_what_is_no_address(text):
    with pytest.raises(click.BadParameter):
        convert(Address(), text)


def test_variables():
    assert convert(KeyValue(), "A=b=c") == ("A", "b=c")
    assert convert(KeyValue(), "A=") == ("A", "")
    for text in ("A", "=b", ""):
        with pytest.raises(click.BadParameter, match="KEY=VALUE"):
            convert(KeyValue(), text)


@pytest.mark.parametrize(
    ("text", "args", "kwargs"),
    [
        ('[1, "two"]', [1, "two"], {}),
        ("[]", [], {}),
        ('{"x": 1}', [], {"x": 1}),
        ("{}", [], {}),
        ('{"args": [1], "kwargs": {"x": 2}}', [1], {"x": 2}),
        ('{"args": [1]}', [1], {}),
        ('{"kwargs": {"x": 2}}', [], {"x": 2}),
        ('{"args": 1, "x": 2}', [], {"args": 1, "x": 2}),  # not only these two keys: keyword arguments
    ],
)
def test_arguments(text, args, kwargs):
    assert calls.parse(text, "here") == Call(args, kwargs, "here")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "here: no JSON"),
        ("2", r"here: expected a list or an object of arguments, got a number: 2"),
        ('"a"', "got a text"),
        ("true", "got a boolean"),
        ("null", "got null"),
        ('{"args": 1}', "here: args is not a list"),
        ('{"args": [], "kwargs": 1}', "here: kwargs is not an object"),
        ("[" * 100_000, "here: no JSON"),
    ],
)
def test_what_is_no_arguments(text, said):
    with pytest.raises(UsageError, match=said):
        calls.parse(text, "here")


def test_a_file_is_read_line_by_line(tmp_path):
    path = tmp_path / "args.jsonl"
    path.write_text('[1]\n\n  {"x": 2}  \n[3]')
    assert [(call.args, call.kwargs) for call in calls.from_file(str(path))] == [([1], {}), ([], {"x": 2}), ([3], {})]
    path.write_text("[1]\n[2]\nnonsense\n[4]\n")
    lines = calls.from_file(str(path))
    assert [next(lines).where, next(lines).where] == [f"{path}:1", f"{path}:2"]
    with pytest.raises(UsageError, match=rf"{path}:3: no JSON: .*: nonsense"):
        next(lines)


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="absent: No such file"):
        list(calls.from_file(str(tmp_path / "absent")))
    with pytest.raises(UsageError, match="Is a directory"):
        list(calls.from_file(str(tmp_path)))
    path = tmp_path / "bytes"
    path.write_bytes(b"[1]\n[\xff]\n")
    with pytest.raises(UsageError, match=r"bytes:2: not UTF-8 text \(byte 1 of the line\)"):
        list(calls.from_file(str(path)))
    monkeypatch.setattr(calls, "LINE_BYTES_MAX", 10)
    path.write_bytes(b"[1]\n[" + b"1" * 20 + b"]\n")
    with pytest.raises(UsageError, match="bytes:2: a line of more than 10 bytes"):
        list(calls.from_file(str(path)))


def test_standard_input_is_a_file_too(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"[1]\nx\n")))
    lines = calls.from_file("-")
    assert next(lines).args == [1]
    with pytest.raises(UsageError, match="standard input:2: no JSON"):
        next(lines)
    assert not sys.stdin.buffer.closed


def test_a_file_is_not_read_further_than_asked(tmp_path):
    path = tmp_path / "args.jsonl"
    path.write_text("[1]\nnonsense\n")
    assert next(calls.from_file(str(path))).args == [1]


class Target:
    def send(self, work):
        self.work = work
        return work


def test_calls_are_sent_as_one_job_with_keywords():
    target = Target()
    made = [Call([1], {}, "a"), Call([], {"x": 2}, "b")]
    calls.send(target, "m:f", made, {"name": "n", "retries": 2})
    assert (target.work.spec.name, target.work.spec.retries, target.work.function) == ("n", 2, b"m:f")
    assert (len(target.work.payloads), target.work.tasks) == (2, 2)


def test_the_same_call_many_times_travels_once():
    target = Target()
    calls.send(target, "m:f", list(calls.repeated([Call([1], {}, "a")], 1000)), {})
    assert (len(target.work.payloads), target.work.tasks) == (1, 1000)


def test_an_argument_that_cannot_be_sent_is_named_by_its_line():
    with pytest.raises(UsageError, match=r"x\.jsonl:7: args\[0\]"):
        calls.send(Target(), "m:f", [Call([2**70], {}, "x.jsonl:7")], {})
