"""What a scheduler's thread writes to a real server: in order, once, fenced; and who gets a job whose owner is gone."""

from __future__ import annotations

import queue
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sparrowmq.core.effects import ForgetJob, SaveJob, SaveOutcomes
from sparrowmq.core.keeping import Orphan
from sparrowmq.core.orphans import owner_of
from sparrowmq.protocol import messages as m
from sparrowmq.settings import StoreSettings
from sparrowmq.store import jobs
from sparrowmq.store.connection import connect
from sparrowmq.store.jobs import JobReader
from sparrowmq.store.keeper import Keeper
from sparrowmq.store.line import Line
from sparrowmq.store.registry import Registry, SchedulerRecord
from tests.support.valkey import Server

pytestmark = pytest.mark.timeout(60)
SPEC = m.JobSpec(kind=m.SLEEP, name="a name")
WAIT_S = 10.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("v"), aof=True)
    yield made
    made.kill()


@pytest.fixture
def settings(server: Server) -> StoreSettings:
    return StoreSettings(url=server.url, prefix=f"t{time.time_ns()}:")


class Owner:
    """A keeper with what it has told."""

    def __init__(self, settings: StoreSettings, id: str, *, adopts: bool = False) -> None:
        self.saved: queue.Queue[tuple[int, str, int, list[m.Outcome]]] = queue.Queue()
        self.orphans: queue.Queue[Orphan] = queue.Queue()
        self.logged: list[str] = []
        self.thread = Keeper(
            settings,
            id=id,
            incarnation=1,
            rng=random.Random(id),
            post=lambda callback: callback(),
            later=self._later,
            on_saved=lambda *answer: self.saved.put(answer),
            on_orphans=lambda found: [self.orphans.put(orphan) for orphan in found],  # type: ignore[arg-type, return-value]
            may_adopt=lambda: adopts,
            log=lambda level, event, fields: self.logged.append(event),
        )
        self.thread.start()

    def _later(self, delay_s: float, callback: Callable[[], None]) -> threading.Timer:
        timer = threading.Timer(delay_s, callback)
        timer.daemon = True
        timer.start()
        return timer

    def save(self, id: str, epoch: int = 0, tasks: int = 3, token: int = 1, **fields: Any) -> tuple[Any, ...]:
        submit = m.Submit(id, epoch, SPEC, tasks, [b"p%d" % k for k in range(tasks)], detached=True, **fields)
        self.thread.write(SaveJob(token, "c1", submit, tasks, 1000.0))
        return self.saved.get(timeout=WAIT_S)

    def append(
        self, id: str, seq: int, indices: list[int], *, epoch: int = 0, over: bool = False, status: int = 0
    ) -> tuple[Any, ...]:
        outcome = m.Outcome(seq, id, epoch, indices, bytes([status] * len(indices)), [b"r%d" % k for k in indices])
        self.thread.write(SaveOutcomes(100 + seq, outcome, over))
        return self.saved.get(timeout=WAIT_S)


@pytest.fixture
def own(settings: StoreSettings) -> Iterator[Callable[..., Owner]]:
    made: list[Owner] = []

    def make(id: str, **options: Any) -> Owner:
        made.append(Owner(settings, id, **options))
        return made[-1]

    yield make
    for owner in made:
        owner.thread.stop()


@pytest.fixture
def reader(settings: StoreSettings) -> Iterator[JobReader]:
    made = JobReader(settings)
    yield made
    made.close()


def record(id: str, address: str = "tcp://127.0.0.1:1", **fields: Any) -> SchedulerRecord:
    return SchedulerRecord(id, fields.pop("incarnation", 1), address, address, "h", 1, "0", **fields)


def until(condition: Callable[[], object], timeout_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.01)


def test_a_job_and_its_outcomes_are_written_and_read(own: Callable[..., Owner], reader: JobReader) -> None:
    owner = own("s1")
    assert owner.save("j") == (1, "", 0, [])
    found = reader.find("j")
    assert found is not None
    assert found[:9] == ("j", "open", 0, owner_of("s1", 1), 3, m.SLEEP, "a name", "c1", True)
    assert owner.append("j", 1, [2, 0]) == (101, "", 0, [])
    assert owner.append("j", 1, [2, 0]) == (101, "", 0, [])  # said again, written once
    assert owner.append("j", 2, [], over=False) == (102, "", 0, [])  # a mere question
    large = m.Outcome(3, "j", 0, [1], b"\1", [m.Blob(bytes(100_000), 100_000)])
    owner.thread.write(SaveOutcomes(7, large, True))
    assert owner.saved.get(timeout=WAIT_S) == (7, "", 0, [])
    after, outcomes = reader.outcomes("j")
    assert [(outcome.indices, outcome.statuses) for outcome in outcomes] == [([2, 0], b"\0\0"), ([1], b"\1")]
    assert len(outcomes[1].payloads[0]) == 100_000
    assert reader.outcomes("j", after) == (after, [])
    found = reader.find("j")
    assert found is not None
    assert (found.state, found.counts, found.ended_unix_s > 0) == ("done", [2, 1, 0, 0, 0], True)
    assert [job.id for job in reader.jobs()] == ["j"]
    assert reader.open(0, 10) == []


