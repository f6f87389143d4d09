"""The ideal central queue, on cases worked out by hand, and the draw of traces that it is compared on."""

from __future__ import annotations

import itertools
import statistics

import pytest

from sparrowmq.bench import ideal, trace
from sparrowmq.bench.figures import percentile
from sparrowmq.errors import UsageError


def draw(seed: int = 1, **changes: object) -> list[trace.Arrival]:
    arguments: dict[str, object] = {"jobs": 4000, "tasks": 5, "duration_s": 0.1, "slots": 10, "load": 0.8}
    return trace.draw(seed, **(arguments | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arrivals_s", "services_s", "slots", "expected_s"),
    [
        pytest.param([0.0], [[1.0, 2.0, 3.0]], 3, [3.0], id="all tasks start at once"),
        pytest.param([0.0], [[1.0, 2.0, 3.0]], 1, [6.0], id="one slot runs them one by one"),
        pytest.param([0.0], [[3.0, 1.0, 1.0, 1.0]], 2, [3.0], id="a free slot takes the next task"),
        pytest.param([0.0], [[1.0, 1.0, 3.0]], 2, [4.0], id="the order of the tasks is kept, even if it costs"),
        pytest.param([0.0, 1.0], [[4.0], [1.0]], 1, [4.0, 4.0], id="a later job waits its turn"),
        pytest.param([0.0, 1.0], [[4.0, 1.0], [1.0]], 2, [4.0, 1.0], id="a later job takes what is idle"),
        pytest.param([0.0, 10.0], [[1.0], [2.0]], 1, [1.0, 2.0], id="an idle time is not made up for"),
        pytest.param([0.0, 0.5, 0.5], [[1.0, 1.0], [2.0], [1.0]], 2, [1.0, 2.5, 1.5], id="ties go to the earlier job"),
        pytest.param([2.0], [[0.0]], 1, [0.0], id="nothing to do"),
        pytest.param([], [], 3, [], id="no job"),
    ],
)
def test_response_times(
    arrivals_s: list[float], services_s: list[list[float]], slots: int, expected_s: list[float]
) -> None:
    assert ideal.response_times(arrivals_s, services_s, slots) == pytest.approx(expected_s)


def test_the_queue_is_work_conserving() -> None:
    """With one slot the last job ends when all work since the last idle moment is done."""
    drawn = draw(jobs=200, slots=1, load=0.95)
    arrivals_s = [arrival.at_s for arrival in drawn]
    responses_s = ideal.response_times(arrivals_s, [arrival.durations_s for arrival in drawn], 1)
    ends_s = 0.0
    for arrival, response_s in zip(drawn, responses_s, strict=True):
        ends_s = max(ends_s, arrival.at_s) + sum(arrival.durations_s)
        assert arrival.at_s + response_s == pytest.approx(ends_s)


def test_the_same_seed_draws_the_same_trace() -> None:
    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


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
