"""Who is alive: which beats count, suspicion, death, refutation, and what a stalled store must not cause."""

from __future__ import annotations

import msgspec
from hypothesis import given, strategies as st

from sparrowmq.core.baseline import Baseline
from sparrowmq.core.judge import REARM_S_MAX, Judge, Node
from sparrowmq.limits import AssistantLimits
from sparrowmq.protocol.beats import Beat
from sparrowmq.settings import AssistantSettings

ETA = 0.1
FIXED = AssistantSettings(detector="fixed", detection_beats=2.0, confirm_beats=2.0)


def beat(sequence: int, id: str = "w1", incarnation: int = 1, **fields: object) -> Beat:
    return msgspec.structs.replace(Beat("worker", id, incarnation, sequence, 100), **fields)


def told(nodes: list[Node]) -> list[tuple[str, str]]:
    return [(node.beat.id, node.state) for node in nodes]


class Watch:
    """A judge that sees everything at once, each 10 ms."""

    def __init__(self, settings: AssistantSettings = FIXED) -> None:
        self.judge = Judge(settings)
        self.now = 0.0
        self.changes: list[tuple[float, str, str]] = []

    def until(self, to_s: float, *, beats: bool = True, ids: tuple[str, ...] = ("w1",)) -> None:
        while self.now < to_s - 1e-9:
            self.now = round(self.now + 0.01, 3)
            if beats and round(self.now * 100) % 10 == 0:
                for id in ids:
                    self.judge.beat(self.now, beat(round(self.now / ETA), id))
            self.look()

    def look(self, lag_s: float = 0.0) -> None:
        self.changes += [(self.now, *change) for change in told(self.judge.judge(self.now, lag_s))]


def test_beats_that_a_flapping_store_lost_are_no_silence() -> None:
    """Outages too short to be gaps, one after the other (seed 1465): each may have taken the beats of its time."""
    watch = Watch()
    watch.until(1.0)
    for now in (1.2, 1.4, 1.6):
        assert watch.judge.judge(now, 0.0, True) == []
    watch.now = 1.6
    watch.until(2.0)
    assert watch.changes == []
    watch.until(3.0, beats=False)  # and it is watched as before
    assert [(state, round(at_s - 2.0, 2)) for at_s, _, state in watch.changes] == [("suspect", 0.3), ("dead", 0.5)]


def test_silence_makes_a_node_suspect_and_then_dead_and_a_beat_takes_it_back() -> None:
    watch = Watch()
    watch.until(1.0)
    watch.until(2.0, beats=False)
    assert [(state, round(at_s - 1.0, 2)) for at_s, _, state in watch.changes] == [("suspect", 0.3), ("dead", 0.5)]
    assert watch.judge.beat(2.0, beat(20)) is not None
    watch.look()
    assert watch.changes[2:] == [(2.0, "w1", "alive")]
    assert watch.judge.refuted == 1
    watch.until(2.8)
    assert len(watch.changes) == 3
    watch.until(4.0, beats=False)  # and it is watched as before
    assert [state for _, _, state in watch.changes[3:]] == ["suspect", "dead"]


def test_a_short_silence_is_only_suspect() -> None:
    watch = Watch()
    watch.until(1.0)
    watch.until(1.45, beats=False)
    watch.until(3.0)
    assert [state for _, _, state in watch.changes] == ["suspect", "alive"]
    assert watch.judge.refuted == 0


def test_nothing_is_judged_beyond_what_has_been_seen() -> None:
    judge = Judge(FIXED)
    judge.beat(0.0, beat(1))
    for _ in range(100):  # however late it is, and however often it is asked
        assert judge.judge(0.2, 0.0) == []


def test_after_a_gap_nodes_get_time_to_be_heard_again() -> None:
    watch = Watch()
    watch.until(1.0, ids=("w1", "w2"))
    watch.now = 11.0  # ten seconds without a store
    watch.look()
    watch.until(11.0 + REARM_S_MAX - 0.1, ids=("w1",))
    assert watch.changes == []
    watch.until(14.0, ids=("w1",))
    assert [change[1:] for change in watch.changes] == [("w2", "suspect"), ("w2", "dead")]


def test_a_gap_does_not_help_those_that_were_heard_after_it() -> None:
    watch = Watch()
    watch.until(1.0)
    watch.now = 3.0
    watch.look()
    watch.until(3.3)
    watch.until(4.0, beats=False)
    assert [state for _, _, state in watch.changes] == ["suspect", "dead"]


