"""`sparrowmq web` as a process beside a cluster, and what it answers over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sparrowmq.local import LocalCluster


class Page:
    """The page's process and its address."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process = process
        self.address = address
        self.port = int(address.rstrip("/").rpartition(":")[2])

    def ask(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:  # status, headers, body
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10.0)
        try:
            connection.putrequest(method, path, skip_host="Host" in headers)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def snapshot(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ask("/snapshot.json")[2])
        return found

    def states(self) -> dict[str, str]:
        """The workers' states by id."""
        return {tile["id"]: tile["state"] for tile in self.snapshot()["tiles"]["rows"]}


@contextmanager
def serving(cluster: LocalCluster, *words: str, listen: str = "127.0.0.1:0") -> Iterator[Page]:
    """The page of a cluster."""
    command = [sys.executable, "-m", "sparrowmq.cli.main", "--redis", cluster.url, "web", "--listen", listen, *words]
    environ = os.environ | ({"SPARROWMQ_SECURITY_KEYS": cluster.keys} if cluster.keys else {})
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ)
    try:
        assert process.stderr is not None
        found = re.fullmatch(r"serving (http://\S+:\d+/)\n", process.stderr.readline())
        assert found
        yield Page(process, found[1])
    finally:
        process.kill()
        process.communicate()


@contextmanager
def showing(frame: Callable[[], bytes]) -> Iterator[str]:
    """The page of snapshots that the test makes up; the address."""
    import uvicorn

    from sparrowmq.web import app

    listener = socket.create_server(("127.0.0.1", 0))
    served = app.make(frame, ending=lambda: server.should_exit)
    config = uvicorn.Config(served, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(10.0)
        listener.close()
