"""The image and docker-compose.yml on whatever engine `docker info` finds: coming up, working, growing, going."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from sparrowmq.bench.containers import Project, docker, until
from sparrowmq.errors import Unavailable
from tests.support.containers import WORKERS, assert_each_once, naps, project_of

REGISTERED_S_MAX = 30.0  # 10 s is what a machine with a free core must reach; the figure itself is printed
ROLES = ("scheduler", "worker", "assistant")
DRAINED = 0  # exit status

pytestmark = [pytest.mark.docker, pytest.mark.timeout(360)]


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    with project_of(worker=WORKERS) as project:
        yield project


def inspected(container: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", container))[0]
    return found


def test_ten_workers_register_soon(project: Project) -> None:
    assert project.registered_s < REGISTERED_S_MAX


def test_200_commands_on_10_workers(project: Project) -> None:
    report = project.run("-n", "200", "--", "sleep", "0.1")
    assert Counter(result["status"] for result in report["results"]) == {"succeeded": 200}
    workers = project.workers()
    assert sum(worker["done"] for worker in workers) == 200
    assert all(worker["done"] > 0 for worker in workers)


def test_the_page_shows_the_workers_and_their_heartbeats(project: Project) -> None:
    where = project("port", "web", "8787").strip()

    def shown() -> bool:
        with urllib.request.urlopen(f"http://{where}/snapshot.json", timeout=10.0) as answer:
            snapshot = json.load(answer)
        alive = sum(tile["state"] == "alive" for tile in snapshot["tiles"]["rows"])
        return alive == WORKERS and all(row["beats_ms"] for row in snapshot["strip"]["rows"])

    assert where.startswith("127.0.0.1:")
    until(shown, "the page shows all workers")


def test_slots_follow_the_cpu_quota(project: Project) -> None:
    assert {worker["slots"] for worker in project.workers()} == {1}


def test_a_function_of_the_jobs_directory(project: Project) -> None:
    report = project.run("--call", "example:count_words", "--args", '["to be or not to be"]')
    assert [result["value"] for result in report["results"]] == [{"to": 2, "be": 2, "or": 1, "not": 1}]


def test_growing_from_2_to_10_workers_speeds_a_running_job_up(project: Project) -> None:
    project.up(worker=2)
    until(lambda: len(project.workers()) == 2, "the others are gone")
    count, duration_s = 400, 0.1
    arguments, lines = naps(count, duration_s)
    job = project.start_run(*arguments, stdin=lines)
    until(lambda: any(worker["launched"] for worker in project.workers()), "the job runs")
    before = {container for service in (*ROLES, "redis") for container in project.ids(service)}
    project.up(worker=WORKERS)
    report = project.report(job)
    assert before <= {container for service in (*ROLES, "redis") for container in project.ids(service)}
    assert_each_once(report, count)
    response_s, with_two_s = report["jobs"][0]["response_s"], count * duration_s / 2
    print(f"{count} naps of {duration_s:g} s: {response_s:.1f} s with 2 to 10 workers, {with_two_s:.0f} s with 2")
    assert response_s < 0.8 * with_two_s
    assert sum(worker["done"] > 0 for worker in project.workers()) > 2


@pytest.mark.parametrize("service", [*ROLES, "redis", "web"])
def test_nobody_is_root_or_can_become_it_and_nothing_is_published(project: Project, service: str) -> None:
    for container in project.ids(service):
        found = inspected(container)
        host = found["HostConfig"]
        assert found["Config"]["User"] == "10001:10001"
        assert docker("exec", container, "id", "-u") == "10001"
        assert {bound["HostIp"] for ports in (host["PortBindings"] or {}).values() for bound in ports} == (
            {"127.0.0.1"} if service == "web" else set()
        )
        assert not host["PublishAllPorts"]
        assert not host["Privileged"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert not host["CapAdd"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["Memory"] > 0
        assert host["PidsLimit"] > 0
        assert host["Init"]
        assert host["NetworkMode"] not in ("host", "none")
        effective = docker("exec", container, "sh", "-c", "grep -h -e CapEff -e CapBnd -e NoNewPrivs /proc/1/status")
        assert [line.split()[1] for line in effective.splitlines()] == ["0" * 16, "0" * 16, "1"]


STRANGER = """
import sys, zmq
from zmq.utils.monitor import recv_monitor_message
socket = zmq.Context.instance().socket(zmq.DEALER)
if sys.argv[2:]:  # one who knows the schedulers' public key, and has no secret
    socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
    socket.curve_serverkey = sys.argv[2].encode()
