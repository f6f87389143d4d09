"""Virtual time: order, ends, conditions."""

from __future__ import annotations

from hypothesis import given, strategies as st

from sparrowmq.sim.engine import BEGIN_S, Engine


@given(st.lists(st.floats(0.0, 10.0), max_size=30))
def test_events_happen_in_the_order_of_their_times_and_of_the_asking(delays: list[float]) -> None:
    engine, happened = Engine(), []
    for number, delay_s in enumerate(delays):
        engine.later(delay_s, lambda number=number: happened.append((engine.now, number)))
    assert engine.run(10.0)
    assert happened == sorted((BEGIN_S + delay_s, number) for number, delay_s in enumerate(delays))
    assert (engine.now, engine.events) == (BEGIN_S + 10.0, len(delays))


def test_what_lies_behind_the_end_of_a_run_waits_for_the_next() -> None:
    engine, happened = Engine(), []
    for delay_s in (1.0, 2.0, 3.0):
        engine.later(delay_s, happened.append, delay_s)
    engine.run(2.0)
    assert happened == [1.0, 2.0]
    engine.run(0.5)
    assert (happened, engine.now) == ([1.0, 2.0], BEGIN_S + 2.5)
    engine.run(0.5)
    assert happened == [1.0, 2.0, 3.0]


def test_a_run_ends_as_soon_as_its_condition_holds_and_tells_when_it_never_did() -> None:
    engine, happened = Engine(), []
    for delay_s in (1.0, 2.0, 3.0):
        engine.later(delay_s, happened.append, delay_s)
    assert engine.run(10.0, until=lambda: len(happened) == 2)
    assert (happened, engine.now) == ([1.0, 2.0], BEGIN_S + 2.0)
    assert not engine.run(10.0, until=lambda: len(happened) == 4)
    assert (happened, engine.now) == ([1.0, 2.0, 3.0], BEGIN_S + 12.0)


def test_an_event_can_ask_for_another_one_at_the_same_moment() -> None:
    engine, happened = Engine(), []
    engine.at(engine.now, lambda: engine.later(0.0, happened.append, engine.now), ())
    engine.run(0.0)
    assert happened == [BEGIN_S]
