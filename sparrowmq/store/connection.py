"""Reaching Redis: a client with every timeout set, and errors that name the server but never its password.

Owns: how settings become a connection: user, TLS, sentinels. Must not know: keys or records.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from sparrowmq.errors import ConfigError, Refused, Unavailable
from sparrowmq.security.keyring import redis_password, redis_user
from sparrowmq.settings import StoreSettings
from sparrowmq.store import target
from sparrowmq.store.target import Target, describe

__all__ = ["authenticated", "connect", "describe", "explain", "explained"]

# What this end is told by files, and what redis-py calls it.
_TLS_FILES: Final = {
    "tls_ca_file": "ssl_ca_certs",
    "tls_cert_file": "ssl_certfile",
    "tls_key_file": "ssl_keyfile",
}


def authenticated(settings: StoreSettings, keys: str, role: str) -> StoreSettings:
    """Return the settings with this role's user and password from the directory ``keys``, if it is told to use them.

    It is where there is such a directory, with a password in it, and neither the URL nor the settings have one. A Unix
    socket is guarded by who may open it. A listed client has a user of its own. Raises SecurityError for a file that
    cannot be used.
    """
    if not keys or not settings.url or settings.password or settings.url.startswith("unix:"):
        return settings
    url = _parse(settings)
    if url.username or url.password:
        return settings
    password = redis_password(keys, role)
    if password is None:
        return settings
    return msgspec.structs.replace(settings, username=settings.username or redis_user(keys, role), password=password)


def connect(settings: StoreSettings, *, listener: bool = False) -> Any:
    """Return a `redis.Redis` for the configured server; nothing is sent yet. Raises ConfigError for unusable settings.

    A ``listener`` waits for announcements without a timeout of its own. With sentinels, each new connection goes to
    whom they name as the master at that time.
    """
    import redis

    if not settings.url:
        raise ConfigError(
            "no Redis URL is configured (store.url)",
            hint="give --redis redis://host:6379/0, or start a local cluster with `sparrowmq up`",
        )
    url = _parse(settings)
    options = _options(settings, url) | ({"socket_timeout": None} if listener else {})
    try:
        if url.sentinels:
            client = _through_sentinels(settings, url, options)
        else:
            client = redis.Redis.from_url(url.plain, **options)
        client.connection_pool.make_connection()  # connects nothing, but finds options that do not exist
    except (ValueError, TypeError, redis.RedisError) as error:
        raise ConfigError(f"store.url {describe(settings.url)} is no Redis URL: {error}", hint=target.EXAMPLE) from None
    return client


def _through_sentinels(settings: StoreSettings, url: Target, options: dict[str, Any]) -> Any:
    import redis.sentinel

    untyped: Any = redis
    given = untyped.connection.parse_url(url.plain)
    for name in ("host", "port", "connection_class"):
        given.pop(name, None)
    asked = options | {"socket_timeout": settings.reply_timeout_s}
    asked["username"] = settings.sentinel_username or None
    asked["password"] = settings.sentinel_password or None
    if url.tls:
        asked["ssl"] = given["ssl"] = True
    return untyped.sentinel.Sentinel(url.sentinels, sentinel_kwargs=asked).master_for(url.service, **options | given)


def _options(settings: StoreSettings, url: Target) -> dict[str, Any]:
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    options: dict[str, Any] = {
        "socket_connect_timeout": settings.connect_timeout_s,
        "socket_timeout": settings.reply_timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,  # no CLIENT SETINFO: Redis 7.0 does not know it, and nobody's user needs the right to it
    }
    if not url.plain.startswith("unix:"):
        options["socket_keepalive"] = True
    for name in ("username", "password"):
        if value := getattr(settings, name):
            options[name] = value
    if url.tls:
        options["ssl_check_hostname"] = True
    for field, option in _TLS_FILES.items():
        if file := getattr(settings, field):
            if not url.tls:
                raise ConfigError(
                    f"store.{field} is set, and store.url {describe(settings.url)} is not encrypted",
                    hint="write rediss:// (or rediss+sentinel://) in store.url",
                )
            _check_readable(field, file)
            options[option] = file
    return options


def _check_readable(field: str, file: str) -> None:
    try:
        with open(file, "rb"):
            pass
    except OSError as error:
        raise ConfigError(f"store.{field}: {file} cannot be read: {error.strerror or error}") from None


def _parse(settings: StoreSettings) -> Target:
    try:
        return target.parse(settings.url)
    except ValueError as error:
        raise ConfigError(f"store.url: {error}", hint=target.EXAMPLE) from None


@contextlib.contextmanager
def explained(settings: StoreSettings) -> Iterator[None]:
    """Turn what redis-py raises into errors that name the server and the user, never the password."""
    import redis

    try:
        yield
    except redis.RedisError as error:
        raise explain(settings, error) from None


def explain(settings: StoreSettings, error: Exception) -> Unavailable | Refused:
    """Return what an error of redis-py means, naming the server and the user, never the password."""
    import redis

    where = describe(settings.url)
    if isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError):
        user = settings.username or _parse(settings).username or "default"
        known = isinstance(error, redis.exceptions.NoPermissionError)
        return Refused(
            f"Redis at {where} refused user {user}: {error}",
            code="auth",
            hint="what each role needs is in users.acl, which `sparrowmq keys new` makes for Redis"
            if known
            else "check user and password: in store.url (redis://user:password@host:port/db), store.username and "
            "store.password, or the redis.password in security.keys",
        )
    reason = str(error).strip().rstrip(".") or type(error).__name__
    hint = "is it running, and is store.url (--redis, SPARROWMQ_STORE_URL) right?"
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        hint = (
            "store.tls_ca_file names the certificates of who may have signed the server's; its name must be the URL's"
        )
    return Unavailable(f"cannot use Redis at {where}: {reason}", hint=hint)
