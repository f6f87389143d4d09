"""Failure detectors: their formulas, the published numbers, and what none of them may do whatever arrives."""

from __future__ import annotations

import math
import random
import statistics
import typing
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from sparrowmq import detection
from sparrowmq.detection.arrivals import WINDOW_MAX, Arrivals
from sparrowmq.detection.bertier import BETA, GAMMA, PHI, Bertier
from sparrowmq.detection.chen import Chen
from sparrowmq.detection.fixed_timeout import FixedTimeout
from sparrowmq.detection.phi_accrual import GAP_INTERVALS_MAX, PhiAccrual, deviations_at, phi
from sparrowmq.detection.self_tuning import PERIOD_BEATS, SelfTuning
from sparrowmq.errors import UsageError
from sparrowmq.settings import AssistantSettings

ETA_S = 0.1
unhurried = settings(deadline=None)  # on a busy machine a single example may take long
every = pytest.mark.parametrize("name", detection.NAMES)

steps = st.integers(1, 4)  # from one sequence to the next that arrives: 1 where none is lost
lateness = st.floats(0.0, 1.0)
paths = st.lists(st.tuples(steps, lateness), min_size=1, max_size=150)
wild = st.lists(st.tuples(st.integers(-3, 2**53), st.floats(-1e6, 1e9) | st.floats(0.0, 10.0)), min_size=1, max_size=60)
margins = st.floats(0.0, 1.0)


def beats(path: list[tuple[int, float]], jitter_s: float, *, first: int = 0, begin_s: float = 0.0):
    """Return (sequence, arrival): each beat up to ``jitter_s`` after it is due, some missing, in order."""
    sequence, at_s = first, -math.inf
    found = []
    for step, late in path:
        at_s = max(at_s, begin_s + ETA_S * sequence + jitter_s * late)
        found.append((sequence, at_s))
        sequence += step
    return found


def fed(detector, heard):
    for sequence, at_s in heard:
        detector.beat(sequence, at_s)
    return detector


# The published numbers and formulas.


def test_phi_of_the_normal_law() -> None:
    """Gaps of 100 ms, deviation 10 ms, 130 ms of silence: 2.870 by the law itself, 2.910 by its usual approximation."""
    assert phi(0.130, 0.100, 0.010) == pytest.approx(2.870, abs=5e-4)
    assert phi(0.100, 0.100, 0.010) == pytest.approx(math.log10(2.0))


@unhurried
@given(st.floats(-8.0, 4.0))  # beyond, the standard library has too few digits
def test_phi_is_the_logarithm_of_the_tail(deviations: float) -> None:
    tail = statistics.NormalDist().cdf(-deviations)
    assert phi(1.0 + 0.1 * deviations, 1.0, 0.1) == pytest.approx(-math.log10(tail), rel=1e-6, abs=1e-9)


def test_phi_goes_on_where_the_tail_is_too_small_for_a_number() -> None:
    values = [phi(z, 0.0, 1.0) for z in range(30, 60)]
    assert all(before < after < math.inf for before, after in pairwise(values))
    grows = [after - before for before, after in pairwise(values)]
    assert all(0.3 < after - before < 0.6 for before, after in pairwise(grows))  # log10(e), smoothly


@unhurried
@given(st.floats(0.01, 1000.0))
def test_the_threshold_is_reached_where_it_is_computed(threshold: float) -> None:
    assert phi(deviations_at(threshold), 0.0, 1.0) == pytest.approx(threshold, rel=1e-9)


@unhurried
@given(paths, st.integers(1, 40))
def test_chen_expects_the_mean_of_the_last_beats(path: list[tuple[int, float]], window: int) -> None:
    """EA(l+1) = 1/n Σ (A(i) - η i) + (l+1) η, over the beats that came."""
    heard = beats(path, 0.05, first=1_000_000, begin_s=5000.0)
    detector = fed(Chen(ETA_S, 0.25, window=window), heard)
    last = heard[-window:]
    expected_s = statistics.fmean(at_s - ETA_S * i for i, at_s in last) + ETA_S * (heard[-1][0] + 1)
    assert detector.deadline_s == pytest.approx(expected_s + 0.25, abs=1e-7)


def test_chen_uses_sequence_numbers() -> None:
    """After two lost beats the next is due an interval later, not three."""
    detector = fed(Chen(ETA_S, 0.2), [(0, 10.0), (1, 10.1), (4, 10.4)])
    assert detector.deadline_s == pytest.approx(10.7)


