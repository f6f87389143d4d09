"""Key files: where they lie, who may read them, what they say.

Owns: the layout of a key directory, the check of every file's mode, reading. Must not know: how files come to be
(`making`), or what a key is good for (`credentials`).

A cluster's directory has one subdirectory a role, which is all that this role may know (docs/keys.md):
``scheduler/`` server.key, server.pub, <role>.secret of each role, peers.toml, revoked.txt, redis.password;
``worker/``, ``assistant/``, ``client/`` server.pub, redis.password, and <role>.secret or, with a listed key, peer.key.
"""

from __future__ import annotations

import os
import re
import stat as mode_bits
import tomllib
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from sparrowmq.errors import SecurityError
from sparrowmq.security import redis_acl
from sparrowmq.security.credentials import CLIENT, KEY_BYTES, ROLES, SCHEDULER, Credentials, Trust, owner_tag
from sparrowmq.security.pairs import looks_like_key, new_pair, public_of

SERVER_KEY: Final = "server.key"
SERVER_PUBLIC: Final = "server.pub"
PEER_KEY: Final = "peer.key"
PEERS: Final = "peers.toml"
REVOKED: Final = "revoked.txt"
REDIS_PASSWORD: Final = "redis.password"
SECRET_CHARS_MIN: Final = 32
SECRET_BYTES_MAX: Final = 4096
LIST_BYTES_MAX: Final = 4 * 1024 * 1024
PEERS_MAX: Final = 10_000
NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$"  # shorter than a key, so that the two are never mistaken
OPEN_TO_OTHERS: Final = 0o037  # of a secret: its group may read it, which is how Kubernetes hands it out
_MAKE_HINT: Final = "`sparrowmq keys new` makes a cluster's keys; security.keys names their directory"


class Peer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of peers.toml."""

    name: Annotated[str, Meta(pattern=NAME)]
    role: str
    key: str


def is_name(text: str) -> bool:
    """Return whether a listed key may be called this."""
    return re.search(NAME, text) is not None and not text.endswith("\n")


def secret_file(role: str) -> str:
    """Return what the file with a role's secret is called."""
    return f"{role}.secret"


def load_credentials(directory: str | Path, role: str) -> Credentials:
    """Return what a component of this role needs to connect; a key that enrols is made anew at each call.

    Raises SecurityError naming the file, what is wrong and what to do.
    """
    place = _place(directory, role)
    server_key = read_public(place / SERVER_PUBLIC)
    if _exists(place / PEER_KEY):
        secret_key = read_key(place / PEER_KEY)
        return Credentials(role, server_key, public_of(secret_key), secret_key)
    public_key, secret_key = new_pair()
    return Credentials(role, server_key, public_key, secret_key, read_secret(place / secret_file(role)))


def load_trust(directory: str | Path) -> Trust:
    """Return what schedulers go by. Raises SecurityError naming the file, what is wrong and what to do."""
    place = _place(directory, SCHEDULER)
    server_secret = read_key(place / SERVER_KEY)
    peers = read_peers(place)
    secrets = {role: read_secret(place / secret_file(role)) for role in ROLES if _exists(place / secret_file(role))}
    return Trust(
        server_public=public_of(server_secret),
        server_secret=server_secret,
        secrets=secrets,
        listed={peer.key.encode(): (peer.role, peer.name) for peer in peers},
        revoked=frozenset(read_revoked(place, peers)),
    )


