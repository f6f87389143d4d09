"""A router, dealers and raw sockets in one loop, with everything remembered that was said and lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import zmq

from sparrowmq.errors import ProtocolError
from sparrowmq.protocol import codec, messages as m
from sparrowmq.runtime.loop import Loop
from sparrowmq.transport.dealer import Dealer
from sparrowmq.transport.link import LinkOptions
from sparrowmq.transport.router import Peer, Router

FAST = LinkOptions(connect_timeout_s=0.3, handshake_timeout_s=0.3)


def hello(name: str, protocol: int = m.PROTOCOL) -> m.Hello:
    return m.Hello(protocol=protocol, package="1.0", role=m.WORKER, id=name, incarnation=1)


def encoded(*batch: m.AnyMessage) -> list[Any]:
    return codec.Encoder().encode(batch)[0]


class Net:
    """One loop with a router that remembers everything, and any number of dealers."""

    def __init__(self, bind: str, options: LinkOptions = FAST) -> None:
        self.errors: list[tuple[str, Exception, int]] = []
        self.loop = Loop(lambda name, error, suppressed: self.errors.append((name, error, suppressed)))
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.said: dict[Peer, list[m.AnyMessage]] = {}
        self.lost: list[Peer] = []
        self.bad: list[tuple[Peer, ProtocolError]] = []
        self.dealers: list[Dealer] = []
        self.raw: list[zmq.Socket[bytes]] = []
        self.options = options
        self.router = self.listen(bind)

    def listen(self, bind: str) -> Router:
        return Router(
            self.context,
            self.loop,
            bind,
            on_batch=self.batch,
            on_lost=self.lost.append,
            on_bad=lambda peer, error: self.bad.append((peer, error)),
            tag="t",
            options=self.options,
        )

    def batch(self, peer: Peer, batch: list[m.AnyMessage]) -> None:
        assert peer not in self.lost, "a lost peer said something"
        self.said.setdefault(peer, []).extend(batch)

    def dealer(self, address: str = "", options: LinkOptions = FAST) -> tuple[Dealer, list[m.AnyMessage], list[str]]:
        got: list[m.AnyMessage] = []
        ends: list[str] = []
        dealer = Dealer(
            self.context,
            self.loop,
            address or self.router.address,
            on_batch=got.extend,
            on_lost=lambda: ends.append(dealer.why),
            on_bad=lambda error: ends.append(error.code),
            options=options,
        )
        self.dealers.append(dealer)
        return dealer, got, ends

    def raw_dealer(self, linger_ms: int = 5000) -> zmq.Socket[bytes]:
        sock = self.context.socket(zmq.DEALER)
        sock.set(zmq.LINGER, linger_ms)
        sock.set(zmq.SNDHWM, 0)
        sock.connect(self.router.address)
        self.raw.append(sock)
        return sock

    def peer(self, name: str) -> Peer:
        """The peer whose hello carried this id."""
        return next(peer for peer, said in self.said.items() if isinstance(said[0], m.Hello) and said[0].id == name)

    def knows(self, name: str) -> bool:
        return any(isinstance(said[0], m.Hello) and said[0].id == name for said in self.said.values())

    def until(self, condition: Callable[[], object], timeout_s: float = 10.0) -> None:
        """Run the loop until the condition holds; it may depend on something that the loop does not watch."""
        late = time.monotonic() + timeout_s

        def check() -> None:
            if condition() or time.monotonic() > late:
                self.loop.stop()

        def tick() -> None:
            if check in self.loop.on_turn:
                self.loop.call_later(0.005, tick)

        self.loop.on_turn.append(check)
        tick()
        self.loop.run()
        self.loop.on_turn.remove(check)
        assert condition(), "not within the timeout"

    def idle(self, seconds: float) -> None:
        """Give what must not happen the time to happen."""
        self.loop.call_later(seconds, self.loop.stop)
        self.loop.run()

    def close(self) -> None:
        for dealer in self.dealers:
            dealer.close()
        for sock in self.raw:
            sock.close()
        self.router.close()
        self.context.term()
        self.loop.close()
        assert not self.errors, self.errors


def port_of(net: Net) -> int:
    return int(net.router.address.rpartition(":")[2])