def test_the_lag_widens_every_deadline() -> None:
    watch = Watch()
    watch.until(1.0)
    watch.look(0.2)
    watch.until(1.6, beats=False)
    assert watch.changes == []
    watch.until(3.0, beats=False)  # but not for ever
    assert [state for _, _, state in watch.changes] == ["suspect", "dead"]


def test_beats_that_do_not_count_are_counted() -> None:
    judge = Judge(msgspec.structs.replace(FIXED, limits=AssistantLimits(nodes=1)))
    assert judge.beat(1.0, beat(5, incarnation=3)) is not None
    assert judge.beat(1.1, beat(6, incarnation=2)) is None
    assert judge.beat(1.1, beat(5, incarnation=3)) is None
    assert judge.beat(1.1, beat(2**50, incarnation=3)) is None
    assert judge.beat(1.1, beat(6, "w2")) is None
    assert judge.beat(1.1, beat(6, "w3", kind="king")) is None
    assert judge.beat(1.2, beat(6, incarnation=3)) is not None
    assert judge.counters == {
        "old_incarnation": 1,
        "old_sequence": 1,
        "forged_sequence": 1,
        "too_many_nodes": 1,
        "unknown_kind": 1,
    }


def test_a_freeze_skips_numbers_and_is_no_forgery() -> None:
    judge = Judge(FIXED)
    judge.beat(1.0, beat(1))
    assert judge.beat(601.0, beat(6001)) is not None


def test_who_leaves_in_order_is_not_missed() -> None:
    watch = Watch()
    watch.until(1.0)
    watch.judge.beat(1.0, beat(11, leaving=True))
    watch.until(5.0, beats=False)
    assert (watch.changes, len(watch.judge), watch.judge.forgotten) == ([], 0, [("worker", "w1")])


def test_the_dead_are_forgotten_in_the_end() -> None:
    watch = Watch(msgspec.structs.replace(FIXED, forget_after_s=5.0))
    watch.until(1.0)
    watch.until(6.0, beats=False)
    assert len(watch.judge) == 1
    watch.until(7.0, beats=False)
    assert (len(watch.judge), watch.judge.forgotten) == (0, [("worker", "w1")])


def test_a_restarted_node_is_alive_from_its_first_beat() -> None:
    watch = Watch()
    watch.until(1.0)
    watch.until(2.0, beats=False)
    watch.judge.beat(2.0, beat(1, incarnation=2))
    watch.look()
    assert watch.changes[2:] == [(2.0, "w1", "alive")]
    assert watch.judge.refuted == 0


@given(
    st.lists(st.tuples(st.floats(0.0, 1.0), st.integers(0, 50), st.booleans(), st.floats(0.0, 3.0)), max_size=60),
    st.sampled_from(["fixed", "chen", "bertier", "phi-accrual", "self-tuning"]),
)
def test_states_follow_each_other(steps: list[tuple[float, int, bool, float]], detector: str) -> None:
    """Alive, suspect, dead, in this order; only a beat leads back."""
    judge = Judge(msgspec.structs.replace(FIXED, detector=detector))
    now, sequence, state = 0.0, 0, "alive"
    for wait_s, skipped, beats, lag_s in steps:
        now += wait_s
        if beats:
            sequence += 1 + skipped
            judge.beat(now, beat(sequence))
        for change in judge.judge(now, lag_s):
            assert change.state != state or change.state == "alive"
        [*nodes] = judge
        for node in nodes:
            order = ("alive", "suspect", "dead")
            assert beats or order.index(node.state) >= order.index(state), (state, node.state)
            state = node.state
    assert len(judge) <= 1


def test_the_baseline_is_a_timeout_on_what_was_read() -> None:
    baseline = Baseline(0.5)
    baseline.read("w1", 1.0)
    baseline.look(1.4)
    assert baseline.deaths == 0
    baseline.look(1.5)
    assert (baseline.deaths, baseline.refuted, baseline.declared_s) == (1, 0, {"w1": 1.5})
    baseline.look(9.0)
    baseline.read("w1", 9.0)
    assert (baseline.deaths, baseline.refuted, baseline.declared_s) == (1, 1, {})
    baseline.read("w1", 9.3)
    baseline.look(9.7)
    assert baseline.deaths == 1
    baseline.look(9.8)
    assert baseline.deaths == 2
    baseline.forget("w1")
    assert baseline.declared_s == {}
