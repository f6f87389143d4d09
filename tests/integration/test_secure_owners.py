"""Two listed clients and those that share the secret, at a cluster with keys and a locked Redis: whose jobs are whose.

Alice and Bob have listed keys, Carol and Carl have enrolled. All else is real: processes, sockets over TCP, a server
with the generated users.acl.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import sparrowmq
from sparrowmq import ids
from sparrowmq.cli.main import main
from sparrowmq.client.client import Client
from sparrowmq.errors import Rejected, UsageError
from sparrowmq.local import LocalCluster
from sparrowmq.protocol import messages as m
from sparrowmq.security import keyring
from sparrowmq.settings import SchedulerSettings, SecuritySettings, StoreSettings
from sparrowmq.store.connection import authenticated, connect
from tests.support.attackers import Peer, until
from tests.support.gates import Gate, wait_for
from tests.support.scheduler import hello, submit
from tests.support.valkey import Server

pytestmark = pytest.mark.timeout(180)
ROOT = str(Path(__file__).resolve().parents[2])
TIMEOUT_S = 30.0
TCP = SchedulerSettings(bind_workers="tcp://127.0.0.1:*", bind_clients="tcp://127.0.0.1:*", client_lease_s=5.0)


class Site:
    """Keys, and a server that goes by them. ``of``: the directory of keys of each person."""

    def __init__(self, directory: Path) -> None:
        keys = directory / "keys"
        assert main(["keys", "new", "--dir", str(keys), "-o", "quiet"]) == 0
        for name in ("alice", "bob"):
            assert main(["keys", "new", name, "--role", "client", "--dir", str(keys), "-o", "quiet"]) == 0
        self.keys = str(keys)
        self.of = {"carol": str(keys), "carl": str(keys)} | {
            name: str(keys / "listed" / name) for name in ("alice", "bob")
        }
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        options = ("--port", str(port), "--bind", "127.0.0.1", "--aclfile", str(keys / "redis" / "users.acl"))
        self.server = Server(directory, aof=True, options=options)
        self.url = f"redis://127.0.0.1:{port}/0"

    def cluster(self, **options: Any) -> LocalCluster:
        """Return a cluster of this site."""
        security = SecuritySettings(keys=self.keys)
        return LocalCluster(redis_url=self.url, schedulers=2, scheduler=TCP, security=security, **options)

    def client(self, who: str) -> Client:
        """Return a client of this person."""
        return Client(self.url, keys=self.of[who])

    def said(self, who: str, *words: str, status: int = 0) -> str:
        """Return what a command of this person says, in a process of its own."""
        environment = {**os.environ, "PYTHONPATH": ROOT, "SPARROWMQ_SECURITY_KEYS": self.of[who]}
        command = [sys.executable, "-m", "sparrowmq.cli.main", "--redis", self.url, *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TIMEOUT_S)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    def redis(self, who: str) -> Any:
        """Return a connection to Redis as this person's user."""
        return connect(authenticated(StoreSettings(url=self.url), self.of[who], "client"))

    @contextlib.contextmanager
    def peers(self, client: Client, who: str, dead: str = "") -> Iterator[list[Peer]]:
        """Yield one that says what it is told to, with this person's keys, at each scheduler that is not ``dead``."""
        with contextlib.ExitStack() as stack:
            found = []
            for address in [address for name, address in client.schedulers.items() if name != dead]:
                peer = stack.enter_context(Peer(address, keyring.load_credentials(self.of[who], "client")))
                peer.introduce(hello("client", f"peer-{uuid.uuid4().hex}"))
                found.append(peer)
            yield found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("v"))
    yield made
    made.server.kill()


@pytest.fixture
def site_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("v"))
    yield made
    made.server.kill()


@pytest.fixture(scope="module")
def cluster(site: Site) -> Iterator[LocalCluster]:
    with site.cluster(workers=2) as made:
        yield made


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "open")
    yield gate
    gate.open()


def fail() -> None:
    print("printed", flush=True)
    raise ValueError("confidential")