def test_chen_lets_no_late_beat_excuse_the_next() -> None:
    on_time = [(i, 10.0 + ETA_S * i) for i in range(20)]
    late = [*on_time, (20, 12.08)]
    chen, fixed = fed(Chen(ETA_S, 0.2), late), fed(FixedTimeout(ETA_S, 0.2), late)
    assert fixed.deadline_s == pytest.approx(12.38)
    assert chen.deadline_s == pytest.approx(12.3 + 0.08 / 21)


@unhurried
@given(paths)
def test_bertier_against_its_formula(path: list[tuple[int, float]]) -> None:
    heard = beats(path, 0.09)
    detector = fed(Bertier(ETA_S), heard)
    offsets: list[float] = []
    delay, var = 0.0, ETA_S / PHI
    for sequence, at_s in heard:
        if offsets:
            expected_s = statistics.fmean(offsets[-WINDOW_MAX:]) + ETA_S * sequence
            error = at_s - expected_s - delay
            delay += GAMMA * error
            var += GAMMA * (abs(error) - var)
        offsets.append(at_s - ETA_S * sequence)
    expected_s = statistics.fmean(offsets[-WINDOW_MAX:]) + ETA_S * (heard[-1][0] + 1)
    alpha = max(0.0, BETA * delay + PHI * var)
    assert detector.deadline_s == pytest.approx(expected_s + alpha, abs=1e-9)


def test_bertier_learns_how_regular_beats_are() -> None:
    rng = random.Random(1)
    regular = [(i, ETA_S * i + rng.uniform(0.0, 0.002)) for i in range(300)]
    irregular = [(i, ETA_S * i + rng.uniform(0.0, 0.080)) for i in range(300, 600)]
    detector = fed(Bertier(ETA_S), regular[:1])
    assert detector.deadline_s - regular[0][1] == pytest.approx(2 * ETA_S)  # nothing known: an interval
    fed(detector, regular)
    assert detector.deadline_s - regular[-1][1] < ETA_S + 0.01
    fed(detector, irregular)
    assert ETA_S * 600 + 0.08 < detector.deadline_s < ETA_S * 600 + 0.3


@unhurried
@given(paths)
def test_phi_accrual_against_its_formula(path: list[tuple[int, float]]) -> None:
    heard = beats(path, 0.05)
    detector = fed(PhiAccrual(ETA_S, threshold=3.0, window=20), heard)
    gaps = [0.75 * ETA_S, 1.25 * ETA_S]  # what is assumed at first
    gaps += [b - a for (_, a), (_, b) in pairwise(heard)]
    mean_s, deviation_s = statistics.fmean(gaps[-20:]), statistics.pstdev(gaps[-20:])
    assert detector.deadline_s == pytest.approx(heard[-1][1] + mean_s + deviations_at(3.0) * deviation_s, abs=1e-6)
    if deviation_s > 1e-3:
        assert phi(detector.deadline_s - heard[-1][1], mean_s, deviation_s) == pytest.approx(3.0, rel=1e-2)


def test_phi_accrual_forgets_a_pause_within_its_window() -> None:
    before = [(i, ETA_S * i) for i in range(100)]
    after = [(i, 3600.0 + ETA_S * i) for i in range(100, 300)]
    detector = fed(PhiAccrual(ETA_S), before)
    assert detector.deadline_s - before[-1][1] < ETA_S + 0.3
    fed(detector, after[:1])
    assert detector.deadline_s - after[0][1] < GAP_INTERVALS_MAX * ETA_S
    fed(detector, after)
    assert detector.deadline_s - after[-1][1] == pytest.approx(ETA_S, abs=1e-4)


def late_now_and_then(beats_: int, each: int, late_s: float) -> list[tuple[int, float]]:
    """Return beats of which every ``each``th comes ``late_s`` late."""
    return [(i, ETA_S * i + (late_s if i % each == each - 1 else 0.0)) for i in range(beats_)]


def test_self_tuning_grows_its_margin_until_mistakes_are_rare() -> None:
    detector = fed(SelfTuning(ETA_S, 0.040), late_now_and_then(50 * PERIOD_BEATS, 20, 0.060))
    assert 0.055 <= detector.margin_s <= 0.080
    assert detector.feasible
    settled_s = detector.margin_s
    fed(detector, [(i, at_s) for i, at_s in late_now_and_then(80 * PERIOD_BEATS, 20, 0.060)])
    assert detector.margin_s == settled_s  # all holds: it stays


