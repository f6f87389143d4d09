"""The poll loop: order of a turn, waking, and that nothing a callback does stops it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import zmq

from sparrowmq.runtime.loop import Loop


@pytest.fixture
def errors() -> list[tuple[str, Exception, int]]:
    return []


@pytest.fixture
def loop(errors: list[tuple[str, Exception, int]]) -> Iterator[Loop]:
    loop = Loop(lambda name, error, suppressed: errors.append((name, error, suppressed)))
    yield loop
    loop.close()


def run_until(loop: Loop, condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Run the loop until the condition holds at the end of a turn; fail after the timeout."""
    late = loop.call_later(timeout_s, loop.stop)

    def check() -> None:
        if condition():
            loop.stop()

    loop.on_turn.append(check)
    loop.run()
    loop.on_turn.remove(check)
    late.cancel()
    assert condition(), "not within the timeout"


def test_timers_run_in_order_of_their_time_and_not_when_cancelled(loop: Loop) -> None:
    ran: list[str] = []
    loop.call_later(0.02, lambda: ran.append("second"))
    loop.call_later(0.0, lambda: ran.append("first"))
    loop.call_later(0.01, lambda: ran.append("cancelled")).cancel()
    run_until(loop, lambda: len(ran) == 2)
    assert ran == ["first", "second"]


def test_cancelled_timers_do_not_pile_up(loop: Loop) -> None:
    for _ in range(10_000):
        loop.call_later(3600.0, lambda: None).cancel()
    assert len(loop._timers) <= 2048


def test_a_deadline_wakes_the_loop_and_moves(loop: Loop) -> None:
    start = time.monotonic()
    loop.deadline = lambda: start + 0.03
    seen: list[float] = []

    def turn() -> None:
        if time.monotonic() >= start + 0.03:
            seen.append(time.monotonic() - start)
            loop.deadline = None

    loop.on_turn.append(turn)
    run_until(loop, lambda: seen)
    assert 0.03 <= seen[0] < 1.0
    assert loop.turns <= 3, "it slept instead of spinning"


def test_a_deadline_that_raises_is_reported_and_the_loop_goes_on(
    loop: Loop, errors: list[tuple[str, Exception, int]]
) -> None:
    loop.deadline = lambda: 1 / 0
    loop.call_later(0.01, lambda: None)
    run_until(loop, lambda: loop.turns >= 2)
    assert [name for name, _, _ in errors] == ["deadline"]


def test_an_idle_loop_does_not_turn(loop: Loop) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sock = context.socket(zmq.PULL)
    sock.bind("inproc://idle")
    loop.add_socket(sock, lambda: None)
    done = loop.call_later(0.2, loop.stop)
    before = time.process_time()
    loop.run()
    assert done.callback is not None
    assert loop.turns <= 3
    assert time.process_time() - before < 0.1
    loop.remove(sock)
    sock.close(0)
    context.term()


