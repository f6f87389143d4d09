"""The image and docker-compose.yml, on whatever engine `docker info` finds, under a project name of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 10

pytestmark = [pytest.mark.docker, pytest.mark.timeout(360)]


class Compose:
    """`docker compose` for one throw-away project."""

    def __init__(self, project: str) -> None:
        self._command = ["docker", "compose", "--project-name", project]
        foreign = ("COMPOSE_", "SPARROWMQ_", "WORKER_CPUS")  # what would change docker-compose.yml
        environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        self._options: dict[str, Any] = {
            "cwd": ROOT,
            "env": {**environment, "TAG": "test"},
            "stdin": subprocess.DEVNULL,
            "text": True,
        }

    def __call__(self, *arguments: str, timeout_s: float = 60.0, check: bool = True) -> str:
        done = subprocess.run([*self._command, *arguments], capture_output=True, timeout=timeout_s, **self._options)
        if check and done.returncode != 0:
            logs = self("logs", "--no-color", "--tail", "20", check=False)
            command = f"docker compose {' '.join(arguments)}"
            pytest.fail(f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}\n{logs}", pytrace=False)
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen([*self._command, *arguments], stdout=subprocess.PIPE, **self._options)

    def run(self, *arguments: str) -> Any:
        """The JSON that `sparrowmq run` prints."""
        return json.loads(self("run", "--rm", "-T", "cli", "-o", "json", "run", *arguments))

    def workers(self) -> list[dict[str, Any]]:
        """The workers that are alive, as the scheduler sees them."""
        scheduler = self.containers("scheduler")[0]
        rows = json.loads(docker("exec", scheduler, "sparrowmq", "-o", "json", "worker", "list"))
        return [row for row in rows if row["state"] == "alive"]

    def assistants(self) -> list[dict[str, Any]]:
        """What the assistants tell, the leader first."""
        scheduler = self.containers("scheduler")[0]
        rows: list[dict[str, Any]] = json.loads(
            docker("exec", scheduler, "sparrowmq", "-o", "json", "assistant", "show")
        )
        return rows

    def containers(self, service: str) -> list[str]:
        return self("ps", "-q", service).split()


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode != 0:
        pytest.skip("no Docker engine answers `docker info`")
    compose = Compose(f"sparrowmq-test-{uuid.uuid4().hex[:8]}")
    try:
        compose("build", timeout_s=300.0)
        compose("up", "-d", "--scale", f"worker={WORKERS}", timeout_s=180.0)
        yield compose
    finally:
        # Twice: the engine may still hold the network for a container that was just removed.
        compose("down", "-v", "--remove-orphans", timeout_s=120.0, check=False)
        compose("down", "-v", "--remove-orphans", timeout_s=120.0)


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def eventually(condition: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.1)


def done_by(workers: list[dict[str, Any]]) -> int:
    return sum(worker["done"] for worker in workers)


def statuses(report: dict[str, Any]) -> Counter[str]:
    return Counter(result["status"] for result in report["results"])


def test_200_commands_on_10_workers(compose: Compose) -> None:
    eventually(lambda: len(compose.workers()) == WORKERS, f"{WORKERS} workers")
    report = compose.run("-n", "200", "--", "sleep", "0.1")
    assert statuses(report) == {"succeeded": 200}
    workers = compose.workers()
    assert done_by(workers) == 200
    assert all(worker["done"] > 0 for worker in workers)


def test_slots_follow_the_cpu_quota(compose: Compose) -> None:
    assert {worker["slots"] for worker in compose.workers()} == {1}


def test_a_function_of_the_jobs_directory(compose: Compose) -> None:
    report = compose.run("--call", "example:count_words", "--args", '["to be or not to be"]')
    assert [result["value"] for result in report["results"]] == [{"to": 2, "be": 2, "or": 1, "not": 1}]


def test_nobody_is_root_and_nothing_is_published(compose: Compose) -> None:
    for container in [id for role in ("scheduler", "worker", "assistant") for id in compose.containers(role)]:
        assert docker("inspect", "--format", "{{.Config.User}}", container) == "10001:10001"
        assert docker("inspect", "--format", "{{json .HostConfig.PortBindings}}", container) in ("{}", "null")


def test_a_paused_worker_is_found_dead_by_one_of_two_assistants_and_comes_back(compose: Compose) -> None:
    def states() -> Counter[str]:
        return Counter(node["state"] for node in compose.assistants()[0]["nodes"])

    eventually(lambda: states() == {"alive": WORKERS + 1}, "every worker and the scheduler beat")
    assert [row["leads"] for row in compose.assistants()] == [True, False]
    victim = compose.containers("worker")[0]
    docker("pause", victim)
    try:
        eventually(lambda: states() == {"alive": WORKERS, "dead": 1}, "the paused worker is dead", 10.0)
        eventually(lambda: len(compose.workers()) == WORKERS - 1, "the scheduler gave it up", 10.0)
    finally:
        docker("unpause", victim)
    eventually(lambda: states() == {"alive": WORKERS + 1}, "it is back")
    eventually(lambda: len(compose.workers()) == WORKERS, "the scheduler has it back")


def test_killed_workers_lose_no_task(compose: Compose) -> None:
    victims = compose.containers("worker")[:3]
    running = compose.start("run", "--rm", "-T", "cli", "-o", "json", "run", "-n", "60", "--", "sleep", "1")
    try:
        eventually(lambda: all(worker["launched"] for worker in compose.workers()), "every worker runs a task")
        docker("kill", *victims)
        report = json.loads(running.communicate(timeout=60)[0])
    finally:
        running.kill()
    assert statuses(report) == {"succeeded": 60}
    assert sum(job["relaunches"] for job in report["jobs"]) >= len(victims)
    assert len(compose.workers()) == WORKERS - len(victims)


def test_sigterm_ends_every_role_cleanly_within_its_grace_period(compose: Compose) -> None:
    """Docker's SIGTERM reaches the process: one that had to be killed would have ended with 137."""
    roles = [id for role in ("worker", "scheduler", "assistant") for id in compose.containers(role)]
    up = [container for container in roles if docker("inspect", "--format", "{{.State.Running}}", container) == "true"]
    assert len(up) == WORKERS - 3 + 1 + 2
    compose("stop", "worker", "scheduler", "assistant", timeout_s=120.0)
    assert {docker("inspect", "--format", "{{.State.ExitCode}}", container) for container in up} == {"0"}