def test_self_tuning_shrinks_its_margin_where_detection_is_too_slow() -> None:
    regular = [(i, ETA_S * i) for i in range(100 * PERIOD_BEATS)]
    detector = fed(SelfTuning(ETA_S, 0.4, detection_s=0.25), regular)
    assert detector.margin_s == pytest.approx(0.15)
    assert detector.deadline_s == pytest.approx(regular[-1][1] + 0.25)


def test_self_tuning_says_what_cannot_be() -> None:
    detector = SelfTuning(ETA_S, 0.040, detection_s=0.13)  # too slow already, and wrong each two seconds
    fed(detector, late_now_and_then(3 * PERIOD_BEATS, 20, 0.080))
    assert not detector.feasible
    assert detector.margin_s == 0.040


def test_self_tuning_minds_how_long_mistakes_last() -> None:
    heard = late_now_and_then(20 * PERIOD_BEATS, 20, 0.060)
    assert fed(SelfTuning(ETA_S, 0.04, recurrence_s=1e-3, accuracy=0.5), heard).margin_s == 0.04
    assert fed(SelfTuning(ETA_S, 0.04, recurrence_s=1e-3, accuracy=0.999), heard).margin_s > 0.04


# All of them.


def test_the_names_are_those_of_the_setting() -> None:
    hint = typing.get_type_hints(AssistantSettings)["detector"]
    assert set(typing.get_args(hint)) == set(detection.NAMES)
    assert AssistantSettings().detector in detection.NAMES


def test_other_names_and_impossible_times_are_refused() -> None:
    with pytest.raises(UsageError, match="'cheng'") as raised:
        detection.make("cheng", 0.1, 0.2)
    assert "chen" in raised.value.hint
    for interval_s, margin_s in ((0.0, 0.1), (-1.0, 0.1), (math.nan, 0.1), (0.1, -0.1), (0.1, math.inf)):
        with pytest.raises(UsageError, match="interval"):
            detection.make("chen", interval_s, margin_s)


@every
def test_nothing_is_suspected_before_the_first_beat(name: str) -> None:
    detector = detection.make(name, ETA_S, 0.2)
    assert detector.deadline_s == math.inf
    detector.beat(7, 100.0)
    assert 100.0 + ETA_S + 0.2 <= detector.deadline_s <= 100.0 + 4 * ETA_S


@every
@unhurried
@given(paths, st.integers(0, 200), st.floats(0.0, 5.0))
def test_old_beats_are_ignored(name: str, path: list[tuple[int, float]], back: int, later_s: float) -> None:
    heard = beats(path, 0.1, first=100)
    detector = fed(detection.make(name, ETA_S, 0.1), heard)
    before_s = detector.deadline_s
    detector.beat(max(0, heard[-1][0] - back), heard[-1][1] + later_s)
    assert detector.deadline_s == before_s
    twin = fed(detection.make(name, ETA_S, 0.1), heard)
    for one in (detector, twin):
        one.beat(heard[-1][0] + 1, heard[-1][1] + ETA_S)
    assert detector.deadline_s == twin.deadline_s


@every
@unhurried
@given(paths, margins)
def test_beats_within_the_margin_are_never_suspected(name: str, path: list[tuple[int, float]], margin_s: float) -> None:
    """Beats that are late by half the margin at most, which leaves room for an estimate by few beats."""
    detector = detection.make(name, ETA_S, margin_s)
    for sequence, at_s in beats([(1, late) for _, late in path], 0.5 * margin_s):
        assert at_s <= detector.deadline_s + 1e-9
        detector.beat(sequence, at_s)


@every
@unhurried
@given(wild, margins)
def test_every_silence_ends_in_suspicion_and_every_new_beat_in_some_trust(
    name: str, heard: list[tuple[int, float]], margin_s: float
) -> None:
    """Whatever arrives: numbers that leap, clocks that go back or jump by years."""
    detector = detection.make(name, ETA_S, margin_s)
    newest, latest_s = -1, -math.inf
    for sequence, at_s in heard:
        detector.beat(sequence, at_s)
        if sequence > newest:
            newest, latest_s = sequence, max(latest_s, at_s)
            assert latest_s - 1e-6 <= detector.deadline_s <= latest_s + 100 * ETA_S + 2 * margin_s
    if newest < 0:
        assert detector.deadline_s == math.inf