def test_posts_from_threads_wake_the_loop_and_keep_their_order(loop: Loop) -> None:
    got: list[tuple[int, int]] = []

    def poster(thread: int) -> None:
        for n in range(1000):
            loop.post(lambda n=n: got.append((thread, n)))  # type: ignore[misc]

    threads = [threading.Thread(target=poster, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    run_until(loop, lambda: len(got) == 4000)
    for thread in threads:
        thread.join()
    for number in range(4):
        assert [n for thread_number, n in got if thread_number == number] == list(range(1000))


def test_a_post_wakes_a_sleeping_loop_at_once(loop: Loop) -> None:
    delays: list[float] = []

    def poster() -> None:
        for _ in range(20):
            time.sleep(0.002)
            posted = time.monotonic()
            loop.post(lambda posted=posted: delays.append(time.monotonic() - posted))  # type: ignore[misc]

    thread = threading.Thread(target=poster)
    thread.start()
    run_until(loop, lambda: len(delays) == 20)
    thread.join()
    assert min(delays) < 0.01


def test_what_a_post_posts_waits_for_the_next_turn(loop: Loop) -> None:
    turns: list[int] = []

    def again() -> None:
        turns.append(loop.turns)
        if len(turns) < 3:
            loop.post(again)

    loop.post(again)
    run_until(loop, lambda: len(turns) == 3)
    assert turns == [1, 2, 3]


def test_stop_from_another_thread_and_post_after_close(loop: Loop) -> None:
    threading.Timer(0.01, lambda: loop.post(loop.stop)).start()
    loop.run()
    loop.close()
    loop.post(lambda: pytest.fail("ran after close"))


def test_the_order_of_a_turn(loop: Loop) -> None:
    order: list[str] = []
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.send(b"x")
        loop.add_fd(reader.fileno(), lambda: order.append(f"readable {reader.recv(1)!r}"))
        loop.call_later(0.0, lambda: order.append("timer"))
        loop.post(lambda: order.append("post"))
        loop.on_turn.append(lambda: order.append("turn"))
        run_until(loop, lambda: order)
        loop.remove(reader.fileno())
    assert order == ["readable b'x'", "timer", "post", "turn"]


def test_a_failing_callback_is_reported_at_most_once_a_second_and_stops_nothing(
    loop: Loop, errors: list[tuple[str, Exception, int]]
) -> None:
    reader, writer = socket.socketpair()
    calls: list[int] = []

    def broken() -> None:
        calls.append(1)
        raise ValueError("bad input")

    with reader, writer:
        writer.send(b"x")
        loop.add_fd(reader.fileno(), broken)  # never reads: stays readable
        run_until(loop, lambda: len(calls) >= 50)
        loop.remove(reader.fileno())
    assert len(errors) == 1
    assert "broken" in errors[0][0]
    assert isinstance(errors[0][1], ValueError)


def test_a_failing_error_report_does_not_stop_the_loop(capsys: pytest.CaptureFixture[str]) -> None:
    def report(_name: str, _error: Exception, _suppressed: int) -> None:
        raise OSError("log disk full")

    loop = Loop(report)
    loop.post(lambda: 1 / 0)
    run_until(loop, lambda: loop.turns >= 1)
    loop.close()
    assert "log disk full" in capsys.readouterr().err


def test_keyboard_interrupt_ends_the_loop(loop: Loop) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    loop.post(interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.run()


def test_end_of_file_is_readable(loop: Loop) -> None:
    reader, writer = socket.socketpair()
    got: list[bytes] = []
    loop.add_fd(reader.fileno(), lambda: got.append(reader.recv(10)))
    writer.close()
    run_until(loop, lambda: got)
    assert got[0] == b""
    loop.remove(reader.fileno())
    reader.close()


def test_writability_is_told_while_it_is_asked_for(loop: Loop) -> None:
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        told: list[int] = []

        def writable() -> None:
            told.append(1)
            if len(told) == 3:
                loop.set_writable(writer.fileno(), None)

        loop.set_writable(writer.fileno(), writable)
        run_until(loop, lambda: len(told) == 3)
        turns = loop.turns
        loop.call_later(0.05, loop.stop)
        loop.run()
        assert len(told) == 3
        assert loop.turns - turns <= 2, "no interest is left, so it slept"


def test_a_source_removed_by_an_earlier_callback_of_the_turn_is_not_called(loop: Loop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[int] = []

    def handler(mine: int) -> Callable[[], None]:
        def readable() -> None:
            called.append(mine)
            loop.remove(pairs[1 - mine][0].fileno())
            loop.remove(pairs[mine][0].fileno())

        return readable

    for number, (reader, writer) in enumerate(pairs):
        loop.add_fd(reader.fileno(), handler(number))
        writer.send(b"x")
    loop.post(lambda: None)
    run_until(loop, lambda: called)
    loop.call_later(0.01, loop.stop)
    loop.run()
    assert len(called) == 1
    for reader, writer in pairs:
        reader.close()
        writer.close()


class Pipe:
    """A pair of connected ZeroMQ sockets."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.left = self.context.socket(zmq.PAIR)
        self.right = self.context.socket(zmq.PAIR)
        port = self.right.bind_to_random_port("tcp://127.0.0.1")
        self.left.connect(f"tcp://127.0.0.1:{port}")

    def close(self) -> None:
        self.left.close(0)
        self.right.close(0)
        self.context.term()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def test_a_reader_that_stops_at_its_bound_is_called_again_after_others_had_their_turn(loop: Loop, pipe: Pipe) -> None:
    got: list[bytes] = []
    turns: list[int] = []

    def readable() -> bool:
        turns.append(loop.turns)
        for _ in range(10):
            try:
                got.append(pipe.right.recv(zmq.NOBLOCK))
            except zmq.Again:
                return False
        return True

    loop.add_socket(pipe.right, readable)
    for n in range(1000):
        pipe.left.send(b"%d" % n)
    run_until(loop, lambda: len(got) == 1000)
    assert len(set(turns)) >= 100
    loop.remove(pipe.right)


def test_a_message_whose_edge_a_send_has_swallowed_is_found_by_recheck(loop: Loop, pipe: Pipe) -> None:
    got: list[bytes] = []

    def readable() -> None:
        while pipe.right.poll(0):
            got.append(pipe.right.recv(zmq.NOBLOCK))

    loop.add_socket(pipe.right, readable)
    loop.call_later(0.0, loop.stop)
    loop.run()
    pipe.left.send(b"hello")
    late = time.monotonic() + 5
    while not pipe.right.poll(0) and time.monotonic() < late:  # this takes the edge
        pass
    loop.recheck(pipe.right)
    run_until(loop, lambda: got)
    assert got == [b"hello"]
    loop.remove(pipe.right)


def test_a_reader_that_raises_half_way_is_called_for_the_rest(
    loop: Loop, pipe: Pipe, errors: list[tuple[str, Exception, int]]
) -> None:
    got: list[bytes] = []

    def readable() -> None:
        while True:
            try:
                got.append(pipe.right.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            if got[-1] == b"3":
                raise RuntimeError("half way")

    loop.add_socket(pipe.right, readable)
    for n in range(10):
        pipe.left.send(b"%d" % n)
    run_until(loop, lambda: len(got) == 10)
    assert len(errors) == 1
    loop.remove(pipe.right)


def test_signals_run_in_the_loop_between_callbacks(loop: Loop) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    got: list[int] = []
    loop.add_signal(signal.SIGUSR1, lambda: got.append(threading.get_ident()))
    threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
    run_until(loop, lambda: got)
    assert got == [threading.get_ident()]
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_loop_that_expects_an_answer_takes_it_and_sleeps_when_it_does_not_come(loop: Loop) -> None:
    reader, writer = socket.socketpair()
    read: list[bytes] = []
    loop.add_fd(reader.fileno(), lambda: read.append(reader.recv(100)))
    loop.expecting = lambda: True
    writer.send(b"now")
    run_until(loop, lambda: read)
    turns = loop.turns
    loop.call_later(0.05, lambda: writer.send(b"later"))
    run_until(loop, lambda: len(read) == 2)
    assert read == [b"now", b"later"]
    assert loop.turns - turns < 20
    loop.remove(reader.fileno())
    reader.close()
    writer.close()
