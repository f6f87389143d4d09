"""Slots as real processes: what they run, what they report, and that nothing of them outlives its worker.

Each test that needs a node monitor runs in a process of its own, since a node monitor adopts orphans and must
have no threads when it starts: this file is then the program, and the test's name its argument.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import random
import signal
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from sparrowmq import errors, limits
from sparrowmq.core.effects import StartTasks
from sparrowmq.executor import pool as pools
from sparrowmq.executor import wire
from sparrowmq.executor.pool import SlotPool
from sparrowmq.executor.zygote import Zygote
from sparrowmq.payload import command, failure, plain, python
from sparrowmq.payload.command import Command
from sparrowmq.protocol import messages as m
from sparrowmq.runtime.loop import Loop

DEADLINE_S = 30.0
MARK = "SPARROWMQ_TEST_MARK"
MiB = 1024 * 1024
NIL = plain.dumps(None)


# A small node monitor.


class Monitor:
    """A pool on a loop, and everything it has reported."""

    def __init__(self) -> None:
        self.zygote = Zygote.start()
        self.loop = Loop(on_error=self._on_error)
        self.pool = SlotPool(self.loop, self.zygote, self)
        self.pids: dict[int, int] = {}
        self.results: dict[int, tuple[int, Any, int]] = {}  # seq -> (status, payload, service_us)
        self.exits: list[tuple[int, str, int]] = []
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
        self, payloads: list[Any], *, kind: int = m.PYTHON, function: Any = b"", job: str = "j", slot: int = 0, n: int = 0
    ) -> list[int]:
        """Hand tasks over; return their sequence numbers."""
        n = n or len(payloads)
        seqs = list(range(self.next_seq, self.next_seq + n))
        indices = [100 + seq for seq in seqs]
        self.pool.start(
            StartTasks(slot, seqs[0], job, 0, m.JobSpec(kind=kind), function, payloads, indices, [7] * n)
        )
        self.next_seq += n
        return seqs

    def call(self, function: Callable[..., Any], *args: Any, n: int = 1, slot: int = 0) -> list[int]:
        """Hand ``n`` alike Python tasks over, as a job of their own."""
        job = f"job{self.next_seq}"
        payload = python.dump_call(args, {})
        return self.hand([payload], function=python.dump_function(function), job=job, slot=slot, n=n)

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


SCENARIOS: dict[str, Callable[[Path], None]] = {}


def in_own_process(scenario: Callable[[Monitor, Path], None]) -> Callable[[Path], None]:
    """Make the scenario a test that runs in a process of its own, where it gets a monitor and a directory."""

    def inside(directory: Path) -> None:
        monitor = Monitor()
        scenario(monitor, directory)
        monitor.pool.close()
        assert not monitor.errors
        assert survivors(os.environ[MARK]) == [os.getpid()]

    @functools.wraps(scenario)
    def test(tmp_path: Path) -> None:
        with program(scenario.__name__, tmp_path) as process:
            output, _ = process.communicate(timeout=50)
        assert process.returncode == 0, output.decode()

    del test.__wrapped__  # type: ignore[attr-defined]  # pytest would take its parameters for fixtures
    SCENARIOS[scenario.__name__] = inside
    return test


class program:
    """This file as a running process; its descendants can be told by its mark, whatever becomes of them."""

    def __init__(self, scenario: str, directory: Path) -> None:
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, __file__, scenario, str(directory)],
            env={**os.environ, MARK: self.mark},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self.process

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
            except OSError:
                continue
    return found


def eventually(condition: Callable[[], object], within_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


# What tasks do here.


def add(a: int, b: int = 0) -> int:
    return a + b


def hold_the_gil() -> None:
    sum(range(10**15))


def note_and_hold(path: str) -> None:
    Path(path).write_text("started")
    sum(range(10**15))


# Kinds and values.


@in_own_process
def test_python_tasks(monitor: Monitor, _: Path) -> None:
    monitor.spawn()
    function = python.dump_function(add)
    payloads = [python.dump_call((number,), {"b": 1}) for number in range(1000)]
    assert monitor.outcomes(monitor.hand(payloads, function=function)) == list(range(1, 1001))
    assert monitor.outcomes(monitor.hand([payloads[4]], function=function, n=600)) == [5] * 600
    assert monitor.outcomes(monitor.call(lambda: [Local(3)]))[0][0].x == 3


class Local:
    def __init__(self, x: int) -> None:
        self.x = x


@in_own_process
def test_python_failures_are_each_alone(monitor: Monitor, _: Path) -> None:
    def misbehave(how: str) -> object:
        if how == "raise":
            raise KeyError("k")
        if how == "exit":
            sys.exit(3)
        if how == "interrupt":
            raise KeyboardInterrupt
        if how == "lock":
            return [1, sys._getframe()]
        if how == "large":
            return bytes(limits.FRAME_BYTES_MAX + 1)
        return how

    monitor.spawn()
    ways = ["fine", "raise", "exit", "interrupt", "lock", "large", "well"]
    payloads = [python.dump_call((way,), {}) for way in ways]
    seqs = monitor.hand([*payloads, b"junk"], function=python.dump_function(misbehave))
    fine, key_error, left, interrupted, lock, large, well, unread = monitor.outcomes(seqs)
    assert (fine, well) == ("fine", "well")
    assert isinstance(key_error, KeyError)
    assert "in misbehave" in key_error.__cause__.remote_traceback  # type: ignore[union-attr]
    assert "sparrowmq/executor" not in key_error.__cause__.remote_traceback  # type: ignore[union-attr]
    assert isinstance(left, errors.RemoteError)
    assert "SystemExit: 3" in str(left)
    assert "KeyboardInterrupt" in str(interrupted)
    assert isinstance(lock, errors.NotSerializable)
    assert "result[1] cannot be pickled" in str(lock)
    assert isinstance(large, errors.TooLarge)
    assert isinstance(unread, errors.TaskError)
    assert "the arguments cannot be loaded by this worker: _pickle.UnpicklingError" in str(unread)
    assert not monitor.exits


@in_own_process
def test_function_that_cannot_be_loaded_fails_each_task(monitor: Monitor, _: Path) -> None:
    monitor.spawn()
    missing = b"\x80\x05cno_such_module\nf\n."
    for seq in monitor.hand([python.dump_call((), {})], function=missing, n=3):
        (error,) = monitor.outcomes([seq])
        assert isinstance(error, errors.TaskError)
        assert "cannot be loaded by this worker: ModuleNotFoundError: No module named 'no_such_module'" in str(error)
    for number, name in enumerate(["no_such_module:f", "os:nothing", "os.path:sep", "os", "é:f"]):
        data = plain.dumps([[], {}])
        (seq,) = monitor.hand([data], kind=m.CALL, function=name.encode(), job=f"call{number}")
        monitor.until(lambda seq=seq: seq in monitor.results)  # type: ignore[misc]
        assert f"the function {name!r} cannot be loaded" in str(monitor.outcome(seq))
    assert monitor.outcomes(monitor.call(add, 1)) == [1]


@in_own_process
def test_calls_take_and_return_plain_data(monitor: Monitor, _: Path) -> None:
    monitor.spawn()
    assert monitor.run(plain.dumps([["a", "b"], {}]), m.CALL, b"os.path:join") == "a/b"
    assert monitor.run(plain.dumps([[3], {"b": 4}]), m.CALL, b"tests.integration.test_executor:add") == 7
    error = monitor.run(plain.dumps([[1, 3], {}]), m.CALL, b"builtins:divmod")
    assert isinstance(error, errors.NotSerializable)
    assert str(error).startswith("result is a tuple, which is not plain data: pass a list")
    error = monitor.run(plain.dumps([["x"], {}]), m.CALL, b"builtins:int")
    assert isinstance(error, errors.RemoteError)
    assert "ValueError: invalid literal" in str(error)
    assert failure.load(monitor.results[monitor.next_seq - 1][1]).__cause__ is None  # no pickle was sent
    for payload in (b"\xc1", plain.dumps([1]), plain.dumps([[], {3: 4}])):
        assert "the arguments are not" in str(monitor.run(payload, m.CALL, b"builtins:int"))


@in_own_process
def test_sleep(monitor: Monitor, _: Path) -> None:
    monitor.spawn()
    assert monitor.run(plain.dumps(0.02), m.SLEEP) is None
    assert monitor.results[1][2] >= 20_000
    for bad in (-1, float("nan"), True, "1", 10**10):
        assert "the duration must be a number of seconds" in str(monitor.run(plain.dumps(bad), m.SLEEP))


@in_own_process
def test_commands(monitor: Monitor, directory: Path) -> None:
    monitor.spawn()
    assert monitor.command("echo", "hi") == [0, b"hi\n", b""]
    assert monitor.command("sh", "-c", "cat; pwd >&2", stdin=b"x" * MiB, cwd="/") == [0, b"x" * MiB, b"/\n"]
    assert monitor.command("true", stdin=b"x" * MiB) == [0, b"", b""]  # nobody reads the input
    names = "$SPARROWMQ_JOB $SPARROWMQ_TASK $SPARROWMQ_ATTEMPT $OWN"
    seq = monitor.next_seq
    assert monitor.command("sh", "-c", f"echo {names}", env={"OWN": "o"})[1] == f"job{seq} {100 + seq} 7 o\n".encode()
    ended = monitor.command("sh", "-c", "echo out; echo err >&2; exit 3")
    assert isinstance(ended, errors.CommandFailed)
    assert (ended.status, ended.stdout, ended.stderr, str(ended)) == (3, b"out\n", b"err\n", "'sh': exit status 3")
    assert "killed by signal 15 (SIGTERM)" in str(monitor.command("sh", "-c", "kill $$"))
    missing = monitor.command("no-such-program")
    assert isinstance(missing, errors.CommandFailed)
    assert missing.status == 127
    assert "'no-such-program' cannot be started on this worker" in str(missing)
    assert monitor.command(str(directory)).status == 126
    assert "No such file" in str(monitor.command("true", cwd="/no/such"))
    assert "the payload is not a command" in str(monitor.run(NIL, m.COMMAND))


@in_own_process
def test_output_of_commands_is_bounded(monitor: Monitor, _: Path) -> None:
    monitor.spawn()
    status, stdout, stderr = monitor.command("sh", "-c", "head -c 3000000 /dev/zero; echo no >&2")
    note = b"\n[... 1,951,424 more bytes: only the first 1,048,576 are kept ...]\n"
    assert (status, stdout, stderr) == (0, bytes(MiB) + note, b"no\n")


@in_own_process
def test_commands_leave_nothing_behind(monitor: Monitor, directory: Path) -> None:
    """Background jobs, sessions of their own and daemons end with their command; a slot's own children stay."""
    monitor.spawn()
    (own,) = monitor.outcomes(monitor.call(lambda: subprocess.Popen(["sleep", "1000"]).pid))
    before = survivors(os.environ[MARK])
    daemon = f"sleep 1000 & setsid sleep 1000 & (setsid -f sh -c 'sleep 1000; :' &) ; echo $! > {directory}/pid"
    assert monitor.command("sh", "-c", daemon)[0] == 0
    assert sorted(survivors(os.environ[MARK])) == sorted(before)
    assert own in before


