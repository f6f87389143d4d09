"""A worker's queue: order, counts, what a cancel, a recall and a silent scheduler do to it."""

from __future__ import annotations

from sparrowmq.core.queue import Entry, Queue
from sparrowmq.protocol import messages as m


def reserved(job: str, count: int = 1, *, scheduler: str = "s1", round: int = 1) -> Entry:
    return Entry(scheduler, job, 0, round, count)


def pushed(job: str, indices: list[int], *, scheduler: str = "s1", shared: bool = False) -> Entry:
    payloads: list[m.Payload] = [b"same"] if shared else [b"p%d" % index for index in indices]
    task = m.Task(0, job, 0, m.JobSpec(), indices, [1] * len(indices), payloads)
    return Entry(scheduler, job, 0, 1, len(indices), task, b"f")


def order(queue: Queue) -> list[tuple[str, int]]:
    return [(entry.job, entry.count) for entry in queue if entry.count]


def test_first_in_first_out_and_back_to_the_head() -> None:
    queue = Queue()
    queue.add(reserved("a", 2))
    queue.add(pushed("b", [0, 1, 2]))
    queue.add(reserved("c"), first=True)
    assert order(queue) == [("c", 1), ("a", 2), ("b", 3)]
    assert (queue.reservations, queue.tasks, len(queue)) == (3, 3, 3)
    head = queue.head()
    assert head is not None
    queue.take(head, 1)
    head = queue.head()
    assert head is not None
    assert head.job == "a"
    assert (queue.reservations, len(queue)) == (2, 2)


def test_pushed_tasks_leave_in_order_with_their_payloads() -> None:
    queue = Queue()
    queue.add(pushed("a", [5, 6, 7]))
    queue.add(pushed("b", [0, 1], shared=True))
    first, second = queue.entries
    assert queue.start(first, 2).payloads == [b"p5", b"p6"]
    assert first.waiting() == [(7, 1)]
    rest = queue.start(first, 1)
    assert (rest.indices, rest.payloads) == ([7], [b"p7"])
    assert queue.start(second, 1).payloads == [b"same"]
    assert queue.tasks == 1
    assert queue.head() is second


def test_remove_takes_out_of_the_line_and_of_the_side() -> None:
    queue = Queue()
    queue.add(reserved("a", 2))
    queue.add(reserved("a", 3, scheduler="s2"))
    queue.add(reserved("b", 4))
    queue.park("s2")
    removed = queue.remove(lambda entry: entry.job == "a")
    assert [(entry.scheduler, entry.count) for entry in removed] == [("s1", 2), ("s2", 3)]
    assert order(queue) == [("b", 4)]
    assert queue.reservations == 4


def test_a_parked_scheduler_keeps_its_order_and_comes_back_first() -> None:
    queue = Queue()
    for job, scheduler in (("a", "s1"), ("b", "s2"), ("c", "s1")):
        queue.add(reserved(job, scheduler=scheduler))
    queue.park("s1")
    queue.park("s1")
    queue.add(reserved("d"))  # while it is parked
    assert [entry.job for entry in queue.entries] == ["b"]
    assert len(queue) == 4
    queue.unpark("s1")
    assert order(queue) == [("a", 1), ("c", 1), ("d", 1), ("b", 1)]
    queue.unpark("s1")
    assert queue.reservations == 4


def test_pull_takes_tasks_out_and_leaves_the_rest_in_its_place() -> None:
    queue = Queue()
    queue.add(reserved("a", 9))
    queue.add(pushed("a", [0, 1, 2, 3]))
    queue.add(pushed("b", [1]))
    queue.add(pushed("a", [4, 5], shared=True))
    queue.add(pushed("a", [1], scheduler="s2"))
    queue.start(queue.entries[1], 1)
    assert queue.pull("s1", "a", 0, {0, 2, 5, 99}) == [(2, 1), (5, 1)]
    assert queue.pull("s1", "a", 1, None) == []
    assert [entry.waiting() for entry in queue.entries] == [[], [(1, 1), (3, 1)], [(1, 1)], [(4, 1)], [(1, 1)]]
    assert queue.tasks == 5
    rest = queue.start(queue.entries[1], 2)
    assert (rest.indices, rest.payloads) == ([1, 3], [b"p1", b"p3"])
    assert queue.start(queue.entries[3], 1).payloads == [b"same"]


def test_pull_of_a_whole_job() -> None:
    queue = Queue()
    queue.add(pushed("a", [0, 1]))
    queue.add(pushed("a", [2]))
    assert queue.pull("s1", "a", 0, None) == [(0, 1), (1, 1), (2, 1)]
    assert queue.tasks == 0
    assert queue.head() is None
    assert len(queue) == 0
