"""A cluster with keys, of real processes over TCP: it works, and who has no business there is refused and counted."""

from __future__ import annotations

import json
import operator
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from sparrowmq import ids
from sparrowmq.client.client import Client
from sparrowmq.errors import Refused, SecurityError, SparrowError, Unavailable
from sparrowmq.local import LocalCluster
from sparrowmq.protocol import messages as m
from sparrowmq.runtime.loop import Loop
from sparrowmq.security import keyring
from sparrowmq.security.credentials import Credentials
from sparrowmq.security.making import Tree
from sparrowmq.settings import LogSettings, SchedulerSettings, SecuritySettings, StoreSettings
from sparrowmq.store.registry import Registry, SchedulerRecord
from sparrowmq.transport.context import new_context
from sparrowmq.transport.dealer import Dealer

pytestmark = pytest.mark.timeout(120)
ROOT = str(Path(__file__).resolve().parents[2])


def until(condition: Callable[[], object], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)


def make_keys(directory: Path) -> Path:
    tree = Tree(directory)
    with tree.changing():
        tree.complete("sq:")
    return directory


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_keys(tmp_path_factory.mktemp("keys") / "keys")


@pytest.fixture(scope="module")
def log_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "cluster.log"


@pytest.fixture(scope="module")
def cluster(keys: Path, log_path: Path) -> Iterator[LocalCluster]:
    tcp = SchedulerSettings(bind_workers="tcp://127.0.0.1:*", bind_clients="tcp://127.0.0.1:*", client_lease_s=5.0)
    with LocalCluster(
        workers=2,
        schedulers=2,
        scheduler=tcp,
        security=SecuritySettings(keys=str(keys)),
        log=LogSettings(level="info", format="json"),
        log_path=log_path,
    ) as made:
        yield made


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as made:
        yield made
        assert made.submit(operator.add, 40, 2).result(10) == 42, "nothing that a test did affects who is in order"


def schedulers(cluster: LocalCluster) -> list[SchedulerRecord]:
    registry = Registry(StoreSettings(url=cluster.url))
    try:
        return list(registry.schedulers().values())
    finally:
        registry.close()


def lines(log_path: Path, event: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in log_path.read_text().splitlines() if line.startswith("{")]
    return [line for line in found if line["event"] == event]


def counted(client: Client, name: str) -> int:
    return sum(status.counters.get(name, 0) for status in client.query("summary"))


def knock(address: str, credentials: Credentials, *first: m.AnyMessage, timeout_s: float = 5.0) -> list[object]:
    """Say this over a connection of one's own; return what is answered, or why there was no connection."""
    loop, context, answers = Loop(), new_context(), list[object]()

    def heard(batch: list[m.AnyMessage]) -> None:
        answers.extend(batch)
        loop.stop()

    def lost() -> None:
        answers.append(dealer.why)
        loop.stop()

    dealer = Dealer(context, loop, address, on_batch=heard, on_lost=lost, on_bad=print, credentials=credentials)
    dealer.send(first)
    loop.call_later(timeout_s, loop.stop)
    loop.run()
    dealer.close()
    loop.close()
    context.term()
    return answers


