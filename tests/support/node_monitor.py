"""Node monitors for tests of the executor: real slots, in a process of its own for each test.

A node monitor adopts orphans and must have no threads when it starts, so a test file is also the program that
its tests run, with the name of one as its argument.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparrowmq.core.effects import StartTasks
from sparrowmq.executor.options import SlotOptions
from sparrowmq.executor.pool import SlotPool
from sparrowmq.executor.zygote import Zygote
from sparrowmq.payload import command, failure, plain, python
from sparrowmq.payload.command import Command
from sparrowmq.protocol import messages as m
from sparrowmq.runtime.loop import Loop

ROOT = Path(__file__).parents[2]
DEADLINE_S = 30.0
MARK = "SPARROWMQ_TEST_MARK"
OPTIONS = "SPARROWMQ_TEST_OPTIONS"


class Monitor:
    """A pool on a loop, and everything it has reported."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.zygote = Zygote.start(SlotOptions(**json.loads(os.environ.get(OPTIONS, "{}"))))
        self.loop = Loop(on_error=self._on_error)
        self.pool = SlotPool(self.loop, self.zygote, self)
        self.pids: dict[int, int] = {}
        self.results: dict[int, tuple[int, Any, int]] = {}  # seq -> (status, payload, service_us)
        self.exits: list[tuple[int, str, int]] = []
        self.output: list[tuple[int, int, bytes]] = []  # (sequence number, stream, data)
        self.retired: list[int] = []
        self.reclaimed: list[tuple[int, int]] = []
        self.errors: list[Exception] = []
        self.reports = 0
        self.next_seq = 1

    def slot_ready(self, slot: int, pid: int) -> None:
        self.pids[slot] = pid

    def slot_results(self, slot: int, first_seq: int, statuses: bytes, service_us: list[int], payloads: Any) -> None:
        self.reports += 1
        for number, entry in enumerate(zip(statuses, payloads, service_us, strict=True)):
            assert first_seq + number not in self.results, "reported twice"
            self.results[first_seq + number] = entry

    def slot_output(self, slot: int, seq: int, stream: int, data: bytes) -> None:
        assert seq not in self.results, "output after the result"
        self.output.append((seq, stream, data))

    def slot_retired(self, slot: int) -> None:
        self.retired.append(slot)

    def slot_exited(self, slot: int, cause: str, current_seq: int) -> None:
        self.pids.pop(slot, None)
        self.exits.append((slot, cause, current_seq))

    def slot_reclaimed(self, slot: int, after_seq: int) -> None:
        self.reclaimed.append((slot, after_seq))

    def _on_error(self, _name: str, error: Exception, _suppressed: int) -> None:
        traceback.print_exception(error)
        self.errors.append(error)

    def until(self, condition: Callable[[], object], within_s: float = DEADLINE_S) -> None:
        """Run the loop until ``condition`` holds."""
        late = self.loop.call_later(within_s, self.loop.stop)

        def check() -> None:
            if condition():
                self.loop.stop()
            else:
                self.loop.call_later(0.01, lambda: None)  # look again even when nothing happens

        self.loop.on_turn[:] = [check]
        self.loop.post(lambda: None)  # look at once
        self.loop.run()
        late.cancel()
        assert condition(), f"not within {within_s} s: {self.exits} {self.reclaimed} {len(self.results)} results"
        assert not self.errors

    def spawn(self, slot: int = 0) -> int:
        self.pool.spawn(slot)
        self.until(lambda: slot in self.pids)
        return self.pids[slot]

    def hand(
        self,
        payloads: list[Any],
        *,
        kind: int = m.PYTHON,
        function: Any = b"",
        job: str = "j",
        slot: int = 0,
        n: int = 0,
        **spec: Any,
    ) -> list[int]:
        """Hand tasks over; return their sequence numbers."""
        n = n or len(payloads)
        seqs = list(range(self.next_seq, self.next_seq + n))
        indices = [100 + seq for seq in seqs]
        job_spec = m.JobSpec(kind=kind, **spec)
        self.pool.start(StartTasks(slot, seqs[0], job, 0, job_spec, function, payloads, indices, [7] * n))
        self.next_seq += n
        return seqs

    def call(self, function: Callable[..., Any], *args: Any, n: int = 1, slot: int = 0, **spec: Any) -> list[int]:
        """Hand ``n`` alike Python tasks over, as a job of their own."""
        job = f"job{self.next_seq}"
        payload = python.dump_call(args, {})
        return self.hand([payload], function=python.dump_function(function), job=job, slot=slot, n=n, **spec)

    def outcomes(self, seqs: list[int]) -> list[Any]:
        """Wait for these tasks; return their values or exceptions."""
        self.until(lambda: all(seq in self.results for seq in seqs))
        return [self.outcome(seq) for seq in seqs]

    def outcome(self, seq: int, load: Callable[[Any], Any] = python.load) -> Any:
        status, payload, _ = self.results[seq]
        data = payload if isinstance(payload, bytes) else memoryview(payload.buffer)
        return load(data) if status == m.SUCCEEDED else failure.load(data)

    def run(self, payload: bytes, kind: int, function: bytes = b"") -> Any:
        """Run one task that is not Python's."""
        (seq,) = self.hand([payload], kind=kind, function=function, job=f"job{self.next_seq}")
        self.until(lambda: seq in self.results)
        return self.outcome(seq, plain.loads)

    def command(self, *argv: str, **extra: Any) -> Any:
        return self.run(command.dumps(Command(list(argv), **extra)), m.COMMAND)

    def said(self, seq: int, stream: int = 1) -> bytes:
        """What this task has written."""
        return b"".join(data for number, of, data in self.output if (number, of) == (seq, stream))

    def survivors(self) -> list[int]:
        """The slots' descendants, in any session and under any parent, beside node monitor, zygote and slots."""
        known = {os.getpid(), self.zygote.pid, *self.pids.values()}
        return [pid for pid in survivors(os.environ[MARK]) if pid not in known]


