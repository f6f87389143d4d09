"""Redis with sentinels: the master is found by its service's name, and found anew when it is another one."""

from __future__ import annotations

import itertools
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import redis

from sparrowmq.errors import Unavailable
from sparrowmq.settings import StoreSettings
from sparrowmq.store.beats import Beats
from sparrowmq.store.connection import connect
from sparrowmq.store.embedded import server_binary
from sparrowmq.store.lease import Lease
from sparrowmq.store.registry import Registry, SchedulerRecord, StoreThread
from tests.support.store import Posts, Said, beat, until
from tests.support.valkey import Server

pytestmark = pytest.mark.timeout(60)
RECORD = SchedulerRecord("scheduler-1", 1, "tcp://127.0.0.1:1", "tcp://127.0.0.1:1", "h", 1, "0")
PASSWORD = "what-the-sentinel-asks-for"
SENTINEL = """\
port {port}
sentinel monitor main 127.0.0.1 {master} 1
sentinel down-after-milliseconds main 300
sentinel failover-timeout main 3000
requirepass {password}
"""


class Servers:
    """A master, a replica and a sentinel, each at a port of this machine."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports = [_free_port() for _ in range(3)]
        self._processes: list[subprocess.Popen[bytes]] = []
        self.url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{self._ports[2]}/main/0"  # the first of them is not there

    def start(self) -> None:
        """Start them, and wait until the sentinel knows of both others."""
        master, replica, sentinel = self._ports
        self._launch("--port", str(master), "--repl-diskless-sync-delay", "0")
        self._launch("--port", str(replica), "--replicaof", "127.0.0.1", str(master))
        with redis.Redis(port=replica) as copy:
            until(lambda: _tries(lambda: copy.info("replication")["master_link_status"] == "up"))
        file = self._directory / "sentinel.conf"
        file.write_text(SENTINEL.format(port=sentinel, master=master, password=PASSWORD))
        self._launch(str(file), "--sentinel")
        with redis.Redis(port=sentinel, password=PASSWORD, decode_responses=True) as asked:
            until(lambda: _tries(lambda: asked.sentinel_master("main")["num-slaves"] == 1))

    def kill_master(self) -> None:
        self._processes[0].kill()

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def _launch(self, *words: str) -> None:
        fixed = () if "--sentinel" in words else ("--save", "", "--dir", str(self._directory))
        command = [str(server_binary()), *words, *fixed, "--loglevel", "warning"]
        self._processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _tries(condition: Callable[[], object]) -> bool:
    try:
        return bool(condition())
    except redis.ConnectionError:
        return False


@pytest.fixture
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    made = Servers(tmp_path_factory.mktemp("v"))
    try:
        made.start()
        yield made
    finally:
        made.close()


def test_records_beats_and_the_lease_follow_the_master(servers: Servers) -> None:
    settings = StoreSettings(
        url=servers.url, sentinel_password=PASSWORD, refresh_interval_s=0.1, reply_timeout_s=0.5, connect_timeout_s=0.5
    )
    said = Said()
    store = StoreThread(settings, record=RECORD, on_schedulers=lambda found: None, log=said)
    beats = Beats(settings, entries_max=1000, log=said)
    lease = Lease(settings, holder="a", lease_s=1.0, post=Posts(), on_change=lambda: None, log=said)
    for thread in (store, beats, lease):
        thread.start()
    registry, client = Registry(settings), connect(settings)
    beats.deposit(beat(1))
    until(lambda: client.xlen("sq:beats") == 1)
    until(lambda: RECORD.id in registry.schedulers())
    until(lambda: lease.term(time.monotonic()))
    before = lease.term(time.monotonic())

    servers.kill_master()
    until(lambda: said.count("Redis does not answer"))
    sent = itertools.count(2)

    def is_heard() -> bool:
        beats.deposit(beat(next(sent)))
        return client.xlen("sq:beats") > 1

    until(lambda: _tries(is_heard), 20.0)
    until(lambda: _finds(registry))
    until(lambda: lease.term(time.monotonic()))
    assert lease.term(time.monotonic()) >= before
    for thread in (store, beats, lease):
        thread.stop()
    until(lambda: not registry.schedulers())


def _finds(registry: Registry) -> bool:
    try:
        return RECORD.id in registry.schedulers()
    except Unavailable:
        return False


def test_a_service_that_no_sentinel_knows_is_said_so_without_passwords(servers: Servers) -> None:
    settings = StoreSettings(url=servers.url.replace("main", "other"), sentinel_password=PASSWORD, password="hidden")
    with pytest.raises(Unavailable, match="other") as caught:
        Registry(settings).ping()
    assert PASSWORD not in str(caught.value) and "hidden" not in str(caught.value)  # noqa: PT018
    locked_out = msgspec.structs.replace(settings, url=servers.url, sentinel_password="")
    with pytest.raises(Unavailable):
        Registry(locked_out).ping()


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("v"), aof=False)
    yield made
    made.kill()


def test_beats_leave_a_server_that_takes_no_writes_any_more(server: Server) -> None:
    settings, said = StoreSettings(url=server.url), Said()
    client, beats = connect(settings), Beats(settings, entries_max=1000, log=said)
    beats.start()
    beats.deposit(beat(1))
    until(lambda: client.xlen("sq:beats") == 1)
    connections = client.info("stats")["total_connections_received"]
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    number = 1

    def beaten() -> bool:
        nonlocal number
        number += 1
        beats.deposit(beat(number))
        return client.info("stats")["total_connections_received"] > connections

    until(beaten)
    assert said.count("READONLY")
    client.execute_command("REPLICAOF", "NO", "ONE")
    before = client.xlen("sq:beats")
    until(lambda: beaten() and client.xlen("sq:beats") > before)
    beats.stop()
