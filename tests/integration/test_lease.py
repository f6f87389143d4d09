"""The lease against a real server: one leads, tokens grow whatever happens to Redis, and a dead leader is replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sparrowmq.settings import StoreSettings
from sparrowmq.store.connection import connect
from sparrowmq.store.embedded import EmbeddedServer
from sparrowmq.store.lease import Lease
from tests.support.store import Posts, Said, restart, stopped, until

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning"),
]
ROOT = str(Path(__file__).resolve().parents[2])
LEASE_S = 0.3


@pytest.fixture
def settings(server: EmbeddedServer) -> StoreSettings:
    return StoreSettings(url=server.url, prefix="t:")


class One:
    """A holder, with the terms that it was told to look at."""

    def __init__(self, settings: StoreSettings, name: str, lease_s: float) -> None:
        self.said = Said()
        self.terms: list[int] = []
        self.lease = Lease(
            settings, holder=name, lease_s=lease_s, post=Posts(), on_change=self._look, log=self.said
        )  # fmt: skip
        self.lease.start()

    def _look(self) -> None:
        self.terms.append(self.term)

    @property
    def term(self) -> int:
        return self.lease.term(time.monotonic())


@pytest.fixture
def begin(settings: StoreSettings) -> Iterator[Callable[..., One]]:
    made: list[One] = []

    def _begin(name: str, lease_s: float = LEASE_S) -> One:
        made.append(One(settings, name, lease_s))
        return made[-1]

    yield _begin
    for one in made:
        one.lease.stop()


def test_one_leads_and_goes_on_leading(settings, begin):
    first = begin("a")
    until(lambda: first.term)
    second = begin("b")
    term, client = first.term, connect(settings)
    assert abs(term - time.time() * 1000) < 60_000
    ends = time.monotonic() + 3 * LEASE_S
    while time.monotonic() < ends:
        assert first.term == term
        assert not second.term
        assert 0 < client.pttl("t:lease") <= LEASE_S * 1000
        time.sleep(0.01)
    assert (first.terms, second.terms) == ([term], [])
    assert client.get("t:lease") == b"%d:a" % term


def test_one_that_ends_in_order_is_followed_at_once(begin):
    first = begin("a", lease_s=30.0)
    until(lambda: first.term)
    term = first.term
    first.lease.stop()
    assert not first.term
    second = begin("b", lease_s=30.0)
    until(lambda: second.term, timeout_s=2.0)
    assert second.term > term


def test_a_killed_leader_is_followed_within_a_second(settings, begin):
    code = (
        "import sys, time\nfrom sparrowmq.settings import StoreSettings\nfrom sparrowmq.store.lease import Lease\n"
        "lease = Lease(StoreSettings(url=sys.argv[1], prefix='t:'), holder='killed', lease_s=0.6,\n"
        "    post=lambda callback: callback(), on_change=lambda: print(lease.term(time.monotonic()), flush=True),\n"
        "    log=print)\nlease.start()\ntime.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": ROOT}
    leader = subprocess.Popen(
        [sys.executable, "-c", code, settings.url], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert leader.stdout is not None
    term = int(leader.stdout.readline())
    standby = begin("standby", lease_s=0.6)
    until(lambda: standby.lease.tenure.last == term)
    leader.send_signal(signal.SIGKILL)
    killed_s = time.monotonic()
    until(lambda: standby.term)
    assert time.monotonic() - killed_s < 1.0
    assert standby.term > term
    leader.communicate()


def test_tokens_grow_though_redis_has_lost_everything(server, settings, begin):
    one, client = begin("a"), connect(settings)
    until(lambda: one.term)
    terms = [one.term]
    for lose in (client.flushall, lambda: restart(server), lambda: client.delete("t:lease")):
        lose()
        until(lambda: one.term not in (0, *terms))
        terms.append(one.term)
    assert terms == sorted(set(terms))


def test_a_clock_of_redis_that_is_behind_gives_no_smaller_token(settings, begin):
    """The last token is stored without a time limit, and remembered by all that have heard of it."""
    ahead = int(time.time() * 1000) + 3_600_000
    client = connect(settings)
    client.set("t:term", ahead)
    one = begin("a")
    until(lambda: one.term == ahead + 1)
    standby = begin("b")
    until(lambda: standby.lease.tenure.last == ahead + 1)
    one.lease.stop()
    client.flushall()
    until(lambda: standby.term)
    assert standby.term in (ahead + 2, ahead + 3)


def test_a_leader_knows_by_itself_that_it_does_not_lead_while_redis_hangs(server, begin):
    one = begin("a")
    until(lambda: one.term)
    term = one.term
    with stopped(server):
        hangs_s = time.monotonic()
        until(lambda: not one.term)
        assert time.monotonic() - hangs_s <= LEASE_S + 0.05
        until(lambda: one.terms[-1] == 0)
        assert one.said.count("does not answer") == 1
    until(lambda: one.term)
    assert one.term >= term


@pytest.mark.parametrize("junk", ["junk", "5:somebody", "99999999999999999999:a", ""])
def test_a_lease_that_nobody_can_have_given_is_nobody_s(settings, begin, junk):
    client = connect(settings)
    client.set("t:lease", junk)
    client.set("t:term", "nan")
    one = begin("a")
    until(lambda: one.term)
    assert abs(one.term - time.time() * 1000) < 60_000


@pytest.mark.parametrize("stored", ["inf", "-1e300", "9" * 30, "0x10", "many"])
def test_a_stored_token_that_is_none_is_left_aside(settings, begin, stored):
    connect(settings).set("t:term", stored)
    one = begin("a")
    until(lambda: one.term)
    assert abs(one.term - time.time() * 1000) < 60_000


def test_a_key_of_another_type_is_named_and_nobody_leads_until_it_is_gone(settings, begin):
    client = connect(settings)
    client.lpush("t:term", "x")
    one = begin("a")
    until(lambda: one.said.lines)
    assert one.said.count("WRONGTYPE") == 1
    assert not one.term
    client.delete("t:term")
    until(lambda: one.term)
