"""Those who have keys and do what is not theirs to do, at a real scheduler: what they are believed, and what they may.

A client's role is a right to run code, and to see and end the jobs of its owner: those who share the secret are one,
so that `sparrowmq job list`, `job show` and `job cancel` may come from another process, with another key, than the one
that submitted. Outcomes, recalls and resubmissions are for the client that a job belongs to. What listed clients may do
to each other, which is nothing, is in tests/integration/test_secure_owners.py.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparrowmq import limits
from sparrowmq.client.client import Client
from sparrowmq.local import LocalCluster
from sparrowmq.protocol import messages as m
from sparrowmq.security import keyring
from sparrowmq.store.registry import SchedulerRecord
from tests.support.attackers import Honest, Peer, until
from tests.support.gates import Gate, wait_for
from tests.support.scheduler import hello, submit

pytestmark = pytest.mark.timeout(120)


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


def name(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex}"


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "open")
    yield gate
    gate.open()


@contextlib.contextmanager
def member(target: SchedulerRecord, keys: Path, role: str, **fields: Any) -> Iterator[Peer]:
    """One in order, so far: it has proven its role and been welcomed."""
    address = target.address_workers if role == m.WORKER else target.address_clients
    with Peer(address, keyring.load_credentials(keys, role)) as peer:
        peer.introduce(hello(role, name(role), **fields))
        yield peer


# -- workers


def test_a_worker_that_answers_for_the_tasks_of_others(
    target: SchedulerRecord, keys: Path, client: Client, witness: Peer, gate: Gate
) -> None:
    job = client.map(wait_for, [gate.path] * 2)
    until(lambda: all(future.running() for future in job))
    stale = witness.counters().get("stale", 0)
    with member(target, keys, m.WORKER, slots=0) as thief:
        for attempt in (1, 2, 3):
            numbers = [attempt] * 2
            thief.say(
                m.Result(1, job.id, 0, [0, 1], numbers, bytes([m.SUCCEEDED] * 2), [5, 5], [b"\xc0", b"\xc0"]),
                m.Result(2, job.id, 0, [0, 1], numbers, bytes([m.FAILED] * 2), [5, 5], [b"", b""]),
                m.Returned(0, job.id, 0, [0, 1], numbers, "crash"),
                m.Output(job.id, 0, 0, attempt, 1, b"I was here"),
                m.Claimed(job.id, 0, [0, 1], numbers),
            )
        thief.say(m.Stale(job.id, 9), m.Load(job.id, 0, 1, 0, 0, 9), m.Ping(5))
        assert thief.wait(m.Pong) == m.Pong(5), "it is heard, and not believed"
        assert witness.counters()["stale"] >= stale + 12
        assert not any(future.done() for future in job)
        gate.open()
        job.wait(20.0)
    assert [future.exception() for future in job] == [None, None]
    witness.say(m.Follow(1, job.id))
    assert witness.wait(m.Followed).state == "done"


def test_a_worker_goes_by_no_others_id(target: SchedulerRecord, keys: Path, cluster: LocalCluster) -> None:
    thief_keys = keyring.load_credentials(keys, m.WORKER)
    for victim in cluster.workers:
        with Peer(target.address_workers, thief_keys) as thief:
            thief.say(m.Proof(m.WORKER, victim.id, thief_keys.proof(victim.id)), hello(m.WORKER, victim.id, 2**50))
            assert thief.wait(m.Refused).code == "identity_conflict"
    assert len(cluster.workers) == 2


@pytest.mark.parametrize(
    ("role", "message"),
    [
        (m.WORKER, submit(1)),
        (m.WORKER, m.Kill("a", 0)),
        (m.WORKER, m.Query(1, "jobs")),
        (m.WORKER, m.Verdict(2**50, [])),
        (m.CLIENT, m.Result(1, "a", 0, [0], [1], b"\0", [1], [b""])),
        (m.CLIENT, m.Request(1, "a", 0, 1, 1)),
        (m.CLIENT, m.Hints(2**50, [], [])),
        (m.CLIENT, m.Welcome("s1", 1, "0")),
        (m.ASSISTANT, submit(1)),
        (m.ASSISTANT, m.Drain(1, "w1")),
        (m.ASSISTANT, m.Request(1, "a", 0, 1, 1)),
        (m.CLIENT, hello(m.CLIENT, "again")),
        (m.CLIENT, hello(m.WORKER, "again", slots=4)),
        (m.CLIENT, m.Proof(m.WORKER, "again", bytes(32))),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_role_says_what_is_its_to_say_and_nothing_else(
    target: SchedulerRecord, keys: Path, honest: Honest, witness: Peer, role: str, message: m.AnyMessage
) -> None:
    incarnation = unix_ms() if role == m.ASSISTANT else 1
    address = target.address_workers if role == m.WORKER else target.address_clients
    with Peer(address, keyring.load_credentials(keys, role)) as liar:
        liar.introduce(hello(role, name(role), incarnation))
        liar.say(message, m.Ping(1))
        assert liar.wait(m.Refused).code in ("forbidden", "malformed")
        liar.read(0.05)
        assert m.Pong(1) not in liar.heard


# -- clients


def test_a_job_of_another_who_shares_the_secret_can_be_seen_and_ended_and_nothing_more(
    target: SchedulerRecord, keys: Path, client: Client, gate: Gate
) -> None:
    job = client.map(wait_for, [gate.path] * 2, name="mine")
    until(lambda: all(future.running() for future in job))
    with member(target, keys, m.CLIENT) as other:
        other.say(m.Query(1, "job", job.id))
        [row] = other.wait(m.Status).jobs
        assert (row.id, row.name, row.client) == (job.id, "mine", client.id)
        other.say(m.Follow(2, job.id))
        assert other.wait(m.Followed).state == "running"

        other.say(m.Recall(3, job.id, 0, [0, 1]))
        assert other.wait(m.Returned) == m.Returned(3, job.id, 0, [])
        other.say(m.OutcomeAck(limits.INT_MAX))
        for epoch in (0, 1, 7):
            other.say(submit(1, job=job.id, epoch=epoch))
            assert other.wait(m.Rejected).code == "conflict"
        other.say(submit(1, job=f"{job.id}.{'a' * 20}"), m.Kill(f"{job.id}.{'a' * 20}", 0))
        assert other.wait(m.Rejected).code == "forbidden"
        assert not any(future.done() for future in job)

        other.say(m.Kill(job.id, 7))  # not its epoch
        other.say(m.Kill(job.id[:-1], 0))  # not its id
        other.say(m.Kill(job.id, 0, [1]))  # as `sparrowmq job cancel` does
        until(lambda: job[1].done())
        assert job[1].cancelled()
        assert not job[0].done()
        gate.open()
        assert job[0].result(20) is not None or job[0].exception() is None
        other.read(0.1)
        assert not [message for message in other.heard if isinstance(message, m.Outcome)]


def test_a_clients_id_stays_its_keys_when_its_connection_is_gone(
    target: SchedulerRecord, keys: Path, witness: Peer
) -> None:
    victim_id, job = name("victim"), name("job")
    with Peer(target.address_clients, keyring.load_credentials(keys, "client")) as victim:
        victim.introduce(hello("client", victim_id))
        victim.say(submit(1, job=job, payloads=[b"\xcb" + bytes.fromhex("4024000000000000")]))  # a sleep of 10 s
        victim.wait(m.Accepted)
    thief_keys = keyring.load_credentials(keys, "client")
    for incarnation in (1, 2, 2**50):
        with Peer(target.address_clients, thief_keys) as thief:
            claim = hello("client", victim_id, incarnation, jobs=[job])
            thief.say(m.Proof("client", victim_id, thief_keys.proof(victim_id)), claim)
            assert thief.wait(m.Refused).code == "identity_conflict"
    witness.say(m.Query(1, "job", job))
    [row] = witness.wait(m.Status).jobs
    assert (row.state, row.client) == ("running", victim_id)
    witness.say(m.Kill(job, 0))


def test_a_client_that_says_it_has_another_key(target: SchedulerRecord, keys: Path, client: Client) -> None:
    """The fingerprint in a hello is the scheduler's to write, and so is the owner."""
    with Peer(target.address_clients, keyring.load_credentials(keys, "client")) as liar:
        liar.introduce(hello("client", name("liar"), key="0" * 20, owner="0" * 20))
        liar.say(submit(1, job=f"{name('job')}.{'0' * 20}", payloads=[b"\0"]))
        assert liar.wait(m.Rejected).code == "forbidden"
        liar.say(submit(1, job=name("job"), payloads=[b"\0"]))
        assert liar.wait(m.Outcome).statuses == bytes([m.SUCCEEDED])


# -- assistants


def test_a_term_from_the_far_future_keeps_nobody_out(target: SchedulerRecord, keys: Path, witness: Peer) -> None:
    given = keyring.load_credentials(keys, m.ASSISTANT)
    for term in (limits.INT_MAX, unix_ms() + 10 * 86_400_000):
        with Peer(target.address_clients, given) as liar:
            id = name("liar")
            liar.say(m.Proof(m.ASSISTANT, id, given.proof(id)), hello(m.ASSISTANT, id, term))
            assert liar.wait(m.Refused).code == "malformed"
    with Peer(target.address_clients, given) as late:
        late.introduce(hello(m.ASSISTANT, name("late"), unix_ms() + 60_000))
