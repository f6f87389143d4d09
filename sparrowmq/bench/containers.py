"""A throw-away copy of the cluster in docker-compose.yml: up, asked, hurt, down.

Owns: the calls of `docker` and `docker compose`. Must not know: what is tried on the cluster, or what it proves.

It needs an engine that `docker info` finds, and Compose v2 or docker-compose 1.29 as its plugin.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from sparrowmq.errors import Unavailable

ROOT: Final = Path(__file__).resolve().parents[2]
BUILD_S: Final = 300.0
UP_S: Final = 180.0
CALL_S: Final = 60.0
_POLL_S: Final = 0.05
_FOREIGN: Final = ("COMPOSE_", "PAGE_", "SPARROWMQ_", "WORKER_")  # what would change docker-compose.yml
_SAID_CHARS: Final = 2000

Row = dict[str, Any]


def engine_answers() -> bool:
    """Return whether there is a Docker engine to talk to."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, stdin=subprocess.DEVNULL).returncode == 0


def docker(*arguments: str, timeout_s: float = CALL_S) -> str:
    """Return what ``docker arguments...`` prints, stripped. Raises Unavailable with its last words."""
    return _call(["docker", *arguments], timeout_s, {})


def until(condition: Callable[[], object], what: str, within_s: float = 60.0, pause_s: float = _POLL_S) -> float:
    """Wait until the condition holds; return how long that took in seconds. Raises Unavailable after ``within_s``."""
    began_s = time.monotonic()
    while not condition():
        if time.monotonic() - began_s > within_s:
            raise Unavailable(f"not within {within_s:g} s: {what}")
        time.sleep(pause_s)
    return time.monotonic() - began_s


class Project:
    """One copy of docker-compose.yml under a name of its own. A context manager: down, volumes and all, at its end."""

    def __init__(self, *, tag: str = "test", environment: Mapping[str, str] | None = None) -> None:
        self.name = f"sparrowmq-{tag}-{uuid.uuid4().hex[:8]}"
        self._command = ["docker", "compose", "--project-name", self.name]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        self._options: Row = {
            "cwd": ROOT,
            "env": {**kept, "TAG": tag, "PAGE_PORT": "", **(environment or {})},
            "text": True,
        }
        self._console = ""
        self.registered_s = 0.0

    def __enter__(self) -> Project:
        return self

    def __exit__(self, *_details: object) -> None:
        self.down()

    def __call__(self, *arguments: str, timeout_s: float = CALL_S, stdin: str | None = None) -> str:
        """Return what ``docker compose arguments...`` prints. Raises Unavailable with its last words."""
        return _call([*self._command, *arguments], timeout_s, self._options, stdin)

    def start(self, *arguments: str, output: Any = subprocess.PIPE, stdin: str | None = None) -> subprocess.Popen[str]:
        """Start ``docker compose arguments...``; the caller waits for it. ``stdin`` is short: it is written at once."""
        feed = subprocess.DEVNULL if stdin is None else subprocess.PIPE
        process = subprocess.Popen(
            [*self._command, *arguments], stdin=feed, stdout=output, stderr=subprocess.DEVNULL, **self._options
        )
        if process.stdin is not None and stdin is not None:
            process.stdin.write(stdin)
            process.stdin.close()
            process.stdin = None  # so that communicate() does not close it again
        return process

    # Life.

    def build(self) -> None:
        """Build the image, as far as it has changed."""
        self("build", timeout_s=BUILD_S)

    def up(self, **scale: int) -> float:
        """Start, or scale, services: ``up(worker=10)``. Return the seconds that it took."""
        began_s = time.monotonic()
        wanted = [word for service, count in scale.items() for word in ("--scale", f"{service}={count}")]
        self("up", "-d", *wanted, timeout_s=UP_S)
        return time.monotonic() - began_s

    def come_up(self, **scale: int) -> None:
        """Start services as `up` does, and wait until all workers are registered: ``registered_s`` after it began."""
        up_s = self.up(**scale)
        self.registered_s = up_s + until(lambda: len(self.workers()) == scale["worker"], "all workers registered")

    def down(self) -> None:
        """Remove everything of this project."""
        if self._console:
            subprocess.run(["docker", "rm", "-f", self._console], capture_output=True)
            self._console = ""
        arguments = ("down", "--volumes", "--remove-orphans", "--timeout", "2")
        try:
            self(*arguments, timeout_s=UP_S)
        except Unavailable:  # the engine may still hold the network for a container that was just removed
            self(*arguments, timeout_s=UP_S)

    # Looking.

    def ids(self, service: str, *, running: bool = True) -> list[str]:
        """Return the containers of a service, the one with the lowest number first."""
        shown = docker(
            "ps", "--no-trunc", *([] if running else ["--all"]),
            "--filter", f"label=com.docker.compose.project={self.name}",
            "--filter", f"label=com.docker.compose.service={service}",
            "--filter", "label=com.docker.compose.oneoff=False",
            "--format", '{{.Label "com.docker.compose.container-number"}} {{.ID}}',
        )  # fmt: skip
        return [line.split()[1] for line in sorted(shown.splitlines(), key=lambda line: int(line.split()[0]))]

    def ask(self, *arguments: str) -> Any:
        """Return the JSON that ``sparrowmq -o json arguments...`` prints in a container that stands by as a client."""
        if not self._console:
            words = self("run", "-d", "--entrypoint", "sleep", "cli", "infinity").split()
            self._console = words[-1]
        return json.loads(docker("exec", self._console, "sparrowmq", "-o", "json", *arguments))

    def workers(self) -> list[Row]:
        """Return the workers that are alive, as the schedulers see them; none while nobody answers."""
        try:
            rows: list[Row] = self.ask("worker", "list")
        except Unavailable:
            return []
        return [row for row in rows if row["state"] == "alive"]

    # Jobs.

    def run(self, *arguments: str, stdin: str | None = None, timeout_s: float = 120.0) -> Row:
        """Run a job to its end; return what ``sparrowmq -o json run arguments...`` prints."""
        report: Row = json.loads(self(*_RUN, *arguments, timeout_s=timeout_s, stdin=stdin))
        return report

    def start_run(self, *arguments: str, stdin: str | None = None) -> subprocess.Popen[str]:
        """Start a job, whose report `report` returns."""
        return self.start(*_RUN, *arguments, stdin=stdin)

    def report(self, job: subprocess.Popen[str], timeout_s: float = 120.0) -> Row:
        """Wait for a job of `start_run`; return its report. Raises Unavailable where it has none."""
        try:
            printed, _ = job.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            job.kill()
            raise Unavailable(f"the job did not end within {timeout_s:g} s") from None
        try:
            report: Row = json.loads(printed)
        except ValueError:
            raise Unavailable(f"the job ended with status {job.returncode} and no report") from None
        return report


_RUN: Final = ("run", "--rm", "-T", "cli", "-o", "json", "run")


def _call(command: list[str], timeout_s: float, options: Row, stdin: str | None = None) -> str:
    feed: Row = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, **{"text": True, **options}, **feed)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"`{' '.join(command)}` did not end within {timeout_s:g} s") from None
    if done.returncode != 0:
        said = f"{done.stdout}\n{done.stderr}".strip()[-_SAID_CHARS:]
        raise Unavailable(f"`{' '.join(command)}` ended with {done.returncode}: {said}")
    return str(done.stdout).strip()
