"""The image by itself: how large it is, as whom it runs, and that a hung role turns unhealthy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sparrowmq.bench.containers import ROOT, docker, engine_answers, until

IMAGE = "sparrowmq:test"
BASE = "python:3.11-slim-bookworm"
BEYOND_BASE_MB_MAX = 250.0

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def _image() -> None:
    if not engine_answers():
        pytest.skip("no Docker engine answers `docker info`")
    docker("build", "--quiet", "--file", str(ROOT / "docker" / "Dockerfile"), "--tag", IMAGE, str(ROOT), timeout_s=300)


@pytest.fixture
def worker() -> Iterator[str]:
    """A worker without a cluster, looked at each second."""
    container = docker(
        "run", "--detach", "--init", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none",
        "--health-interval", "1s", "--env", "SPARROWMQ_CONFIG=", IMAGE, "--redis", "redis://redis", "worker", "start",
    )  # fmt: skip
    yield container
    docker("rm", "--force", container)


def inspected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", name))[0]
    return found


def test_it_is_small() -> None:
    beyond_mb = (inspected(IMAGE)["Size"] - inspected(BASE)["Size"]) / 1e6
    print(f"the image has {beyond_mb:.0f} MB beyond its base")
    assert 0.0 < beyond_mb <= BEYOND_BASE_MB_MAX


def test_it_runs_one_process_as_nobody_much_and_holds_no_tools() -> None:
    image = inspected(IMAGE)["Config"]
    assert image["User"] == "10001:10001"
    assert image["Entrypoint"] == ["sparrowmq"]
    found = docker(
        "run", "--rm", "--network", "none", "--entrypoint", "sh", IMAGE, "-c",
        "command -v gcc cc make git; ls -d /source /wheels /wheel /root/.cache 2>/dev/null; id -u",
    )  # fmt: skip
    assert found == "10001"


def test_its_modules_are_compiled() -> None:
    """The root is read-only, so that a container could not keep what it would compile at each start."""
    script = "import sparrowmq.cli.main as m, sys, os; print(os.path.exists(m.__cached__))"
    assert docker("run", "--rm", "--network", "none", "--entrypoint", "python", IMAGE, "-c", script) == "True"


def test_a_role_whose_loop_stands_still_turns_unhealthy_and_recovers(worker: str) -> None:
    def health() -> str:
        return str(inspected(worker)["State"]["Health"]["Status"])

    until(lambda: health() == "healthy", "the worker's loop turns")
    assert docker("exec", worker, "sparrowmq", "health").startswith("healthy: ")
    find = "grep -lx sparrowmq /proc/[0-9]*/comm | cut -d / -f 3"
    pid = docker("exec", worker, "sh", "-c", find)
    assert pid.isdecimal()
    docker("exec", worker, "sh", "-c", f"kill -STOP {pid}")
    stopped_s = until(lambda: health() == "unhealthy", "it is seen that the loop stands still")
    print(f"a stopped loop is unhealthy after {stopped_s:.1f} s, looked at each second")
    assert stopped_s > 3.0  # not at the first late look
    docker("exec", worker, "sh", "-c", f"kill -CONT {pid}")
    until(lambda: health() == "healthy", "it turns again")
