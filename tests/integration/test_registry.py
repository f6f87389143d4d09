"""The registry against a real server: start order, outages, coming back empty, and errors that name no secret."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from sparrowmq.errors import ConfigError, Refused, Unavailable
from sparrowmq.settings import StoreSettings
from sparrowmq.store.connection import connect, describe
from sparrowmq.store.embedded import EmbeddedServer
from sparrowmq.store.registry import (
    SCHEDULERS_MAX,
    STALE_S,
    AssistantRecord,
    Record,
    Registry,
    SchedulerRecord,
    StoreThread,
    WorkerRecord,
)
from tests.support.store import stopped, until

pytestmark = pytest.mark.timeout(60)


def scheduler(name: str = "scheduler-a", incarnation: int = 1) -> SchedulerRecord:
    return SchedulerRecord(name, incarnation, "tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "host", 7, "0.1.0")


@pytest.fixture
def settings(server: EmbeddedServer) -> StoreSettings:
    return StoreSettings(
        url=server.url, prefix="t:", ttl_s=0.6, refresh_interval_s=0.1, poll_interval_s=0.2, reply_timeout_s=1.0
    )


class Watcher:
    """A StoreThread with what it told and logged."""

    def __init__(self, settings: StoreSettings, record: Record | None = None) -> None:
        self.told: queue.Queue[dict[str, SchedulerRecord]] = queue.Queue()
        self.logged: list[tuple[str, str, dict[str, object]]] = []
        self.threads: set[str] = set()
        self.thread = StoreThread(
            settings,
            record=record,
            on_schedulers=self.told.put,
            post=self._post,
            log=lambda level, event, fields: self.logged.append((level, event, dict(fields))),
        )
        self.thread.start()

    def _post(self, callback: Callable[[], None]) -> None:
        self.threads.add(threading.current_thread().name)
        callback()

    def next(self, timeout_s: float = 10.0) -> dict[str, SchedulerRecord]:
        return self.told.get(timeout=timeout_s)


@pytest.fixture
def watch() -> Iterator[Callable[..., Watcher]]:
    made: list[Watcher] = []

    def _watch(*args: object) -> Watcher:
        made.append(Watcher(*args))  # type: ignore[arg-type]
        return made[-1]

    yield _watch
    for watcher in made:
        watcher.thread.stop()


def test_records_are_written_read_and_withdrawn(settings):
    registry = Registry(settings)
    worker = WorkerRecord("worker-1", 3, "host", 9, 4, "0.1.0", "3.11", 2)
    registry.publish(scheduler())
    registry.publish(worker)
    assert registry.schedulers() == {"scheduler-a": scheduler()}
    assert registry.workers() == {"worker-1": worker}
    registry.withdraw(scheduler(incarnation=0))
    assert registry.schedulers(), "another incarnation's record must stay"
    registry.withdraw(scheduler())
    registry.withdraw(worker)
    assert (registry.schedulers(), registry.workers()) == ({}, {})


def test_an_assistant_has_a_record_and_a_report(settings, watch):
    registry, record = Registry(settings), AssistantRecord("assistant-1", 5, "host", 9, "0.1.0")
    owner = watch(settings, record)
    until(lambda: registry.assistants() == {"assistant-1": record})
    assert registry.reports(["assistant-1", "assistant-2"]) == {}
    owner.thread.tell(b"one")
    until(lambda: registry.reports(["assistant-1"]) == {"assistant-1": b"one"})
    owner.thread.tell(b"two")
    until(lambda: registry.reports(["assistant-2", "assistant-1"]) == {"assistant-1": b"two"})
    owner.thread.stop()
    assert (registry.assistants(), registry.reports(["assistant-1"])) == ({}, {})
    assert registry.reports([]) == {}


def test_a_report_that_is_not_written_again_expires(settings):
    registry = Registry(settings)
    registry.tell("assistant-1", b"x")
    until(lambda: not registry.reports(["assistant-1"]))


def test_a_scheduler_is_condemned_where_its_incarnation_is_the_same(settings):
    registry, client = Registry(settings), connect(settings)
    registry.publish(scheduler(incarnation=3))
    left_ms = client.pttl("t:scheduler:scheduler-a")
    assert not registry.condemn("scheduler-a", 2, "an earlier one")
    assert not registry.condemn("scheduler-b", 3, "nobody")
    assert registry.schedulers()["scheduler-a"].dead == ""
    assert registry.condemn("scheduler-a", 3, "x" * 5000)
    (record,) = registry.schedulers().values()
    assert record == msgspec.structs.replace(scheduler(incarnation=3), dead="x" * 256)
    assert 0 < client.pttl("t:scheduler:scheduler-a") <= left_ms, "it expires as before"
    registry.publish(scheduler(incarnation=3))
    assert registry.schedulers()["scheduler-a"].dead == ""


def test_being_condemned_and_coming_back_is_announced(settings, watch):
    slow = msgspec.structs.replace(settings, poll_interval_s=3600.0, ttl_s=60.0, refresh_interval_s=3600.0)
    watcher, owner = watch(slow), StoreThread(slow, record=scheduler())
    owner.start()
    assert [record.dead for record in watcher.next(5.0).values()] == [""]
    client = connect(settings)
    until(lambda: dict(client.pubsub_numsub("t:changed"))[b"t:changed"] == 1)
    assistant = watch(slow, AssistantRecord("assistant-1", 5, "host", 9, "0.1.0"))
    assistant.thread.condemn("scheduler-a", 1, "silent for 500 ms")
    assert [record.dead for record in watcher.next(5.0).values()] == ["silent for 500 ms"]
    owner.update(msgspec.structs.replace(scheduler()))  # as its next refresh does
    assert [record.dead for record in watcher.next(5.0).values()] == [""]
    owner.stop()


def test_condemning_waits_for_redis_and_not_for_ever(server, settings, watch):
    lasting = msgspec.structs.replace(settings, ttl_s=60.0)
    registry = Registry(lasting)
    registry.publish(scheduler())
    assistant = watch(lasting, AssistantRecord("assistant-1", 5, "host", 9, "0.1.0"))
    until(lambda: registry.assistants())
    with stopped(server):
        assistant.thread.condemn("scheduler-a", 1, "silent")
        until(lambda: assistant.logged)
    until(lambda: registry.schedulers()["scheduler-a"].dead == "silent")
    registry.publish(scheduler())
    brief = watch(settings, AssistantRecord("assistant-2", 5, "host", 9, "0.1.0"))
    until(lambda: "assistant-2" in registry.assistants())
    with stopped(server):
        brief.thread.condemn("scheduler-a", 1, "silent")
        began = time.monotonic()
        until(lambda: brief.logged and time.monotonic() > began + settings.ttl_s)
    until(lambda: brief.logged[-1][1] == "Redis answers again")
    until(lambda: "assistant-2" in registry.assistants())
    assert registry.schedulers()["scheduler-a"].dead == "", "what was true then may not be now"


def test_refreshing_asks_redis_once_where_nothing_has_changed(settings):
    registry, client = Registry(settings), connect(settings)
    for name in "abc":
        registry.publish(scheduler(name))
    worker = WorkerRecord("worker-1", 3, "host", 9, 4, "0.1.0")
    everyone = {name: scheduler(name) for name in "abc"}

    def requests(known: str, record: WorkerRecord | None) -> int:
        # Commands that arrive together are answered in one pass over the connection.
        before = client.info("stats")["total_reads_processed"]
        assert registry.refresh(record, known) == everyone
        return int(client.info("stats")["total_reads_processed"]) - before - 1

    assert requests("cab", None) == 1
    assert requests("abc", worker) == 1
    assert registry.workers() == {"worker-1": worker}
    assert requests("", worker) == 2
    assert requests("ax", None) == 2
    client.delete("t:scheduler:b")
    del everyone["b"]
    assert requests("abc", None) == 2  # the id of the one that has expired goes, too
    assert requests("abc", None) == 1


def test_a_record_that_nobody_refreshes_expires_with_its_id(settings):
    registry = Registry(settings)
    registry.publish(scheduler())
    until(lambda: not registry.schedulers())
    assert connect(settings).zcard("t:schedulers") == 0


def test_foreign_values_are_no_records(settings):
    registry, client = Registry(settings), connect(settings)
    for name, value in (("junk", b"\xff{"), ("list", b"[1]"), ("huge", b'"' + b"x" * 9999 + b'"'), ("other", None)):
        client.zadd("t:schedulers", {name: 1})
        if value is not None:
            client.set(f"t:scheduler:{name}", value)
    client.zadd("t:schedulers", {"liar": 1, b"\xff\xfe": 2})
    client.set("t:scheduler:liar", b'{"id":"scheduler-b","incarnation":1}')
    registry.publish(scheduler())
    assert list(registry.schedulers()) == ["scheduler-a"]


def test_the_set_of_ids_is_bounded(settings):
    client = connect(settings)
    client.zadd("t:schedulers", {f"old-{n}": time.time() for n in range(SCHEDULERS_MAX + 50)})
    Registry(settings).publish(scheduler())
    assert client.zcard("t:schedulers") == SCHEDULERS_MAX
    assert client.zscore("t:schedulers", "scheduler-a")


def test_ids_that_nobody_refreshes_are_dropped_by_who_writes_next(settings):
    client = connect(settings)
    client.zadd("t:schedulers", {"forgotten": time.time() - STALE_S - 1, "behind": time.time() - STALE_S + 60})
    Registry(settings).publish(scheduler())
    assert client.zrange("t:schedulers", 0, -1) == [b"behind", b"scheduler-a"]


def test_changes_are_announced_before_the_next_poll(settings, watch):
    slow = msgspec.structs.replace(settings, poll_interval_s=3600.0)
    watcher = watch(slow)
    client = connect(settings)
    until(lambda: dict(client.pubsub_numsub("t:changed"))[b"t:changed"] == 1)
    one = watch(settings, scheduler())
    assert list(watcher.next(5.0)) == ["scheduler-a"]
    one.thread.stop()
    assert watcher.next(5.0) == {}
    assert watcher.threads == {"store"}


def test_any_start_order_and_a_server_that_comes_back_empty(server, settings, watch):
    server.stop()
    watcher, owner = watch(settings), watch(settings, scheduler())
    until(lambda: watcher.logged and owner.logged)
    server.launch()
    server.wait_ready()
    assert list(watcher.next()) == ["scheduler-a"]

    server.stop()  # SIGKILL: everything is forgotten
    until(lambda: len(watcher.logged) == 3 and len(owner.logged) == 3)
    assert watcher.told.empty(), "an outage must not empty the known set"
    server.launch()
    server.wait_ready()
    until(lambda: Registry(settings).schedulers())
    until(lambda: len(watcher.logged) == 4)
    assert watcher.told.empty(), "coming back empty must not empty the known set either"
    assert [level for level, _, _ in watcher.logged] == ["warning", "info"] * 2


def test_who_died_during_an_outage_is_removed_after_it(server, settings, watch):
    registry = Registry(settings)
    registry.publish(scheduler())
    watcher = watch(settings)
    assert list(watcher.next()) == ["scheduler-a"]
    server.stop()
    until(lambda: watcher.logged)
    server.launch()
    server.wait_ready()
    until(lambda: len(watcher.logged) == 2)
    back = time.monotonic()
    assert watcher.next() == {}
    assert time.monotonic() - back > settings.ttl_s / 2, "the others may still be about to register again"


def test_an_updated_record_is_published_and_a_clean_end_withdraws_it(settings, watch):
    owner, registry = watch(settings, WorkerRecord("w", 1, "h", 1, 1, "p")), Registry(settings)
    until(lambda: registry.workers())
    owner.thread.update(WorkerRecord("w", 1, "h", 1, 1, "p", "3.11", 5))
    until(lambda: registry.workers()["w"].schedulers == 5)
    owner.thread.stop()
    assert registry.workers() == {}


def test_wrong_password_names_host_and_user_and_no_secret(server, settings):
    connect(settings).acl_setuser("alice", enabled=True, passwords=["+right"], categories=["+@all"], keys=["*"])
    path = server.url.removeprefix("unix://").partition("?")[0]
    bad = StoreSettings(url=f"unix://alice:hunter2@{path}")
    with pytest.raises(Refused, match="alice") as caught:
        Registry(bad).ping()
    assert path in str(caught.value)
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.exit_code == 6


def test_nobody_there_names_the_server_and_no_secret():
    settings = StoreSettings(url="redis://bob:hunter2@127.0.0.1:1/0", connect_timeout_s=0.5)
    with pytest.raises(Unavailable, match=r"redis://bob@127\.0\.0\.1:1/0") as caught:
        Registry(settings).ping()
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("url", ["http://x", "redis://host:notaport", "redis://h/0?no_such_option=1", "nonsense"])
def test_what_is_no_redis_url_is_a_bad_setting(url):
    with pytest.raises(ConfigError, match=r"(no|not a) Redis URL"):
        Registry(StoreSettings(url=url))


def test_no_url_is_a_bad_setting():
    with pytest.raises(ConfigError, match=r"store\.url"):
        Registry(StoreSettings())


def test_describe_leaves_the_password_out():
    assert describe("rediss://u:secret@h:1/2?password=secret") == "rediss://u@h:1/2"
    assert describe("redis://:secret@h:1") == "redis://@h:1"


def test_the_server_dies_with_a_killed_parent(tmp_path: Path):
    import signal
    import subprocess
    import sys

    import psutil

    code = (
        "import sys,time,pathlib\nfrom sparrowmq.store.embedded import EmbeddedServer\n"
        "s=EmbeddedServer(pathlib.Path(sys.argv[1]));s.launch();s.wait_ready();print(s.pid,flush=True);time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
