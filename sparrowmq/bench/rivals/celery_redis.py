"""Celery with a Redis broker and result backend of its own.

Owns: how it is set up and called. Must not know: the works.

As its documentation recommends for many short tasks: processes (prefork), a prefetch of 128 tasks a process,
acknowledged when received (its default), no rate limits, no worker events, gossip or mingling. Results are kept
(``ignore_result`` off), since all works need them. JSON, its default, for all but blocks of bytes, which go as msgpack.
The Valkey server has no port, only a Unix socket, and keeps nothing on disk.

The Celery worker imports this module, too.
"""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import celery

_FUNCTIONS: Any = importlib.import_module("rival_functions")
_SOCKET = "RIVAL_REDIS_SOCKET"
_PREFETCH = 128
_READY_S = 30.0
_RESULT_S = 120.0
_LOOK_S = 0.5  # whether its worker still runs
_POLL_S = 0.01  # of a group; by default it looks every half second
_SERIALIZERS = {"echo": "json", "nap": "json", "label": "msgpack", "block": "msgpack"}

app = celery.Celery("rival")
app.conf.update(
    broker_url=f"redis+socket://{os.environ.get(_SOCKET, '')}",
    result_backend=f"redis+socket://{os.environ.get(_SOCKET, '')}",
    broker_connection_retry_on_startup=True,
    accept_content=["json", "msgpack"],
    result_accept_content=["json", "msgpack"],
    worker_prefetch_multiplier=_PREFETCH,
    worker_disable_rate_limits=True,
    task_ignore_result=False,
)
TASKS = {
    name: app.task(name=name, serializer=serializer)(getattr(_FUNCTIONS, name))
    for name, serializer in _SERIALIZERS.items()
}


class System:
    """See `runner.System`."""

    def __init__(self, options: dict[str, Any]) -> None:
        if not options["redis_server"]:
            raise RuntimeError("no Valkey or Redis server is installed for its broker")
        self._slots: int = options["slots"]
        self._socket = os.path.join(options["directory"], "redis.sock")
        os.environ[_SOCKET] = self._socket
        app.conf.update(broker_url=f"redis+socket://{self._socket}", result_backend=f"redis+socket://{self._socket}")
        self._processes = [self._start_server(options["redis_server"], options["directory"])]
        try:
            self._await_server()
            self._start_worker()
        except BaseException:
            self.close()
            raise
        self.settings = {
            "cluster": f"celery worker --pool=prefork --concurrency={self._slots}; Valkey on a "
            "Unix socket as broker and result backend",
            "worker": f"worker_prefetch_multiplier={_PREFETCH}, worker_disable_rate_limits, --without-gossip "
            "--without-mingle --without-heartbeat, acknowledged early",
            "map": "group(task.s(item) for item in items)().get(interval=0.01)",
            "map_chunked": "task.chunks(zip(items), len(items) // (4 * slots)).group()().get(interval=0.01)",
            "submit": "task.delay(item) each, then AsyncResult.get() of each",
            "serializer": "json; msgpack for blocks of bytes",
        }

    def map(self, function: str, items: Sequence[Any]) -> list[Any]:
        """See `runner.System`."""
        task = TASKS[function]
        results: list[Any] = celery.group(task.s(item) for item in items)().get(timeout=_RESULT_S, interval=_POLL_S)
        return results

    def map_chunked(self, function: str, items: Sequence[Any]) -> list[Any]:
        """See `runner.System`."""
        chunk = max(1, len(items) // (4 * self._slots))
        chunks = TASKS[function].chunks(zip(items, strict=True), chunk).group()()
        return [result for part in chunks.get(timeout=_RESULT_S, interval=_POLL_S) for result in part]

    def submit(self, function: str, items: Sequence[Any]) -> list[Any]:
        """See `runner.System`."""
        task = TASKS[function]
        sent = [task.delay(item) for item in items]
        return [result.get(timeout=_RESULT_S) for result in sent]

    def round_trip(self, function: str, item: Any) -> Any:
        """See `runner.System`."""
        return TASKS[function].delay(item).get(timeout=_RESULT_S)

    def tidy(self) -> None:
        """Forget all results, which Celery would keep for a day."""
        server = app.backend.client
        for key in server.scan_iter("celery-task-meta-*", count=10_000):
            server.delete(key)

    def close(self) -> None:
        """See `runner.System`."""
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start_server(self, path: str, directory: str) -> subprocess.Popen[bytes]:
        arguments = [
            *("--port", "0", "--unixsocket", self._socket, "--dir", directory),
            *("--save", "", "--appendonly", "no", "--loglevel", "warning"),
            # Results are published; by default a subscriber with 32 MB unread is cut off, and waits for ever.
            *("--client-output-buffer-limit", "pubsub 0 0 0"),
        ]
        return subprocess.Popen([path, *arguments], stdin=subprocess.DEVNULL)

    def _await_server(self) -> None:
        deadline = time.monotonic() + _READY_S
        with socket.socket(socket.AF_UNIX) as probe:
            while probe.connect_ex(self._socket) != 0:
                if time.monotonic() > deadline:
                    raise RuntimeError("its Redis server does not answer")
                time.sleep(0.02)

    def _start_worker(self) -> None:
        command = [
            *(sys.executable, "-m", "celery", "--app", Path(__file__).stem, "worker", "--pool=prefork"),
            *(f"--concurrency={self._slots}", "--without-gossip", "--without-mingle", "--without-heartbeat"),
            "--loglevel=WARNING",
        ]
        worker = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._processes.append(worker)
        answer = TASKS["echo"].delay(0)
        deadline = time.monotonic() + _READY_S
        while True:
            try:
                answer.get(timeout=_LOOK_S)
                return
            except celery.exceptions.TimeoutError:
                if worker.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(
                        "its worker ended" if worker.returncode else "its worker does not answer"
                    ) from None
