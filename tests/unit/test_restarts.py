"""The rule by which a local cluster starts again what failed."""

from __future__ import annotations

from sparrowmq.runtime import restarts


def test_it_comes_back_later_each_time_and_then_no_more():
    failures, delays = 0, []
    while not restarts.is_hopeless(failures := restarts.in_a_row(failures, lived_s=0.5)):
        delays.append(restarts.delay_s(failures))
    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0, 10.0]


def test_one_that_lived_long_comes_back_at_once():
    assert restarts.in_a_row(9, lived_s=restarts.STABLE_AFTER_S) == 0
    assert restarts.delay_s(0) == 0.1
