"""Redis over TLS: everything that talks to it, beats included, and certificates that are refused."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from sparrowmq.errors import ConfigError, Unavailable
from sparrowmq.settings import StoreSettings
from sparrowmq.store.beats import Beats
from sparrowmq.store.connection import connect
from sparrowmq.store.lease import Lease
from sparrowmq.store.registry import Registry, SchedulerRecord, StoreThread
from sparrowmq.store.watcher import Watcher
from tests.support.store import Posts, Said, beat, until
from tests.support.tls import TlsFront, make_certificates
from tests.support.valkey import Server

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates"),
]
RECORD = SchedulerRecord("scheduler-1", 1, "tcp://127.0.0.1:1", "tcp://127.0.0.1:1", "h", 1, "0")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Server, TlsFront]]:
    directory = tmp_path_factory.mktemp("v")
    make_certificates(directory)
    server = Server(directory, aof=False)
    front = TlsFront(directory, f"{directory}/v.sock")
    yield directory, server, front
    front.close()
    server.kill()


@pytest.fixture
def settings(made: tuple[Path, Server, TlsFront]) -> StoreSettings:
    directory, server, front = made
    connect(StoreSettings(url=server.url)).flushall()
    return StoreSettings(url=f"rediss://localhost:{front.port}/0", tls_ca_file=str(directory / "ca.crt"))


def test_records_announcements_beats_and_the_lease_go_over_tls(settings: StoreSettings) -> None:
    said, heard, told = Said(), [], []
    store = StoreThread(
        msgspec.structs.replace(settings, poll_interval_s=10.0), record=RECORD, on_schedulers=told.append, log=said
    )
    beats = Beats(settings, entries_max=1000, log=said)
    lease = Lease(settings, holder="a", lease_s=1.0, post=Posts(), on_change=lambda: None, log=said)
    watcher = Watcher(
        settings,
        id="a",
        interval_s=0.01,
        entries_max=1000,
        post=Posts(),
        on_heard=lambda seen_s, lag_s, arrivals, interrupted: heard.extend(arrivals),
        log=said,
    )
    for thread in (store, beats, lease, watcher):
        thread.start()
    until(lambda: told)
    other = msgspec.structs.replace(RECORD, id="scheduler-2")
    registry = Registry(settings)
    registry.publish(other, announce=True)
    until(lambda: "scheduler-2" in told[-1])
    for number in range(1, 6):
        beats.deposit(beat(number))
        until(lambda number=number: any(arrival.beat.sequence == number for arrival in heard))
    until(lambda: lease.term(time.monotonic()))
    for thread in (store, beats, lease, watcher):
        thread.stop()
    assert set(registry.schedulers()) == {"scheduler-2"}
    assert said.lines == []


def test_a_server_that_nobody_vouches_for_or_of_another_name_is_refused(
    made: tuple[Path, Server, TlsFront], settings: StoreSettings
) -> None:
    stranger = msgspec.structs.replace(settings, tls_ca_file=str(made[0] / "stranger.crt"))
    of_the_system = msgspec.structs.replace(settings, tls_ca_file="")
    misnamed = msgspec.structs.replace(settings, url=settings.url.replace("localhost", "127.0.0.1"))
    for refused in (stranger, of_the_system, misnamed):
        with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED") as caught:
            Registry(refused).ping()
        assert "store.tls_ca_file" in caught.value.hint
    plain = msgspec.structs.replace(settings, url=settings.url.replace("rediss", "redis"), tls_ca_file="")
    with pytest.raises(Unavailable):
        Registry(msgspec.structs.replace(plain, reply_timeout_s=0.3)).ping()


def test_a_server_may_ask_for_a_certificate(made: tuple[Path, Server, TlsFront], settings: StoreSettings) -> None:
    directory = made[0]
    strict = TlsFront(directory, f"{directory}/v.sock", clients_too=True)
    url = f"rediss://localhost:{strict.port}/0"
    without = msgspec.structs.replace(settings, url=url, reply_timeout_s=0.3)
    with pytest.raises(Unavailable):
        Registry(without).ping()
    files = {f"tls_{kind}_file": str(directory / f"client.{end}") for kind, end in (("cert", "crt"), ("key", "key"))}
    Registry(msgspec.structs.replace(without, **files)).ping()
    strict.close()


def test_what_cannot_work_is_named_before_anything_is_sent(settings: StoreSettings) -> None:
    with pytest.raises(ConfigError, match=r"store\.tls_ca_file is set, and store\.url redis://h is not encrypted"):
        connect(msgspec.structs.replace(settings, url="redis://h"))
    with pytest.raises(ConfigError, match=r"store\.tls_ca_file: /absent/ca cannot be read: No such file"):
        connect(msgspec.structs.replace(settings, tls_ca_file="/absent/ca"))
