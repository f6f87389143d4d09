"""How slots, zygotes and node monitors end: each is told exactly, and nothing outlives its worker."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest

from sparrowmq.executor import link as links, wire
from sparrowmq.payload import command, python
from sparrowmq.payload.command import Command
from sparrowmq.protocol import messages as m
from tests.support.node_monitor import DEADLINE_S, Monitor, Program, eventually, in_own_process, main, survivors, victim

MiB = 1024 * 1024


@in_own_process
def test_crash_concerns_the_running_task_only(monitor: Monitor) -> None:
    def crash(how: str) -> object:
        if how == "exit":
            os._exit(3)
        if how == "segfault":
            ctypes.string_at(0)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "pause":
            time.sleep(0.001)  # long enough to be reported at once
        return how

    function = python.dump_function(crash)
    causes = {
        "exit": "exit status 3",
        "segfault": "killed by signal 11 (SIGSEGV)",
        "kill": "killed by signal 9 (SIGKILL)",
    }
    for how, cause in causes.items():
        monitor.spawn()
        payloads = [python.dump_call((way,), {}) for way in ("fine", "pause", how, "fine")]
        seqs = monitor.hand(payloads, function=function, job=how)
        monitor.until(lambda: monitor.exits)
        assert monitor.exits.pop() == (0, cause, seqs[2])
        assert sorted(monitor.results)[-2:] == seqs[:2]  # flushed before the crash, so delivered before the exit
        monitor.results.clear()


@in_own_process
def test_what_may_start_only_once_is_not_lost_with_what_runs_after_it(monitor: Monitor) -> None:
    """However short it is: its result has left the process before the next task begins."""

    def maybe(ends: bool) -> None:
        if ends:
            os._exit(3)

    monitor.spawn()
    payloads = [python.dump_call((ends,), {}) for ends in (False, False, False, True)]
    seqs = monitor.hand(payloads, function=python.dump_function(maybe), job="once", at_most_once=True)
    monitor.until(lambda: monitor.exits)
    assert monitor.exits == [(0, "exit status 3", seqs[-1])]
    assert sorted(monitor.results) == seqs[:-1]


@in_own_process
def test_all_that_was_sent_before_the_end_is_delivered(monitor: Monitor) -> None:
    """The socket is not read until the exit is known: what it holds then comes first all the same."""
    monitor.spawn()
    links._READS_PER_TURN = 0  # type: ignore[misc]
    (last,) = monitor.call(bytes, 30_000)
    (crash,) = monitor.call(os._exit, 1)
    monitor.until(lambda: monitor.exits)
    assert monitor.exits == [(0, "exit status 1", crash)]
    assert monitor.outcome(last) == bytes(30_000)


@in_own_process
def test_kill_takes_the_descendants(monitor: Monitor) -> None:
    note = monitor.directory / "note"
    idle = monitor.spawn(1)
    monitor.spawn(0)
    (seq,) = monitor.hand(
        [command.dumps(Command(["sh", "-c", f"(setsid -f sleep 1000); sleep 1000 & echo > {note}; wait"]))],
        kind=m.COMMAND,
    )
    monitor.until(note.exists)
    assert monitor.pool.running(0) is not None
    assert monitor.pool.running(0)[0] == seq  # type: ignore[index]
    assert monitor.pool.running(1) is None
    monitor.pool.kill(0)
    monitor.until(lambda: monitor.exits)
    assert monitor.exits == [(0, "killed by signal 9 (SIGKILL)", seq)]
    eventually(lambda: not monitor.survivors())
    assert list(monitor.pids.values()) == [idle]
    monitor.pool.kill(0)  # nobody is there any more, which is no error
    assert monitor.spawn(0)


@in_own_process
def test_slot_that_closes_its_socket_is_ended(monitor: Monitor) -> None:
    def close_everything() -> None:
        os.closerange(3, 100)
        time.sleep(1000)

    monitor.spawn()
    (seq,) = monitor.call(close_everything)
    monitor.until(lambda: monitor.exits)
    assert monitor.exits == [(0, "closed its socket (killed by signal 9 (SIGKILL))", seq)]


def write_to_the_monitor(data: bytes) -> None:
    os.write(3, data)
    time.sleep(1000)


@in_own_process
def test_slot_that_sends_nonsense_is_ended(monitor: Monitor) -> None:
    forged = [bytes(wire.frame(wire.Results(seq, b"\0", [1], [b""]))) for seq in (0, 999)]
    for data in (b"\xff" * 100, bytes(wire.frame(wire.Function("j"))), *forged):
        monitor.spawn()
        monitor.call(write_to_the_monitor, data)
        monitor.until(lambda: monitor.exits)
        assert monitor.exits.pop()[1].startswith("sent what is no report: ")
    assert not monitor.results


@in_own_process
def test_process_that_a_task_forks_is_no_slot(monitor: Monitor) -> None:
    def fork(path: str) -> int:
        with open(path, "a") as file:
            file.write("ran\n")
        return os.fork()

    monitor.spawn()
    note = monitor.directory / "note"
    assert all(monitor.outcomes(monitor.call(fork, str(note), n=5)))
    (pid,) = monitor.pids.values()
    eventually(lambda: all("zombie" in _state(child) for child in _children(pid)))
    assert note.read_text().count("ran") == 5
    assert not monitor.exits


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _state(pid: int) -> str:
    return next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("State:"))


@in_own_process
def test_slot_that_cannot_start_is_reported(monitor: Monitor) -> None:
    os.kill(monitor.zygote.pid, signal.SIGSTOP)
    monitor.pool._ready_within_s = 0.05
    monitor.pool.spawn(0)
    monitor.loop.call_later(0.1, lambda: os.kill(monitor.zygote.pid, signal.SIGCONT))
    monitor.until(lambda: monitor.exits or monitor.pids)
    if not monitor.exits:  # it came up just before the order to kill it
        monitor.until(lambda: monitor.exits)
    assert monitor.exits[0][1].startswith("was not ready within 0.05 s")
    monitor.pool._ready_within_s = 30.0
    assert monitor.spawn(0)


@in_own_process
def test_slot_without_descriptors_is_reported(monitor: Monitor) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0) + 1, hard))
    monitor.pool.spawn(0)
    monitor.until(lambda: monitor.exits)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert monitor.exits == [(0, "could not be started: [Errno 24] Too many open files", 0)]
    assert monitor.spawn(0)


@in_own_process
def test_many_slots_and_many_starts(monitor: Monitor) -> None:
    for slot in range(100):
        monitor.pool.spawn(slot)
    monitor.until(lambda: len(monitor.pids) == 100)
    for slot in range(100):
        monitor.pool.kill(slot)
    monitor.until(lambda: len(monitor.exits) == 100)
    assert not monitor.pids


@in_own_process
def test_zygote_that_is_killed_takes_its_slots_and_is_replaced(monitor: Monitor) -> None:
    note = monitor.directory / "note"
    monitor.spawn(0)
    monitor.spawn(1)
    daemons = f"(setsid -f sleep 1000); (setsid -f sh -c 'sleep 1000; :'); echo > {note}; sleep 1000"
    (seq,) = monitor.hand([command.dumps(Command(["sh", "-c", daemons]))], kind=m.COMMAND)
    monitor.until(note.exists)
    os.kill(monitor.zygote.pid, signal.SIGKILL)
    monitor.until(lambda: len(monitor.exits) == 2)
    cause = "the zygote, which all slots descend from, ended: killed by signal 9 (SIGKILL)"
    assert sorted(monitor.exits) == [(0, cause, seq), (1, cause, 0)]
    monitor.pool.spawn(0)
    monitor.until(lambda: monitor.pids)
    monitor.until(lambda: len(monitor.survivors()) == 1)  # the new zygote
    assert monitor.outcomes(monitor.call(abs, 1)) == [1]


@victim
def busy_worker(monitor: Monitor) -> None:
    """A node monitor with a command that daemonizes, a task that holds the GIL, and one that forks for ever."""
    daemonize = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        open({str(monitor.directory / 'daemon')!r}, 'w').close()\n"
        "        time.sleep(1000)\n"
        "    os._exit(0)\n"
        "time.sleep(1000)\n"
    )

    def breed(path: str) -> None:
        """Whoever kills by a list of processes kills too few."""
        if os.fork() == 0:
            os.setsid()
            Path(path).write_text("started")
            while os.fork() == 0:
                time.sleep(0.001)
            os._exit(0)
        time.sleep(1000)

    for slot in range(3):
        monitor.spawn(slot)
    monitor.hand([command.dumps(Command([sys.executable, "-S", "-c", daemonize]))], kind=m.COMMAND, slot=0)
    monitor.call(hold_the_gil, str(monitor.directory / "gil"), slot=1)
    monitor.call(breed, str(monitor.directory / "breed"), slot=2)
    monitor.until(lambda: False)


@victim
def greedy_worker(monitor: Monitor) -> None:
    """A node monitor with a task that holds the GIL; it writes down its zygote."""
    (monitor.directory / "zygote").write_text(str(monitor.zygote.pid))
    monitor.spawn(0)
    monitor.call(hold_the_gil, str(monitor.directory / "gil"))
    monitor.until(lambda: False)


def hold_the_gil(note: str) -> None:
    Path(note).write_text("started")
    sum(range(10**15))


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_node_monitor_that_dies_leaves_no_descendant(tmp_path: Path, signum: signal.Signals) -> None:
    with Program(busy_worker, tmp_path) as program:
        eventually(lambda: all((tmp_path / name).exists() for name in ("daemon", "gil", "breed")))
        assert len(survivors(program.mark)) >= 7
        program.process.send_signal(signum)
        program.process.wait(DEADLINE_S)
        eventually(lambda: not survivors(program.mark))


def test_slots_die_with_the_zygote_though_nobody_kills_them(tmp_path: Path) -> None:
    with Program(greedy_worker, tmp_path) as program:
        eventually((tmp_path / "gil").exists)
        program.process.send_signal(signal.SIGSTOP)
        os.kill(int((tmp_path / "zygote").read_text()), signal.SIGKILL)
        eventually(lambda: survivors(program.mark) == [program.process.pid])


@in_own_process
def test_killed_slot_leaves_no_descendant(monitor: Monitor) -> None:
    note = monitor.directory / "note"
    pid = monitor.spawn()
    (seq,) = monitor.hand(
        [command.dumps(Command(["sh", "-c", f"(setsid -f sleep 1000); echo > {note}; sleep 1000"]))], kind=m.COMMAND
    )
    monitor.until(note.exists)
    os.kill(pid, signal.SIGKILL)
    monitor.until(lambda: monitor.exits)
    assert monitor.exits == [(0, "killed by signal 9 (SIGKILL)", seq)]
    eventually(lambda: not monitor.survivors())


if __name__ == "__main__":
    main()