def hello(role: str, id: str = "") -> m.Hello:
    id = id or ids.node_id(role, random.Random())
    return m.Hello(m.PROTOCOL, "1.0", role, id, time.time_ns() // 1_000_000)


def refusal(answers: list[object]) -> m.Refused:
    assert isinstance(answers[0], m.Refused), answers
    return answers[0]


# It works.


def test_all_of_it_speaks_with_all_of_it(cluster: LocalCluster, client: Client, log_path: Path) -> None:
    assert [future.result(20) for future in client.map(operator.neg, range(200))] == [-n for n in range(200)]
    assert sorted(row.id for row in client.workers()) == sorted(member.id for member in cluster.workers)
    found = [status for status in client.query("summary") if status.counters["workers_now"] == 2]
    assert len(found) == 2, "both workers at both schedulers"
    until(lambda: len(lines(log_path, "assistant found")) == 2)
    assert len(lines(log_path, "keys in use")) == 2
    assert not lines(log_path, "refused")


def test_a_client_enrols_anew_after_its_scheduler_has_died(keys: Path) -> None:
    own = LocalCluster(1, schedulers=2, assistants=0, security=SecuritySettings(keys=str(keys)))
    with own, Client(own) as client:
        job = client.sleep([0.3] * 4)
        own.kill_scheduler(0)
        own.kill_scheduler(0)
        own.add_scheduler()
        assert [future.result(30) for future in job] == [None] * 4


def test_the_environment_says_where_keys_are(cluster: LocalCluster, keys: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("SPARROWMQ_SECURITY_KEYS", str(keys))
    addresses = ",".join(record.address_clients for record in schedulers(cluster))
    with Client(addresses) as client:
        assert client.submit(operator.add, 1, 1).result(10) == 2


def test_commands_find_the_keys_of_the_local_cluster(keys: Path, tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SPARROWMQ_")}
    environ = {**clean, "PYTHONPATH": ROOT, "XDG_STATE_HOME": str(tmp_path)}

    def call(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sparrowmq.cli.main", *words]
        return subprocess.run(command, env=environ | more, capture_output=True, text=True, timeout=60)

    up = call("up", "--detach", "--workers", "1", "--schedulers", "1", SPARROWMQ_SECURITY_KEYS=str(keys))
    try:
        assert up.returncode == 0, up.stderr
        assert call("run", "--", "echo", "hi").stdout.startswith("hi\n")
        status = json.loads(call("status", "-o", "json").stdout)
        assert status["schedulers"][0]["workers_now"] == 1
        assert "FAIL" not in call("doctor").stdout
        url = call("status", "-o", "json", SPARROWMQ_STORE_URL="unix:///nowhere")
        assert url.returncode == 3
        code = "import sparrowmq; print(sparrowmq.Client().submit(len, 'four').result(10))"
        found = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60)
        assert found.stdout == "4\n", found.stderr
    finally:
        assert call("down").stdout == "stopped\n"


# Who is refused, and how that is said.


def test_a_client_without_keys(cluster: LocalCluster, client: Client) -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"security\.keys") as caught:
        Client(cluster, keys="")
    assert time.monotonic() - began < 4.0, "before its time is up: more of it would not help"
    assert "keys list" in caught.value.hint
    until(lambda: counted(client, "client_connections_handshake_failed"))


def test_a_client_of_another_cluster(cluster: LocalCluster, client: Client, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="its server key is not") as caught:
        Client(cluster, keys=str(make_keys(tmp_path / "keys")))
    assert "keys list" in caught.value.hint


def test_a_client_with_a_secret_that_is_none(cluster: LocalCluster, client: Client, keys: Path, tmp_path: Path) -> None:
    shutil.copytree(keys / "client", tmp_path / "client")
    (tmp_path / "client" / "client.secret").write_text("x" * 64)
    with pytest.raises(Refused, match="the proof of enrolment as client is false") as caught:
        Client(cluster, keys=str(tmp_path))
    assert caught.value.code == "forbidden"
    until(lambda: counted(client, "refused_forbidden"))


def test_keys_that_are_not_there(cluster: LocalCluster, tmp_path: Path) -> None:
    with pytest.raises(SecurityError, match="there are no keys for a client"):
        Client(cluster, keys=str(tmp_path))
    with pytest.raises(SecurityError, match="there are no keys for a scheduler"):
        LocalCluster(security=SecuritySettings(keys=str(tmp_path)))


@pytest.mark.parametrize(
    ("secret_of", "role", "door", "said"),
    [
        ("worker", "client", "clients", "the proof of enrolment as client is false"),
        ("worker", "worker", "clients", "this socket is for assistants and clients, not for a worker"),
        ("client", "worker", "workers", "the proof of enrolment as worker is false"),
        ("client", "client", "workers", "this socket is for workers, not for a client"),
        ("client", "assistant", "clients", "the proof of enrolment as assistant is false"),
        ("assistant", "client", "clients", "the proof of enrolment as client is false"),
    ],
)
def test_one_role_is_not_another(
    cluster: LocalCluster, client: Client, keys: Path, secret_of: str, role: str, door: str, said: str
) -> None:
    given = msgspec.structs.replace(keyring.load_credentials(keys, secret_of), role=role)
    address = getattr(schedulers(cluster)[0], f"address_{door}")
    answer = refusal(knock(address, given, hello(role)))
    assert (answer.code, answer.detail) == ("forbidden", said)


def test_a_workers_and_a_clients_id_are_theirs(cluster: LocalCluster, client: Client, keys: Path) -> None:
    for record in schedulers(cluster):
        worker = keyring.load_credentials(keys, "worker")
        answer = refusal(knock(record.address_workers, worker, hello("worker", cluster.workers[0].id)))
        assert answer.code == "identity_conflict"
    other = keyring.load_credentials(keys, "client")
    codes = [knock(record.address_clients, other, hello("client", client.id)) for record in schedulers(cluster)]
    assert "identity_conflict" in [answer.code for [answer, *_] in codes if isinstance(answer, m.Refused)]
    assert len(client.workers()) == 2


def test_bytes_of_another_kind(cluster: LocalCluster, client: Client) -> None:
    for record in schedulers(cluster):
        for address in (record.address_clients, record.address_workers):
            port = urlsplit(address).port
            for data in (b"GET / HTTP/1.1\r\n\r\n", random.Random(port).randbytes(65_536)):
                with socket.create_connection(("127.0.0.1", port)) as alien:
                    alien.sendall(data)


# Keys that are good no more.


def test_a_key_is_revoked_while_it_is_used(
    cluster: LocalCluster, client: Client, keys: Path, tmp_path: Path, log_path: Path
) -> None:
    tree = Tree(keys)
    with tree.changing():
        tree.list_peer("lab", "client", tmp_path, "sq:")
    lab = lab_client(cluster, tmp_path)
    job = lab.sleep([60.0])
    ended = len(lines(log_path, "keys read again"))
    with tree.changing():
        tree.revoke_key("lab")
    until(lambda: counted(client, "client_connections_revoked"))
    assert len(lines(log_path, "keys read again")) > ended
    assert any("of lab is revoked" in line.get("detail", "") for line in lines(log_path, "refused"))
    with pytest.raises(Unavailable, match="is revoked"):
        Client(cluster, keys=str(tmp_path))
    until(lambda: counted(client, "client_connections_key_refused"))
    until(lambda: not any(row.id == job.id and row.state != "cancelled" for row in client.jobs()), 20.0)
    lab.close()


def lab_client(cluster: LocalCluster, keys: Path) -> Client:
    """Connect once the schedulers have read of this key, which takes them up to a second."""
    deadline = time.monotonic() + 10.0
    while True:
        try:
            return Client(cluster, keys=str(keys))
        except SparrowError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
