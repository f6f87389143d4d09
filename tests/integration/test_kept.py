"""The simulator's model of durable jobs against the scripts in a real server: the same replies, the same state.

Random commands of three schedulers, which do not keep to what a scheduler would do: each is executed by both.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from sparrowmq.protocol import messages as m
from sparrowmq.settings import StoreSettings
from sparrowmq.sim.kept import KeptJobs
from sparrowmq.store.connection import connect
from sparrowmq.store.jobs import Commands, JobReader, taken
from sparrowmq.store.line import Line
from tests.support.valkey import Server

OWNERS = ("s1 1", "s1 2", "s2 1")
JOBS = ("a", "b")
TASKS = 5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("v"), aof=False)
    yield made
    made.kill()


class Both:
    """A server and the model, which are told the same."""

    def __init__(self, settings: StoreSettings, seed: int) -> None:
        self.rng = random.Random(seed)
        self.settings = settings
        self.model = KeptJobs()
        self.redis = connect(settings)
        self.reader = JobReader(settings)
        self._line = Line(settings, "test", lambda *said: pytest.fail(str(said)))
        self._commands = {owner: Commands(settings, owner) for owner in OWNERS}

    def close(self) -> None:
        self._line.close()
        self.reader.close()
        self.redis.close()

    def _ask(self, command: bytes) -> list[Any]:
        found = self._line.ask(command)
        assert found is not None
        return list(found[0])

    def save(self) -> None:
        rng, owner = self.rng, self.rng.choice(OWNERS)
        indices = sorted(rng.sample(range(TASKS), rng.randint(1, TASKS))) if rng.random() < 0.5 else []
        count = len(indices) or TASKS
        payloads: list[m.Payload] = [b"p%d" % k for k in range(1 if rng.random() < 0.3 else count)]
        deaths = [rng.randint(0, 2) for _ in range(count)] if rng.random() < 0.3 else []
        submit = m.Submit(
            rng.choice(JOBS), rng.randint(0, 3), m.JobSpec(kind=m.SLEEP, durable=True), count, payloads, b"",
            indices, deaths, rng.random() < 0.5,
        )  # fmt: skip
        at_s = float(rng.randint(1, 1000))
        reply = self._ask(self._commands[owner].save("c1", submit, TASKS, at_s))
        assert tuple(reply) == self.model.save(owner, "c1", submit, TASKS, at_s)

    def append(self) -> None:
        """By whoever owns it, mostly, and then of tasks that have not ended; an id that does not rise is no entry."""
        rng, id = self.rng, self.rng.choice(JOBS)
        job = self.model.jobs.get(id)
        owner, epoch, seq = rng.choice(OWNERS), rng.randint(0, 3), rng.randint(1, 3)
        if job is not None and job.owner and rng.random() < 0.8:
            owner, epoch, seq = job.owner, job.epoch, job.seq + rng.randint(0, 2)
        indices = rng.sample(range(TASKS), rng.randint(0, 3))
        statuses = bytes(rng.choice([m.SUCCEEDED, m.FAILED, m.CANCELLED, m.LOST]) for _ in indices)
        outcome = m.Outcome(seq, id, epoch, indices, statuses, [b"r%d" % index for index in indices])
        over, deaths = rng.random() < 0.2, {rng.randrange(TASKS): 1} if rng.random() < 0.3 else {}
        reply = self._ask(self._commands[owner].append(outcome, over, deaths))
        assert tuple(reply) == self.model.append(owner, outcome, over, deaths)

    def take(self) -> None:
        rng, id, owner = self.rng, self.rng.choice(JOBS), self.rng.choice(OWNERS)
        job = self.model.jobs.get(id)
        before, epoch = rng.choice(OWNERS), rng.randint(0, 3)
        if job is not None and rng.random() < 0.8:
            before, epoch = job.owner, job.epoch
        reply = self._ask(self._commands[owner].take(id, before, epoch))
        expected = self.model.take(owner, id, before, epoch)
        assert tuple(reply[:2]) == expected
        if expected[0] == 1:
            assert taken(reply) == (expected[1], self.model.left(id))

    def forget(self) -> None:
        rng, id, owner, epoch = self.rng, self.rng.choice(JOBS), self.rng.choice(OWNERS), self.rng.randint(0, 3)
        job = self.model.jobs.get(id)
        if job is not None and job.owner and rng.random() < 0.7:
            owner, epoch = job.owner, job.epoch
        reply = self._ask(self._commands[owner].forget(id, epoch))
        assert tuple(reply) == self.model.forget(owner, id, epoch)

    def compare(self) -> None:
        """What is read of each job, and which are unfinished."""
        prefix = self.settings.prefix
        for id in JOBS:
            mine, found = self.model.jobs.get(id), self.reader.find(id)
            assert (mine is None) == (found is None)
            if mine is None or found is None:
                continue
            assert (found.state, found.epoch, found.owner, found.tasks, found.client, found.detached, found.counts) == (
                mine.state, mine.epoch, mine.owner, mine.tasks, mine.client, mine.detached, mine.counts,
            )  # fmt: skip
            assert found.submitted_unix_s == mine.submitted_ms / 1e3
            assert (self.redis.get(f"{prefix}ends:{id}") or b"") == bytes(mine.ends)
            entries = self.redis.xrange(f"{prefix}outcomes:{id}")
            assert [name.decode() for name, _ in entries] == [f"{one.epoch}-{one.seq}" for one in mine.entries]
            assert self.reader.outcomes(id)[1] == [one.outcome for one in mine.entries]
            seq, deaths, spec = self.redis.hmget(f"{prefix}job:{id}", "seq", "deaths", "spec")
            assert int(seq) == mine.seq
            assert (msgspec.msgpack.decode(deaths, type=dict[int, int]) if deaths else {}) == mine.deaths
            assert (spec is None) == (mine.submit is None)
        assert [job.id for job in self.reader.open(0, 10)] == [id for id, _ in self.model.open()]


@pytest.mark.parametrize("seed", range(3))
def test_the_model_and_the_server_have_the_same(server: Server, seed: int) -> None:
    both = Both(StoreSettings(url=server.url, prefix=f"t{time.time_ns()}:"), seed)
    written = set[str]()
    both.model.tell = lambda one: written.add(one.what)
    try:
        for _ in range(120):
            weights = [(both.save, 3), (both.append, 6), (both.take, 2), (both.forget, 1)]
            (act,) = both.rng.choices([what for what, _ in weights], [weight for _, weight in weights])
            act()
            both.compare()
    finally:
        both.close()
    assert written == {"save", "append", "take", "forget"}
