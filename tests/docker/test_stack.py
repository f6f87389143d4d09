"""docker/stack.yml on a Swarm of one node: deployed by docker/stack-up, grown and shrunk under load."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparrowmq.bench.containers import ROOT, docker, engine_answers, until
from sparrowmq.errors import Unavailable

IMAGE = "sparrowmq:test"
TASKS = 1800

pytestmark = [pytest.mark.docker, pytest.mark.timeout(360)]


class Stack:
    """One stack, and a client's view of it from a container on its network."""

    def __init__(self, name: str, keys: Path) -> None:
        self.name = name
        self.keys = keys
        self._client = [
            "docker", "run", "--rm", "--network", f"{name}_cluster", "--volume", f"{keys}/client:/keys/client:ro",
            "--user", f"{os.getuid()}:{os.getgid()}", IMAGE, "-o", "json",
        ]  # fmt: skip

    def deploy(self) -> str:
        """Run docker/stack-up; return what it prints."""
        environment = {**os.environ, "IMAGE": IMAGE, "KEYS": str(self.keys), "WORKERS": "2"}
        done = subprocess.run(
            [ROOT / "docker" / "stack-up", self.name], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen([*self._client, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ask(self, *arguments: str) -> Any:
        process = self.start(*arguments)
        printed, said = process.communicate(timeout=60)
        if process.returncode:
            raise Unavailable(said)
        return json.loads(printed)

    def alive(self) -> int:
        try:
            return sum(worker["state"] == "alive" for worker in self.ask("worker", "list"))
        except Unavailable:
            return 0

    def scale(self, workers: int) -> None:
        docker("service", "scale", "--detach", f"{self.name}_worker={workers}")

    def ended(self) -> int:
        """Return how many tasks of the newest job have ended."""
        return int(self.ask("job", "show", "last")["succeeded"])


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if not engine_answers():
        pytest.skip("no Docker engine answers `docker info`")
    docker("build", "--quiet", "--file", str(ROOT / "docker" / "Dockerfile"), "--tag", IMAGE, str(ROOT), timeout_s=300)
    founded = docker("info", "--format", "{{.Swarm.LocalNodeState}}") == "inactive"
    if founded:
        docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    stack = Stack(f"sparrowmq-test-{uuid.uuid4().hex[:8]}", tmp_path_factory.mktemp("keys"))
    try:
        stack.deploy()
        until(lambda: stack.alive() == 2, "2 workers", 120.0, pause_s=0.5)
        yield stack
    finally:
        docker("stack", "rm", stack.name)
        mine = ("--filter", f"label=com.docker.stack.namespace={stack.name}", "--quiet")
        until(lambda: not docker("ps", "--all", *mine), "all containers gone", 60.0)
        if founded:
            docker("swarm", "leave", "--force")
        # The containers' records vanish a little later than they do.
        until(lambda: _gone(f"{stack.name}_redis-data"), "the volume gone", 30.0)


def _gone(volume: str) -> bool:
    return subprocess.run(["docker", "volume", "rm", "--force", volume], capture_output=True).returncode == 0


def test_growing_to_10_and_shrinking_to_3_workers_under_load_loses_nothing(stack: Stack) -> None:
    job = stack.start("run", "-n", str(TASKS), "--", "sleep", "0.1")
    until(lambda: stack.alive() == 2 and stack.ended() > 10, "the job runs", pause_s=0.3)
    stack.scale(10)
    until(lambda: stack.alive() == 10, "10 workers", pause_s=0.3)
    grown_at = stack.ended()
    until(lambda: stack.ended() > grown_at + 50, "they work", pause_s=0.1)
    stack.scale(3)
    shrunk_at = stack.ended()
    printed, said = job.communicate(timeout=120)
    assert job.returncode == 0, said
    report = json.loads(printed)
    assert Counter(result["index"] for result in report["results"]) == Counter(range(TASKS))
    assert {result["status"] for result in report["results"]} == {"succeeded"}
    assert shrunk_at < TASKS  # it was under load
    until(lambda: stack.alive() == 3, "3 workers", pause_s=0.3)
    took_s = report["jobs"][0]["response_s"]
    print(f"10 workers are up after {grown_at} tasks, 3 asked for after {shrunk_at}, {TASKS} done after {took_s:.1f} s")


def test_what_swarm_can_hold_containers_to_it_does(stack: Stack) -> None:
    for service in ("redis", "scheduler", "worker", "assistant", "metrics"):
        wanted = json.loads(docker("service", "inspect", f"{stack.name}_{service}"))[0]["Spec"]
        container = wanted["TaskTemplate"]["ContainerSpec"]
        assert container["User"] == "10001:10001"
        assert container["ReadOnly"]
        assert container["CapabilityDrop"] == ["ALL"]
        assert container["Init"]
        assert wanted["TaskTemplate"]["Resources"]["Limits"]["MemoryBytes"] > 0
        assert wanted["TaskTemplate"]["Resources"]["Limits"]["Pids"] > 0
        assert not wanted["EndpointSpec"].get("Ports")
        files = {secret["File"]["Name"] for secret in container["Secrets"]}
        assert all(file.startswith(f"/keys/{'client' if service == 'metrics' else service}/") for file in files)
        assert {secret["File"]["Mode"] for secret in container["Secrets"]} == {0o400}


def test_only_services_whose_files_have_changed_are_replaced(stack: Stack) -> None:
    def secrets() -> dict[str, list[str]]:
        found = {}
        for service in ("redis", "scheduler", "worker", "assistant"):
            task = json.loads(docker("service", "inspect", f"{stack.name}_{service}"))[0]["Spec"]["TaskTemplate"]
            found[service] = sorted(secret["SecretName"] for secret in task["ContainerSpec"]["Secrets"])
        return found

    before = secrets()
    assert "complete, nothing was made" in stack.deploy()
    assert secrets() == before
    with (stack.keys / "scheduler" / "revoked.txt").open("a") as file:
        file.write("# nobody yet\n")
    stack.deploy()
    assert {service for service, names in secrets().items() if names != before[service]} == {"scheduler"}
