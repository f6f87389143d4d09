"""Where the schedulers are: how a client's target is understood, and who keeps the list of schedulers true.

Owns: targets (a cluster object, a Redis URL, addresses, the environment, the local cluster), and the words that
explain why no scheduler was found. Must not know: sessions, futures.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import msgspec

from sparrowmq.errors import Unavailable, UsageError
from sparrowmq.settings import StoreSettings
from sparrowmq.store.connection import authenticated

STORE_URL_VARIABLE: Final = "SPARROWMQ_STORE_URL"
KEYS_VARIABLE: Final = "SPARROWMQ_SECURITY_KEYS"
_STORE_SCHEMES: Final = ("redis://", "rediss://", "unix://")
_SCHEDULER_SCHEMES: Final = ("tcp://", "ipc://")

Addresses = dict[str, str]  # scheduler id -> address for clients
Dead = Mapping[str, int]  # scheduler id -> the incarnation that an assistant has declared dead
Changed = Callable[[Addresses, Dead], None]


class Source(Protocol):
    """Keeps telling which schedulers there are. ``store``: the Redis that it asks, None where it asks none.

    ``keys`` is the directory with the keys by which to talk to them, "" for none.
    """

    store: StoreSettings | None
    keys: str

    def start(self, post: Callable[[Callable[[], None]], None], changed: Changed) -> None:
        """Call ``changed`` through ``post`` now or later, and again at each change."""

    def stop(self) -> None:
        """Call no more."""

    def explain(self, known: Addresses) -> tuple[str, str]:
        """Say why there is no connection although ``known`` was tried: a sentence and a hint."""


class FixedSource:
    """Schedulers at given addresses."""

    store: StoreSettings | None = None

    def __init__(self, addresses: tuple[str, ...], keys: str = "") -> None:
        self._addresses = addresses
        self.keys = keys

    def start(self, post: Callable[[Callable[[], None]], None], changed: Changed) -> None:
        """See `Source.start`."""
        addresses = {address: address for address in self._addresses}
        post(lambda: changed(addresses, {}))

    def stop(self) -> None:
        """See `Source.stop`."""

    def explain(self, known: Addresses) -> tuple[str, str]:
        """See `Source.explain`."""
        return (
            f"no scheduler answers at {', '.join(self._addresses)}",
            "is it running, and is this its address for clients (`sparrowmq scheduler start` prints it)?",
        )


class StoreSource:
    """Schedulers as they register in Redis."""

    def __init__(self, url: str, origin: str, settings: StoreSettings, keys: str = "") -> None:
        """Raise SecurityError where there is a password among the keys that cannot be used."""
        self._settings = authenticated(msgspec.structs.replace(settings, url=url), keys, "client")
        self.keys = keys
        self.store: StoreSettings | None = self._settings
        self._origin = origin
        self._outage = ""
        self._stop: Callable[[float], None] | None = None

    def start(self, post: Callable[[Callable[[], None]], None], changed: Changed) -> None:
        """See `Source.start`. Raises ConfigError for a URL that is none."""
        from sparrowmq.store.registry import SchedulerRecord, StoreThread  # redis-py loads slowly: only when needed

        def on_schedulers(records: dict[str, SchedulerRecord]) -> None:
            addresses = {record.id: record.address_clients for record in records.values()}
            changed(addresses, {record.id: record.incarnation for record in records.values() if record.dead})

        watcher = StoreThread(self._settings, on_schedulers=on_schedulers, post=post, log=self._log)
        watcher.start()
        self._stop = watcher.stop

    def stop(self) -> None:
        """See `Source.stop`."""
        if self._stop is not None:
            self._stop(0.0)

    def explain(self, known: Addresses) -> tuple[str, str]:
        """See `Source.explain`."""
        from sparrowmq.store.connection import describe

        where = describe(self._settings.url)
        if known:
            found = ", ".join(f"{name} at {address}" for name, address in sorted(known.items()))
            return (
                f"no scheduler answers; Redis at {where}{self._origin} names {found}",
                "are these addresses reachable from here (scheduler.advertise_host)?",
            )
        if self._outage:
            return self._outage + self._origin, "is Redis running, and is the URL right?"
        return (
            f"no scheduler is registered in Redis at {where}{self._origin}",
            "start one with `sparrowmq scheduler start`, or a whole local cluster with `sparrowmq up`",
        )

    def _log(self, level: str, _event: str, fields: Mapping[str, object]) -> None:
        self._outage = str(fields.get("reason", "")) if level == "warning" else ""


def find(target: object, settings: StoreSettings | None = None, keys: str | None = None) -> Source:
    """Return the source that ``target`` means; see `Client`, also for ``keys``.

    Raises UsageError for a target of no known form, Unavailable where there is none to be found.
    """
    settings = settings or StoreSettings()
    if target is None:
        url, origin, of_default = _default_url()
        return _from_text(url, origin, settings, _keys(keys, of_default))
    if isinstance(target, str):
        return _from_text(target, "", settings, _keys(keys))
    of_cluster = getattr(target, "url", None)
    if isinstance(of_cluster, str):
        return _from_text(of_cluster, "", settings, _keys(keys, getattr(target, "keys", None)))
    raise UsageError(
        f"a {type(target).__name__} is no target for a client",
        hint="give a LocalCluster, a redis:// URL, or the address of a scheduler such as tcp://host:port",
    )


def _keys(given: str | None, of_target: object = None) -> str:
    """Return the directory of the keys to use: what was said, what the target itself says, the environment's, none."""
    if given is None and isinstance(of_target, str):
        return of_target
    return os.environ.get(KEYS_VARIABLE, "") if given is None else given


def _from_text(text: str, origin: str, settings: StoreSettings, keys: str) -> Source:
    if text.startswith(_STORE_SCHEMES):
        return StoreSource(text, origin, settings, keys)
    addresses = tuple(part.strip() for part in text.split(",") if part.strip())
    if addresses and all(address.startswith(_SCHEDULER_SCHEMES) for address in addresses):
        return FixedSource(addresses, keys)
    schemes = ", ".join(_STORE_SCHEMES + _SCHEDULER_SCHEMES)
    raise UsageError(f"cannot connect to {text.partition('://')[0]!r}{origin}", hint=f"a target starts with {schemes}")


def _default_url() -> tuple[str, str, str | None]:
    """Return the URL, in words where it is from, and the directory of its keys where that is known."""
    url = os.environ.get(STORE_URL_VARIABLE, "")
    if url:
        return url, f" (from {STORE_URL_VARIABLE})", None
    from sparrowmq import local

    found = local.detached()
    if found is not None:
        return found.url, " (the local cluster's)", found.keys
    raise Unavailable(
        f"no target was given, {STORE_URL_VARIABLE} is not set, and no local cluster runs in the background",
        hint="start one with `sparrowmq up --detach`, or give a redis:// URL",
    )