# Timing and bulk.


@in_own_process
def test_long_tasks_are_reported_at_once_and_short_ones_together(monitor: Monitor, _: Path) -> None:
    monitor.spawn()
    monitor.outcomes(monitor.call(add, 1, n=2000))
    assert monitor.reports < 200
    first, second = monitor.call(time.sleep, 0.3, n=2)
    monitor.until(lambda: first in monitor.results)
    assert second not in monitor.results
    assert 290_000 < monitor.results[first][2] < 600_000


@in_own_process
def test_large_payloads_pass_both_ways_at_once(monitor: Monitor, _: Path) -> None:
    """More is under way in each direction than any buffer holds: whoever waited for the other would wait for ever."""
    monitor.spawn()
    data = os.urandom(MiB) * 64
    large = python.dump_call((data,), {})
    blob = m.Blob(memoryview(large), len(large))
    small = python.dump_call((b"s",), {})
    seqs = monitor.hand([blob, small, blob, m.Blob(small, len(small)), blob], function=python.dump_function(bytes))
    results = monitor.outcomes(seqs)
    assert [len(result) for result in results] == [64 * MiB, 1, 64 * MiB, 1, 64 * MiB]
    assert results[4] == data
    assert isinstance(monitor.results[seqs[0]][1], m.Blob)
    seqs = monitor.hand([blob], function=python.dump_function(len), job="shared", n=3)
    assert monitor.outcomes(seqs) == [64 * MiB] * 3


