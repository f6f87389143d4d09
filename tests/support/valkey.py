"""A Valkey server that keeps its data or not, and that a test may kill and start again."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import redis

from sparrowmq.settings import StoreSettings
from sparrowmq.store.connection import connect
from sparrowmq.store.embedded import server_binary


class Server:
    """One server on a Unix socket in ``directory``, which must be short. With ``aof`` every write is on the disk.

    ``options`` are further words of its command line.
    """

    def __init__(self, directory: Path, *, aof: bool, options: Sequence[str] = ()) -> None:
        self._directory = directory
        self._aof = aof
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{directory}/v.sock?db=0"
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        words = [
            str(server_binary()), "--port", "0", "--unixsocket", f"{self._directory}/v.sock", "--save", "",
            "--appendonly", "yes" if self._aof else "no", "--appendfsync", "always", "--dir", str(self._directory),
            "--loglevel", "warning", *self._options,
        ]  # fmt: skip
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        client = connect(StoreSettings(url=self.url))
        while True:
            try:
                client.ping()
                break
            except redis.AuthenticationError:
                break  # it wants a password, and so it answers
            except redis.ConnectionError:
                assert self._process.poll() is None, "the server has ended"
        client.close()

    def signal(self, number: int) -> None:
        """Stop or continue it."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it, at once and without a farewell."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
