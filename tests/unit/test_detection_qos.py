"""The quality of a detector: measured on histories made by hand, computed by formula, and both on the same beats."""

from __future__ import annotations

import math
import random
import statistics
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from sparrowmq.detection import theory
from sparrowmq.detection.chen import Chen
from sparrowmq.detection.qos import History

ETA_S = 0.1
unhurried = settings(deadline=None)  # on a busy machine a single example may take long
DEVIATION_S = 0.01


# Measured.


def test_two_mistakes_and_a_crash() -> None:
    history = History(100.0)
    for suspect_s, trust_s in ((110.0, 111.0), (130.0, 133.0)):
        history.suspect(suspect_s)
        history.trust(trust_s)
    history.crash(150.0)
    history.suspect(150.3)
    found_s = history.restart(160.0)
    quality = history.quality(170.0)
    assert found_s == pytest.approx(0.3)
    assert quality.up_s == pytest.approx(60.0)
    assert quality.mistakes == 2
    assert quality.recurrence_s == pytest.approx(30.0)
    assert quality.duration_s == pytest.approx(2.0)
    assert quality.accuracy == pytest.approx(56.0 / 60.0)
    assert quality.accuracy == pytest.approx((quality.recurrence_s - quality.duration_s) / quality.recurrence_s)
    assert (quality.crashes, quality.missed) == (1, 0)
    assert quality.detection_s == quality.detection_s_max == pytest.approx(0.3)


def test_only_the_suspicion_that_stays_is_a_detection() -> None:
    history = History(0.0)
    history.suspect(9.0)  # wrong, until it crashes
    history.crash(10.0)
    history.trust(10.1)  # a beat that was under way
    history.suspect(10.4)
    assert history.restart(20.0) == pytest.approx(0.4)
    assert history.quality(20.0).mistakes == 1


def test_a_suspicion_that_was_there_before_the_crash_takes_no_time() -> None:
    history = History(0.0)
    history.suspect(9.0)
    history.crash(10.0)
    assert history.restart(20.0) == 0.0
    quality = history.quality(20.0)
    assert quality.duration_s == pytest.approx(1.0)  # it was wrong until the crash, and then it was right


def test_a_crash_that_is_never_found_is_missed() -> None:
    history = History(0.0)
    history.crash(10.0)
    assert history.restart(20.0) == math.inf
    quality = history.quality(30.0)
    assert (quality.crashes, quality.missed, quality.detection_s) == (1, 1, math.inf)


def test_a_history_without_mistakes_or_crashes() -> None:
    quality = History(5.0).quality(5.0)
    assert quality.recurrence_s == quality.detection_s == math.inf
    assert (quality.mistakes, quality.duration_s, quality.accuracy) == (0, 0.0, 1.0)


@unhurried
@given(st.lists(st.tuples(st.sampled_from(["suspect", "trust", "crash", "restart"]), st.integers(0, 9)), max_size=40))
def test_a_history_against_one_counted_moment_by_moment(turns: list[tuple[str, int]]) -> None:
    history = History(0.0)
    now, up, suspected, crashed = 0, True, False, 0
    up_s = wrong_s = mistakes = 0
    since = 0
    found: list[int] = []
    for what, after in turns:
        for _ in range(after):
            up_s += up
            wrong_s += up and suspected
            now += 1
        if what == "suspect" and not suspected:
            suspected, since = True, now
            mistakes += up
        elif what == "trust":
            suspected = False
        elif what == "crash" and up:
            up, crashed = False, now
        elif what == "restart" and not up:
            found += [max(0, since - crashed)] if suspected else []
            up, suspected = True, False
        getattr(history, what)(float(now))
    quality = history.quality(float(now))
    assert quality.up_s == up_s
    assert quality.mistakes == mistakes
    assert quality.duration_s * mistakes == pytest.approx(wrong_s)
    assert quality.crashes - quality.missed == len(found)
    assert quality.detection_s_max == (max(found) if found else math.inf)
    assert not found or quality.detection_s == pytest.approx(statistics.fmean(found))


# Computed.


@pytest.mark.parametrize(("margin_s", "recurrence_s"), [(0.100, 5.05), (0.150, 144.64)])
def test_the_published_bound(margin_s: float, recurrence_s: float) -> None:
    """Beats each 100 ms, deviation 10 ms, 1 % loss: at least 5.0 s between mistakes, and 144.6 s."""
    assert theory.recurrence_s_least(ETA_S, margin_s, DEVIATION_S**2, 0.01) == pytest.approx(recurrence_s, rel=1e-4)


def test_beta_at_a_margin_of_one_interval() -> None:
    """β = .0198: only the beat that is due counts, the next one is due just then."""
    assert ETA_S / theory.recurrence_s_least(ETA_S, 0.100, DEVIATION_S**2, 0.01) == pytest.approx(0.0198, abs=5e-5)


def later(late_s: float) -> float:
    return statistics.NormalDist(0.0, DEVIATION_S).cdf(-late_s)