def test_results_expire_and_what_was_cancelled_is_called_so(
    own: Callable[..., Owner], reader: JobReader, settings: StoreSettings
) -> None:
    owner = own("s1")
    owner.save("j")
    owner.append("j", 1, [0, 1, 2], over=True, status=m.CANCELLED)
    found = reader.find("j")
    assert found is not None
    assert found.state == "cancelled"
    client = connect(settings)
    for key in ("job", "outcomes", "ends"):
        assert 86_000 < client.ttl(f"{settings.prefix}{key}:j") <= 86_400
    client.close()


def test_a_later_epoch_takes_the_job_and_learns_what_has_ended(own: Callable[..., Owner], reader: JobReader) -> None:
    first, second = own("s1"), own("s2")
    first.save("j")
    first.append("j", 1, [1])
    assert second.save("j", epoch=0) == (1, "fenced", 0, [])
    token, error, _, known = second.save("j", epoch=1)
    assert (token, error) == (1, "")
    assert [outcome.indices for outcome in known] == [[1]]
    assert first.append("j", 2, [0]) == (102, "fenced", 1, [])
    assert second.append("j", 1, [0, 2], epoch=1, over=True) == (101, "", 0, [])
    assert [outcome.indices for outcome in reader.outcomes("j")[1]] == [[1], [0, 2]]


def test_an_epoch_in_which_a_job_has_ended_is_not_opened_again(own: Callable[..., Owner], reader: JobReader) -> None:
    """The swarm's seed 176: what was said then counted as said before, and the job stayed unfinished for ever."""
    owner = own("s1")
    owner.save("j", epoch=1)
    owner.append("j", 1, [0, 1], epoch=1)
    owner.append("j", 2, [2], epoch=1, over=True)
    assert owner.save("j", epoch=1) == (1, "fenced", 1, [])
    assert reader.find("j").state == "done"  # type: ignore[union-attr]
    token, error, _, known = owner.save("j", epoch=2)
    assert (token, error, [outcome.indices for outcome in known]) == (1, "", [[0, 1], [2]])
    assert owner.append("j", 1, [], epoch=2, over=True) == (101, "", 0, [])
    assert reader.find("j").state == "done"  # type: ignore[union-attr]


def test_what_is_not_taken_after_all_is_removed_or_free(own: Callable[..., Owner], reader: JobReader) -> None:
    first, second = own("s1"), own("s2")
    first.save("j")
    first.thread.write(ForgetJob("j", 0))
    first.save("k", epoch=1)
    first.thread.write(ForgetJob("k", 1))
    until(lambda: reader.find("j") is None and reader.find("k").owner == "")  # type: ignore[union-attr]
    assert second.save("k", epoch=1) == (1, "", 0, [])


def test_what_the_server_has_lost_is_called_gone_and_can_be_written_again(
    own: Callable[..., Owner], reader: JobReader
) -> None:
    owner = own("s1")
    assert owner.append("j", 4, [0]) == (104, "gone", 0, [])
    submit = m.Submit("j", 0, SPEC, 1, [b"p"], indices=[2])
    owner.thread.write(SaveJob(9, "c1", submit, 3, 1000.0, patient=True))
    assert owner.saved.get(timeout=WAIT_S) == (9, "", 0, [])
    assert owner.append("j", 4, [0]) == (104, "", 0, [])
    assert reader.find("j").tasks == 3  # type: ignore[union-attr]


def test_of_two_that_race_for_orphans_one_gets_each(
    own: Callable[..., Owner], reader: JobReader, settings: StoreSettings
) -> None:
    dead = own("s1")
    for k in range(12):
        dead.save(f"j{k}")
        dead.append(f"j{k}", 1, [0])
        dead.thread.write(SaveOutcomes(2, m.Outcome(2, f"j{k}", 0, [], b"", []), deaths={2: 1}))
        assert dead.saved.get(timeout=WAIT_S) == (2, "", 0, [])
    Registry(settings).publish(record("s1", dead="silent for 600 ms"))
    racers = [own(f"r{k}", adopts=True) for k in range(3)]
    until(lambda: sum(racer.orphans.qsize() for racer in racers) == 12)
    taken = [racer.orphans.get() for racer in racers for _ in range(racer.orphans.qsize())]
    assert sorted(orphan.submit.job for orphan in taken) == sorted(f"j{k}" for k in range(12))
    for orphan in taken:
        assert (orphan.submit.epoch, orphan.submit.indices, orphan.submit.payloads) == (1, [1, 2], [b"p1", b"p2"])
        assert orphan.submit.deaths == [0, 1]
        assert (orphan.client, orphan.submitted_unix_s, orphan.submit.detached) == ("c1", 1000.0, True)
    assert dead.append("j3", 3, [1]) == (103, "fenced", 1, [])


