"""The draw of the sleeps that are measured, and the percentiles that are reported of them."""

from __future__ import annotations

import itertools
import statistics

import pytest

from sparrowmq.bench import trace
from sparrowmq.bench.figures import percentile
from sparrowmq.errors import UsageError
from sparrowmq.sim.workload import Job


def draw(seed: int = 1, **changes: object) -> list[Job]:
    arguments: dict[str, object] = {"jobs": 4000, "tasks": 5, "duration_s": 0.1, "slots": 10, "load": 0.8}
    return trace.draw(seed, **(arguments | changes))  # type: ignore[arg-type]


def test_the_same_seed_draws_the_same_trace() -> None:
    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


def test_a_seed_draws_what_it_always_drew() -> None:
    """Figures of earlier measurements stay comparable."""
    first, second = draw(1, jobs=2, tasks=2, spread=0.5)
    assert first == (0.012564797815717945, [0.09740846674456372, 0.0788146149308853])
    assert second == (0.014294987898452766, [0.07995000328562246, 0.0076632779519184915])


def test_a_trace_has_the_load_that_was_asked_for() -> None:
    drawn = draw()
    busy_s = sum(sum(arrival.durations_s) for arrival in drawn)
    assert busy_s / (drawn[-1].at_s * 10) == pytest.approx(0.8, rel=0.05)
    gaps_s = [after.at_s - before.at_s for before, after in itertools.pairwise(drawn)]
    assert statistics.stdev(gaps_s) == pytest.approx(statistics.mean(gaps_s), rel=0.1)  # as exponential gaps are


def test_arrivals_do_not_depend_on_the_durations() -> None:
    constant = draw(dist=trace.CONSTANT, spread=0.5)
    assert [arrival.at_s for arrival in constant] == [arrival.at_s for arrival in draw()]


def test_constant_durations_differ_between_jobs_only_and_by_the_spread() -> None:
    drawn = draw(dist=trace.CONSTANT, spread=0.5)
    assert all(len(set(arrival.durations_s)) == 1 for arrival in drawn)
    means_s = [arrival.durations_s[0] for arrival in drawn]
    assert 0.05 <= min(means_s) < 0.052
    assert 0.148 < max(means_s) <= 0.15
    assert {arrival.durations_s[0] for arrival in draw(dist=trace.CONSTANT)} == {0.1}


@pytest.mark.parametrize("changes", [{"spread": 1.1}, {"spread": -0.1}, {"dist": "pareto"}, {"load": 0.0}, {"jobs": 0}])
def test_values_out_of_range_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        draw(**changes)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 2), (0.51, 3), (0.75, 3), (0.76, 4), (1.0, 4)])
def test_percentiles_are_of_nearest_rank(share: float, expected: int) -> None:
    assert percentile([3, 1, 4, 2], share) == expected
