"""A hundred thousand frames at once, of all kinds, at a real scheduler: handled or refused, and others are served.

How much slower others are served meanwhile is what `sparrowmq bench flood` measures.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sparrowmq import limits
from sparrowmq.client.client import Client
from sparrowmq.local import LocalCluster
from sparrowmq.protocol import codec, messages as m
from sparrowmq.security import keyring
from sparrowmq.security.credentials import Credentials
from sparrowmq.settings import SchedulerSettings, SecuritySettings
from sparrowmq.store.registry import SchedulerRecord
from tests.support.attackers import Honest, Peer, until
from tests.support.scheduler import hello, submit

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("honest")]
FRAMES = 100_000


def name(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex}"


@pytest.fixture
def given(keys: Path) -> Credentials:
    return keyring.load_credentials(keys, "client")


@pytest.fixture
def flooder(target: SchedulerRecord, given: Credentials) -> Iterator[Peer]:
    """A client in order, so far."""
    with Peer(target.address_clients, given) as peer:
        peer.introduce(hello("client", name("flooder")))
        yield peer


@pytest.mark.parametrize("each", [1, limits.MESSAGES_MAX], ids=["one a frame", "thousands a frame"])
@pytest.mark.parametrize("make", [m.Ping, m.Pong, m.OutcomeAck], ids=["pings", "pongs", "acknowledgements"])
def test_chatter(flooder: Peer, witness: Peer, honest: Honest, make: Callable[[int], m.AnyMessage], each: int) -> None:
    """What is of no use to anybody: who says it without end is sent away, whether it stays to be told so or not."""
    before = witness.counters().get("sent_away", 0)
    for start in range(0, FRAMES, each):
        flooder.say(*(make(k) for k in range(start, start + each)))
    flooder.wait_end()
    refusals = [message for message in flooder.heard if isinstance(message, m.Refused)]
    assert [refused.code for refused in refusals] in ([], ["busy"])
    assert witness.counters()["sent_away"] == before + 1
    honest.goes_on()


@pytest.mark.parametrize(
    "make",
    [
        lambda k: m.Query(k, "jobs"),
        lambda k: m.Subscribe(k, "summary", 0.1),
        lambda k: m.Kill(f"j{k}", 0),
        lambda k: m.Recall(k, f"j{k}", 0, [0]),
        lambda k: submit(1, job="same", payloads=[b"\0"]),
    ],
    ids=["queries", "subscriptions", "kills", "recalls", "one job again and again"],
)
def test_what_costs_more_than_a_ping(flooder: Peer, honest: Honest, make: Callable[[int], m.AnyMessage]) -> None:
    for start in range(0, FRAMES, 1000):
        flooder.say(*(make(k) for k in range(start, start + 1000)))
    for _ in range(3):
        honest.goes_on()


def test_jobs(flooder: Peer, honest: Honest) -> None:
    """Jobs that nobody limits are run; who wants others to come first sets scheduler.limits.submits_per_s."""
    jobs = [submit(1, job=name("job"), payloads=[b"\0"]) for _ in range(2000)]
    for start in range(0, len(jobs), 100):
        flooder.say(*jobs[start : start + 100])
    honest.goes_on()
    done = 0
    while done < len(jobs):
        outcome = flooder.wait(m.Outcome)
        flooder.say(m.OutcomeAck(outcome.seq))
        done += len(outcome.indices)


def test_frames_that_are_none(flooder: Peer, witness: Peer, honest: Honest) -> None:
    before = witness.counters()
    for _ in range(FRAMES):
        flooder.send(b"\xc1 garbage")
    flooder.wait_end()
    honest.goes_on()

    def more(counter: str) -> int:
        return witness.counters().get(counter, 0) - before.get(counter, 0)

    until(lambda: more("client_connections_ignored"))
    assert more("client_connections_bad") <= 3
    assert more("refused_malformed") <= 3


def test_strangers_frames_before_the_proof(
    target: SchedulerRecord, given: Credentials, witness: Peer, honest: Honest
) -> None:
    before = witness.counters().get("refused_forbidden", 0)
    with contextlib.ExitStack() as stack:
        strangers = [stack.enter_context(Peer(target.address_clients, given)) for _ in range(20)]
        for k in range(FRAMES // len(strangers)):
            for stranger in strangers:
                stranger.say(m.Ping(k))
        for stranger in strangers:
            stranger.wait_end()
        honest.goes_on()
    assert witness.counters()["refused_forbidden"] == before + len(strangers)


@pytest.mark.parametrize(
    "frames",
    [
        [bytes(limits.FRAME_BYTES_MAX + 1)],
        [b"\x90", bytes(limits.FRAME_BYTES_MAX + 1)],
    ],
    ids=["body", "payload"],
)
def test_a_frame_that_is_too_large_ends_the_connection(flooder: Peer, frames: list[bytes], honest: Honest) -> None:
    flooder.send(*frames)
    flooder.wait_end()
    honest.goes_on()


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([codec.Encoder().encode([m.Ping(1)])[0][0]] + [b""] * 2000, "too_large"),
        ([b"\xdc\x10\x01" + b"\x92\x18\x01" * 4097], "malformed"),
        ([b"\x91" * 100_000], "malformed"),
        ([b"\xdd\xff\xff\xff\xff"], "malformed"),
        ([b"\x91\xdd\xff\xff\xff\xff"], "malformed"),
        ([b"\x91\xc6\xff\xff\xff\xff"], "malformed"),
        ([b""], "malformed"),
        ([b"", b"", b""], "malformed"),
    ],
    ids=["frames", "messages", "depth", "array", "fields", "bytes", "empty", "three empty"],
)
def test_sizes_that_lie(flooder: Peer, frames: list[bytes], code: str, honest: Honest) -> None:
    flooder.send(*frames)
    assert flooder.wait(m.Refused).code == code
    honest.goes_on()


def test_a_client_that_reads_nothing(flooder: Peer, target: SchedulerRecord, honest: Honest) -> None:
    """Its answers pile up at the scheduler up to a bound; others are served."""
    for _ in range(100):
        flooder.say(*(m.Query(k, "jobs") for k in range(100)))
    honest.goes_on()
    honest.goes_on()


def test_limits_of_one_key(keys: Path) -> None:
    """With limits set, a flood of jobs is mostly turned away, and everybody else's come first."""
    bounds = limits.SchedulerLimits(submits_per_s=50.0, tasks_per_job=100, probes_per_s=1000.0)
    tcp = SchedulerSettings(bind_clients="tcp://127.0.0.1:*", limits=bounds)
    with (
        LocalCluster(1, slots=2, assistants=0, scheduler=tcp, security=SecuritySettings(keys=str(keys))) as own,
        Client(own) as client,
        Peer(next(iter(client.schedulers.values())), keyring.load_credentials(keys, "client")) as flooder,
    ):
        flooder.introduce(hello("client", name("flooder")))
        flooder.say(submit(101, job="large", payloads=[b"\0"]))
        assert "101 tasks in one job: the limit of" in flooder.wait(m.Rejected).detail
        for start in range(0, FRAMES, 1000):
            flooder.say(*(submit(1, job=f"j{k}", payloads=[b"\0"]) for k in range(start, start + 1000)))
        assert [client.submit(abs, -k).result(20) for k in range(20)] == list(range(20))
        rejected = flooder.wait(m.Rejected)
        assert (rejected.code, rejected.retry_after_s > 0) == (m.TOO_SOON, True)
        assert "scheduler.limits.submits_per_s" in rejected.detail
        with Client(own, keys=str(keys)) as another:
            assert [future.result(20) for future in another.map(abs, range(50))] == list(range(50))
