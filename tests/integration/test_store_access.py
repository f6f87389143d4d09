"""Redis locked: what each role does works as its user with the generated users.acl, and next to nothing else does.

Further down: over TLS, and through sentinels, with a master that is another one from one moment to the next.
"""

from __future__ import annotations

import queue
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from sparrowmq import metrics
from sparrowmq.cli.main import main
from sparrowmq.core.assistant import Assistant
from sparrowmq.core.effects import ForgetJob, SaveJob, SaveOutcomes
from sparrowmq.core.keeping import Orphan
from sparrowmq.errors import Refused
from sparrowmq.protocol import messages as m
from sparrowmq.security import keyring
from sparrowmq.settings import AssistantSettings, StoreSettings
from sparrowmq.store import jobs
from sparrowmq.store.beats import Beats
from sparrowmq.store.connection import authenticated, connect
from sparrowmq.store.jobs import JobReader
from sparrowmq.store.keeper import Keeper
from sparrowmq.store.lease import Lease, leader
from sparrowmq.store.listener import Listener
from sparrowmq.store.registry import AssistantRecord, Registry, SchedulerRecord, StoreThread, WorkerRecord
from sparrowmq.store.watcher import Watcher
from tests.support.store import Posts, Said, beat, until
from tests.support.valkey import Server

pytestmark = pytest.mark.timeout(60)
WAIT_S = 10.0
PASSWORD = "for-the-test-itself"
SCHEDULER = SchedulerRecord("scheduler-1", 1, "tcp://127.0.0.1:1", "tcp://127.0.0.1:1", "h", 1, "0")
WORKER = WorkerRecord("worker-1", 1, "h", 1, 2, "0")
ASSISTANT = AssistantRecord("assistant-1", 1, "h", 1, "0")
LISTED = ("lab", "desk")  # clients
RECORDS = {"scheduler": SCHEDULER, "worker": WORKER, "assistant": ASSISTANT}


class Locked:
    """A server with the users of a key directory, and the settings of each role."""

    def __init__(self, directory: Path) -> None:
        self.keys = directory / "keys"
        assert main(["keys", "new", "--dir", str(self.keys), "-o", "quiet"]) == 0
        for name in LISTED:
            assert main(["keys", "new", name, "--role", "client", "--dir", str(self.keys), "-o", "quiet"]) == 0
        acl = self.keys / "redis" / "users.acl"
        acl.write_text(f"{acl.read_text()}user admin on >{PASSWORD} ~* &* +@all\n")
        self.server = Server(directory, aof=True, options=("--aclfile", str(acl)))
        self.admin = connect(StoreSettings(url=self.server.url, username="admin", password=PASSWORD))

    def role(self, role: str, **changes: Any) -> StoreSettings:
        """Return the settings of a role, or of a listed client by its name."""
        directory, role = self._of(role)
        remote = authenticated(StoreSettings(url="redis://not-here", **changes), directory, role)
        return msgspec.structs.replace(remote, url=self.server.url)

    def owner(self, who: str) -> str:
        """Return the tag of the jobs of the role, or of the listed client."""
        return keyring.owner_in(*self._of(who))

    def job(self, base: str, who: str) -> str:
        """Return the id of a job of theirs."""
        return base * 20 + (f".{self.owner(who)}" if self.owner(who) else "")

    def _of(self, who: str) -> tuple[str, str]:
        return (str(self.keys / "listed" / who), "client") if who in LISTED else (str(self.keys), who)

    def refused(self) -> list[str]:
        """Return what has been refused since the last call, whoever hushed it up."""
        found = [f"{entry['username']}: {entry['reason']} {entry['object']}" for entry in self.admin.acl_log()]
        self.admin.acl_log_reset()
        return found


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    made = Locked(tmp_path_factory.mktemp("v"))
    yield made
    made.server.kill()


@pytest.fixture
def locked_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    made = Locked(tmp_path_factory.mktemp("v"))
    yield made
    made.server.kill()


@pytest.fixture
def allowed(locked: Locked) -> Iterator[Locked]:
    """The same for what must be allowed, all of it: a refusal that the code hushes up is in the server's own log."""
    locked.refused()
    yield locked
    assert [line for line in locked.refused() if "config|get" not in line] == [], (
        "CONFIG says how sure is sure; no more"
    )


