"""What a slot does in one process, at moments that signals and threads hit too rarely by themselves."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from sparrowmq.executor import page as pages, runners, slot, wire
from sparrowmq.executor.interrupts import Interrupts
from sparrowmq.executor.options import SlotOptions
from sparrowmq.executor.page import Page
from sparrowmq.executor.streams import Streams
from sparrowmq.payload import plain, python
from sparrowmq.protocol import messages as m
from sparrowmq.settings import WorkerSettings


@pytest.fixture
def page() -> Iterator[Page]:
    before = signal.getsignal(signal.SIGINT)
    streams = sys.stdout, sys.stderr
    page, fd = pages.create()
    os.close(fd)
    yield page
    page.close()
    signal.signal(signal.SIGINT, before)
    sys.stdout, sys.stderr = streams


@pytest.fixture
def interrupts(page: Page) -> Interrupts:
    interrupts = Interrupts(page)
    interrupts.install()
    return interrupts


def told(page: Page, seq: int) -> None:
    page.interrupt(seq)
    signal.raise_signal(signal.SIGINT)


class TestInterrupts:
    def test_only_the_task_that_is_meant_is_interrupted_and_once(self, page: Page, interrupts: Interrupts) -> None:
        told(page, 5)  # nothing runs
        interrupts.running = 6
        told(page, 5)  # the next one runs already
        told(page, 7)  # the one before still runs
        with pytest.raises(KeyboardInterrupt):
            told(page, 6)
        told(page, 6)
        interrupts.running = 0
        told(page, 6)

    def test_a_task_that_has_not_begun_finds_that_it_was_meant(self, page: Page, interrupts: Interrupts) -> None:
        interrupts.running = 5
        told(page, 6)
        interrupts.running = 0
        assert interrupts.early == 6

    def test_what_is_shielded_is_interrupted_after_it(self, page: Page, interrupts: Interrupts) -> None:
        interrupts.running = 6
        interrupts.shield()
        told(page, 6)
        with pytest.raises(KeyboardInterrupt):
            interrupts.unshield()
        interrupts.running = 7
        interrupts.shield()
        told(page, 6)
        interrupts.unshield()

    def test_a_task_may_want_something_else_done(self, page: Page, interrupts: Interrupts) -> None:
        done: list[int] = []
        interrupts.running = 6
        interrupts.instead = lambda: done.append(1)
        told(page, 6)
        told(page, 6)
        assert done == [1]


class TestReminders:
    """A signal that is not meant for the task that runs has what waits reported."""

    def reminded(self, page: Page, remind: Callable[[], object]) -> Interrupts:
        interrupts = Interrupts(page, remind)
        interrupts.install()
        return interrupts

    def test_only_while_a_task_runs(self, page: Page) -> None:
        calls: list[int] = []
        interrupts = self.reminded(page, lambda: calls.append(1))
        signal.raise_signal(signal.SIGINT)
        assert calls == []
        interrupts.running = 6
        signal.raise_signal(signal.SIGINT)
        assert calls == [1]

    def test_an_interrupt_meanwhile_waits_for_the_end_of_the_report(self, page: Page) -> None:
        steps: list[str] = []

        def report() -> None:
            steps.append("begun")
            told(page, 6)
            steps.append("ended")

        interrupts = self.reminded(page, report)
        interrupts.running = 6
        with pytest.raises(KeyboardInterrupt):
            told(page, 5)
        assert steps == ["begun", "ended"]


def test_sending_output_is_never_torn(page: Page, interrupts: Interrupts) -> None:
    """The signal comes while a frame is being sent: it is sent to its end, and then the task is interrupted."""
    sent: list[bytes] = []

    def send(seq: int, stream: int, data: bytes) -> None:
        told(page, 6)
        sent.append(data)

    streams = Streams(interrupts, send, 1000)
    interrupts.running = 6
    with pytest.raises(KeyboardInterrupt):
        streams.stdout.write("line\n")
    assert sent == [b"line\n"]
    streams.stdout.write("more\n")  # cleaning up
    assert sent == [b"line\n", b"more\n"]


class Racing(Interrupts):
    """The interrupt comes just when the end of the task is being noted."""

    def __setattr__(self, name: str, value: Any) -> None:
        late = name == "running" and value == 0 and getattr(self, "running", 0) and self.raised != self.running
        if late:
            self.raised = self.running
            raise KeyboardInterrupt
        super().__setattr__(name, value)


@pytest.mark.parametrize("function", [abs, len])
def test_interrupt_between_the_end_of_a_task_and_the_note_of_it(page: Page, function: Any) -> None:
    """The second function raises by itself: the interrupt then comes while that is being handled."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = slot._Slot(theirs, page, SlotOptions())
        process._interrupts = Racing(page)
        process._streams = Streams(process._interrupts, process._send_output, 1000)
        process._surroundings = runners.Surroundings(process._interrupts, process._streams)
        process._functions.add("j", slot._Kept(python.dump_function(function)), 1)
        payload = python.dump_call((-1,), {})
        for seq in (1, 2):
            process._run(wire.Tasks(seq, m.PYTHON, "j", [0], [1], [payload]), [payload])
            process._report()
        ours.setblocking(False)
        reports = [wire.decode_report(head) for head, _ in wire.Reader().read(ours, 5)]
    statuses = b"".join(report.statuses for report in reports if isinstance(report, wire.Results))
    assert statuses == bytes([m.CANCELLED, m.CANCELLED])


def run_one(page: Page, kind: int, payload: bytes, function: bytes = b"", **rule: Any) -> int:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = slot._Slot(theirs, page, SlotOptions())
        kept = slot._Kept(function)
        order = wire.Tasks(1, kind, "j", [0], [1], [payload], **rule)
        status, _ = process._run_one(kept, order, 1, payload, 0, 1)
        return status


@pytest.mark.parametrize(
    ("rule", "status"),
    [
        ({}, m.FAILED),
        ({"retry_on": ["ValueError"]}, m.FAILED),
        ({"retries": 1}, m.RETRY),
        ({"retries": 1, "retry_on": ["ValueError"]}, m.RETRY),
        ({"retries": 1, "retry_on": ["OSError", "Exception"]}, m.RETRY),
        ({"retries": 1, "retry_on": ["OSError"]}, m.FAILED),
    ],
)
def test_failures_that_the_job_wants_tried_again_are_said_to_be(page: Page, rule: dict[str, Any], status: int) -> None:
    call = plain.dumps([["x"], {}])
    assert run_one(page, m.CALL, call, b"builtins:int", **rule) == status


@pytest.mark.parametrize(("name", "status"), [("CommandFailed", m.RETRY), ("TaskCrashed", m.FAILED)])
def test_commands_fail_with_a_name_too(page: Page, name: str, status: int) -> None:
    payload = msgspec.msgpack.encode({"argv": ["false"]})
    assert run_one(page, m.COMMAND, payload, retries=1, retry_on=[name]) == status


def test_function_that_cannot_be_loaded_is_not_tried_again(page: Page) -> None:
    assert run_one(page, m.CALL, plain.dumps([[], {}]), b"no_such_module:f", retries=3) == m.FAILED


def test_options_are_those_of_the_settings() -> None:
    assert SlotOptions.of(WorkerSettings()) == SlotOptions()
    assert SlotOptions.of(WorkerSettings(preload=["json"], recycle_mib=7)) == SlotOptions(["json"], recycle_mib=7)
