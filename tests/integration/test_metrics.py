"""`sparrowmq metrics serve` beside a real cluster, scraped over HTTP: the delay of a backlog, and of no store."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sparrowmq.client.client import Client
from sparrowmq.local import LocalCluster
from sparrowmq.metrics import REQUESTS_MAX
from tests.support.store import until

pytestmark = pytest.mark.timeout(120)
DELAY = "sparrowmq_queueing_delay_seconds"


@contextmanager
def served(cluster: LocalCluster, **environ: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The command as a process, and where it answers."""
    words = [sys.executable, "-m", "sparrowmq.cli.main", "--redis", cluster.url, "metrics", "serve"]
    process = subprocess.Popen(
        [*words, "--listen", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True, env=os.environ | environ
    )
    try:
        assert process.stderr is not None
        found = re.fullmatch(r"serving (http://127\.0\.0\.1:\d+/metrics)\n", process.stderr.readline())
        assert found
        yield found[1], process
    finally:
        process.kill()
        process.communicate()


def scraped(address: str) -> dict[str, float]:
    """One scrape: the samples by name, those with a state as name.state."""
    with urllib.request.urlopen(address, timeout=10.0) as answer:
        text = answer.read().decode()
    return {
        ".".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_delay_rises_with_a_backlog_and_falls_with_it(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    with LocalCluster(workers=2) as cluster, served(cluster, SPARROWMQ_HEALTH_FILE=str(alive)) as (address, process):
        until(lambda: scraped(address).get("sparrowmq_workers.alive") == 2.0, 20.0)
        idle = scraped(address)
        assert (idle["sparrowmq_up"], idle["sparrowmq_slots"], idle["sparrowmq_schedulers"]) == (1.0, 2.0, 1.0)
        assert idle[DELAY] == 0.0
        assert alive.exists()
        with Client(cluster) as client:
            job = client.sleep([0.05] * 100)
            until(lambda: scraped(address).get(DELAY, 0.0) > 0.2, 20.0)
            assert scraped(address)["sparrowmq_running"] > 0.0
            client.gather(job, 60.0)
        until(lambda: scraped(address)[DELAY] < 0.01, 20.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10.0) == 0
        assert not alive.exists()


def test_without_an_assistant_or_a_store_there_is_no_delay() -> None:
    with LocalCluster(workers=1) as cluster, served(cluster) as (address, _):
        until(lambda: scraped(address).get(DELAY) == 0.0, 20.0)
        cluster.kill_assistant(0, signal.SIGTERM)
        until(lambda: scraped(address)["sparrowmq_up"] == 0.0, 20.0)
        orphaned = scraped(address)
        assert DELAY not in orphaned
        assert (orphaned["sparrowmq_assistant_leads"], orphaned["sparrowmq_schedulers"]) == (0.0, 1.0)


def test_a_store_that_is_not_there_is_said_and_ends_nothing() -> None:
    with LocalCluster(workers=0, assistants=0) as cluster, served(cluster) as (address, process):
        cluster.close()
        until(lambda: scraped(address) == {"sparrowmq_up": 0.0}, 20.0)
        assert process.poll() is None


def test_clients_that_say_nothing_are_few_and_do_not_stay() -> None:
    with LocalCluster(workers=0, assistants=0) as cluster, served(cluster) as (address, _):
        port = int(address.rpartition(":")[2].partition("/")[0])
        mute = [socket.create_connection(("127.0.0.1", port)) for _ in range(REQUESTS_MAX + 4)]
        try:
            for one in mute[REQUESTS_MAX:]:
                one.settimeout(3.0)  # less than the others get to speak
                assert one.recv(1) == b""
            until(lambda: _answers(address), 20.0)
        finally:
            for one in mute:
                one.close()


def _answers(address: str) -> bool:
    try:
        return "sparrowmq_up" in scraped(address)
    except OSError:
        return False
