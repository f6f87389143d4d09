"""Streams: results in their places, at most two parts ahead of the reader, whatever comes back in whichever order."""

from __future__ import annotations

import concurrent.futures
import gc
import itertools
import random
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings, strategies as st

from sparrowmq import limits
from sparrowmq.client import options, stream
from sparrowmq.client.link import Question, Sink, Told
from sparrowmq.client.stream import Stream
from sparrowmq.errors import NotSerializable, RemoteError, UsageError
from sparrowmq.payload import failure, python
from sparrowmq.protocol import messages as m

SPEC = options.make_spec()
FAILS = "fails"  # an item whose task raises
CANNOT = threading.Lock()  # an item that cannot be sent


def identity(item: object) -> object:
    return item


class Broken(Exception):
    """Raised by the iterable of a test."""


class FakeLink:
    """Answers when the reader is about to wait, in an order of the test's choice."""

    answer_timeout_s = 1.0

    def __init__(self, seed: int = 0, *, at_once: bool = False) -> None:
        self.rng = random.Random(seed)
        self.at_once = at_once
        self.stream: Stream[Any] | None = None
        self.submits: list[m.Submit] = []
        self.open: list[tuple[m.Submit, Sink, list[int]]] = []
        self.recalled: list[tuple[str, list[int]]] = []
        self.killed_parts: set[int] = set()  # parts that end as a whole, by number
        self.closed = False
        self.ids = map(str, itertools.count())

    def new_id(self) -> str:
        return next(self.ids)

    def submit(self, jobs: Sequence[tuple[m.Submit, Sink]], *, flight: bool = False) -> None:
        if self.closed:
            raise UsageError("this client is closed")
        ((submit, sink),) = jobs
        self.submits.append(submit)
        self.open.append((submit, sink, list(range(submit.count))))
        if self.at_once:
            self.answer_all()

    def check_process(self) -> None:
        """The reader waits unless something comes."""
        while self.stream is not None and not self.stream._ready():
            self.answer_some()

    def answer_all(self) -> None:
        while self.open:
            self.answer_some()

    def answer_some(self) -> None:
        entry = self.rng.choice(self.open)
        submit, sink, left = entry
        if int(submit.job) in self.killed_parts and self.rng.random() < 0.5:
            sink.fail(lambda: Broken(submit.job))
            left.clear()
        else:
            some = self.rng.sample(left, self.rng.randint(1, len(left)))
            left[:] = [index for index in left if index not in some]
            answers = [answer(submit.payloads[index]) for index in some]
            sink.settle(some, bytes(status for status, _ in answers), [payload for _, payload in answers])
        if not left:
            assert sink.pending == 0
            self.open.remove(entry)

    def start_recall(self, sink: Sink, indices: Sequence[int]) -> concurrent.futures.Future[None]:
        if self.closed:
            raise UsageError("this client is closed")
        self.recalled.append((sink.id, list(indices)))
        return concurrent.futures.Future()

    def kill(self, job: str, indices: Sequence[int], grace_s: float = 0.0) -> None:
        raise AssertionError("streams kill nothing")

    def inquire(
        self,
        question: Question,
        timeout_s: float,
        *,
        addresses: Iterable[str] | None = None,
        first: Sequence[m.AnyMessage] = (),
    ) -> list[Told]:
        raise AssertionError("streams ask nothing")


def answer(payload: m.Payload) -> tuple[int, bytes]:
    data = payload if isinstance(payload, bytes) else bytes(memoryview(payload.buffer))  # type: ignore[arg-type]
    ((item,), _) = python.load_call(data)
    if item == FAILS:
        return m.FAILED, failure.dump(ValueError(FAILS))
    return m.SUCCEEDED, python.dump_result(item)


def open_stream(link: FakeLink, items: Iterable[Any], *, ordered: bool = True) -> Stream[Any]:
    rows: Iterator[tuple[Any, ...]] = zip(items)
    link.stream = stream.start(link, SPEC, identity, rows, ordered=ordered)
    return link.stream


def read(results: Iterator[Any]) -> list[Any]:
    """Everything that a stream gives, with exceptions in place of what they stand for."""
    found: list[Any] = []
    while True:
        try:
            found.append(next(results))
        except StopIteration:
            return found
        except Exception as error:
            found.append(error)


def shown(found: object) -> object:
    """Something that can be compared and sorted, for a result or an exception."""
    if isinstance(found, NotSerializable):
        return "cannot " + str(found).partition(":")[0]
    return f"{type(found).__name__}" if isinstance(found, Exception) else found


@st.composite
def items_(draw: st.DrawFn) -> list[Any]:
    length = draw(st.integers(0, 60))
    items: list[Any] = [f"item {n}" for n in range(length)]
    for position in draw(st.lists(st.integers(0, max(0, length - 1)), max_size=5)) if length else []:
        items[position] = draw(st.sampled_from([FAILS, CANNOT]))
    return items