def stamp(directory: str | Path) -> object:
    """Return something that differs from before once a file of the schedulers has changed. Never raises."""
    place = Path(directory) / SCHEDULER
    found: list[tuple[str, int, int, int]] = []
    for name in (SERVER_KEY, PEERS, REVOKED, *map(secret_file, ROLES)):
        try:
            status = os.stat(place / name)
        except OSError:
            continue
        found.append((name, status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)


def owner_in(directory: str | Path, role: str) -> str:
    """Return the owner's tag of a listed key in this directory, "" where there is none. Raises SecurityError."""
    file = Path(directory) / role / PEER_KEY
    return owner_tag(public_of(read_key(file))) if directory and _exists(file) else ""


def redis_user(directory: str | Path, role: str) -> str:
    """Return the name of the Redis user for what lies here: the role's, or a listed client's own."""
    owner = owner_in(directory, role) if role == CLIENT else ""
    return redis_acl.listed_user(owner) if owner else role


def redis_password(directory: str | Path, role: str) -> str | None:
    """Return the password of the `redis_user`, None where there is no file of it. Raises SecurityError."""
    file = Path(directory) / role / REDIS_PASSWORD
    return read_secret(file).decode() if _exists(file) else None


# -- single files


def read_secret(file: Path) -> bytes:
    """Return the text of a secret, stripped."""
    text = _read(file, SECRET_BYTES_MAX, secret=True).strip()
    if len(text) < SECRET_CHARS_MIN or not text.isascii() or not text.decode().isprintable():
        raise SecurityError(
            f"{file} holds no secret: expected one line of {SECRET_CHARS_MIN} printable characters or more",
            hint="remove the file and run `sparrowmq keys new`, or copy it again from where it was made",
        )
    return text


def read_key(file: Path) -> bytes:
    """Return a secret key."""
    text = _read(file, SECRET_BYTES_MAX, secret=True).strip()
    try:
        public_of(text)
    except ValueError:
        raise _no_key(file) from None
    return text


def read_public(file: Path) -> bytes:
    """Return a public key."""
    text = _read(file, SECRET_BYTES_MAX).strip()
    if not looks_like_key(text):
        raise _no_key(file)
    return text


def read_peers(place: Path) -> list[Peer]:
    """Return the entries of peers.toml, none where there is no such file."""
    file = place / PEERS
    if not _exists(file):
        return []
    try:
        document = tomllib.loads(_read(file, LIST_BYTES_MAX).decode())
        peers: list[Peer] = msgspec.convert(document.get("peer", []), Annotated[list[Peer], Meta(max_length=PEERS_MAX)])
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise SecurityError(f"{file} is no list of keys: {str(error).replace('`', '')}") from None
    known: set[str] = set()
    for peer in peers:
        if peer.role not in ROLES or not looks_like_key(peer.key.encode()):
            said = f"{peer.role!r} is none of {', '.join(ROLES)}" if peer.role not in ROLES else "its key is none"
            raise SecurityError(f"{file}: peer {peer.name}: {said}")
        tag = owner_tag(peer.key.encode())
        if tag in known:  # the owner of jobs could not be told from another
            raise SecurityError(f"{file}: peer {peer.name}: its key, or another of fingerprint {tag}, is listed twice")
        known.add(tag)
    return peers


def read_revoked(place: Path, peers: list[Peer]) -> dict[bytes, str]:
    """Return the revoked keys, each with the name that stands beside it, if any.

    A line is a key, a key and its name, or a name, which means all keys of that name in peers.toml.
    """
    file = place / REVOKED
    if not _exists(file):
        return {}
    revoked: dict[bytes, str] = {}
    for number, raw in enumerate(_read(file, LIST_BYTES_MAX).splitlines(), 1):
        line = raw.strip()
        if not line or line == b"#" or line.startswith(b"# "):  # keys may begin with #, and have no spaces
            continue
        word, _, rest = line.partition(b" ")
        if len(word) == KEY_BYTES and looks_like_key(word):
            revoked[word] = rest.strip().decode(errors="replace")
            continue
        name = line.decode(errors="replace")
        named = [peer for peer in peers if peer.name == name]
        if not named:
            raise SecurityError(
                f"{file}:{number}: {name[:80]!r} is neither a key nor a name in {PEERS}",
                hint="a line that cannot be understood may be a key that still is let in: correct or remove it",
            )
        revoked |= {peer.key.encode(): name for peer in named}
    return revoked


def _place(directory: str | Path, role: str) -> Path:
    """Return the role's subdirectory, which is there."""
    place = Path(directory) / role
    if os.path.isdir(place):
        return place
    hint = _MAKE_HINT
    if os.path.exists(Path(directory) / SERVER_PUBLIC):
        hint = f"security.keys names the directory above {role}/: use {Path(directory).parent or '..'}"
    raise SecurityError(f"there are no keys for a {role}: {place} is no directory that can be entered", hint=hint)


def _exists(file: Path) -> bool:
    """Return whether reading it is worth a try: where it cannot be looked at, reading says why."""
    try:
        os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _read(file: Path, most: int, *, secret: bool = False) -> bytes:
    try:
        with file.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if mode_bits.S_ISREG(status.st_mode):
                _check_mode(file, status.st_mode, secret)
            data = stream.read(most + 1)
    except FileNotFoundError:
        raise SecurityError(f"{file} is missing", hint=_MAKE_HINT) from None
    except OSError as error:
        user = os.geteuid()
        raise SecurityError(
            f"{file} cannot be read by user {user}: {error.strerror or error}",
            hint=f"chown {user} {file}" if isinstance(error, PermissionError) else "",
        ) from None
    if len(data) > most:
        raise SecurityError(f"{file} is larger than {most:,} bytes; that is no file of keys")
    return data


def _check_mode(file: Path, mode: int, secret: bool) -> None:
    permissions = mode_bits.S_IMODE(mode)
    if secret and permissions & OPEN_TO_OTHERS:
        raise SecurityError(
            f"{file} has mode {permissions:04o}: others can read it, or its group can write it",
            hint=f"chmod 600 {file}",
        )
    if permissions & mode_bits.S_IWOTH:
        raise SecurityError(f"{file} has mode {permissions:04o}: everybody can write it", hint=f"chmod 644 {file}")


def _no_key(file: Path) -> SecurityError:
    return SecurityError(
        f"{file} holds no key: expected {KEY_BYTES} characters of Z85 text",
        hint="copy it again from where it was made",
    )
