"""What tasks write to standard output and error: in order, bounded, and doing no harm."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import time
from typing import Any

from sparrowmq.payload import command, python
from sparrowmq.payload.command import Command
from sparrowmq.protocol import messages as m
from tests.support.node_monitor import Monitor, in_own_process, main, with_options


@in_own_process
def test_prints_arrive_in_order_before_the_result(monitor: Monitor) -> None:
    def chat(name: str) -> str:
        print(name, "begins")
        print("to err", file=sys.stderr)
        sys.stdout.write("no end of line")
        print("é", end="", flush=True)
        sys.stdout.buffer.write(b"\xff\n")
        sys.stderr.writelines(["a\n", "b"])
        return name

    monitor.spawn()
    payloads = [python.dump_call((name,), {}) for name in ("one", "two")]
    seqs = monitor.hand(payloads, function=python.dump_function(chat))
    assert monitor.outcomes(seqs) == ["one", "two"]  # the monitor refuses output that comes after the result
    for seq, name in zip(seqs, (b"one", b"two"), strict=True):
        assert monitor.said(seq, 1) == name + b" begins\nno end of line\xc3\xa9\xff\n"
        assert monitor.said(seq, 2) == b"to err\na\nb"


@in_own_process
def test_lines_leave_as_they_end(monitor: Monitor) -> None:
    def wait(path: str) -> None:
        print("line")
        while not os.path.exists(path):
            time.sleep(0.001)

    go = monitor.directory / "go"
    monitor.spawn()
    (seq,) = monitor.call(wait, str(go))
    monitor.until(lambda: monitor.said(seq) == b"line\n")
    go.touch()
    monitor.outcomes([seq])


@with_options(output_bytes=1000)
def test_flood_is_cut_with_one_note(monitor: Monitor) -> None:
    def flood(lines: int) -> None:
        for _ in range(lines):
            print("x" * 99)
        print("y" * 10_000_000, file=sys.stderr)

    monitor.spawn()
    (seq,) = monitor.call(flood, 100_000)
    monitor.outcomes([seq])
    note = b"[... output beyond 1,000 bytes is left out ...]\n"
    assert monitor.said(seq) == (b"x" * 99 + b"\n") * 10 + note
    assert monitor.said(seq, 2) == b"y" * 1000 + b"\n" + note
    (fits,) = monitor.call(flood, 0)
    monitor.outcomes([fits])
    assert monitor.said(fits) == b""  # the next task has its own cap


@in_own_process
def test_large_writes_travel_in_pieces(monitor: Monitor) -> None:
    monitor.spawn()
    (seq,) = monitor.call(print, "z" * 200_000)
    monitor.outcomes([seq])
    assert monitor.said(seq) == b"z" * 200_000 + b"\n"


@in_own_process
def test_replaced_closed_and_kept_streams_do_no_harm(monitor: Monitor) -> None:
    def replace() -> None:
        sys.stdout = io.StringIO()
        sys.stderr = None  # type: ignore[assignment]
        print("lost")

    def close() -> None:
        sys.stdout.close()
        sys.stderr.close()
        sys.stdout.reconfigure(encoding="latin-1")  # type: ignore[union-attr]

    def redirect() -> str:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            print("kept")
        print("after")
        return out.getvalue()

    def add_handler() -> None:
        logging.getLogger().addHandler(logging.StreamHandler(sys.stderr))

    def log(text: str) -> None:
        logging.warning(text)

    def ask() -> tuple[int, bool, str]:
        return sys.stdout.fileno(), sys.stdout.isatty(), sys.stdout.encoding

    monitor.spawn()
    for task in (replace, close):
        monitor.outcomes(monitor.call(task))
        (seq,) = monitor.call(print, "still here")
        monitor.outcomes([seq])
        assert monitor.said(seq) == b"still here\n"
    (seq,) = monitor.call(redirect)
    assert monitor.outcomes([seq]) == ["kept\n"]
    assert monitor.said(seq) == b"after\n"
    monitor.outcomes(monitor.call(add_handler))
    for text in ("first", "second"):
        (seq,) = monitor.call(log, text)
        monitor.outcomes([seq])
        assert monitor.said(seq, 2) == text.encode() + b"\n"
    assert monitor.outcomes(monitor.call(ask)) == [(1, False, "utf-8")]
    bad = monitor.call(lambda: sys.stdout.write(b"bytes"))  # type: ignore[arg-type]
    assert isinstance(monitor.outcomes(bad)[0], TypeError)


@in_own_process
def test_threads_print_for_their_own_task_only(monitor: Monitor) -> None:
    """A thread that outlives its task does not speak for the next one."""

    def start(go: str, done: str) -> None:
        def work() -> None:
            print("from the thread")
            started.set()
            while not os.path.exists(go):
                time.sleep(0.001)
            print("too late")
            open(done, "w").close()

        started = threading.Event()
        threading.Thread(target=work, daemon=True).start()
        started.wait()

    def wait(go: str, done: str) -> None:
        open(go, "w").close()
        while not os.path.exists(done):
            time.sleep(0.001)
        print("mine")

    names = str(monitor.directory / "go"), str(monitor.directory / "done")
    monitor.spawn()
    (first,) = monitor.call(start, *names)
    monitor.outcomes([first])
    (second,) = monitor.call(wait, *names)
    monitor.outcomes([second])
    assert monitor.said(first) == b"from the thread\n"
    assert monitor.said(second) == b"mine\n"


@in_own_process
def test_threads_that_print_at_once_tear_nothing(monitor: Monitor) -> None:
    def crowd() -> None:
        threads = [threading.Thread(target=repeat, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        repeat("e")
        for thread in threads:
            thread.join()

    def repeat(name: str) -> None:
        for _ in range(2000):
            sys.stdout.write(name * 9 + "\n")

    monitor.spawn()
    (seq,) = monitor.call(crowd)
    results = monitor.call(abs, -1, n=500)
    monitor.outcomes([seq, *results])
    lines = monitor.said(seq).split()
    assert sorted(lines) == sorted(name.encode() * 9 for name in "abcde" for _ in range(2000))


@in_own_process
def test_forked_processes_speak_for_themselves(monitor: Monitor) -> None:
    def fork() -> None:
        print("before", end="")
        pid = os.fork()
        if pid == 0:
            print("child")
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(pid, 0)
        print(" after")

    def fork_and_return() -> int:
        return os.fork()

    monitor.spawn()
    (seq,) = monitor.call(fork)
    monitor.outcomes([seq])
    assert monitor.said(seq) == b"before after\n"
    assert monitor.outcomes(monitor.call(fork_and_return))[0] > 0
    assert monitor.outcomes(monitor.call(abs, -1)) == [1]


@in_own_process
def test_signal_handlers_may_print_while_their_task_prints(monitor: Monitor) -> None:
    def alarm() -> None:
        signal.signal(signal.SIGALRM, lambda *_: sys.stdout.write("handler\n"))
        signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            sys.stdout.write("line\n")
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)

    monitor.spawn()
    for _ in range(5):
        (seq,) = monitor.call(alarm)
        monitor.outcomes([seq])
        *lines, _cut, _note = monitor.said(seq).splitlines()
        assert set(lines) == {b"line", b"handler"}


@in_own_process
def test_what_is_not_unicode_is_escaped(monitor: Monitor) -> None:
    monitor.spawn()
    (seq,) = monitor.call(print, "\ud800")
    monitor.outcomes([seq])
    assert monitor.said(seq) == b"\\ud800\n"


@in_own_process
def test_commands_stream_and_return_their_output(monitor: Monitor) -> None:
    monitor.spawn()
    go = monitor.directory / "go"
    script = f"echo one; echo two >&2; until [ -e {go} ]; do sleep 0.01; done; echo three"
    (seq,) = monitor.hand([command.dumps(Command(["sh", "-c", script]))], kind=m.COMMAND)
    monitor.until(lambda: monitor.said(seq) == b"one\n" and monitor.said(seq, 2) == b"two\n")
    assert seq not in monitor.results
    go.touch()
    monitor.until(lambda: seq in monitor.results)
    assert monitor.said(seq) == b"one\nthree\n"
    first = monitor.next_seq
    result: Any = monitor.command("sh", "-c", "head -c 500000 /dev/zero")
    assert len(result[1]) == 500_000
    assert monitor.said(first)[262_144:] == b"\n[... output beyond 262,144 bytes is left out ...]\n"


if __name__ == "__main__":
    main()