@unhurried
@given(st.floats(0.0, 0.5), st.floats(0.001, 0.5))
def test_the_bound_is_one(margin_s: float, loss: float) -> None:
    """Whatever is known of the delay beyond its variance can only help; a normal law is far better than the worst."""
    least_s = theory.recurrence_s_least(ETA_S, margin_s, DEVIATION_S**2, loss)
    assert least_s <= theory.recurrence_s(ETA_S, margin_s, later, loss) * (1.0 + 1e-9)


@unhurried
@given(st.floats(0.0, 0.4), st.floats(0.0, 0.1), st.floats(0.0, 0.5))
def test_margins_buy_time_between_mistakes(margin_s: float, more_s: float, loss: float) -> None:
    for formula in (
        lambda s: theory.recurrence_s_least(ETA_S, s, DEVIATION_S**2, loss),
        lambda s: theory.recurrence_s(ETA_S, s, later, loss) if s > 0.02 else 0.0,  # below, the beat before counts too
        lambda s: theory.accuracy(ETA_S, s, later, loss, steps=40),
    ):
        assert formula(margin_s) <= formula(margin_s + more_s) * (1.0 + 1e-9)


def test_nothing_to_go_wrong() -> None:
    assert theory.recurrence_s_least(ETA_S, 0.1, 0.0, 0.0) == math.inf
    assert theory.recurrence_s(ETA_S, 0.1, lambda late_s: float(late_s < 0.0), 0.0) == math.inf
    assert theory.accuracy(ETA_S, 0.1, lambda late_s: float(late_s < 0.0), 0.0) == 1.0


# Both.


def simulated(margin_s: float, loss: float, beats: int):
    """Return what is measured of Chen's detector with normal delays, after a hundred beats."""
    rng = random.Random(f"{margin_s} {loss}")
    detector, history, at_s = Chen(ETA_S, margin_s, window=100), History(0.0), 0.0
    for i in range(beats):
        if rng.random() < loss:
            continue
        at_s = max(at_s, ETA_S * i + 0.05 + rng.gauss(0.0, DEVIATION_S))
        if i == 100:
            history = History(at_s)
        if detector.deadline_s < at_s:
            history.suspect(detector.deadline_s)
            history.trust(at_s)
        detector.beat(i, at_s)
    return history.quality(at_s)


@pytest.mark.parametrize(
    ("margin_s", "loss", "beats"),
    [
        (0.015, 0.0, 30_000),
        (0.020, 0.05, 30_000),
        (0.060, 0.05, 50_000),
        (0.100, 0.01, 150_000),
        (0.120, 0.1, 60_000),
        (0.060, 0.4, 20_000),
    ],
)
def test_chen_is_wrong_as_often_as_computed(margin_s: float, loss: float, beats: int) -> None:
    """E(T_MR) and P_A, with the means of 100 beats for the true ones."""
    quality = simulated(margin_s, loss, beats)
    assert quality.mistakes > 300
    error = 4.0 / math.sqrt(quality.mistakes) + 0.05  # of counting, and of the estimated mean
    assert quality.recurrence_s == pytest.approx(theory.recurrence_s(ETA_S, margin_s, later, loss), rel=error)
    wrong = 1.0 - theory.accuracy(ETA_S, margin_s, later, loss)
    assert 1.0 - quality.accuracy == pytest.approx(wrong, rel=2.0 * error)
    assert quality.recurrence_s > theory.recurrence_s_least(ETA_S, margin_s, DEVIATION_S**2, loss)


def test_a_crash_is_found_within_margin_interval_and_mean_delay() -> None:
    """T_D <= η + alpha + E(D), here with the noise of an estimate by 32 beats."""
    rng = random.Random(3)
    history, now_s = History(0.0), 0.0
    for _ in range(200):
        detector, begin_s = Chen(ETA_S, 0.1), now_s
        crash_s = begin_s + rng.uniform(5.0, 6.0)
        sent = [i for i in range(60) if begin_s + ETA_S * i < crash_s]
        arrivals = [(i, begin_s + ETA_S * i + 0.05 + rng.gauss(0.0, DEVIATION_S)) for i in sent]
        turns: list[tuple[float, str]] = [(crash_s, "crash")]
        for (i, at_s), (_, next_s) in pairwise([*arrivals, (-1, math.inf)]):
            turns.append((at_s, "trust"))
            detector.beat(i, at_s)
            if detector.deadline_s < next_s:
                turns.append((detector.deadline_s, "suspect"))
        for at_s, what in sorted(turns):
            getattr(history, what)(at_s)
        now_s = crash_s + 10.0
        found_s = history.restart(now_s)
        assert found_s == pytest.approx(max(0.0, detector.deadline_s - crash_s))
        assert 0.14 < found_s < ETA_S + 0.1 + 0.05 + 0.01
    assert history.quality(now_s).detection_s == pytest.approx(ETA_S / 2 + 0.1 + 0.05, abs=0.01)