@in_own_process
def test_payloads_may_be_zeromq_frames(monitor: Monitor, _: Path) -> None:
    import zmq

    monitor.spawn()
    frame = zmq.Frame(python.dump_call((b"x" * MiB,), {}))
    seqs = monitor.hand([m.Blob(frame, len(frame))], function=python.dump_function(len))
    assert monitor.outcomes(seqs) == [MiB]


@in_own_process
def test_results_beyond_the_inline_limit_are_blobs(monitor: Monitor, _: Path) -> None:
    monitor.spawn()
    overhead = len(python.dump_result(bytes(1000))) - 1000
    fits, beyond = monitor.call(bytes, limits.INLINE_BYTES_MAX - overhead) + monitor.call(bytes, limits.INLINE_BYTES_MAX)
    monitor.outcomes([fits, beyond])
    assert isinstance(monitor.results[fits][1], bytes)
    assert isinstance(monitor.results[beyond][1], m.Blob)


@in_own_process
def test_function_travels_once_while_the_slot_keeps_it(monitor: Monitor, _: Path) -> None:
    """The job's second function is another one: that the first answers shows that the slot was sent no second."""
    monitor.spawn()
    one, two = python.dump_function(lambda: 1), python.dump_function(lambda: 2)
    payload = [python.dump_call((), {})]
    assert monitor.outcomes(monitor.hand(payload, function=one, job="a", n=600)) == [1] * 600
    assert monitor.outcomes(monitor.hand(payload, function=two, job="a")) == [1]
    for number in range(wire.FUNCTIONS_MAX - 1):
        monitor.hand(payload, function=one, job=f"other{number}")
    assert monitor.outcomes(monitor.hand(payload, function=two, job="a")) == [1]
    for number in range(wire.FUNCTIONS_MAX):
        monitor.hand(payload, function=one, job=f"another{number}")
    assert monitor.outcomes(monitor.hand(payload, function=two, job="a")) == [2]


