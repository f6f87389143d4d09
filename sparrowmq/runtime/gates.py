"""A scheduler's keys at work: who answers for handshakes, who guards each socket, and what happens when files change.

Owns: these parts and when the key files are looked at again. Must not know: how a key file is read, or how a router
refuses somebody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final

import msgspec

from sparrowmq.errors import SecurityError
from sparrowmq.protocol import messages as m
from sparrowmq.runtime.loop import Loop
from sparrowmq.security import keyring
from sparrowmq.security.credentials import fingerprint
from sparrowmq.transport.context import Context
from sparrowmq.transport.guard import Guard
from sparrowmq.transport.router import Router
from sparrowmq.transport.zap import Zap

INTERVAL_S: Final = 1.0
ROLES: Final = {m.WORKER: (m.WORKER,), m.CLIENT: (m.CLIENT, m.ASSISTANT)}  # who may come, by router

Emit = Callable[[str, str, Mapping[str, Any]], None]


class Gates:
    """What stands before a scheduler's routers; make it before them. ``keys``: the directory, "" for none."""

    def __init__(self, context: Context, loop: Loop, keys: str, client_lease_s: float, log: Emit) -> None:
        """Raise SecurityError where the keys cannot be used."""
        self._loop = loop
        self._keys = keys
        self._log = log
        self._problem = ""
        self._guards: dict[str, Guard] = {}
        self._zap: Zap | None = None
        if not keys:
            return
        self._stamp = keyring.stamp(keys)
        self._trust = keyring.load_trust(keys)
        self._guards = {tag: Guard(self._trust, roles, {m.CLIENT: client_lease_s}) for tag, roles in ROLES.items()}
        self._zap = Zap(context, loop, lambda key: self._trust.admits(key))
        log("info", "keys in use", {"directory": keys, "server": fingerprint(self._trust.server_public)})

    def guard(self, tag: str) -> Guard | None:
        """Return who guards the router with this tag; None without keys."""
        return self._guards.get(tag)

    def watch(self, routers: Mapping[str, Router], counters: MutableMapping[str, int]) -> None:
        """From now on, each second, look for keys that have changed, and put the routers' counts into ``counters``."""

        def look() -> None:
            self._loop.call_later(INTERVAL_S, look)
            for tag, router in routers.items():
                seen = {f"{tag}_connections_{name}": count for name, count in router.counters.items() if count}
                counters.update(seen)
            if self._zap is not None:
                counters["handshakes_malformed"] = self._zap.counters["malformed"]
                self._renew(routers)

        look()

    def close(self) -> None:
        """Answer for no more handshakes; after the routers have closed."""
        if self._zap is not None:
            self._zap.close()

    def _renew(self, routers: Mapping[str, Router]) -> None:
        stamp = keyring.stamp(self._keys)
        if stamp == self._stamp:
            return
        try:
            found = keyring.load_trust(self._keys)
        except SecurityError as error:  # perhaps half written: it is read again in a second
            self._complain(str(error))
            return
        self._stamp = stamp
        if found.server_public != self._trust.server_public:
            self._complain("the server key has changed: restart the schedulers to use it")
            ours = {"server_public": self._trust.server_public, "server_secret": self._trust.server_secret}
            found = msgspec.structs.replace(found, **ours)
        else:
            self._problem = ""
        self._trust = found
        ended = sum(router.renew(found) for router in routers.values())
        fields = {"listed": len(found.listed), "revoked": len(found.revoked), "connections_ended": ended}
        self._log("info", "keys read again", fields)

    def _complain(self, problem: str) -> None:
        """Say once that the keys stay as they are."""
        if problem != self._problem:
            self._problem = problem
            self._log("error", "keys not read again", {"reason": problem})
