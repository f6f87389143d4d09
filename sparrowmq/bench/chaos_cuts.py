"""A proxy between the parts of a local cluster, so that the links of any of its workers can be cut.

Owns: how the parts come to use it: schedulers listen on one loopback address and advertise another, where the proxy
listens, and everybody reaches Redis through its socket. Must not know: who is cut off, or why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from sparrowmq.bench.arena import BEAT_S
from sparrowmq.bench.proxy import Proxy
from sparrowmq.settings import SchedulerSettings, StoreSettings
from sparrowmq.store.embedded import EmbeddedServer
from sparrowmq.store.registry import SchedulerRecord, StoreThread

_BOUND: Final = "127.0.0.1"
_ADVERTISED: Final = "127.0.0.2"  # all of 127/8 is this machine


class Way(NamedTuple):
    """One way to cut a worker off: its name for the proxy, and what it is to people."""

    name: str
    what: str


WAYS: Final = (
    Way("close", "is cut off: its connections end"),
    Way("drop", "is cut off: its connections stand, and carry nothing"),
    Way("drop-out", "is mute: nothing that it sends arrives"),
    Way("drop-in", "is deaf: nothing that it is sent arrives"),
)


class Cuts:
    """A Redis and a proxy for one cluster, from ``with`` to its end. ``directory`` is private, and its path short."""

    def __init__(self, directory: Path) -> None:
        self._server = EmbeddedServer(directory)
        self._socket = str(directory / "proxy.sock")
        self._ports: set[int] = set()

    def __enter__(self) -> Cuts:
        with contextlib.ExitStack() as stack:
            self._server.launch()
            stack.callback(self._server.stop)
            self._server.wait_ready()
            self._proxy = Proxy()
            stack.callback(self._proxy.close)
            self._proxy.listen(self._socket, self._server.url.removeprefix("unix://").partition("?")[0])
            follower = StoreThread(StoreSettings(url=self.direct_url), on_schedulers=self._follow)
            follower.start()
            stack.callback(follower.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @property
    def direct_url(self) -> str:
        """The Redis itself, past the proxy."""
        return self._server.url

    def options(self) -> dict[str, Any]:
        """Return options for `LocalCluster` by which its parts talk through the proxy."""
        scheduler = SchedulerSettings(
            bind_workers=f"tcp://{_BOUND}:*", bind_clients=f"tcp://{_BOUND}:*", advertise_host=_ADVERTISED,
            beat_interval_s=BEAT_S,
        )  # fmt: skip
        return {"redis_url": f"unix://{self._socket}?db=0", "scheduler": scheduler}

    @contextlib.contextmanager
    def cut(self, pid: int, how: str) -> Iterator[None]:
        """Cut the links of a process in this way (see `proxy`) until the end of the block."""
        self._proxy.cut(pid, how)
        try:
            yield
        finally:
            self._proxy.heal()

    def _follow(self, schedulers: dict[str, SchedulerRecord]) -> None:
        """Listen where schedulers say that they are; called by the thread that follows the registry."""
        for record in schedulers.values():
            for address in (record.address_workers, record.address_clients):
                port = int(address.rpartition(":")[2])
                if port not in self._ports:
                    self._ports.add(port)
                    self._proxy.listen((_ADVERTISED, port), (_BOUND, port))