@pytest.mark.parametrize("role", sorted(RECORDS))
def test_each_role_is_registered_told_of_schedulers_and_withdrawn(allowed: Locked, role: str) -> None:
    told: list[set[str]] = []
    said = Said()
    thread = StoreThread(
        allowed.role(role, refresh_interval_s=0.05, poll_interval_s=5.0),
        record=RECORDS[role],
        on_schedulers=lambda found: told.append(set(found)),
        log=said,
    )
    client = Registry(allowed.role("client"))
    thread.start()
    until(lambda: RECORDS[role].id in getattr(client, f"{role}s")())
    other = Registry(allowed.role("scheduler"))
    record = SchedulerRecord("scheduler-2", 1, "tcp://a:1", "tcp://a:2", "h", 1, "0")
    other.publish(record, announce=True)
    until(lambda: told and "scheduler-2" in told[-1])
    other.withdraw(record)
    until(lambda: "scheduler-2" not in told[-1])
    thread.stop()
    until(lambda: RECORDS[role].id not in getattr(client, f"{role}s")())
    assert said.lines == []


@pytest.mark.parametrize("who", ["client", "lab"])
def test_a_client_reads_beats_and_writes_none(allowed: Locked, who: str) -> None:
    said = Said()
    beats = Beats(allowed.role("worker"), entries_max=100, log=said)
    listener = Listener(allowed.role(who), said)
    beats.start()
    beats.deposit(beat(1, id=who))
    until(lambda: who in [heard.beat.id for heard in listener.read() or ()])
    assert listener.read() == []
    beats.stop()
    listener.close()
    assert said.lines == []


@pytest.mark.parametrize("who", ["client", "lab"])
def test_schedulers_keep_durable_jobs_take_them_over_and_their_owners_read_them(allowed: Locked, who: str) -> None:
    j, k = allowed.job("j", who), allowed.job("k", who)
    saved: queue.Queue[tuple[Any, ...]] = queue.Queue()
    orphans: queue.Queue[Orphan] = queue.Queue()
    said = Said()

    def keeper(id: str, *, adopts: bool = False) -> Keeper:
        made = Keeper(
            allowed.role("scheduler", ttl_s=0.2),
            id=id,
            incarnation=1,
            rng=random.Random(id),
            post=lambda callback: callback(),
            later=lambda delay_s, callback: None,
            on_saved=lambda *answer: saved.put(answer),
            on_orphans=lambda found: [orphans.put(orphan) for orphan in found],  # type: ignore[arg-type, return-value]
            may_adopt=lambda: adopts,
            log=said,
        )
        made.start()
        return made

    first, reader = keeper("scheduler-1"), JobReader(allowed.role(who), allowed.owner(who))
    submit = m.Submit(j, 0, m.JobSpec(kind=m.SLEEP, name="n"), 2, [b"0", b"1"], detached=True)
    first.write(SaveJob(1, "c", submit, 2, 1000.0))
    assert saved.get(timeout=WAIT_S) == (1, "", 0, [])
    first.write(SaveOutcomes(2, m.Outcome(1, j, 0, [0], b"\0", [b"r"]), False, {1: 1}))
    assert saved.get(timeout=WAIT_S) == (2, "", 0, [])
    second = keeper("scheduler-2", adopts=True)
    assert orphans.get(timeout=WAIT_S).submit.indices == [1]
    second.write(SaveOutcomes(3, m.Outcome(1, j, 1, [1], b"\0", [b"r"]), True))
    assert saved.get(timeout=WAIT_S) == (3, "", 0, [])
    gone = m.Submit(k, 0, m.JobSpec(kind=m.SLEEP, name="n"), 1, [b"0"], detached=True)
    second.write(SaveJob(4, "c", gone, 1, 1000.0))
    assert saved.get(timeout=WAIT_S)[0] == 4
    second.write(ForgetJob(k, 0))
    until(lambda: reader.find(k) is None)
    assert [(job.id, job.state) for job in reader.jobs()] == [(j, "done")]
    assert len(reader.outcomes(j)[1]) == 2
    for other in {"client", "lab", "desk"} - {who}:
        assert JobReader(allowed.role(other), allowed.owner(other)).find(j) is None
        assert j not in [job.id for job in JobReader(allowed.role(other), allowed.owner(other)).jobs()]
        with pytest.raises(Refused, match="permission"):
            JobReader(allowed.role(other)).find(j)
        assert any(f"client{'' if other == 'client' else '-'}" in line for line in allowed.refused())
    for made in (first, second):
        made.stop()
    assert said.lines == []