@in_own_process
def test_slots_inherit_no_descriptors(monitor: Monitor, directory: Path) -> None:
    with open(directory / "secret", "w") as file:
        os.set_inheritable(file.fileno(), True)
        pid = monitor.spawn()
        (inside,) = monitor.outcomes(monitor.call(lambda: sorted(map(int, os.listdir("/proc/self/fd")))[:-1]))
        assert inside == [0, 1, 2, 3]
        assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
        listing = monitor.command("sh", "-c", "ls /proc/self/fd")[1].split()
        assert set(map(int, listing)) <= {0, 1, 2, 3}  # 3 is the directory that ls reads


# Ends.


@in_own_process
def test_crash_concerns_the_running_task_only(monitor: Monitor, _: Path) -> None:
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
    causes = {"exit": "exit status 3", "segfault": "killed by signal 11 (SIGSEGV)", "kill": "killed by signal 9 (SIGKILL)"}
    for how, cause in causes.items():
        monitor.spawn()
        payloads = [python.dump_call((way,), {}) for way in ("fine", "pause", how, "fine")]
        seqs = monitor.hand(payloads, function=function, job=how)
        monitor.until(lambda: monitor.exits)
        assert monitor.exits.pop() == (0, cause, seqs[2])
        assert sorted(monitor.results)[-2:] == seqs[:2]  # flushed before the crash, so delivered before the exit
        monitor.results.clear()


@in_own_process
def test_all_that_was_sent_before_the_end_is_delivered(monitor: Monitor, _: Path) -> None:
    def last_words() -> bytes:
        return bytes(3 * MiB)

    monitor.spawn()
    (last,) = monitor.call(last_words)
    (crash,) = monitor.call(os._exit, 1)
    monitor.until(lambda: monitor.exits)
    assert monitor.exits == [(0, "exit status 1", crash)]
    assert monitor.outcome(last) == bytes(3 * MiB)


@in_own_process
def test_kill_takes_the_descendants(monitor: Monitor, directory: Path) -> None:
    note = directory / "note"
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
    eventually(lambda: sorted(survivors(os.environ[MARK])) == sorted([os.getpid(), monitor.zygote.pid, idle]))
    monitor.pool.kill(0)  # nobody is there any more, which is no error
    assert monitor.spawn(0)


@in_own_process
def test_slot_that_closes_its_socket_is_ended(monitor: Monitor, _: Path) -> None:
    def close_everything() -> None:
        os.closerange(3, 100)
        time.sleep(1000)

    monitor.spawn()
    (seq,) = monitor.call(close_everything)
    monitor.until(lambda: monitor.exits)
    assert monitor.exits == [(0, "closed its socket (killed by signal 9 (SIGKILL))", seq)]