@settings(max_examples=300, deadline=None)
@given(
    items=items_(),
    ordered=st.booleans(),
    seed=st.integers(0, 2**32),
    first=st.integers(1, 6),
    growth=st.integers(1, 4),
    most=st.integers(1, 20),
    breaks=st.booleans(),
    killed=st.sets(st.integers(0, 5), max_size=2),
)
def test_everything_comes_once_and_in_its_place(
    items: list[Any], ordered: bool, seed: int, first: int, growth: int, most: int, breaks: bool, killed: set[int]
) -> None:
    link = FakeLink(seed)
    link.killed_parts = killed
    taken = 0

    def source() -> Iterator[Any]:
        nonlocal taken
        for item in items:
            taken += 1
            yield item
        if breaks:
            raise Broken("source")

    expected = [f"cannot item {n}" if item is CANNOT else "ValueError" if item == FAILS else item
                for n, item in enumerate(items)] + ["Broken"] * breaks  # fmt: skip
    with mock.patch.multiple(
        stream, PART_TASKS_MIN=first, PART_TASKS_MAX=max(first, most), GROWTH=growth, BUILD_S=60.0
    ):
        results = open_stream(link, source(), ordered=ordered)
        assert (taken, link.submits) == (0, [])  # nothing before the first is asked for
        found: list[Any] = []
        while True:
            try:
                found.append(next(results))
            except StopIteration:
                break
            except Exception as error:
                found.append(error)
            cannot = items[:taken].count(CANNOT)
            assert taken - len(found) <= 2 * max(first, most) + cannot + 1
            unread = sum(submit.count for submit in link.submits) - len(found)
            assert unread <= 2 * max(first, most)
        assert next(results, None) is None
    sent = [submit.count for submit in link.submits]
    assert sum(sent) == len(items) - items.count(CANNOT)
    assert max(sent, default=0) <= max(first, most)
    assert link.open == []
    comparable = list(map(shown, found))
    if killed:  # which tasks of such a part end with it is up to chance
        assert len(found) == len(expected)
        lost = [place for place, (one, other) in enumerate(zip(comparable, expected, strict=True)) if one != other]
        assert not ordered or all(comparable[place] == "Broken" for place in lost)
    elif ordered:
        assert comparable == expected
    else:
        assert sorted(comparable) == sorted(expected)  # type: ignore[type-var]
    assert link.recalled == []


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), ordered=st.booleans(), reads=st.integers(0, 100), most=st.integers(1, 30))
def test_closing_early_cancels_what_is_open_and_takes_nothing_more(
    seed: int, ordered: bool, reads: int, most: int
) -> None:
    link = FakeLink(seed)
    source = iter(range(10**9))
    with mock.patch.multiple(stream, PART_TASKS_MIN=most, PART_TASKS_MAX=most, BUILD_S=60.0):
        results = open_stream(link, source, ordered=ordered)
        for _ in range(reads):
            next(results)
        expected = sorted((submit.job, sorted(left)) for submit, _, left in link.open)
        after = next(source)
        results.close()
        results.close()
        assert sorted((job, sorted(indices)) for job, indices in link.recalled) == expected
        assert list(results) == []
        assert next(source) == after + 1
        assert after <= reads + 2 * most
        link.answer_all()  # what comes after all is counted, and dropped


def test_the_first_part_is_small_and_the_following_grow_up_to_the_bound() -> None:
    link = FakeLink(at_once=True)
    assert list(open_stream(link, range(100_000))) == list(range(100_000))
    sent = [submit.count for submit in link.submits]
    assert sent[:3] == [32, 128, 512]
    assert max(sent) == 20_000
    assert sum(sent) == 100_000


def test_large_arguments_make_small_parts() -> None:
    link = FakeLink(at_once=True)
    data = bytes(3 * 1024 * 1024)
    results = open_stream(link, [data] * 40)
    assert sum(1 for _ in results) == 40
    assert max(submit.count for submit in link.submits) <= 6
    many = FakeLink(at_once=True)
    with mock.patch.multiple(stream, PART_BYTES_MAX=10**9, PART_TASKS_MIN=5000, BUILD_S=60.0):
        assert sum(1 for _ in open_stream(many, [bytes(limits.INLINE_BYTES_MAX)] * 1500)) == 1500
    assert [submit.count for submit in many.submits] == [1000, 500]  # as many frames as a message has


def test_large_results_make_small_parts() -> None:
    link = FakeLink(at_once=True)
    with mock.patch.object(stream, "PART_BYTES_MAX", 1000 * 1000):

        def source() -> Iterator[int]:
            yield from range(3000)

        with mock.patch(f"{__name__}.answer", return_value=(m.SUCCEEDED, python.dump_result(bytes(10_000)))):
            assert sum(1 for _ in open_stream(link, source())) == 3000
    assert [submit.count for submit in link.submits][:2] == [32, 128]
    assert max(submit.count for submit in link.submits[2:]) < 100