Scenario = Callable[[Monitor], None]
_scenarios: dict[str, tuple[Scenario, bool]] = {}


def in_own_process(scenario: Scenario) -> Callable[[Path], None]:
    """Make the scenario a test that runs in a process of its own, with a monitor."""
    return with_options()(scenario)


def with_options(**options: Any) -> Callable[[Scenario], Callable[[Path], None]]:
    """As `in_own_process`, with slots that have these `SlotOptions`."""

    def decorate(scenario: Scenario) -> Callable[[Path], None]:
        def test(tmp_path: Path) -> None:
            with Program(scenario, tmp_path, **options) as program:
                output, _ = program.process.communicate(timeout=50)
                assert program.process.returncode == 0, output.decode()

        _scenarios[scenario.__name__] = scenario, True
        test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
        return test

    return decorate


def victim(scenario: Scenario) -> Scenario:
    """Make the scenario one that a test starts by `Program`, to end it from outside."""
    _scenarios[scenario.__name__] = scenario, False
    return scenario


def main() -> None:
    """Run one scenario; at its end nothing may be left."""
    name, directory = sys.argv[1:]
    scenario, complete = _scenarios[name]
    monitor = Monitor(Path(directory))
    scenario(monitor)
    if complete:
        monitor.pool.close()
        assert not monitor.errors
        assert survivors(os.environ[MARK]) == [os.getpid()]


class Program:
    """A test file as a running process; its descendants can be told by its mark, whatever becomes of them."""

    def __init__(self, scenario: Scenario, directory: Path, **options: Any) -> None:
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, scenario.__code__.co_filename, scenario.__name__, str(directory)],
            env={**os.environ, MARK: self.mark, OPTIONS: json.dumps(options), "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        for pid in survivors(self.mark):
            os.kill(pid, signal.SIGKILL)


def survivors(mark: str) -> list[int]:
    """The processes that were started with ``mark`` in their environment, without zombies."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if needle in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:  # it has ended, or is another user's
                continue
    return found


def eventually(condition: Callable[[], object], within_s: float = DEADLINE_S) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)
