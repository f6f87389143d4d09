"""The image and docker-compose.yml, on whatever engine `docker info` finds, under a project name of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 10

pytestmark = [pytest.mark.docker, pytest.mark.timeout(360)]


class Compose:
    """`docker compose` for one throw-away project."""

    def __init__(self, project: str) -> None:
        self._command = ["docker", "compose", "--project-name", project]
        self._environment = {**os.environ, "TAG": "test", "COMPOSE_FILE": str(ROOT / "docker-compose.yml")}

    def __call__(self, *arguments: str, timeout_s: float = 60.0, check: bool = True) -> str:
        done = subprocess.run(
            [*self._command, *arguments],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode != 0:
            logs = self("logs", "--no-color", "--tail", "20", check=False)
            command = f"docker compose {' '.join(arguments)}"
            pytest.fail(f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}\n{logs}", pytrace=False)
        return done.stdout

    def cli(self, *arguments: str, timeout_s: float = 60.0) -> str:
        return self("run", "--rm", "-T", "cli", *arguments, timeout_s=timeout_s)

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


def inspect(container: str, template: str) -> str:
    done = subprocess.run(
        ["docker", "inspect", "--format", template, container], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()


def test_200_commands_on_10_workers(compose: Compose) -> None:
    compose.cli("run", "-n", "200", "--", "sleep", "0.1")


def test_nobody_is_root_and_nothing_is_published(compose: Compose) -> None:
    for service in ("scheduler", "worker"):
        for container in compose.containers(service):
            assert inspect(container, "{{.Config.User}}") == "10001:10001"
            assert inspect(container, "{{json .HostConfig.PortBindings}}") in ("{}", "null")


def test_sigterm_ends_every_role_cleanly_within_its_grace_period(compose: Compose) -> None:
    """Docker's SIGTERM reaches the process; 137 would mean that it had to be killed."""
    containers = compose.containers("worker") + compose.containers("scheduler")
    compose("stop", "worker", "scheduler", timeout_s=120.0)
    states = [json.loads(inspect(container, "{{json .State}}")) for container in containers]
    assert [state["ExitCode"] for state in states] == [0] * len(containers)
