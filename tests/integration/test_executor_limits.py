"""What one task may take: memory and processes; what a slot loads first, and when it is replaced."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparrowmq import errors
from sparrowmq.errors import ConfigError
from sparrowmq.executor import preload
from sparrowmq.payload import command, python
from sparrowmq.payload.command import Command
from sparrowmq.protocol import messages as m
from tests.support.node_monitor import Monitor, eventually, in_own_process, main, with_options

MiB = 1024 * 1024


@with_options(task_memory_mib=100)
def test_task_that_wants_too_much_memory_fails_alone(monitor: Monitor) -> None:
    pid = monitor.spawn()
    sizes = [50 * MiB, 500 * MiB, 50 * MiB]
    payloads = [python.dump_call((size,), {}) for size in sizes]
    function = python.dump_function(lambda size: len(bytearray(size)))
    small, large, again = monitor.outcomes(monitor.hand(payloads, function=function))
    assert (small, again) == (50 * MiB, 50 * MiB)
    assert isinstance(large, MemoryError)
    assert monitor.pids == {0: pid}

    def grow() -> None:
        hoard = []
        while True:
            hoard.append(bytearray(MiB))

    assert isinstance(monitor.outcomes(monitor.call(grow))[0], MemoryError)
    assert monitor.pids == {0: pid}
    hungry = monitor.command(sys.executable, "-S", "-c", f"bytearray({500 * MiB})")
    assert b"MemoryError" in hungry.stderr
    payload = python.dump_call((b"x" * 60 * MiB,), {})
    assert monitor.outcomes(monitor.hand([m.Blob(payload, len(payload))], function=python.dump_function(len), job="l"))


@in_own_process
def test_slots_go_first_when_memory_is_short(monitor: Monitor) -> None:
    pid = monitor.spawn()
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
    assert Path(f"/proc/{monitor.zygote.pid}/oom_score_adj").read_text() != "1000\n"
    assert monitor.command("cat", "/proc/self/oom_score_adj")[1] == b"1000\n"


@with_options(task_processes=40)
def test_fork_bomb_takes_down_its_slot_only(monitor: Monitor) -> None:
    def bomb() -> None:
        while True:
            os.fork()
            time.sleep(0.005)

    shell = "b() { b | b & b & sleep 0.01; }; b; sleep 1000"
    idle = monitor.spawn(1)
    for hand in (
        lambda: monitor.call(bomb)[0],
        lambda: monitor.hand([command.dumps(Command(["sh", "-c", shell]))], kind=m.COMMAND)[0],
    ):
        monitor.spawn(0)
        seq = hand()
        monitor.until(lambda: monitor.exits)
        slot, cause, current_seq = monitor.exits.pop()
        assert (slot, current_seq) == (0, seq)
        assert cause.startswith("it had more than 40 processes (worker.task_processes) and was killed with them")
        eventually(lambda: not monitor.survivors())
    assert monitor.pids == {1: idle}
    assert monitor.outcomes(monitor.call(abs, -1, slot=1)) == [1]


@with_options(task_processes=20)
def test_processes_that_a_task_left_are_counted_too(monitor: Monitor) -> None:
    """The task has ended, the slot is idle, and what the task left multiplies."""

    def leave() -> None:
        code = "import subprocess, sys, time\nwhile True: subprocess.Popen(['sleep', '1000']); time.sleep(0.02)"
        subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True)

    monitor.spawn()
    monitor.outcomes(monitor.call(leave))
    monitor.until(lambda: monitor.exits)
    assert monitor.exits[0][1].startswith("it had more than 20 processes")
    assert monitor.exits[0][2] == 0  # no task is guilty
    eventually(lambda: not monitor.survivors())


@with_options(task_processes=40)
def test_many_processes_within_the_limit_are_fine(monitor: Monitor) -> None:
    pid = monitor.spawn()
    script = "for i in $(seq 30); do sleep 0.4 & done; wait; echo done"
    assert monitor.command("sh", "-c", script)[1] == b"done\n"
    assert monitor.pids == {0: pid}


@with_options(recycle_mib=200)
def test_slot_that_has_grown_says_so_once(monitor: Monitor) -> None:
    def grow() -> None:
        import builtins

        builtins.hoard = bytearray(os.urandom(MiB)) * 300  # type: ignore[attr-defined]

    monitor.spawn()
    monitor.outcomes(monitor.call(abs, -1))
    assert not monitor.retired
    monitor.outcomes(monitor.call(grow))
    monitor.until(lambda: monitor.retired)
    monitor.outcomes(monitor.call(abs, -1, n=10))
    assert monitor.retired == [0]


@with_options(preload=["json.tool", "tests.integration.test_executor_limits:leave_a_trace"])
def test_preloaded_before_the_first_task(monitor: Monitor) -> None:
    monitor.spawn()
    loaded = lambda: ("json.tool" in sys.modules, os.environ.get("TRACE"))  # noqa: E731
    assert monitor.outcomes(monitor.call(loaded)) == [(True, "left")]


def leave_a_trace() -> None:
    os.environ["TRACE"] = "left"
    print("said before the first task: goes to the worker's own output")


def fail() -> None:
    sys.exit("cannot")


@with_options(preload=["tests.integration.test_executor_limits:fail"])
def test_preload_that_fails_is_reported_with_its_reason(monitor: Monitor) -> None:
    monitor.pool.spawn(0)
    monitor.until(lambda: monitor.exits)
    name = "tests.integration.test_executor_limits:fail"
    assert monitor.exits[0][1].startswith(f"preloading '{name}' failed: SystemExit: cannot (")
    assert not monitor.pids


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_module", "there is no module 'no_such_module'"),
        ("json.nothing:f", "there is no module 'json.nothing'"),
        ("no_such.module", "the module 'no_such.module' cannot be found: ModuleNotFoundError"),
    ],
)
def test_missing_module_is_a_config_error(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=r"worker\.preload: ") as caught:
        preload.check(["json", name])
    assert reason in str(caught.value)
    assert isinstance(caught.value, errors.SparrowError)


def test_modules_that_are_there_are_not_imported_by_the_check() -> None:
    preload.check([])
    preload.check(["json.tool", "this"])
    assert "this" not in sys.modules


if __name__ == "__main__":
    main()