monitor = socket.get_monitor_socket()
socket.connect(sys.argv[1])
socket.send(b"let me in")
seen = set()
while monitor.poll(3000):
    seen.add(recv_monitor_message(monitor)["event"].name)
    if "DISCONNECTED" in seen or any(name.startswith("HANDSHAKE_FAILED") for name in seen):
        break
print(" ".join(sorted(seen)), "answered" if socket.poll(0) else "silent")
"""


def stranger(project: Project, *arguments: str, entrypoint: str = "sparrowmq") -> str:
    """Return what a container of the same image on the same network prints, which has no keys."""
    return docker(
        "run", "--rm", "--network", f"{project.name}_default", "--env", "SPARROWMQ_CONFIG=", "--entrypoint", entrypoint,
        "sparrowmq:test", *arguments,
    )  # fmt: skip


def test_who_has_no_keys_is_refused_by_redis_and_by_schedulers(project: Project) -> None:
    with pytest.raises(Unavailable, match=r"ended with [36]: .*(password|[Aa]uthenti)"):
        stranger(project, "--redis", "redis://redis:6379/0", "--insecure", "status")
    scheduler = project.ids("scheduler")[0]
    address = inspected(scheduler)["NetworkSettings"]["Networks"][f"{project.name}_default"]["IPAddress"]
    public = docker("exec", scheduler, "cat", "/keys/scheduler/server.pub")
    for port in (7701, 7702):
        words = stranger(project, "-c", STRANGER, f"tcp://{address}:{port}", entrypoint="python3").split()
        assert "HANDSHAKE_SUCCEEDED" not in words
        assert words[-1] == "silent"
        words = stranger(project, "-c", STRANGER, f"tcp://{address}:{port}", public, entrypoint="python3").split()
        assert "DISCONNECTED" in words  # it may shake hands, and is shown the door for what it says
        assert len(project.workers()) == WORKERS


def test_each_role_has_its_own_keys_and_no_others(project: Project) -> None:
    owners = {"scheduler": "scheduler", "worker": "worker", "assistant": "assistant", "redis": "redis", "web": "client"}
    for service, own in owners.items():
        files = docker("exec", project.ids(service)[0], "find", "/keys", "-type", "f", "!", "-name", ".*").splitlines()
        assert files
        assert all(file.startswith(f"/keys/{own}/") for file in files)
        secrets = [file for file in files if not file.endswith(".pub")]
        modes = docker("exec", project.ids(service)[0], "stat", "-c", "%a %u", *secrets).splitlines()
        assert set(modes) == {"600 10001"}
        with pytest.raises(Unavailable, match="Read-only"):
            docker("exec", project.ids(service)[0], "touch", files[0])


def test_grace_periods_are_longer_than_the_drain_deadline(project: Project) -> None:
    settings = {row["key"]: row["value"] for row in project.ask("config", "show")}
    for service in ROLES:
        stop_s = inspected(project.ids(service)[0])["Config"]["StopTimeout"]
        assert stop_s > max(settings["scheduler.drain_timeout_s"], settings["worker.drain_timeout_s"]) + 2.0


def test_sigterm_ends_every_role_cleanly_within_its_grace_period(project: Project) -> None:
    """Docker's SIGTERM reaches the process: one that had to be killed would have ended with 137."""
    roles = [container for service in ROLES for container in project.ids(service)]
    assert len(roles) == WORKERS + 1 + 2
    project("stop", *ROLES, timeout_s=120.0)
    assert {inspected(container)["State"]["ExitCode"] for container in roles} == {DRAINED}