def test_a_slow_iterable_does_not_keep_back_what_is_there() -> None:
    link = FakeLink(at_once=True)
    now = 0.0
    taken: list[int] = []

    def source() -> Iterator[int]:
        nonlocal now
        for number in range(10):
            now += number % 2
            taken.append(number)
            yield number

    with mock.patch("sparrowmq.client.stream.time.monotonic", side_effect=lambda: now):
        results = open_stream(link, source())
        for number in range(10):
            assert next(results) == number
            assert len(taken) == 2 * (number // 2 + 1)  # none was taken while there was something to give
    assert [submit.count for submit in link.submits] == [2] * 5


def test_an_interrupt_while_an_item_is_awaited_loses_no_item() -> None:
    link = FakeLink(at_once=True)
    interrupts = [KeyboardInterrupt()]

    class Source:
        def __init__(self) -> None:
            self.number = -1

        def __iter__(self) -> Source:
            return self

        def __next__(self) -> int:
            if self.number == 5 and interrupts:
                raise interrupts.pop()
            self.number += 1
            if self.number == 10:
                raise StopIteration
            return self.number

    results = open_stream(link, Source())
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert list(results) == list(range(10))


def test_exceptions_have_the_remote_traceback_and_reading_goes_on() -> None:
    results = open_stream(FakeLink(at_once=True), ["a", FAILS, "b"])
    assert next(results) == "a"
    with pytest.raises(ValueError, match=FAILS) as caught:
        next(results)
    assert isinstance(caught.value.__cause__, RemoteError)
    assert next(results) == "b"
    with pytest.raises(StopIteration):
        next(results)


def test_an_item_that_cannot_be_sent_is_named_by_its_number() -> None:
    results = open_stream(FakeLink(at_once=True), ["a", CANNOT, "b"])
    assert next(results) == "a"
    with pytest.raises(NotSerializable, match=r"item 1: args\[0\] cannot be pickled"):
        next(results)
    assert next(results) == "b"


def test_cancelled_tasks_raise_in_their_place() -> None:
    link = FakeLink()
    results = open_stream(link, range(2))
    link.check_process = lambda: link.open[0][1].settle([0, 1], bytes([3, 0]), [b"killed", python.dump_result(1)])  # type: ignore[method-assign]
    with pytest.raises(concurrent.futures.CancelledError):
        next(results)
    assert next(results) == 1


def test_a_client_that_is_closed_ends_a_stream() -> None:
    link = FakeLink()
    results = open_stream(link, itertools.count())

    def close() -> None:
        for _, sink, _ in link.open:
            sink.fail(None)

    link.check_process = close  # type: ignore[method-assign]
    with pytest.raises(concurrent.futures.CancelledError):
        next(results)
    link.closed = True
    kinds = [type(error) for error in read(results)]
    assert kinds.count(UsageError) == 1
    assert set(kinds) == {UsageError, concurrent.futures.CancelledError}
    results.close()


def test_a_stream_that_is_dropped_cancels_what_is_open() -> None:
    link = FakeLink()
    results = open_stream(link, range(10**6))
    next(results)
    link.stream = None
    gone = weakref.ref(results)
    gc.disable()
    try:
        del results
        assert gone() is None
    finally:
        gc.enable()
    assert {job for job, _ in link.recalled} == {submit.job for submit, _, _ in link.open}


def test_a_stream_in_a_with_block_is_closed_at_its_end() -> None:
    link = FakeLink()
    with open_stream(link, range(1000)) as results:
        next(results)
    assert link.recalled
    assert list(results) == []


def test_what_was_read_is_kept_nowhere() -> None:
    link = FakeLink(at_once=True)
    results = open_stream(link, range(100))
    for _ in range(40):
        next(results)
    parts = [entry for entry in results._line if isinstance(entry, stream._Part)]
    kept = [payload for part in parts for payload in part._payloads if payload is not None]
    assert len(kept) == sum(part.unread for part in parts) == 60


@pytest.mark.parametrize("ordered", [True, False])
def test_a_reader_that_waits_is_woken(ordered: bool) -> None:
    link = FakeLink()
    results = open_stream(link, range(3), ordered=ordered)
    waiting = threading.Event()
    link.check_process = waiting.set  # type: ignore[method-assign]
    found: list[Any] = []
    reader = threading.Thread(target=lambda: found.extend(read(results)), daemon=True)
    reader.start()
    assert waiting.wait(10)
    link.answer_all()
    reader.join(10)
    assert sorted(found) == [0, 1, 2]


@pytest.mark.parametrize("fn", ["math.sqrt", 3])
def test_what_makes_no_sense_raises_at_the_call(fn: Any) -> None:
    with pytest.raises(UsageError):
        stream.start(FakeLink(), SPEC, fn, iter([]), ordered=True)