@pytest.mark.parametrize(("script", "ended"), [(jobs._TAKE, [0]), (jobs._APPEND, [0, 1, 2])])
def test_a_take_over_that_was_not_answered_is_tried_again(
    own: Callable[..., Owner], reader: JobReader, settings: StoreSettings, monkeypatch: pytest.MonkeyPatch,
    script: str, ended: list[int],
) -> None:  # fmt: skip
    """The swarm's seed 378: the job was this scheduler's, which did not know of it, and so nobody ran it."""
    dead = own("s1")
    dead.save("j")
    dead.append("j", 1, ended)
    Registry(settings).publish(record("s1", dead="silent"))
    real, lost = Line.ask, list[bytes]()

    def ask(line: Line, command: bytes, *given: Any, **named: Any) -> Any:
        if lost or script.encode() not in command or b"racer 1" not in command:
            return real(line, command, *given, **named)
        lost.append(command)
        if script == jobs._TAKE:
            real(line, command)
        return None

    monkeypatch.setattr(Line, "ask", ask)
    racer = own("racer", adopts=True)
    if script == jobs._TAKE:
        assert racer.orphans.get(timeout=WAIT_S).submit.indices == [1, 2]
    until(lambda: lost and (script == jobs._TAKE or reader.find("j").state == "done"))  # type: ignore[union-attr]


def test_an_owner_is_gone_when_nothing_listens_at_its_address(
    own: Callable[..., Owner], settings: StoreSettings, tmp_path: Path
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        Registry(settings).publish(record("s1", f"tcp://127.0.0.1:{listener.getsockname()[1]}"))
        own("s1").save("j")
        racer = own("r", adopts=True)
        with pytest.raises(queue.Empty):
            racer.orphans.get(timeout=2.5)
    assert racer.orphans.get(timeout=WAIT_S).submit.job == "j"


def test_an_owner_that_was_restarted_is_gone_and_one_without_a_record_soon(
    own: Callable[..., Owner], settings: StoreSettings
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        Registry(settings).publish(record("s1", address, incarnation=2))
        own("s1").save("restarted")
        own("s2").save("unregistered")
        racer = own("r", adopts=True)
        assert {racer.orphans.get(timeout=WAIT_S).submit.job for _ in range(2)} == {"restarted", "unregistered"}


def test_an_orphan_that_cannot_be_read_or_has_nothing_left_is_over(
    own: Callable[..., Owner], reader: JobReader, settings: StoreSettings
) -> None:
    dead = own("s1")
    dead.save("j")
    dead.append("j", 1, [0, 1, 2])  # and it died before it could say that these were the last
    dead.save("k", token=2)
    client = connect(settings)
    client.hset(f"{settings.prefix}job:k", "spec", b"\xc1")
    client.close()
    Registry(settings).publish(record("s1", dead="silent"))
    racer = own("r", adopts=True)
    until(lambda: all(reader.find(id).state == "done" for id in "jk"))  # type: ignore[union-attr]
    assert racer.orphans.empty()


def test_a_server_that_refuses_is_no_server_that_is_away(
    own: Callable[..., Owner], reader: JobReader, settings: StoreSettings
) -> None:
    owner = own("s1")
    owner.save("j")
    client = connect(settings)
    client.config_set("maxmemory", 1)
    try:
        _, error, _, _ = owner.save("k", token=2)
        assert "does not take it" in error
        outcome = m.Outcome(1, "j", 0, [0], b"\0", [b"r"])
        owner.thread.write(SaveOutcomes(3, outcome))
        began = time.monotonic()
        late = owner.save("l", token=4)
        assert "does not answer" in late[1] or "does not take it" in late[1]
        assert time.monotonic() - began <= 1.0
    finally:
        client.config_set("maxmemory", 0)
        client.close()
    assert owner.saved.get(timeout=WAIT_S) == (3, "", 0, [])  # it was kept until it could be written
    assert reader.find("k") is None


@pytest.mark.parametrize("policy", ["everysec", "no"])
def test_a_disk_that_is_written_now_and_then_delays_an_answer_for_a_bounded_time(
    own: Callable[..., Owner], settings: StoreSettings, policy: str
) -> None:
    client = connect(settings)
    client.config_set("appendfsync", policy)
    try:
        owner = own("s1")
        for k in range(3):
            began = time.monotonic()
            assert owner.save(f"j{k}") == (1, "", 0, [])
            assert time.monotonic() - began < 2.0
    finally:
        client.config_set("appendfsync", "always")
        client.close()


def test_without_an_append_only_file_nothing_is_waited_for(own: Callable[..., Owner], settings: StoreSettings) -> None:
    client = connect(settings)
    client.config_set("appendonly", "no")
    try:
        owner = own("s1")
        began = time.monotonic()
        for k in range(20):
            assert owner.save(f"j{k}") == (1, "", 0, [])
        assert time.monotonic() - began < 0.5
    finally:
        client.config_set("appendonly", "yes")
        client.close()
