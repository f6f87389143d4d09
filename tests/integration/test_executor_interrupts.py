"""Interrupts of running tasks, with real processes: the one that is meant, and no other."""

from __future__ import annotations

import asyncio
import functools
import os
import random
import signal
import subprocess
import time
from pathlib import Path

from sparrowmq.payload import command, plain, python
from sparrowmq.payload.command import Command
from sparrowmq.protocol import messages as m
from tests.support.node_monitor import Monitor, in_own_process, main

INTERRUPTED = (m.CANCELLED, b"interrupted")


def running(monitor: Monitor, seq: int) -> bool:
    now = monitor.pool.running(0)
    return now is not None and now[0] == seq


def pending(pid: int, signum: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return any(int(line.split()[1], 16) >> (signum - 1) & 1 for line in status.splitlines() if line[3:7] == "Pnd:")


def interrupt(monitor: Monitor, seq: int) -> tuple[int, bytes]:
    """Interrupt this task as soon as it runs; return how it ended."""
    monitor.until(lambda: running(monitor, seq))
    monitor.pool.interrupt(0, seq)
    monitor.until(lambda: seq in monitor.results)
    return monitor.results[seq][:2]


@in_own_process
def test_sleeping_python_and_sleep_tasks_end_at_once(monitor: Monitor) -> None:
    pid = monitor.spawn()
    assert interrupt(monitor, *monitor.call(time.sleep, 1000)) == INTERRUPTED
    assert interrupt(monitor, *monitor.hand([plain.dumps(1000)], kind=m.SLEEP)) == INTERRUPTED
    assert interrupt(monitor, *monitor.call(run_loop)) == INTERRUPTED
    task = monitor.call(wait_for_sleep)
    monitor.until(lambda: monitor.said(*task))
    assert interrupt(monitor, *task) == INTERRUPTED
    assert monitor.outcomes(monitor.call(abs, -1)) == [1]
    assert monitor.pids == {0: pid}
    monitor.until(lambda: not monitor.survivors())


def wait_for_sleep() -> None:
    """As `subprocess.run` does, but telling when: an interrupt in the midst of Popen would leave its process behind."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            print("begun")
            process.wait()
        except BaseException:
            process.kill()
            raise


def run_loop() -> None:
    asyncio.run(asyncio.sleep(1000))


@in_own_process
def test_task_may_clean_up_return_or_fail_in_its_own_way(monitor: Monitor) -> None:
    def catch(how: str) -> object:
        try:
            print("begun")
            time.sleep(1000)
        except KeyboardInterrupt:
            if how == "return":
                return "partial"
            if how == "fail":
                raise ValueError("not in the mood") from None
            raise
        return None

    monitor.spawn()
    ends = []
    for how in ("return", "fail", "raise"):  # one by one: a short task is reported with the next, if there is one
        (seq,) = monitor.call(catch, how, retries=3)
        monitor.until(lambda seq=seq: monitor.said(seq))  # type: ignore[misc]
        ends.append(interrupt(monitor, seq))
    assert ends == [(m.SUCCEEDED, python.dump_result("partial")), INTERRUPTED, INTERRUPTED]


@in_own_process
def test_own_keyboard_interrupt_is_a_failure(monitor: Monitor) -> None:
    def own() -> None:
        raise KeyboardInterrupt

    monitor.spawn()
    (seq,) = monitor.call(own)
    monitor.until(lambda: seq in monitor.results)
    assert monitor.results[seq][0] == m.FAILED


@in_own_process
def test_task_that_swallows_the_interrupt_is_told_once_and_can_be_killed(monitor: Monitor) -> None:
    def deaf(path: str) -> None:
        while True:
            try:
                print("begun")
                time.sleep(1000)
            except KeyboardInterrupt:
                with open(path, "a") as file:
                    file.write("x")

    note = monitor.directory / "note"
    monitor.spawn()
    (seq,) = monitor.call(deaf, str(note))
    monitor.until(lambda: monitor.said(seq))
    monitor.pool.interrupt(0, seq)
    monitor.until(note.exists)
    monitor.pool.interrupt(0, seq)
    monitor.pool.kill(0)
    monitor.until(lambda: monitor.exits)
    assert monitor.exits == [(0, "killed by signal 9 (SIGKILL)", seq)]
    assert note.read_text() == "x"


@in_own_process
def test_interrupt_before_the_start_cancels(monitor: Monitor) -> None:
    """The signal comes before the task begins: it never does, and its neighbours run."""
    monitor.spawn()
    os.kill(monitor.pids[0], signal.SIGSTOP)
    seqs = monitor.call(abs, -1, n=3)
    monitor.pool.interrupt(0, seqs[1])
    monitor.until(lambda: pending(monitor.pids[0], signal.SIGINT))
    os.kill(monitor.pids[0], signal.SIGCONT)
    monitor.until(lambda: seqs[2] in monitor.results)
    assert [monitor.results[seq][:2] for seq in seqs][1] == (m.CANCELLED, b"")
    assert monitor.outcome(seqs[0]) == monitor.outcome(seqs[2]) == 1


@in_own_process
def test_handler_of_a_task_does_not_stay(monitor: Monitor) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    monitor.spawn()
    monitor.outcomes(monitor.call(ignore))
    assert interrupt(monitor, *monitor.call(time.sleep, 1000)) == INTERRUPTED


@in_own_process
def test_function_whose_loading_is_interrupted_is_loaded_by_the_next_task(monitor: Monitor) -> None:
    (monitor.directory / "slow_module.py").write_text(
        "import os, time\n"
        f"if not os.path.exists({str(monitor.directory / 'once')!r}):\n"
        f"    open({str(monitor.directory / 'once')!r}, 'w').close()\n"
        "    time.sleep(1000)\n"
        "def f():\n"
        "    return 7\n"
    )
    monitor.spawn()
    monitor.outcomes(monitor.call(extend_path, str(monitor.directory)))
    payload = [plain.dumps([[], {}])]
    first, second = monitor.hand(payload, kind=m.CALL, function=b"slow_module:f", n=2)
    monitor.until((monitor.directory / "once").exists)
    assert interrupt(monitor, first) == INTERRUPTED
    monitor.until(lambda: second in monitor.results)
    assert monitor.outcome(second, plain.loads) == 7


def extend_path(path: str) -> None:
    import sys

    sys.path.insert(0, path)


@in_own_process
def test_commands_get_sigterm_and_their_output_arrives(monitor: Monitor) -> None:
    script = "trap 'echo ended; exit 5' TERM; echo begun; sleep 1000 & wait"
    monitor.spawn()
    (seq,) = monitor.hand([command.dumps(Command(["sh", "-c", script]))], kind=m.COMMAND)
    monitor.until(lambda: monitor.said(seq) == b"begun\n")
    assert interrupt(monitor, seq) == INTERRUPTED
    assert monitor.said(seq) == b"begun\nended\n"
    monitor.until(lambda: not monitor.survivors())
    (deaf,) = monitor.hand(
        [command.dumps(Command(["sh", "-c", "trap '' TERM; echo begun; sleep 1000"]))], kind=m.COMMAND
    )
    monitor.until(lambda: monitor.said(deaf))
    monitor.pool.interrupt(0, deaf)
    monitor.pool.kill(0)
    monitor.until(lambda: monitor.exits)
    assert deaf not in monitor.results
    monitor.until(lambda: not monitor.survivors())


@in_own_process
def test_interrupts_hit_one_task_of_many(monitor: Monitor) -> None:
    """Hammered at batches of short tasks and of longer ones: each result is a value or an interrupt that was asked for.

    A task leaves a mark when it ends by itself; none is lost, none runs twice, and no neighbour is hit.
    """
    rng = random.Random(7)
    marks = monitor.directory / "marks"
    marks.write_bytes(bytes(200_000))
    monitor.spawn()
    function = python.dump_function(spin)
    asked: set[int] = set()
    for _ in range(150):
        count = rng.choice([1, 5, 40])
        seqs = range(monitor.next_seq, monitor.next_seq + count)
        pauses = [rng.choice([0.0, 0.0, 2e-5, 3e-4]) for _ in seqs]
        if rng.random() < 0.3:
            pauses[rng.randrange(count)] = 1000.0  # ends by an interrupt only
        payloads = [python.dump_call((str(marks), seq, pause), {}) for seq, pause in zip(seqs, pauses, strict=True)]
        monitor.hand(payloads, function=function)
        while seqs[-1] not in monitor.results:
            now = monitor.pool.running(0)
            if now is not None:
                asked.add(now[0])
                monitor.pool.interrupt(0, now[0])
            monitor.until(functools.partial(moved_on, monitor, now))
    trace = marks.read_bytes()
    assert sorted(monitor.results) == list(range(1, monitor.next_seq))
    interrupted = {seq for seq, (status, _, _) in monitor.results.items() if status == m.CANCELLED}
    assert len(interrupted) > 20
    assert interrupted <= asked
    for seq, (status, payload, _) in monitor.results.items():
        assert status == m.SUCCEEDED or payload in (b"interrupted", b""), (seq, status, payload)
        assert trace[seq] <= 1
        assert trace[seq] or status != m.SUCCEEDED
    assert not monitor.exits


def moved_on(monitor: Monitor, before: tuple[int, float] | None) -> bool:
    """Whether another task runs than before, or none: the next interrupt goes to that one."""
    return monitor.pool.running(0) != before or before is None


def spin(path: str, seq: int, pause_s: float) -> None:
    until = time.perf_counter() + pause_s
    while time.perf_counter() < until:
        pass
    with open(path, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), bytes([os.pread(file.fileno(), 1, seq)[0] + 1]), seq)


@in_own_process
def test_interrupts_do_not_tear_output(monitor: Monitor) -> None:
    """A task that prints without end is interrupted at any moment: what arrived is whole lines, in order."""

    def chatter() -> None:
        number = 0
        while True:
            print(number)
            number += 1

    monitor.spawn()
    for _ in range(30):
        (seq,) = monitor.call(chatter)
        monitor.until(lambda seq=seq: monitor.said(seq))  # type: ignore[misc]
        assert interrupt(monitor, seq) == INTERRUPTED
        lines = monitor.said(seq).decode().splitlines()
        kept = [line for line in lines if line.isdigit()]
        assert kept[:-1] == [str(number) for number in range(len(kept) - 1)]
        monitor.output.clear()
    assert monitor.outcomes(monitor.call(abs, -1)) == [1]
    assert not monitor.exits


if __name__ == "__main__":
    main()
