"""What an assistant hears of a real server: beats and when they arrived, through outages, junk and forgeries."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from sparrowmq.core.assistant import Arrival
from sparrowmq.protocol import beats
from sparrowmq.settings import StoreSettings
from sparrowmq.store.beats import BEAT, CANARY
from sparrowmq.store.connection import connect
from sparrowmq.store.embedded import EmbeddedServer
from sparrowmq.store.watcher import POSTS_MAX, READ_MAX, Watcher
from tests.support.store import Posts, Said, beat, restart, stopped, until

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning"),
]
KEY = "t:beats"


@pytest.fixture
def settings(server: EmbeddedServer) -> StoreSettings:
    return StoreSettings(url=server.url, prefix="t:", reply_timeout_s=0.3, connect_timeout_s=0.3)


class Ears:
    """A watcher and all that it told."""

    def __init__(self, settings: StoreSettings, id: str, interval_s: float = 0.01, entries_max: int = 50_000) -> None:
        self.said = Said()
        self.posts = Posts()
        self.heard: list[Arrival] = []
        self.seen_s = 0.0
        self.calls: list[tuple[float, float]] = []
        self.interruptions = 0
        self.watcher = Watcher(
            settings,
            id=id,
            interval_s=interval_s,
            entries_max=entries_max,
            post=self.posts,
            on_heard=self._on_heard,
            log=self.said,
        )
        self.watcher.start()

    def _on_heard(self, seen_s: float, lag_s: float, arrivals: Sequence[Arrival], interrupted: bool) -> None:
        assert seen_s >= self.seen_s
        assert lag_s >= 0.0
        self.seen_s = seen_s
        self.calls.append((seen_s, lag_s))
        self.interruptions += interrupted
        self.heard += arrivals

    def numbers(self) -> list[int]:
        return [arrival.beat.sequence for arrival in self.heard]

    def next_turn(self) -> None:
        """Wait until something that was sent after now has come back."""
        now = time.monotonic()
        until(lambda: self.seen_s > now)


@pytest.fixture
def listen(settings: StoreSettings) -> Iterator[Callable[..., Ears]]:
    made: list[Ears] = []

    def _listen(id: str = "assistant-1", **changes: float) -> Ears:
        made.append(Ears(settings, id, **changes))  # type: ignore[arg-type]
        return made[-1]

    yield _listen
    for ears in made:
        ears.watcher.stop()


def put(settings: StoreSettings, *sequences: int) -> None:
    client = connect(settings)
    for sequence in sequences:
        client.xadd(KEY, {BEAT: beats.encode(beat(sequence))})
    client.close()


def test_beats_are_heard_in_order_with_the_time_of_their_arrival(settings, listen):
    ears = listen()
    ears.next_turn()
    sent = []
    for sequence in range(1, 6):
        sent.append(time.monotonic())
        put(settings, sequence)
        time.sleep(0.02)
    until(lambda: len(ears.heard) == 5)
    assert [arrival.beat for arrival in ears.heard] == [beat(n) for n in range(1, 6)]
    for arrival, sent_s in zip(ears.heard, sent, strict=True):
        assert -0.003 < arrival.at_s - sent_s < 0.5
    times = [arrival.at_s for arrival in ears.heard]
    assert times == sorted(times)
    assert times[-1] - times[0] == pytest.approx(sent[-1] - sent[0], abs=0.05)


def test_a_watcher_that_stood_still_tells_when_beats_arrived(settings, listen):
    """They are read late, all at once, and yet their distances are those of their arrival."""
    ears = listen()
    ears.next_turn()
    with ears.posts.stuck:  # the loop hangs, so that in the end nothing is read any more
        until(lambda: ears.posts.waiting == POSTS_MAX - 1)
        sent = []
        for sequence in range(1, 4):
            sent.append(time.monotonic())
            put(settings, sequence)
            time.sleep(0.15)
        assert ears.posts.waiting < POSTS_MAX
        before = len(ears.calls)
    until(lambda: len(ears.heard) == 3)
    assert max(lag_s for _, lag_s in ears.calls[before:]) > 0.3, "its own lateness shows"
    at = [arrival.at_s for arrival in ears.heard]
    gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert gaps == pytest.approx([later - earlier for earlier, later in itertools.pairwise(sent)], abs=0.05)


def test_what_was_there_a_moment_before_is_heard_and_what_is_old_is_not(settings, listen):
    client = connect(settings)
    now_ms = int(time.time() * 1000)
    client.xadd(KEY, {BEAT: beats.encode(beat(1))}, id=f"{now_ms - 60_000}-0")
    client.xadd(KEY, {BEAT: beats.encode(beat(2))}, id=f"{now_ms - 2_000}-0")
    ears = listen()
    until(lambda: ears.heard)
    assert ears.numbers() == [2]
    assert 1.9 < time.monotonic() - ears.heard[0].at_s < 4.0


def test_each_assistant_waits_for_its_own_canary(settings, listen):
    first, second = listen("assistant-1"), listen("assistant-2")
    put(settings, 1)
    first.next_turn()
    second.next_turn()
    until(lambda: first.numbers() == second.numbers() == [1])
    kinds = {fields[CANARY] for _, fields in connect(settings).xrange(KEY) if CANARY in fields}
    assert kinds == {b"assistant-1", b"assistant-2"}
    assert not first.said.lines
    assert not second.said.lines


def test_junk_and_forgeries_are_counted_and_named_once_and_harm_nobody(settings, listen):
    client = connect(settings)
    ears = listen()
    ears.next_turn()
    for _ in range(20):
        client.xadd(KEY, {BEAT: b"\xff\x00"})
        client.xadd(KEY, {BEAT: b"x" * (beats.BEAT_BYTES_MAX + 1)})
        client.xadd(KEY, {b"other": b"1", b"fields": b"2"})
        client.xadd(KEY, {CANARY: b"assistant-1"})  # an old one that somebody sends again
        client.xadd(KEY, {CANARY: b"\xff" * 1000})
    put(settings, 9)
    until(lambda: ears.heard)
    ears.next_turn()
    assert ears.numbers() == [9]
    assert len(ears.said.lines) == 2, "one line a kind: malformed, too_large"


def test_a_server_that_hangs_stops_judgement_and_nothing_else(server, settings, listen):
    ears = listen()
    ears.next_turn()
    with stopped(server):
        until(lambda: ears.said.count("does not answer"))
        seen_s, calls = ears.seen_s, len(ears.calls)
        time.sleep(0.1)
        assert (ears.seen_s, len(ears.calls)) == (seen_s, calls)
    ears.next_turn()
    put(settings, 5)
    until(lambda: ears.numbers() == [5])
    assert [level for level, _, _ in ears.said.lines] == ["warning", "info"]
    ears.next_turn()
    assert ears.interruptions == 1, "beats may have been lost, once"


def test_a_short_hang_shows_as_lag(server, listen):
    ears = listen()
    ears.next_turn()
    with stopped(server):
        time.sleep(0.15)
    ears.next_turn()
    assert max(lag_s for _, lag_s in ears.calls) > 0.1
    assert not ears.said.lines, "shorter than the timeout: no outage"
    assert not ears.interruptions, "and no beat was lost"


def test_a_server_that_comes_back_empty(server, settings, listen):
    ears = listen()
    put(settings, 1)
    until(lambda: ears.numbers() == [1])
    restart(server)
    put(settings, 2)
    until(lambda: ears.numbers() == [1, 2])
    ears.next_turn()


def test_a_stream_that_is_deleted_or_cut_is_read_on(settings, listen):
    client = connect(settings)
    ears = listen()
    put(settings, 1)
    until(lambda: ears.numbers() == [1])
    client.delete(KEY)
    put(settings, 2)
    until(lambda: ears.numbers() == [1, 2])
    client.xtrim(KEY, maxlen=0, approximate=False)
    put(settings, 3)
    until(lambda: ears.numbers() == [1, 2, 3])
    ears.next_turn()


def test_ids_that_go_back_are_noticed(settings, listen):
    """As where the clock of Redis is set back and the stream is lost: new ids are smaller than the last one read."""
    client = connect(settings)
    client.xadd(KEY, {BEAT: beats.encode(beat(1))}, id=f"{int(time.time() * 1000) + 3_600_000}-0")
    ears = listen()
    until(lambda: ears.numbers() == [1])
    ears.next_turn()
    client.delete(KEY)
    put(settings, 2)
    until(lambda: ears.numbers() == [1, 2])
    ears.next_turn()
    assert all(arrival.at_s <= time.monotonic() for arrival in ears.heard)


def test_more_than_one_answer_holds_is_heard_whole(settings, listen):
    ears = listen()
    ears.next_turn()
    count = READ_MAX + 500
    client = connect(settings)
    with ears.posts.stuck:
        until(lambda: ears.posts.waiting == POSTS_MAX - 1)
        with client.pipeline(transaction=False) as pipe:
            for sequence in range(1, count + 1):
                pipe.xadd(KEY, {BEAT: beats.encode(beat(sequence))})
            pipe.execute()
    until(lambda: len(ears.heard) == count)
    assert ears.numbers() == list(range(1, count + 1))


def test_the_watcher_bounds_the_stream_too(settings, listen):
    ears = listen(entries_max=100, interval_s=0.001)
    put(settings, *range(1000))
    until(lambda: connect(settings).xlen(KEY) <= 300)
    ears.next_turn()


def test_a_key_that_is_no_stream_is_named_and_survived(settings, listen):
    client = connect(settings)
    client.set(KEY, "somebody else's")
    ears = listen()
    until(lambda: ears.said.count("WRONGTYPE") == 1)
    assert ears.calls == []
    client.delete(KEY)
    put(settings, 1)
    until(lambda: ears.numbers() == [1])
    assert len(ears.said.lines) == 1


def test_a_server_that_may_be_read_and_not_written_to_is_not_judged_by(settings, listen):
    client = connect(settings)
    ears = listen()
    ears.next_turn()
    client.execute_command("ACL", "SETUSER", "default", "-xadd")
    until(lambda: ears.said.count("NOPERM"))
    calls = len(ears.calls)
    time.sleep(0.1)
    assert len(ears.calls) <= calls + 1, "no canary, no judgement"
    client.execute_command("ACL", "SETUSER", "default", "+xadd")
    ears.next_turn()


def test_nobody_there_at_the_start(server, settings, listen):
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    ears = listen()
    until(lambda: ears.said.count("does not answer"))
    server.launch()
    server.wait_ready()
    put(settings, 1)
    until(lambda: ears.numbers() == [1])
