"""The demo in containers: a job whose workers are killed and paused, and whose scheduler is killed, comes out whole.

Owns: what is done to the containers and what is told of it. Must not know: how containers are started (containers.py).

Run it with ``make docker-demo`` or ``python -m sparrowmq.bench.docker_demo``; it takes about a minute once the image is
built. Nothing helps the cluster: what it noticed is read from its own log. The exit status is 0 when every result
was shown, and none twice.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from sparrowmq.bench.containers import Project, docker, engine_answers, until
from sparrowmq.errors import SparrowError, Unavailable

WORKERS: Final = 10
SCHEDULERS: Final = 2
TASKS: Final = 2_000
NAP_S: Final = 0.1
KILLED: Final = 3
_NOTICED_S: Final = 10.0
_CALM_S: Final = 1.0  # between blows, so that each shows by itself

Row = dict[str, Any]


def main() -> int:
    """Run the demo; return the exit status."""
    if not engine_answers():
        print("error: no Docker engine answers `docker info`", file=sys.stderr)
        return Unavailable.exit_code
    try:
        with Project(tag="demo") as project:
            return _Demo(project).play()
    except SparrowError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the containers are gone", file=sys.stderr)
        return 130


class _Demo:
    def __init__(self, project: Project) -> None:
        self._project = project
        self._began_unix_s = 0.0

    def play(self) -> int:
        """Come up, run the job, hurt the cluster, count."""
        project = self._project
        print("Building the image (the first time takes a minute) ...", flush=True)
        project.build()
        project.come_up(worker=WORKERS, scheduler=SCHEDULERS)
        print(
            f"{WORKERS} workers, {SCHEDULERS} schedulers, 2 assistants, Redis: up after {project.registered_s:.1f} s.\n"
            f"A job of {TASKS:,} x `sleep {NAP_S:g}`:",
            flush=True,
        )
        job = project.start_run("-n", str(TASKS), "--", "sleep", f"{NAP_S:g}")
        self._began_unix_s = time.time()
        until(lambda: any(worker["launched"] for worker in project.workers()), "the job runs")
        victims = {worker["host"]: worker["id"] for worker in project.workers()}
        hosts = iter(list(victims))
        for _ in range(KILLED):
            host = next(hosts)
            self._hurt("kill", host, victims[host])
        paused = next(hosts)
        self._hurt("pause", paused, victims[paused])
        self._kill_scheduler()
        report = project.report(job)
        docker("unpause", paused)
        return _close_books(report)

    def _hurt(self, how: str, host: str, worker: str) -> None:
        """Kill or pause a worker's container, wait until its tasks are given up, tell when what was noticed."""
        since_unix_s = time.time()
        docker(how, host)
        moments: list[tuple[float, str]] = []

        def given_up() -> bool:
            moments[:] = [
                (unix_s, f"{row['event']}{': ' + row['why'] if row.get('why') else ''}")
                for unix_s, row in self._told("scheduler", since_unix_s)
                if row.get("worker") == worker and row["event"] != "worker joined"
            ]
            return any("worker lost" in text for _, text in moments)

        until(given_up, f"{worker} given up", _NOTICED_S)
        self._tell(since_unix_s, f"docker {how} {host} ({worker})", moments)

    def _kill_scheduler(self) -> None:
        """Kill the scheduler that has the job; tell when its loss was noticed, and what became of the job."""
        rows: list[Row] = self._project.ask("status")["schedulers"]
        victim = next(row for row in rows if row.get("jobs_now"))
        heir = next(row for row in rows if row["id"] != victim["id"])
        since_unix_s = time.time()
        docker("kill", victim["host"])

        def adopted() -> bool:
            tasks: list[Row] = self._project.ask("task", "show", "last", "all")
            events = [event for task in tasks for event in task["events"]]
            taken = [event["unix_s"] for event in events if event["kind"] == "adopted"]
            moments[:] = [(max(taken), f"{len(taken)} running tasks adopted by {heir['id']}")] if taken else []
            return bool(taken)

        moments: list[tuple[float, str]] = []
        until(adopted, "the job on the other scheduler", _NOTICED_S)
        told = self._told("worker", since_unix_s)
        moments += [(unix_s, row["event"]) for unix_s, row in told if row["event"] == "scheduler lost"]
        self._tell(since_unix_s, f"docker kill {victim['host']} ({victim['id']}, which has the job)", moments)

    def _told(self, service: str, since_unix_s: float) -> Iterator[tuple[float, Row]]:
        """Yield what the containers of a service have logged since then, with the time of each line."""
        for container in self._project.ids(service):
            command = ["docker", "logs", "--since", f"{since_unix_s:.3f}", container]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for line in done.stdout.splitlines():
                try:
                    row: Row = json.loads(line)
                    yield datetime.fromisoformat(row["timestamp"]).timestamp(), row
                except (ValueError, KeyError, TypeError):
                    continue

    def _tell(self, since_unix_s: float, what: str, moments: list[tuple[float, str]]) -> None:
        print(f"{since_unix_s - self._began_unix_s:6.1f} s  {what}")
        seen: set[str] = set()
        for unix_s, text in sorted(moments):
            if text not in seen:  # each scheduler says it; the first counts
                seen.add(text)
                print(f"          + {(unix_s - since_unix_s) * 1e3:4.0f} ms  {text}")
        sys.stdout.flush()
        time.sleep(_CALM_S)


def _close_books(report: Row) -> int:
    """Print the ledger: what the client was shown."""
    shown = Counter(result["index"] for result in report["results"])
    succeeded = sum(result["status"] == "succeeded" for result in report["results"])
    lost = TASKS - len(shown)
    twice = sum(count > 1 for count in shown.values())
    job = report["jobs"][0]
    print(
        f"The job took {job['response_s']:.1f} s; {TASKS * NAP_S / WORKERS:.0f} s is what {WORKERS} workers need.\n"
        f"{TASKS} tasks: {succeeded} succeeded, lost {lost}, shown twice {twice}"
    )
    return int(bool(lost or twice or succeeded != TASKS))


if __name__ == "__main__":
    sys.exit(main())