def test_beats_lease_reports_and_condemnation(allowed: Locked) -> None:
    said, heard = Said(), []
    threads = [Beats(allowed.role(role), entries_max=1000, log=said) for role in ("scheduler", "worker")]
    watcher = Watcher(
        allowed.role("assistant"),
        id="a",
        interval_s=0.01,
        entries_max=1000,
        post=Posts(),
        on_heard=lambda seen_s, lag_s, arrivals, interrupted: heard.extend(arrivals),
        log=said,
    )
    lease = Lease(allowed.role("assistant"), holder="a", lease_s=0.3, post=Posts(), on_change=lambda: None, log=said)
    for thread in (*threads, watcher, lease):
        thread.start()
    for number in range(1, 4):
        for thread in threads:
            thread.deposit(beat(number))
        until(lambda number=number: sum(arrival.beat.sequence == number for arrival in heard) >= 2)
    until(lambda: leader(allowed.role("client"))[0] == "a")
    until(lambda: lease.term(time.monotonic()))
    schedulers, assistants = Registry(allowed.role("scheduler")), Registry(allowed.role("assistant"))
    schedulers.publish(SCHEDULER)
    assert assistants.condemn(SCHEDULER.id, SCHEDULER.incarnation, "silent")
    schedulers.publish(SCHEDULER)  # it lives, and finds that it was thought dead
    assistants.publish(ASSISTANT)
    assistants.tell(ASSISTANT.id, b"report")
    assert Registry(allowed.role("client")).reports([ASSISTANT.id]) == {ASSISTANT.id: b"report"}
    assistants.withdraw(ASSISTANT)
    for thread in (*threads, watcher, lease):
        thread.stop()
    assert leader(allowed.role("client"))[0] == "", "it was given back"
    assert said.lines == []


J = "j" * 20
OF_A_CLIENT = (
    "SET sq:scheduler:x 1", "SET sq:worker:x 1", "DEL sq:worker:x", "ZREM sq:workers x", "XADD sq:beats * b 1",
    f"HSET sq:job:{J} state done", f"DEL sq:outcomes:{J}", "PUBLISH sq:changed x", "DEL sq:beats",
    "GET other", "HSET sq:job:{own} state done", "DEL sq:outcomes:{own}", f"HMGET sq:ends:{J} x", "GET sq:ends:{own}",
    "HMGET sq:job:{other} spec", "XREAD STREAMS sq:outcomes:{other} 0", f"HGETALL sq:job:{J}", "HGETALL sq:job:{own}",
    "XREAD STREAMS sq:outcomes:{own} sq:outcomes:{other} 0 0",
)  # fmt: skip
FORBIDDEN = {
    "worker": (
        "SET sq:scheduler:x 1", "SET sq:assistant:x 1", "ZADD sq:schedulers 1 x", "ZREM sq:schedulers x",
        "SET sq:lease 1", "HMGET sq:job:j spec", "XREAD STREAMS sq:outcomes:j 0", "XREAD STREAMS sq:beats 0",
        "DEL sq:beats", "GET other", "SET sq:report:a 1", "SET sq:x 1",
    ),
    "client": (*OF_A_CLIENT, f"HMGET sq:job:{J[1:]} spec", f"HMGET sq:job:{J}j spec", f"HMGET sq:job:{J}.x spec"),
    "lab": (
        *OF_A_CLIENT, f"HMGET sq:job:{J} spec", f"XREAD STREAMS sq:outcomes:{J} 0", "HMGET sq:job:{own}x spec",
        "HMGET sq:job:{own}.{other} spec", "HMGET sq:job:*. spec", "HMGET sq:job:* spec",
    ),
    "assistant": (
        "SET sq:worker:x 1", "HMGET sq:job:j spec", "ZADD sq:schedulers 1 x", "DEL sq:scheduler:x", "DEL sq:beats",
        "XREAD STREAMS sq:outcomes:j 0", "GET other",
    ),
    "scheduler": ("SET sq:worker:x 1", "SET sq:lease 1", "XREAD STREAMS sq:beats 0", "SET sq:report:a 1", "GET other"),
}  # fmt: skip
ADMINISTRATION = (
    "FLUSHALL", "FLUSHDB", "CONFIG GET *", "CONFIG SET dir /tmp", "KEYS *", "SCAN 0", "SHUTDOWN",
    "REPLICAOF NO ONE", "ACL LIST", "ACL SETUSER worker +@all", "SCRIPT FLUSH", "FUNCTION LIST", "MODULE LIST", "SAVE",
    "CLIENT LIST", "CLIENT KILL TYPE normal", "MONITOR", "SUBSCRIBE other", "PUBLISH other x", "MIGRATE h 1 k 0 1",
    "EVAL return\x201 0", "SWAPDB 0 1",
)  # fmt: skip


@pytest.mark.parametrize("role", sorted(FORBIDDEN))
def test_what_a_role_does_not_need_is_refused(locked: Locked, role: str) -> None:
    client = connect(locked.role(role))
    own, other = locked.job("j", role), locked.job("j", "desk")
    forbidden = [command.replace("{own}", own).replace("{other}", other) for command in FORBIDDEN[role]]
    for command in (*forbidden, *ADMINISTRATION):
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*(word.replace("\\x20", " ") for word in command.split()))
    client.close()