@pytest.mark.parametrize("stranger", ["bob", "carol"])
def test_a_listed_clients_job_does_not_exist_for_anybody_else(
    site: Site, cluster: LocalCluster, gate: Gate, stranger: str
) -> None:
    with site.client("alice") as alice, site.client(stranger) as other:
        failed = alice.submit(fail)
        with pytest.raises(ValueError, match="confidential"):
            failed.result(TIMEOUT_S)
        job = alice.map(wait_for, [gate.path] * 2)
        until(lambda: all(future.running() for future in job))

        for id in (job.id, failed.job):
            handle = other.job(id)
            assert handle.status() is None
            assert (handle.tasks([0]), handle.failures()) == ([], [])
            with pytest.raises(UsageError, match="no scheduler knows a job"):
                list(handle.logs())
            with pytest.raises(UsageError, match="no scheduler knows a job"):
                handle.cancel()
            with pytest.raises(UsageError, match="no scheduler knows a job"):
                other.job(id[:15])
            assert alice.job(id).status() is not None
        assert alice.job(failed.job).failures()
        assert not {job.id, failed.job} & {row.id for row in other.jobs()}

        with site.peers(alice, stranger) as peers:
            for (
                peer
            ) in peers:  # at the scheduler that has the job, and at the other one, where a higher epoch would win
                peer.say(m.Subscribe(3, "jobs", 0.1))
                assert job.id not in {row.id for row in peer.wait(m.Status).jobs}
                for epoch in (0, 1, 9):
                    peer.say(submit(2, job=job.id, epoch=epoch))
                    assert peer.wait(m.Rejected).code == "forbidden"
                    peer.say(m.Kill(job.id, epoch), m.Kill(job.id, epoch, [0]), m.Recall(4, job.id, epoch, [0, 1]))
                    assert peer.wait(m.Returned).indices == []
                peer.say(m.Follow(5, job.id, True))
                assert peer.wait(m.Followed).state == ""
                assert peer.counters()["foreign"] >= 12
            assert not any(future.done() for future in job)
            gate.open()
            assert job.wait(TIMEOUT_S)
            assert [future.exception() for future in job] == [None, None]
            for peer in peers:
                peer.read(0.1)
                assert not [said for said in peer.heard if isinstance(said, m.Outcome | m.Output | m.Accepted)]
        row = alice.job(job.id).status()
        assert row is not None
        assert (row.epoch, row.counts[m.SUCCEEDED]) == (0, 2)


