"""Output of tasks at the scheduler: what is kept, who is sent it, what is left out."""

from __future__ import annotations

from sparrowmq.core import effects as fx
from sparrowmq.core.transcripts import _RECORD, FOLLOW_BYTES_PER_S
from sparrowmq.limits import SchedulerLimits
from sparrowmq.protocol import messages as m
from tests.support.scheduler import CLIENT, World, hello, outcome, result, submit

HEAD = _RECORD.size


def printed(data: bytes, index: int = 0, *, job: str = "a", stream: int = 1, dropped: int = 0) -> m.Output:
    return m.Output(job, 0, index, 1, stream, data, dropped)


def running(**bounds: int) -> World:
    """A job of three tasks, all launched."""
    world = World(workers=1, limits=SchedulerLimits(**bounds))
    world.hear(CLIENT, submit(3))
    world.start("w1", 3)
    return world


def kept(world: World, job: str = "a", peer: str = CLIENT) -> list[m.AnyMessage]:
    world.said()
    world.hear(peer, m.Follow(5, job))
    return world.to(peer)


def test_what_is_printed_is_kept_and_told() -> None:
    world = running()
    world.hear("w1", printed(b"one\n"), printed(b"two\n", 2, stream=2), printed(b"", 1, dropped=7))
    assert world.said() == []
    assert kept(world) == [
        printed(b"one\n"),
        printed(b"two\n", 2, stream=2),
        printed(b"", 1, dropped=7),
        m.Followed(5, "a", "running"),
    ]
    assert world.row().output_bytes == 8


def test_it_is_told_after_the_job_too() -> None:
    world = running()
    world.hear("w1", printed(b"one\n"), result([0, 1, 2]))
    world.hear("w1", printed(b"late\n"))  # of nothing that runs
    assert kept(world) == [printed(b"one\n"), m.Followed(5, "a", "done")]
    assert world.machine.state.counters["stale_output"] == 1


def test_output_of_what_is_not_known_is_dropped() -> None:
    world = running()
    unknown = [printed(b"x", job="z"), m.Output("a", 1, 0, 1, 1, b"x"), printed(b"x", 3)]
    world.hear("w1", *unknown)
    assert kept(world) == [m.Followed(5, "a", "running")]
    assert kept(world, "z") == [m.Followed(5, "z", "")]
    assert world.machine.state.counters["stale_output"] == 3


def test_the_last_of_a_job_is_kept_and_the_rest_is_counted() -> None:
    world = running(job_output_bytes=3 * (HEAD + 10))
    world.hear("w1", *[printed(b"%010d" % k, dropped=int(k == 1)) for k in range(5)])
    assert kept(world) == [
        printed(b"0000000002", dropped=21),
        printed(b"0000000003"),
        printed(b"0000000004"),
        m.Followed(5, "a", "running"),
    ]
    assert world.row().output_bytes == 30


def test_output_over_all_jobs_is_bounded_oldest_first() -> None:
    world = World(workers=1, limits=SchedulerLimits(output_bytes=5 * (HEAD + 10), finished_jobs=2))
    for job in "abc":
        world.hear(CLIENT, submit(1, job=job))
        world.start("w1", 1, job)
        for k in range(2):
            world.hear("w1", printed(b"%010d" % k, job=job))
        world.hear("w1", m.Result(1, job, 0, [0], [1], b"\0", [1], [b""]))
    world.said()
    assert [world.machine.state.job(job) is not None for job in "abc"] == [False, True, True]
    assert world.machine._transcripts.bytes == 4 * (HEAD + 10)  # the first job's is gone with it
    world.hear(CLIENT, submit(1, job="d"))
    world.start("w1", 1, "d")
    world.hear("w1", printed(b"0123456789", job="d"), printed(b"0123456789", job="d"))
    assert kept(world, "b") == [m.Followed(5, "b", "done")]
    assert len(kept(world, "c")) == len(kept(world, "d")) == 3


def test_a_follower_is_sent_what_comes_until_the_job_is_over() -> None:
    world = running()
    world.hear("other", hello(m.CLIENT, "c2"))
    world.hear("w1", printed(b"before"))
    world.said()
    world.hear("other", m.Follow(8, "a", True))
    assert world.said() == [fx.Send("other", printed(b"before"))]
    world.hear("w1", printed(b"now", 1))
    assert world.said() == [fx.Send("other", printed(b"now", 1))]
    world.hear("w1", result([0, 1, 2]))
    assert world.said() == [
        fx.Send("w1", m.ResultAck(1)),
        fx.Send(CLIENT, outcome(1, [0, 1, 2])),
        fx.Send("other", m.Followed(8, "a", "done")),
    ]


def test_following_again_ends_the_first() -> None:
    world = running()
    world.hear(CLIENT, m.Follow(1, "a", True))
    world.hear(CLIENT, m.Follow(2, "a", True))
    assert world.to(CLIENT) == [m.Followed(1, "a", "running")]
    world.hear("w1", printed(b"x"))
    assert world.to(CLIENT) == [printed(b"x")]


def test_a_follower_that_is_gone_is_forgotten() -> None:
    world = running()
    for peer, id in (("x", "c2"), ("y", "c3")):
        world.hear(peer, hello(m.CLIENT, id), m.Follow(1, "a", True))
    world.lose("x")
    world.hear("y", m.Goodbye("leaving"))
    world.hear("w1", printed(b"x"))
    assert world.machine._transcripts._followers == {}
    world.hear("w1", result([0, 1, 2]))


def test_followers_are_bounded() -> None:
    world = running(clients=2)
    world.hear("other", hello(m.CLIENT, "c2"))
    world.hear(CLIENT, submit(1, job="b"), submit(1, job="c"))
    for job in "abc":
        world.hear(CLIENT, m.Follow(1, job, True))
    assert world.to(CLIENT)[-1] == m.Followed(1, "c", "running")


def test_a_follower_is_sent_so_much_a_second_and_told_what_is_left_out() -> None:
    world = running()
    world.hear(CLIENT, m.Follow(1, "a", True))
    chunk = b"x" * 60_000
    fit = FOLLOW_BYTES_PER_S // len(chunk)
    world.hear("w1", *[printed(chunk)] * (fit + 3))
    assert world.to(CLIENT) == [printed(chunk)] * fit
    world.now += 0.5
    world.hear("w1", printed(b"again"))
    assert world.to(CLIENT) == [printed(b"again", dropped=3 * len(chunk))]
    world.hear("w1", *[printed(chunk)] * fit, result([0, 1, 2]))
    left_out = fit - len([message for message in world.to(CLIENT) if message == printed(chunk)])
    assert 0 < left_out < fit


def test_a_follower_learns_at_the_end_what_was_left_out() -> None:
    world = running()
    world.hear(CLIENT, m.Follow(1, "a", True))
    chunk = b"x" * 60_000
    world.hear("w1", *[printed(chunk)] * (FOLLOW_BYTES_PER_S // len(chunk) + 2))
    world.said()
    world.hear("w1", result([0, 1, 2]))
    assert world.to(CLIENT) == [
        outcome(1, [0, 1, 2]),
        m.Output("a", 0, 0, 0, 1, b"", 2 * len(chunk)),
        m.Followed(1, "a", "done"),
    ]


def test_a_million_short_lines_take_little_room() -> None:
    world = running()
    for k in range(20_000):
        world.hear("w1", printed(b"line %d\n" % k, k % 3))
    record = world.job().transcript
    assert record is not None
    assert len(record) == 20_000 * HEAD + record.text_bytes
