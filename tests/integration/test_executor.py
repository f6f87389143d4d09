"""Slots as real processes: what each kind of task returns, how it fails, and how bulk passes through."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from sparrowmq import errors, limits
from sparrowmq.executor import wire
from sparrowmq.payload import failure, plain, python
from sparrowmq.protocol import messages as m
from tests.support.node_monitor import Monitor, in_own_process, main

MiB = 1024 * 1024
NIL = plain.dumps(None)


def add(a: int, b: int = 0) -> int:
    return a + b


@in_own_process
def test_python_tasks(monitor: Monitor) -> None:
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
def test_python_failures_are_each_alone(monitor: Monitor) -> None:
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
def test_function_that_cannot_be_loaded_fails_each_task(monitor: Monitor) -> None:
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
def test_calls_take_and_return_plain_data(monitor: Monitor) -> None:
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
def test_sleep(monitor: Monitor) -> None:
    monitor.spawn()
    assert monitor.run(plain.dumps(0.02), m.SLEEP) is None
    assert monitor.results[1][2] >= 20_000
    for bad in (-1, float("nan"), True, "1", 10**10):
        assert "the duration must be a number of seconds" in str(monitor.run(plain.dumps(bad), m.SLEEP))


@in_own_process
def test_commands(monitor: Monitor) -> None:
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
    assert monitor.command(str(monitor.directory)).status == 126
    assert "No such file" in str(monitor.command("true", cwd="/no/such"))
    assert "the payload is not a command" in str(monitor.run(NIL, m.COMMAND))


@in_own_process
def test_output_of_commands_is_bounded(monitor: Monitor) -> None:
    monitor.spawn()
    status, stdout, stderr = monitor.command("sh", "-c", "head -c 3000000 /dev/zero; echo no >&2")
    note = b"\n[... 1,951,424 more bytes: only the first 1,048,576 are kept ...]\n"
    assert (status, stdout, stderr) == (0, bytes(MiB) + note, b"no\n")


@in_own_process
def test_commands_leave_nothing_behind(monitor: Monitor) -> None:
    """Background jobs, sessions of their own and daemons end with their command; what tasks started stays."""
    monitor.spawn()
    (own,) = monitor.outcomes(monitor.call(lambda: subprocess.Popen(["sleep", "1000"], start_new_session=True).pid))
    script = """
        stay() { echo > background; sleep 1000; }
        stay &
        setsid sh -c 'echo > session; sleep 1000; :' &
        (setsid sh -c 'echo > daemon; sleep 1000; :' &)
        until [ -e background -a -e session -a -e daemon ]; do sleep 0.01; done
    """
    assert monitor.command("sh", "-c", script, cwd=str(monitor.directory)) == [0, b"", b""]
    assert monitor.survivors() == [own]


@in_own_process
def test_long_tasks_are_reported_at_once_and_short_ones_together(monitor: Monitor) -> None:
    monitor.spawn()
    monitor.outcomes(monitor.call(add, 1, n=2000))
    assert monitor.reports < 200
    reports = monitor.reports
    monitor.outcomes(monitor.call(time.sleep, 0.0003, n=10))
    assert monitor.reports - reports == 10
    first, second = monitor.call(time.sleep, 0.3, n=2)
    monitor.until(lambda: first in monitor.results)
    assert second not in monitor.results
    assert 290_000 < monitor.results[first][2] < 600_000


@in_own_process
def test_large_payloads_pass_both_ways_at_once(monitor: Monitor) -> None:
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
def test_payloads_may_be_zeromq_frames(monitor: Monitor) -> None:
    import zmq

    monitor.spawn()
    frame = zmq.Frame(python.dump_call((b"x" * MiB,), {}))
    seqs = monitor.hand([m.Blob(frame, len(frame))], function=python.dump_function(len))
    assert monitor.outcomes(seqs) == [MiB]


@in_own_process
def test_results_beyond_the_inline_limit_are_blobs(monitor: Monitor) -> None:
    monitor.spawn()
    overhead = len(python.dump_result(bytes(1000))) - 1000
    sizes = limits.INLINE_BYTES_MAX - overhead, limits.INLINE_BYTES_MAX - overhead + 1
    fits, beyond = (monitor.call(bytes, size)[0] for size in sizes)
    monitor.outcomes([fits, beyond])
    assert isinstance(monitor.results[fits][1], bytes)
    assert isinstance(monitor.results[beyond][1], m.Blob)


@in_own_process
def test_function_travels_once_while_the_slot_keeps_it(monitor: Monitor) -> None:
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
def test_slots_inherit_no_descriptors(monitor: Monitor) -> None:
    with open(monitor.directory / "secret", "w") as file:
        os.set_inheritable(file.fileno(), True)
        pid = monitor.spawn()
        (inside,) = monitor.outcomes(monitor.call(lambda: sorted(map(int, os.listdir("/proc/self/fd")))[:-1]))
        assert inside == [0, 1, 2, 3]
        assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
        listing = monitor.command("sh", "-c", "ls /proc/self/fd")[1].split()
        assert set(map(int, listing)) <= {0, 1, 2, 3}  # 3 is the directory that ls reads


if __name__ == "__main__":
    main()
