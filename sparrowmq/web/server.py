"""Listens for the page, in the foreground of a process.

Owns: uvicorn, its bounds, the sign of life. Must not know: paths, snapshots, command lines.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from asyncio import TimerHandle, Transport
from typing import Any, Final, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

import sparrowmq
from sparrowmq.runtime import health
from sparrowmq.settings import StoreSettings
from sparrowmq.store.connection import describe
from sparrowmq.web import app
from sparrowmq.web.feed import Feed
from sparrowmq.web.view import View

CONNECTIONS_MAX: Final = 256  # more are answered 503
MUTE_S: Final = 5.0  # a connection without a request is hung up after so long
STOP_S: Final = 1  # what listeners get to notice the end


class _Protocol(H11Protocol):
    """HTTP/1.1, for those who speak."""

    _mute: TimerHandle

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._mute = self.loop.call_later(MUTE_S, self._hang_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._mute.cancel()
        super().connection_lost(exc)

    def _hang_up(self) -> None:
        if self.cycle is None:  # no request has come, or no whole one
            self.transport.close()


class _Server(uvicorn.Server):
    """Touches the health file as its loop turns."""

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # each second
            health.show_turn()
        return await super().on_tick(counter)


def serve(
    listener: socket.socket,
    store: StoreSettings,
    keys: str,
    *,
    root_path: str = "",
    hosts: frozenset[str] = app.LOOPBACK,
) -> None:
    """Serve the page of the cluster that is found in ``store`` until SIGTERM or SIGINT."""
    feed = Feed(store, keys, View(_name(store.url), sparrowmq.__version__))
    config = uvicorn.Config(
        app.make(feed.frame, root_path=root_path, hosts=hosts, ending=lambda: server.should_exit),
        http=cast(Any, _Protocol),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",  # what strangers send is no news
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_graceful_shutdown=STOP_S,
    )
    server = _Server(config)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(server.serve(sockets=[listener]))
    except KeyboardInterrupt:  # what both signals raise once the server has ended
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
        feed.close()
        health.hide_life()


def _name(url: str) -> str:
    """Return how the page calls the cluster: its Redis, without user, password and path."""
    return (
        "this machine"
        if url.startswith("unix:")
        else describe(url).partition("://")[2].partition("/")[0].rpartition("@")[2]
    )
