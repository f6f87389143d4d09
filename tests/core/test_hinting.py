"""Load hints at the assistant: whose share a worker is in, and what others keep it busy for."""

from __future__ import annotations

from hypothesis import given, strategies as st

from sparrowmq.core.hinting import IDLE_S, Hinting
from sparrowmq.protocol import messages as m
from sparrowmq.protocol.beats import Beat


def worker(id: str, sequence: int = 1, *, incarnation: int = 1, **load) -> Beat:
    return Beat("worker", id, incarnation, sequence, 100, **({"slots": 4} | load))


def scheduler(id: str, tasks: int, sequence: int = 1, *, incarnation: int = 1) -> Beat:
    return Beat("scheduler", id, incarnation, sequence, 100, probes={id: tasks})


def hinting(*beats: Beat, now: float = 0.0) -> Hinting:
    made = Hinting()
    for beat in beats:
        made.observe(now, beat)
    return made


def shares(made: Hinting, *ids: str, now: float = 0.0) -> dict[str, list[str]]:
    found = {id: made.hints(now, id, 7) for id in ids}
    return {id: sorted(hints.workers) for id, hints in found.items() if hints is not None}


WORKERS = [worker(f"w{number}") for number in range(12)]


def test_nobody_is_told_anything_before_somebody_places_by_hints() -> None:
    made = hinting(*WORKERS, scheduler("s1", 0))
    assert made.hints(0.0, "s1", 7) is None
    made.observe(0.0, scheduler("s1", 5, 2))
    assert shares(made, "s1", "s2") == {"s1": sorted(beat.id for beat in WORKERS)}


def test_the_message_has_the_term_the_share_and_the_waits_by_others() -> None:
    made = hinting(
        worker("w1", slots=2, running=2, queued=4, service_us=100_000, probes={"s2": 3}),
        worker("w2", slots=2, running=2, queued=4, service_us=100_000, probes={"s1": 3}),
        worker("w3", slots=2, running=2, queued=4, service_us=100_000, probes={"s1": 1, "s2": 1}),
        scheduler("s1", 5),
    )
    hints = made.hints(0.0, "s1", 9)
    assert hints is not None
    assert hints.term == 9
    # Four to run or waiting, half of them not for long: of others all, none, and two where one slot stays free.
    assert dict(zip(hints.workers, hints.waits_us, strict=True)) == {"w1": 150_000, "w2": 0, "w3": 50_000}


def test_every_worker_is_in_one_share_and_shares_follow_demand() -> None:
    made = hinting(*WORKERS, scheduler("s1", 100), scheduler("s2", 100), scheduler("s3", 400))
    found = shares(made, "s1", "s2", "s3")
    assert sorted(id for share in found.values() for id in share) == sorted(beat.id for beat in WORKERS)
    assert {id: len(share) for id, share in found.items()} == {"s1": 2, "s2": 2, "s3": 8}
    assert shares(made, "s3", "s1", "s2", now=0.1) == found


def test_shares_are_of_slots() -> None:
    large = [worker(f"big{number}", slots=12) for number in range(2)]
    made = hinting(*WORKERS, *large, scheduler("s1", 1), scheduler("s2", 1))
    slots = {beat.id: beat.slots for beat in (*WORKERS, *large)}
    found = shares(made, "s1", "s2")
    sums = [sum(slots[id] for id in share) for share in found.values()]
    assert sum(sums) == 72
    assert abs(sums[0] - sums[1]) <= 12


def test_who_stops_placing_by_hints_has_no_share_any_more() -> None:
    made = hinting(*WORKERS, scheduler("s1", 100), scheduler("s2", 100))
    assert len(shares(made, "s1", "s2")) == 2
    for sequence in range(2, 4):
        made.observe(IDLE_S * (sequence - 1), scheduler("s1", 100 * sequence, sequence * 100))
        made.observe(IDLE_S * (sequence - 1), scheduler("s2", 100, sequence * 100))
    assert len(shares(made, "s1", "s2", now=2 * IDLE_S)["s1"]) == 12


def test_a_scheduler_that_starts_anew_counts_from_nothing() -> None:
    made = hinting(*WORKERS, scheduler("s1", 1000))
    made.observe(0.1, scheduler("s1", 0, 1, incarnation=2))
    made.observe(0.2, scheduler("s1", 3, 2, incarnation=2))
    assert made._schedulers["s1"].demand < 1000
    made.observe(0.3, scheduler("s1", 1, 3, incarnation=2))  # a count that falls is none
    assert made._schedulers["s1"].demand >= 0.0


def test_schedulers_of_which_nothing_is_known_any_more_share_alike() -> None:
    made = hinting(*WORKERS, scheduler("s1", 100), scheduler("s2", 100))
    for id in ("s1", "s2"):
        made.observe(1.0, scheduler(id, 100, 1000))  # so many intervals later that nothing is left of the mean
    assert [len(share) for share in shares(made, "s1", "s2", now=1.0).values()] == [6, 6]


def test_what_is_forgotten_or_drains_is_in_no_share() -> None:
    made = hinting(*WORKERS, scheduler("s1", 1), scheduler("s2", 1))
    made.observe(0.0, worker("w3", 2, draining=True))
    made.forget("w4")
    made.forget("s2")
    made.forget("nobody")
    assert shares(made, "s1", "s2", now=0.1) == {
        "s1": sorted(beat.id for beat in WORKERS if beat.id not in ("w3", "w4"))
    }
    made.forget("s1")
    assert shares(made, "s1", now=0.2) == {}
    assert hinting(scheduler("s1", 1)).hints(0.0, "s1", 7) is None  # and no worker at all


def test_an_old_beat_does_not_count_probes_twice_and_a_new_incarnation_begins_anew() -> None:
    made = hinting(worker("w1", probes={"s1": 10}), scheduler("s1", 1))
    made.observe(0.1, worker("w1", 2, probes={"s1": 10, "s2": 4}))
    recent = made._workers["w1"].recent
    assert recent == {"s1": 9.0, "s2": 4.0}
    made.observe(0.2, worker("w1", 1, incarnation=2, probes={"s2": 1}))
    assert made._workers["w1"].recent == {"s2": 0.9 * 4.0 + 1}


@given(
    st.lists(
        st.tuples(
            st.integers(0, 9), st.integers(1, 1000), st.dictionaries(st.sampled_from("abc"), st.integers(0, 2**60))
        ),
        max_size=30,
    ),
    st.lists(st.integers(0, 2**60), min_size=3, max_size=3),
)
def test_any_beats_make_hints_that_fit_into_a_message(beats, tasks) -> None:
    made = Hinting()
    for number, sequence, probes in beats:
        load = {"slots": number, "running": number, "queued": 2**60, "service_us": 2**53}
        made.observe(0.0, worker(f"w{number}", sequence, probes=probes, **load))
    for id, count in zip("abc", tasks, strict=True):
        made.observe(0.0, scheduler(id, count))
    told = [hints for id in "abc" if (hints := made.hints(1.0, id, 7)) is not None]
    listed = [id for hints in told for id in hints.workers]
    assert len(listed) == len(set(listed))
    assert len(made._workers) <= 10
    for hints in told:
        assert isinstance(hints, m.Hints)
        assert len(hints.waits_us) == len(hints.workers)
        assert all(0 <= wait_us <= 2**53 for wait_us in hints.waits_us)