@pytest.mark.parametrize("stranger", ["bob", "carol"])
def test_a_listed_clients_durable_results_are_read_by_nobody_else(
    site: Site, cluster: LocalCluster, stranger: str
) -> None:
    with site.client("alice") as alice:
        handle = alice.detached.map(pow, [2, 3], [5, 5])
        assert handle.attach().results(TIMEOUT_S) == [32, 243]
        assert alice.job(handle.id).durable
    with site.client(stranger) as other:
        assert other.job(handle.id).durable is False
        with pytest.raises(UsageError, match="Redis has no durable job"):
            other.attach(handle.id)
    with pytest.raises(UsageError, match="Redis has no durable job"):
        sparrowmq.attach(handle.id, site.url, keys=site.of[stranger])
    theirs, hers = site.redis(stranger), site.redis("alice")
    assert hers.hmget(f"sq:job:{handle.id}", "state") == [b"done"]
    assert hers.xread({f"sq:outcomes:{handle.id}": "0-0"})
    for read in (
        lambda: theirs.hmget(f"sq:job:{handle.id}", "spec"),
        lambda: theirs.xread({f"sq:outcomes:{handle.id}": "0-0"}),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            read()
    assert handle.id.encode() in theirs.zrange("sq:jobs:over", 0, -1), "that there is one is no secret"
    for connection in (theirs, hers):
        connection.close()
    assert handle.id not in site.said(stranger, "-o", "quiet", "job", "list")
    assert f"no scheduler knows a job {handle.id}" in site.said(stranger, "job", "results", handle.id, status=2)


def test_another_process_with_the_same_key_sees_attaches_and_ends(site: Site, cluster: LocalCluster) -> None:
    id = site.said("alice", "-o", "quiet", "run", "--detach", "-n", "2", "--", "echo", "hi").strip()
    assert id.endswith(f".{keyring.owner_in(site.of['alice'], 'client')}")
    assert site.said("alice", "job", "results", id) == "hi\nhi\n"
    assert site.said("alice", "job", "logs", id[:15]).count("hi") == 2
    assert id in site.said("alice", "-o", "quiet", "job", "list")
    with sparrowmq.attach(id, site.url, keys=site.of["alice"]) as attached:
        assert attached.wait(TIMEOUT_S)

    with site.client("alice") as alice:
        handle = alice.detached.sleep([60.0] * 3)
    site.said("bob", "job", "cancel", handle.id, "--grace", "100ms", status=2)
    shown = json.loads(site.said("alice", "-o", "json", "job", "show", handle.id))
    assert (shown["state"], shown["durable"]) == ("running", True)
    site.said("alice", "job", "cancel", handle.id, "--grace", "100ms")
    with site.client("alice") as again:
        assert again.job(handle.id).wait(TIMEOUT_S)


def test_whatever_a_listed_client_submits_by_is_its_own(site: Site, cluster: LocalCluster) -> None:
    with site.client("alice") as alice, site.client("bob") as bob:
        before = len(bob.jobs())
        assert [future.result(TIMEOUT_S) for future in [alice.submit(abs, -n) for n in range(40)]] == [*range(40)]
        assert list(alice.imap(abs, [-1, -2])) == [1, 2]
        assert alice.gather(alice.map(pow, [2], [3], durable=True), TIMEOUT_S) == [8]
        with sparrowmq.Executor(alice) as executor:
            assert list(executor.map(abs, [-3])) == [3]

        async def ask() -> int:
            async with sparrowmq.AsyncClient(site.url, keys=site.of["alice"]) as client:
                return await client.submit(abs, -4)

        assert asyncio.run(ask()) == 4
        assert {ids.owner_of(row.id) for row in alice.jobs()} == {keyring.owner_in(site.of["alice"], "client")}
        assert len(bob.jobs()) == before


def test_those_who_share_the_secret_share_their_jobs(site: Site, cluster: LocalCluster) -> None:
    id = site.said("carol", "-o", "quiet", "run", "--detach", "--", "sleep", "60").strip()
    assert len(id) == 20
    assert id in site.said("carl", "-o", "quiet", "job", "list")
    assert id not in site.said("alice", "-o", "quiet", "job", "list")
    site.said("alice", "job", "cancel", id, "--grace", "100ms", status=2)
    site.said("carl", "job", "cancel", id, "--grace", "100ms")
    with site.client("carl") as carl:
        assert carl.attach(id).status().state == "cancelled"
    with site.client("bob") as bob, pytest.raises(UsageError, match="Redis has no durable job"):
        bob.attach(id)


def test_nobody_submits_in_the_name_of_another(site: Site, cluster: LocalCluster) -> None:
    """Not even by a client that is wrong about whose its jobs are."""
    with site.client("carol") as carol:
        carol._connection.owner = keyring.owner_in(site.of["alice"], "client")
        with pytest.raises(Rejected, match="would be another owner's") as caught:
            carol.submit(pow, 2, 2).result(TIMEOUT_S)
        assert caught.value.code == "forbidden"


def test_a_job_that_is_taken_over_stays_its_owners(site_of_its_own: Site, gate: Gate) -> None:
    site = site_of_its_own
    with site.cluster(workers=2) as cluster:
        with site.client("alice") as alice:
            handle = alice.detached.map(wait_for, [gate.path] * 2)
            until(lambda: (row := handle.status()) is not None and row.launched == 2)
            [home] = [told.scheduler for told in alice.query("jobs") if any(row.id == handle.id for row in told.jobs)]
        cluster.kill_scheduler([member.id for member in cluster.schedulers].index(home), signal.SIGKILL)
        with site.client("alice") as alice, site.client("bob") as bob:
            deadline = time.monotonic() + TIMEOUT_S
            while (row := alice.job(handle.id).status()) is None or row.epoch == 0:
                assert time.monotonic() < deadline
            assert handle.id not in {row.id for row in bob.jobs()}
            with site.peers(alice, "bob", dead=home) as peers:
                for peer in peers:
                    peer.say(m.Kill(handle.id, row.epoch), submit(2, job=handle.id, epoch=row.epoch + 1))
                    assert peer.wait(m.Rejected).code == "forbidden"
            gate.open()
            with alice.attach(handle.id) as attached:
                attached.results(TIMEOUT_S)
                assert attached.status().counts[m.SUCCEEDED] == 2
