"""The doctor's verdicts, each from what it looks at."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sparrowmq import __version__, config
from sparrowmq.cli import diagnosis, doctor
from sparrowmq.cli.ask import Answer
from sparrowmq.protocol import messages as m
from sparrowmq.store.registry import SchedulerRecord, WorkerRecord

ROOT = str(Path(__file__).resolve().parents[2])
NAMES = {"versions", "cpus", "open files", "shared memory", "local server", "local cluster", "configuration"}


@pytest.fixture
def sparrowmq(tmp_path: Path):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SPARROWMQ_")}
    environ = {**clean, "XDG_STATE_HOME": str(tmp_path), "PYTHONPATH": ROOT}

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sparrowmq.cli.main", *words]
        return subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=30)

    return call


def test_without_a_cluster_it_says_how_to_start_one(sparrowmq):
    done = sparrowmq("doctor", "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    checks = {row["name"]: row for row in json.loads(done.stdout)}
    assert set(checks) == NAMES | {"cluster"}
    assert (checks["cluster"]["state"], "sparrowmq up" in checks["cluster"]["hint"]) == ("warn", True)
    people = sparrowmq("doctor").stdout.splitlines()
    assert all(line.startswith(("ok  ", "warn", "      ")) for line in people)


def test_a_redis_that_does_not_answer_fails(sparrowmq):
    done = sparrowmq("--redis", "redis://127.0.0.1:1", "doctor", "-o", "json")
    assert done.returncode == 1
    redis = json.loads(done.stdout)[-1]
    assert (redis["name"], redis["state"]) == ("redis", "fail")
    assert json.loads(done.stderr)["code"] == "unhealthy"


def test_a_configuration_that_cannot_be_read_fails(sparrowmq, tmp_path):
    (tmp_path / "bad.toml").write_text("[worker]\nslots = 'x'\n")
    done = sparrowmq("-c", "bad.toml", "doctor")
    assert done.returncode == 1
    assert "bad.toml:2: worker.slots" in done.stdout


@pytest.mark.parametrize(("limit", "state"), [((65_536, 65_536), "ok"), ((256, 65_536), "warn"), ((64, 4096), "fail")])
def test_open_files(limit, state):
    check = diagnosis.open_files(limit, config.Config())
    assert (check.state, "ulimit -n" in check.hint) == (state, state != "ok")
    assert diagnosis.open_files((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None).state == "ok"


def test_shared_memory():
    def refuse(_name: str) -> int:
        raise OSError(38, "Function not implemented")

    assert diagnosis.shared_memory().state == "ok"
    assert diagnosis.shared_memory(refuse).state == "fail"


def test_fixed_ports():
    assert list(diagnosis.ports(config.Config())) == []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        (check,) = diagnosis.ports(config.load(None, {}, {"scheduler.bind_clients": address}))
        assert (check.name, check.state) == ("scheduler.bind_clients", "warn")
    (check,) = diagnosis.ports(config.load(None, {}, {"scheduler.bind_clients": address}))
    assert check.state == "ok"


@pytest.mark.parametrize(
    ("ahead_s", "state", "said"),
    [(0.01, "ok", "ahead of"), (-0.5, "ok", "behind"), (30, "warn", "ahead"), (-2, "warn", "behind")],
)
def test_clocks(ahead_s, state, said):
    check = doctor._clock("redis clock", ahead_s)
    assert (check.state, said in check.message, "NTP" in check.hint) == (state, True, state == "warn")


def scheduler(**changes) -> SchedulerRecord:
    given = {
        "id": "scheduler-1", "incarnation": 1, "address_workers": "tcp://10.0.0.1:1", "package": __version__,
        "address_clients": "tcp://10.0.0.1:2", "host": "far", "pid": 7,
    }  # fmt: skip
    return SchedulerRecord(**(given | changes))


def test_schedulers():
    good = Answer(m.Status(1, "scheduler-1", unix_s=1000.05), took_s=0.1)
    assert doctor._scheduler(scheduler(), good, 1000.0).state == "ok"
    assert doctor._scheduler(scheduler(), Answer(m.Status(1, "s"), took_s=0.1), 1000.0).state == "ok"  # tells no time
    skewed = doctor._scheduler(scheduler(), good, 900.0)
    assert (skewed.state, "clock 100.00 s ahead" in skewed.message) == ("warn", True)
    old = doctor._scheduler(scheduler(package="0.0.1"), good, 1000.0)
    assert (old.state, "0.0.1" in old.message, "0.0.1" in old.hint) == ("warn", True, True)


@pytest.mark.parametrize(
    ("record", "answer", "advice"),
    [
        (scheduler(), Answer(None, "connection refused"), "firewall"),
        (scheduler(address_clients="tcp://127.0.0.1:2"), Answer(None, "connection refused"), "advertise_host"),
        (scheduler(), Answer(None, "protocol 2, supported 1", "version"), "upgrade"),
        (scheduler(), Answer(None, "10,000 clients", "busy"), "busy"),
    ],
)
def test_a_scheduler_that_does_not_answer_fails_with_advice(record, answer, advice):
    check = doctor._scheduler(record, answer, 0.0)
    assert (check.state, answer.why in check.message, advice in check.hint) == ("fail", True, True)


def record(name: str, **changes) -> WorkerRecord:
    given = {"incarnation": 1, "host": "h", "pid": 2, "slots": 1, "package": __version__, "python": doctor.PYTHON}
    return WorkerRecord(id=name, **(given | changes))


def seen(name: str, state: str = "alive") -> m.WorkerStatus:
    return m.WorkerStatus(name, "h", 2, 1, state, 0, 0, 0, 0.1, __version__, doctor.PYTHON)


def test_workers():
    records = {
        "good": record("good"),
        "lonely": record("lonely"),
        "python": record("python", python="3.9"),
        "old": record("old", package="0.0.1"),
        "leaving": record("leaving"),
    }
    names = ["good", "python", "old", "unregistered"]
    statuses = [m.Status(1, "s", workers=[*map(seen, names), seen("leaving", "draining")])]
    checks = {check.name: check for check in doctor._workers(records, statuses)}
    assert {name: check.state for name, check in checks.items()} == {
        "good": "ok", "lonely": "fail", "python": "warn", "old": "warn", "leaving": "warn", "unregistered": "ok",
    }  # fmt: skip
    assert "no scheduler that answers knows it" in checks["lonely"].message
    assert "Python 3.9" in checks["python"].message
    (none,) = doctor._workers({}, [])
    assert (none.state, "sparrowmq worker start" in none.hint) == ("warn", True)
