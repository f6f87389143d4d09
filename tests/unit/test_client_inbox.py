"""Separate calls: each a job of its own while few are under way, together when many are."""

from __future__ import annotations

import itertools
from typing import Any, cast

from sparrowmq import limits
from sparrowmq.client import inbox, options, submission
from sparrowmq.client.future import Future
from sparrowmq.client.inbox import Inbox
from sparrowmq.client.link import Link
from sparrowmq.protocol import messages as m

SPEC = options.make_spec(name="f")


class FakeLink:
    """Gives ids."""

    def __init__(self) -> None:
        self.ids = map(str, itertools.count())

    def new_id(self) -> str:
        return next(self.ids)


class Calls:
    """An inbox, and calls into it."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.link = cast(Link, FakeLink())

    def __call__(
        self, payload: bytes = b"x", *, spec: m.JobSpec = SPEC, function: bytes = b"f", crowded: bool = True
    ) -> Future[Any]:
        return self.inbox.call(self.link, spec, function, payload, crowded=crowded)

    def taken(self) -> list[tuple[str, list[m.Payload]]]:
        jobs = [job for jobs, _ in self.inbox.take() for job in jobs]
        for submit, sink in jobs:
            assert (submit.job, submit.count) == (sink.id, sink.pending) == (sink.id, len(submit.payloads))
        return [(submit.job, submit.payloads) for submit, _ in jobs]


def test_while_few_are_under_way_a_call_is_a_job() -> None:
    call = Calls()
    futures = [call(b"%d" % n, crowded=False) for n in range(3)]
    assert [(future.job, future.index) for future in futures] == [("0", 0), ("1", 0), ("2", 0)]
    assert call.taken() == [("0", [b"0"]), ("1", [b"1"]), ("2", [b"2"])]
    assert (len(call.inbox), call.taken()) == (0, [])


def test_in_a_crowd_calls_of_one_function_share_a_job_until_it_is_taken() -> None:
    call = Calls()
    futures = [call(b"%d" % n) for n in range(3)]
    assert [(future.job, future.index) for future in futures] == [("0", 0), ("0", 1), ("0", 2)]
    assert call.taken() == [("0", [b"0", b"1", b"2"])]
    assert (call().job, call().index) == ("1", 1)
    futures[0].batch.settle([2, 0], bytes(2), [b"r2", b"r0"])
    assert [future.done() for future in futures] == [True, False, True]


def test_other_functions_and_options_are_other_jobs() -> None:
    call = Calls()
    other = options.make_spec(name="f", retries=1)
    found = [call(), call(function=b"g"), call(spec=other), call(), call(function=b"g"), call(spec=other)]
    assert [(future.job, future.index) for future in found] == [
        ("0", 0), ("1", 0), ("2", 0), ("0", 1), ("1", 1), ("2", 1),
    ]  # fmt: skip


def test_a_shared_job_is_bounded_in_tasks_and_bytes() -> None:
    call = Calls()
    for _ in range(inbox.GROUP_TASKS_MAX + 1):
        call()
    assert [len(payloads) for _, payloads in call.taken()] == [inbox.GROUP_TASKS_MAX, 1]
    size = limits.INLINE_BYTES_MAX
    for _ in range(inbox.GROUP_BYTES_MAX // size + 1):
        call(bytes(size))
    assert [len(payloads) for _, payloads in call.taken()] == [inbox.GROUP_BYTES_MAX // size, 1]


def test_a_large_call_is_a_job_of_its_own() -> None:
    call = Calls()
    call()
    call(bytes(limits.INLINE_BYTES_MAX + 1))
    call()
    (one, first), (two, [large]) = call.taken()
    assert (one, first, two) == ("0", [b"x", b"x"], "1")
    assert isinstance(large, m.Blob)


def test_ready_made_jobs_keep_their_place_and_their_flight() -> None:
    call = Calls()
    call()
    jobs = [(m.Submit("map", 0, SPEC, 1, [b"y"]), call().batch)]
    call.inbox.put(jobs, flight=True)
    call(function=b"g")
    taken = call.inbox.take()
    assert [([submit.job for submit, _ in jobs], flight) for jobs, flight in taken] == [
        (["0"], False), (["map"], True), (["1"], False),
    ]  # fmt: skip


def test_views_with_the_same_options_share_their_calls() -> None:
    one, other = (submission.Calls.under(options.make_spec(retries=2)) for _ in range(2))
    assert one is other
    spec, _, _ = one.call(abs, (1,), {})
    assert other.call(abs, (1,), {})[0] is spec
    assert (spec.name, spec.retries) == ("abs", 2)
    assert submission.Calls.under(options.make_spec(retries=3)) is not one
