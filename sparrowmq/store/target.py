"""What a Redis URL says: which servers, over what, as whom. Reading of text only.

Owns: the URLs that are understood, and that nothing said of one holds its password. Must not know: connections.

    redis://[user:password@]host[:6379][/database]           rediss://... with TLS
    redis+sentinel://[user:password@]host[:26379],host.../service[/database]    rediss+sentinel://... with TLS
    unix://[user:password@]/path/to/socket[?db=database]
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

SENTINEL: Final = "+sentinel"
SENTINEL_PORT: Final = 26379
SENTINELS_MAX: Final = 32
EXAMPLE: Final = (
    "it looks like redis://user:password@host:6379/0, rediss://..., unix:///path/to/socket or "
    "redis+sentinel://host1:26379,host2:26379/service-name/0"
)
_SCHEMES: Final = ("redis", "rediss", f"redis{SENTINEL}", f"rediss{SENTINEL}", "unix")


class Target(NamedTuple):
    """A URL's parts. ``sentinels`` is empty where it names the server itself; ``plain`` is for redis-py to read.

    ``plain`` has the credentials, the database and the options; of sentinels it has none of their addresses.
    """

    tls: bool
    sentinels: tuple[tuple[str, int], ...]
    service: str
    username: str
    password: str
    plain: str


def parse(url: str) -> Target:
    """Return what ``url`` says. Raises ValueError with what is wrong, which never holds a password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("not a Redis URL: it has brackets that belong to no IPv6 address") from None
    if parts.scheme not in _SCHEMES:
        shown = f"{parts.scheme}://..." if parts.scheme.isalpha() and "://" in url else url
        shown = "the text" if "@" in shown else shown
        raise ValueError(f"{shown} is not a Redis URL")
    if parts.scheme != "unix" and "@" in parts.path + parts.fragment:
        raise ValueError("not a Redis URL: in a user or password, / and # and ? are written as %2F, %23, %3F")
    user, at, hosts = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    tls = parts.scheme.startswith("rediss")
    if parts.scheme == "unix":
        if not parts.path:
            raise ValueError("not a Redis URL: there is no path to a socket")
        return Target(False, (), "", unquote(name), unquote(password), url)
    path = [unquote(part) for part in parts.path.split("/")[1:]]
    sentinels: tuple[tuple[str, int], ...] = ()
    service, plain = "", url
    if parts.scheme.endswith(SENTINEL):
        sentinels = tuple(_address(host, SENTINEL_PORT) for host in hosts.split(","))
        service, path = (path[0] if path else ""), path[1:]
        if not service:
            raise ValueError("not a Redis URL: there is no name of a service after the sentinels")
        if len(sentinels) > SENTINELS_MAX:
            raise ValueError(f"not a Redis URL: more than {SENTINELS_MAX} sentinels")
        query = f"?{parts.query}" if parts.query else ""
        plain = f"{parts.scheme.removesuffix(SENTINEL)}://{user}{at}sentinels/{'/'.join(path)}{query}"
    else:
        _address(hosts, 6379)
    database = "/".join(path).strip("/")
    if database and not database.isdecimal():
        raise ValueError(f"not a Redis URL: {database!r} is no database number")
    return Target(tls, sentinels, service, unquote(name), unquote(password), plain)


def describe(url: str) -> str:
    """Return ``url`` without its password and options, for messages."""
    scheme, _, rest = url.partition("://")
    if scheme not in _SCHEMES:
        return "the text" if "@" in url else url
    head, _, _ = rest.partition("?")
    if "@" in rest.removeprefix(head):  # a password may be anywhere
        return f"{scheme}://..."
    if scheme == "unix":
        return f"unix://{head[head.find('/') :]}"
    user, at, where = head.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}{at}{where}"


def _address(text: str, port: int) -> tuple[str, int]:
    """Return host and port of "host:port", "host" or "[::1]:port". Raises ValueError."""
    try:
        parts = urlsplit(f"//{text}")
        found = parts.port
    except ValueError as error:
        said = str(error) if "range" in str(error) else "a port is a number"  # the other text may hold a password
        raise ValueError(f"not a Redis URL: {said}") from None
    if not parts.hostname or parts.username is not None or parts.path:
        raise ValueError("not a Redis URL: there is no host")
    if found == 0:
        raise ValueError("not a Redis URL: there is no port 0")
    return parts.hostname, found or port