@every
@unhurried
@given(paths, st.floats(1.0, 1e6), st.sampled_from([-1, 1]))
def test_a_clock_that_jumps_costs_a_window_at_most(
    name: str, path: list[tuple[int, float]], jump_s: float, way: int
) -> None:
    """A sender that was suspended (its numbers stand still) or whose numbers leap is followed again."""
    detector = fed(detection.make(name, ETA_S, 0.2), beats(path, 0.02))
    number, now_s = 10_000, 10_000 * ETA_S
    if way > 0:
        now_s += jump_s
    else:
        number += int(jump_s / ETA_S)
    for step in range(1, 3 * WINDOW_MAX):
        detector.beat(number + step, now_s + ETA_S * step)
        assert detector.deadline_s > now_s + ETA_S * step
    assert detector.deadline_s <= now_s + ETA_S * step + ETA_S + 0.41


@pytest.mark.parametrize("name", [name for name in detection.NAMES if name != "self-tuning"])
@unhurried
@given(paths, margins, margins)
def test_a_larger_margin_never_suspects_sooner(
    name: str, path: list[tuple[int, float]], one_s: float, other_s: float
) -> None:
    small, large = (detection.make(name, ETA_S, margin_s) for margin_s in sorted((one_s, other_s)))
    for sequence, at_s in beats(path, 0.09):
        small.beat(sequence, at_s)
        large.beat(sequence, at_s)
        assert small.deadline_s <= large.deadline_s + 1e-9


@every
@unhurried
@given(
    st.lists(st.tuples(steps, st.integers(0, 24)), min_size=1, max_size=150),
    st.integers(0, 2**40),
    st.integers(-(10**6), 10**6),
)
def test_neither_clock_has_to_be_known(name: str, path: list[tuple[int, int]], first: int, shift_s: int) -> None:
    """The same beats by other numbers and another clock: the same deadlines by that clock.

    Times are multiples of 1/64 s, which no sum rounds: whether an estimate starts anew must not hang on a last digit.
    """
    one, other = detection.make(name, 0.125, 0.125), detection.make(name, 0.125, 0.125)
    sequence, at_s = 0, 0.0
    for step, late in path:
        at_s = max(at_s, sequence / 8 + late / 64)
        one.beat(sequence, at_s)
        other.beat(first + sequence, shift_s + at_s)
        assert other.deadline_s - shift_s == pytest.approx(one.deadline_s, abs=1e-6)
        sequence += step


@every
def test_beats_that_come_together_after_a_stall(name: str) -> None:
    """The path stood still for a second and delivers ten beats at once: the next is expected when it is due."""
    heard = [(i, ETA_S * i) for i in range(200)]
    stalled = [(i, ETA_S * 210) for i in range(200, 211)]
    detector = fed(detection.make(name, ETA_S, 0.2), heard + stalled)
    assert ETA_S * 211 < detector.deadline_s < ETA_S * 221
    fed(detector, [(i, ETA_S * i) for i in range(211, 400)])
    assert detector.deadline_s == pytest.approx(ETA_S * 400 + 0.2, abs=0.21)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 10_000), st.integers(1, 500))
def test_memory_is_bounded(window: int, count: int) -> None:
    arrivals = Arrivals(ETA_S, window)
    for i in range(count):
        arrivals.add(i, ETA_S * i, 1.0)
    assert len(arrivals._deviations) <= min(window, WINDOW_MAX, count)
    accrual = fed(PhiAccrual(ETA_S, window=50), [(i, ETA_S * i) for i in range(count)])
    assert len(accrual._gaps) <= 50


def test_digits_do_not_get_lost_in_years_of_beats() -> None:
    """A clock that differs by 50 ppm, and a sum that is kept up to date: the estimate stays exact."""
    detector = Chen(ETA_S, 0.2)
    begin = 10**9
    for i in range(begin, begin + 50_000):
        at_s = 1e7 + (ETA_S * (1 + 5e-5)) * (i - begin)
        detector.beat(i, at_s)
    assert detector.deadline_s == pytest.approx(at_s + ETA_S + 0.2, abs=1e-3)