@in_own_process
def test_slot_that_sends_nonsense_is_ended(monitor: Monitor, _: Path) -> None:
    forged = bytes(wire.frame(wire.Results(999, b"\0", [1], [b""])))
    for data in (b"\xff" * 100, bytes(wire.frame(wire.Function("j"))), forged):
        monitor.spawn()
        monitor.call(lambda data=data: [os.write(3, data), time.sleep(1000)])
        monitor.until(lambda: monitor.exits)
        assert monitor.exits.pop()[1].startswith("sent what is no report: ")
    assert not monitor.results


@in_own_process
def test_process_that_a_task_forks_is_no_slot(monitor: Monitor, _: Path) -> None:
    def fork() -> int:
        return os.fork()

    monitor.spawn()
    parents = monitor.outcomes(monitor.call(fork, n=5))
    assert all(parents)
    assert not monitor.exits


@in_own_process
def test_slot_that_cannot_start_is_reported(monitor: Monitor, _: Path) -> None:
    os.kill(monitor.zygote.pid, signal.SIGSTOP)
    pools.READY_WITHIN_S = 0.05  # type: ignore[misc]
    monitor.pool.spawn(0)
    monitor.loop.call_later(0.1, lambda: os.kill(monitor.zygote.pid, signal.SIGCONT))
    monitor.until(lambda: monitor.exits or monitor.pids)
    if not monitor.exits:  # it came up just before the order to kill it
        monitor.until(lambda: monitor.exits)
    assert monitor.exits[0][1].startswith("was not ready within 0.05 s")
    used = [os.dup(0) for _ in range(8)]
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(used), hard))
    monitor.pool.spawn(0)
    monitor.until(lambda: len(monitor.exits) == 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert monitor.exits[1] == (0, "could not be started: [Errno 24] Too many open files", 0)
    pools.READY_WITHIN_S = 30.0  # type: ignore[misc]
    monitor.spawn(0)


@in_own_process
def test_many_slots_and_many_starts(monitor: Monitor, _: Path) -> None:
    for slot in range(100):
        monitor.pool.spawn(slot)
    monitor.until(lambda: len(monitor.pids) == 100)
    for slot in range(100):
        monitor.pool.kill(slot)
    monitor.until(lambda: len(monitor.exits) == 100)
    assert not monitor.pids


@in_own_process
def test_zygote_that_is_killed_takes_its_slots_and_is_replaced(monitor: Monitor, directory: Path) -> None:
    note = directory / "note"
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
    monitor.until(lambda: len(survivors(os.environ[MARK])) == 3)  # this one, the new zygote, the new slot
    assert monitor.outcomes(monitor.call(add, 1)) == [1]


# However the node monitor dies.


def victim(monitor: Monitor, directory: Path) -> None:
    """A node monitor with a command that daemonizes, a task that forks and one that holds the GIL."""
    daemonize = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        open({str(directory / 'daemon')!r}, 'w').close()\n"
        "        time.sleep(1000)\n"
        "    os._exit(0)\n"
        "time.sleep(1000)\n"
    )
    for slot in range(3):
        monitor.spawn(slot)
    monitor.hand([command.dumps(Command([sys.executable, "-S", "-c", daemonize]))], kind=m.COMMAND, slot=0)
    monitor.call(note_and_hold, str(directory / "gil"), slot=1)

    def breed(path: str) -> None:
        """Forks for ever, so that whoever kills by a list kills too few."""
        if os.fork() == 0:
            os.setsid()
            Path(path).write_text("started")
            while os.fork() == 0:
                time.sleep(0.001)
            os._exit(0)
        time.sleep(1000)

    monitor.call(breed, str(directory / "breed"), slot=2)
    monitor.until(lambda: False)


def _check_nothing_survives(tmp_path: Path, signum: int) -> None:
    running = program("victim", tmp_path)
    with running as process:
        eventually(lambda: all((tmp_path / name).exists() for name in ("daemon", "gil", "breed")))
        assert len(survivors(running.mark)) >= 7
        process.send_signal(signum)
        process.wait(DEADLINE_S)
        eventually(lambda: not survivors(running.mark), within_s=10)


def test_killed_node_monitor_leaves_no_descendant(tmp_path: Path) -> None:
    _check_nothing_survives(tmp_path, signal.SIGKILL)


def test_crashed_node_monitor_leaves_no_descendant(tmp_path: Path) -> None:
    _check_nothing_survives(tmp_path, signal.SIGSEGV)


