"""Reaching Redis: a client with every timeout set, and errors that name the server but never its password.

Owns: what a Redis URL means here. Must not know: keys or records.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from sparrowmq.errors import ConfigError, Refused, Unavailable
from sparrowmq.settings import StoreSettings


def describe(url: str) -> str:
    """Return ``url`` without its password, for messages."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    user, at, host = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, user.partition(":")[0] + at + host, parts.path, "", ""))


def connect(settings: StoreSettings, *, listener: bool = False) -> Any:
    """Return a `redis.Redis` for the configured server; nothing is sent yet. Raises ConfigError for an unusable URL.

    A ``listener`` waits for announcements without a timeout of its own.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    if not settings.url:
        raise ConfigError(
            "no Redis URL is configured (store.url)",
            hint="give --redis redis://host:6379/0, or start a local cluster with `sparrowmq up`",
        )
    try:
        client = redis.Redis.from_url(
            settings.url,
            socket_connect_timeout=settings.connect_timeout_s,
            socket_timeout=None if listener else settings.reply_timeout_s,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            **({} if settings.url.startswith("unix:") else {"socket_keepalive": True}),
        )
        client.connection_pool.make_connection()  # connects nothing, but finds options that do not exist
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"store.url {describe(settings.url)} is no Redis URL: {error}",
            hint="it looks like redis://user:password@host:6379/0, rediss://... or unix:///path/to/socket",
        ) from None
    return client


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn what redis-py raises into errors that name the server and the user, never the password."""
    import redis

    try:
        yield
    except redis.RedisError as error:
        raise explain(url, error) from None


def explain(url: str, error: Exception) -> Unavailable | Refused:
    """Return what an error of redis-py means, naming the server and the user, never the password."""
    import redis

    if isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError):
        user = urlsplit(url).username or "default"
        return Refused(
            f"Redis at {describe(url)} refused user {user}: {error}",
            code="auth",
            hint="check user and password in store.url (redis://user:password@host:port/db)",
        )
    return Unavailable(
        f"cannot use Redis at {describe(url)}: {_reason(error)}",
        hint="is it running, and is store.url (--redis, SPARROWMQ_STORE_URL) right?",
    )


def _reason(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__
