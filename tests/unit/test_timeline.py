"""When beats arrived, and what a holder may believe of its lease: arithmetic without Redis, threads or clocks."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sparrowmq.core.timeline import HISTORY_MS, EntryId, Timeline, parse
from sparrowmq.store.lease import Tenure

UNIX_MS = 1_700_000_000_000


def test_ids_are_read_and_written_as_redis_does():
    assert parse(b"1700000000000-7") == EntryId(UNIX_MS, 7)
    assert bytes(EntryId(UNIX_MS, 7)) == b"1700000000000-7"
    assert EntryId(5, 9) < EntryId(6, 0) < EntryId(6, 1)


def test_what_follows_a_canary_arrived_as_much_later_as_its_milliseconds_are():
    line = Timeline()
    assert line.appended(EntryId(UNIX_MS, 0), 10.0)
    assert line.seen_s is None
    assert line.read([EntryId(UNIX_MS, 0), EntryId(UNIX_MS + 30, 0), EntryId(UNIX_MS + 30, 1)], 10.1) == pytest.approx(
        [10.0, 10.03, 10.03]
    )
    assert line.seen_s == 10.0
    assert not line.appended(EntryId(UNIX_MS + 52, 0), 10.05)
    late = [EntryId(UNIX_MS + 40, 0), EntryId(UNIX_MS + 52, 0), EntryId(UNIX_MS + 60, 0)]
    assert line.read(late, 12.0) == pytest.approx([10.04, 10.05, 10.058]), "a reader that is late knows when"
    assert (line.seen_s, line.after, line.came_back) == (10.05, EntryId(UNIX_MS + 60, 0), True)


def test_nothing_is_seen_until_the_canary_is_back():
    line = Timeline()
    line.appended(EntryId(UNIX_MS, 0), 10.0)
    line.read([EntryId(UNIX_MS - 5, 0)], 10.2)
    assert (line.seen_s, line.came_back) == (None, False)
    line.read([EntryId(UNIX_MS, 0)], 10.2)
    line.appended(EntryId(UNIX_MS + 100, 0), 10.1)
    line.read([EntryId(UNIX_MS + 50, 0)], 10.3)
    assert (line.seen_s, line.came_back) == (10.0, False)
    line.read([EntryId(UNIX_MS + 100, 3)], 10.4)
    assert line.seen_s == 10.0, "an entry beyond it is not the canary: somebody has deleted it"
    assert line.came_back


def test_a_new_reader_begins_a_little_in_the_past():
    line = Timeline()
    line.appended(EntryId(UNIX_MS, 0), 100.0)
    assert line.after == EntryId(UNIX_MS - HISTORY_MS, 0)
    assert line.read([EntryId(UNIX_MS - 4000, 0), EntryId(UNIX_MS, 0)], 100.0) == pytest.approx([96.0, 100.0])


def test_ids_that_go_back_are_read_anew():
    line = Timeline()
    line.appended(EntryId(UNIX_MS, 0), 10.0)
    line.read([EntryId(UNIX_MS, 0), EntryId(UNIX_MS + 900, 0)], 11.0)
    assert line.appended(EntryId(UNIX_MS - 3_600_000, 0), 12.0)
    assert line.after == EntryId(UNIX_MS - 3_600_000 - HISTORY_MS, 0)
    before, canary = EntryId(UNIX_MS - 3_600_100, 0), EntryId(UNIX_MS - 3_600_000, 0)
    assert line.read([before, canary], 12.0) == pytest.approx([11.9, 12.0])
    assert line.seen_s == 12.0


@pytest.mark.parametrize("jump_ms", [3_600_000, -3_600_000])
def test_a_clock_that_jumps_does_harm_for_one_canary(jump_ms):
    line = Timeline()
    line.appended(EntryId(UNIX_MS, 0), 10.0)
    line.read([EntryId(UNIX_MS, 0)], 10.0)
    jumped = UNIX_MS + max(jump_ms, 0)  # Redis goes on from its last id where its clock goes back
    number = 0 if jump_ms > 0 else 1
    line.appended(EntryId(jumped + 1, 0) if jump_ms > 0 else EntryId(UNIX_MS, 2), 10.05)
    (arrived,) = line.read([EntryId(jumped, number)], 10.05)
    assert 10.0 <= arrived <= 10.05
    line.read([EntryId(jumped + 1, 0) if jump_ms > 0 else EntryId(UNIX_MS, 2)], 10.05)
    assert line.seen_s == 10.05
    (arrived,) = line.read([EntryId(jumped + 31, 0)], 10.1)
    assert arrived == pytest.approx(10.08, abs=0.002)


steps = st.lists(
    st.tuples(
        st.integers(0, 200),  # milliseconds until the next canary is sent
        st.integers(-5_000, 5_000),  # jump of the store's clock
        st.lists(st.integers(0, 100), max_size=4),  # beats, so many milliseconds after it
        st.integers(0, 3_000),  # how late it is all read
        st.booleans(),  # whether the stream is emptied first
    ),
    min_size=1,
    max_size=20,
)


@given(steps)
def test_whatever_clocks_do_arrivals_are_in_order_and_none_lies_in_the_future(steps):
    line = Timeline()
    now, skew_ms, last = 50.0, 0, EntryId(0, 0)
    arrived_before, seen_before = float("-inf"), float("-inf")
    stream: list[EntryId] = []

    def append() -> EntryId:
        nonlocal last
        fresh = EntryId(UNIX_MS + round(now * 1000) + skew_ms, 0)
        last = fresh if fresh > last else EntryId(last.ms, last.number + 1)
        stream.append(last)
        return last

    for wait_ms, jump_ms, gaps, late_ms, emptied in steps:
        now += wait_ms / 1000
        skew_ms += jump_ms
        if emptied:
            stream.clear()
            last = EntryId(0, 0)
        sent_s = now
        canary = append()
        for gap in sorted(gaps):
            now = max(now, sent_s + gap / 1000)
            append()
        now += late_ms / 1000
        line.appended(canary, sent_s)
        assert line.after is not None
        found = line.read([entry for entry in stream if entry > line.after], now)
        assert line.came_back
        assert line.seen_s == max(seen_before, sent_s)
        for arrived in found:
            assert arrived_before <= arrived <= now
            arrived_before = arrived
        seen_before = line.seen_s


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 400), st.booleans()), max_size=30))
def test_beats_of_a_sane_store_arrive_when_they_did(beats):
    """Whatever the reader's delay: an error of one millisecond, which is what ids resolve."""
    line, now, true = Timeline(), 20.0, []
    stream: list[EntryId] = []

    def append() -> EntryId:
        entry = EntryId(UNIX_MS + int(now * 1000), len(stream))
        stream.append(entry)
        return entry

    line.appended(append(), now)
    true.append(now)
    found = line.read(stream, now)
    for gap_ms, late_ms, canary in beats:
        now += gap_ms / 1000
        true.append(now)
        entry = append()
        if canary:
            line.appended(entry, now)
            assert line.after is not None
            found += line.read([entry for entry in stream if entry > line.after], now + late_ms / 1000)
    for arrived, at_s in zip(found, true, strict=False):
        assert arrived == pytest.approx(at_s, abs=0.00201)


# The lease.


def test_a_lease_ends_by_its_holder_s_own_clock():
    tenure = Tenure(0.6)
    assert tenure.term(0.0) == 0
    tenure.granted(7, 10.0)
    assert (tenure.term(10.0), tenure.term(10.59), tenure.term(10.6)) == (7, 7, 0)
    tenure.granted(7, 10.55)
    assert tenure.term(11.1) == 7
    tenure.gone()
    assert (tenure.term(11.1), tenure.last) == (0, 7)


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.booleans()), max_size=40))
def test_no_two_holders_at_a_time_whatever_is_slow(calls):
    """A and B ask in turn; each request takes a while to reach Redis. Redis gives the lease to one, for 0.6 s."""
    lease_s, now = 0.6, 0.0
    tenures = {False: Tenure(lease_s), True: Tenure(lease_s)}
    holder, expires_s, term = None, 0.0, 0
    for wait_s, travel_s, who in calls:
        now += wait_s
        asked_s = now
        now += travel_s
        if holder is None or now >= expires_s:
            holder, term = who, term + 1
        if holder == who:
            expires_s = now + lease_s
            tenures[who].granted(term, asked_s)
        else:
            tenures[who].gone()
        assert not (tenures[False].term(now) and tenures[True].term(now))