@in_own_process
def test_killed_slot_leaves_no_descendant(monitor: Monitor, directory: Path) -> None:
    note = directory / "note"
    pid = monitor.spawn()
    (seq,) = monitor.hand(
        [command.dumps(Command(["sh", "-c", f"(setsid -f sleep 1000); echo > {note}; sleep 1000"]))], kind=m.COMMAND
    )
    monitor.until(note.exists)
    os.kill(pid, signal.SIGKILL)
    monitor.until(lambda: monitor.exits)
    assert monitor.exits == [(0, "killed by signal 9 (SIGKILL)", seq)]
    eventually(lambda: sorted(survivors(os.environ[MARK])) == sorted([os.getpid(), monitor.zygote.pid]))


# Reclaim.


def mark(path: str, seq: int, spin_s: float) -> None:
    """Leave a trace that this task has run."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as trace:
        trace[seq] += 1
    until = time.perf_counter() + spin_s
    while time.perf_counter() < until:
        pass


@in_own_process
def test_reclaim_of_a_busy_slot(monitor: Monitor, _: Path) -> None:
    monitor.spawn()
    first, *rest = monitor.call(time.sleep, 0.2, n=10)
    monitor.until(lambda: monitor.pool.running(0))
    monitor.pool.reclaim(0)
    later = monitor.call(add, 5)
    monitor.until(lambda: monitor.reclaimed)
    assert monitor.reclaimed == [(0, first)], monitor.reclaimed
    assert not monitor.results  # the slot was not waited for
    assert monitor.outcomes(later) == [5]
    assert sorted(monitor.results) == [first, *later]
    assert rest


@in_own_process
def test_reclaim_of_an_idle_slot(monitor: Monitor, _: Path) -> None:
    monitor.spawn()
    monitor.pool.reclaim(0)
    monitor.until(lambda: monitor.reclaimed)
    assert monitor.reclaimed == [(0, 0)]
    seqs = monitor.call(add, 5, n=3)
    monitor.outcomes(seqs)
    monitor.pool.reclaim(0)
    monitor.until(lambda: len(monitor.reclaimed) == 2)
    assert monitor.reclaimed[1] == (0, seqs[-1])


@in_own_process
def test_reclaims_under_load(monitor: Monitor, directory: Path) -> None:
    """Every task reports once, or was reclaimed and left no trace; the slot is stopped at random moments too."""
    rng = random.Random(5)
    tasks, rounds = 200_000, 250
    path = directory / "trace"
    path.write_bytes(bytes(tasks))
    pid = monitor.spawn()
    function = python.dump_function(mark)
    returned: set[int] = set()
    outstanding: set[int] = set()
    for _ in range(rounds):
        for _ in range(rng.randrange(1, 4)):
            count = rng.choice([1, 3, 30, 300])
            seqs = range(monitor.next_seq, monitor.next_seq + count)
            payloads = [python.dump_call((str(path), seq, rng.choice([0.0, 2e-5])), {}) for seq in seqs]
            outstanding.update(monitor.hand(payloads, function=function))
        before = monitor.next_seq - 1
        stopped = rng.random() < 0.5
        wait_until = time.monotonic() + rng.random() * 0.003
        monitor.until(lambda wait_until=wait_until: time.monotonic() >= wait_until)  # type: ignore[misc]
        if stopped:
            os.kill(pid, signal.SIGSTOP)
        monitor.pool.reclaim(0)
        outstanding.update(monitor.hand([python.dump_call((str(path), before + 1, 0.0), {})], function=function))
        monitor.until(lambda: monitor.reclaimed)
        if stopped:
            os.kill(pid, signal.SIGCONT)
        _, after_seq = monitor.reclaimed.pop()
        outstanding.difference_update(monitor.results)
        taken = {seq for seq in outstanding if after_seq < seq <= before}
        returned |= taken
        outstanding -= taken
    monitor.until(lambda: outstanding <= monitor.results.keys())
    trace = path.read_bytes()
    assert monitor.next_seq <= tasks
    assert len(returned) > 1000
    assert len(monitor.results) > 1000
    assert not returned & monitor.results.keys()
    assert returned | monitor.results.keys() == set(range(1, monitor.next_seq))
    assert [seq for seq in range(1, monitor.next_seq) if trace[seq] != (seq in monitor.results)] == []
    assert all(status == m.SUCCEEDED for status, _, _ in monitor.results.values())


SCENARIOS["victim"] = lambda directory: victim(Monitor(), directory)


def _main(arguments: Iterator[str]) -> None:
    name, directory = arguments
    SCENARIOS[name](Path(directory))


if __name__ == "__main__":
    _main(iter(sys.argv[1:]))