def test_a_listed_client_finds_schedulers_and_reads_what_clients_read(allowed: Locked) -> None:
    """And has its own jobs beside that: in these lines the table and its row for one owner meet."""
    registry = Registry(allowed.role("lab"))
    schedulers = Registry(allowed.role("scheduler"))
    schedulers.publish(SCHEDULER)
    assert SCHEDULER.id in registry.schedulers()
    assert registry.workers() == {} == registry.assistants()
    assert leader(allowed.role("lab"))[0] == ""
    schedulers.withdraw(SCHEDULER)


def test_records_that_may_not_be_read_hide_nothing_else_in_a_list(
    locked: Locked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client in another language may choose ids of any length, and an owner have more jobs than a list has rows."""
    monkeypatch.setattr(jobs, "LISTED_MAX", 1)
    ids = [locked.job("m", "client"), "short", locked.job("m", "desk"), locked.job("n", "lab")]
    for id in ids:
        locked.admin.hset(f"sq:job:{id}", mapping={"state": "open", "submitted_ms": "1"})
        locked.admin.zadd("sq:jobs:open", {id: 1})
    shown = {
        who: {job.id for job in JobReader(locked.role(who), locked.owner(who)).jobs() if job.state == "open"}
        for who in ("client", "lab", "desk")
    }
    assert shown == {"client": set(), "lab": {ids[3]}, "desk": {ids[2]}}, "of the client's the last one cannot be read"
    monkeypatch.undo()
    assert ids[0] in {job.id for job in JobReader(locked.role("client"), "").jobs()}
    assert {job.id for job in JobReader(locked.role("scheduler")).open(0, 100)} >= set(ids), "for schedulers, all"
    for id in ids:
        locked.admin.delete(f"sq:job:{id}")
        locked.admin.zrem("sq:jobs:open", id)


def test_a_client_that_is_revoked_is_no_user_any_more(locked_of_its_own: Locked) -> None:
    locked = locked_of_its_own
    lab, desk = connect(locked.role("lab")), connect(locked.role("desk"))
    lab.ping()
    assert main(["keys", "revoke", "lab", "--dir", str(locked.keys), "-o", "quiet"]) == 0
    locked.admin.acl_load()
    with pytest.raises(Refused, match="refused user client-"):
        Registry(locked.role("lab")).schedulers()
    with pytest.raises(redis.RedisError):
        lab.ping()  # its connection was ended, and it gets no other
    assert desk.ping()
    for connection in (lab, desk):
        connection.close()


def test_figures_are_read_as_a_client(allowed: Locked) -> None:
    report = Assistant(id=ASSISTANT.id, incarnation=1, settings=AssistantSettings()).report(0.0)
    holder = f"{ASSISTANT.id}:{ASSISTANT.incarnation}"
    registry = Registry(allowed.role("assistant"))
    registry.publish(ASSISTANT)
    registry.tell(ASSISTANT.id, msgspec.json.encode(report))
    lease = Lease(
        allowed.role("assistant"), holder=holder, lease_s=5.0, post=Posts(), on_change=lambda: None, log=Said()
    )
    lease.start()
    until(lambda: metrics.read(allowed.role("client")).leads)
    assert metrics.read(allowed.role("client")).report == report
    lease.stop()
    registry.withdraw(ASSISTANT)


def test_who_may_not_tidy_up_reads_all_the_same(locked: Locked) -> None:
    locked.admin.zadd("sq:schedulers", {"expired": time.time()})
    Registry(locked.role("client")).schedulers()
    assert locked.admin.zscore("sq:schedulers", "expired"), "a client removes nobody"
    Registry(locked.role("scheduler")).schedulers()
    assert locked.admin.zscore("sq:schedulers", "expired") is None


def test_nobody_gets_in_without_the_password_of_a_role(locked: Locked) -> None:
    url = locked.server.url
    for settings, user in (
        (StoreSettings(url=url), "default"),
        (StoreSettings(url=url, username="worker", password="guessed"), "worker"),
        (StoreSettings(url=url, username="worker", password=locked.role("client").password), "worker"),
    ):
        with pytest.raises(Refused, match=f"refused user {user}") as caught:
            Registry(settings).ping()
        assert settings.password not in str(caught.value) or not settings.password


def test_a_permission_that_is_missing_is_explained(locked: Locked) -> None:
    with pytest.raises(Refused, match=r"refused user worker: .*permission") as caught:
        Registry(locked.role("worker")).publish(SCHEDULER)
    assert "users.acl" in caught.value.hint
