"""Making a cluster's keys, listing one more, revoking: what is written into a key directory, and in which order.

Owns: writing. Must not know: how files are read (`keyring`), or who asks.

Whatever is there is kept; what is missing is made, the schedulers' part first, since all else follows from it. One
process at a time works on a directory (a lock), and files come into being whole (a rename): readers need no lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from sparrowmq.errors import SecurityError, UsageError
from sparrowmq.security import keyring, redis_acl
from sparrowmq.security.credentials import CLIENT, KEY_BYTES, ROLES, SCHEDULER, owner_tag
from sparrowmq.security.keyring import (
    PEER_KEY,
    PEERS,
    REDIS_PASSWORD,
    REVOKED,
    SERVER_KEY,
    SERVER_PUBLIC,
    Peer,
    secret_file,
)
from sparrowmq.security.pairs import looks_like_key, new_pair, public_of

REDIS: Final = "redis"
USERS_ACL: Final = "users.acl"
LISTED: Final = "listed"  # where listed keys are put, unless told otherwise: a directory for each name
_LOCK: Final = ".lock"
_PEERS_HEAD: Final = "# Keys that schedulers know by name. `sparrowmq keys new NAME --role ROLE` adds one.\n"


class Tree:
    """A cluster's key directory, to be written to within `changing`. ``made`` are the files written, as they are."""

    def __init__(self, directory: str | Path) -> None:
        self.root = Path(directory)
        self.made: list[Path] = []

    @property
    def place(self) -> Path:
        """The schedulers' part."""
        return self.root / SCHEDULER

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the lock, which is in the schedulers' part. Raises SecurityError for what cannot be written."""
        try:
            _make_directory(self.place)
            with (self.place / _LOCK).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise SecurityError(
                f"{error.filename or self.root} cannot be written by user {os.geteuid()}: {error.strerror or error}"
            ) from None

    def complete(self, prefix: str) -> None:
        """Make what is missing of the cluster's keys. ``prefix`` is that of the keys in Redis (store.prefix)."""
        public = self._server_key()
        passwords = {}
        for role in (SCHEDULER, *ROLES):
            place = self.root / role
            self._once(place / REDIS_PASSWORD, secrets.token_urlsafe(32))
            passwords[role] = keyring.read_secret(place / REDIS_PASSWORD).decode()
            if role != SCHEDULER:
                self._once(place / SERVER_PUBLIC, public.decode())
                self._same_server(place / SERVER_PUBLIC, public)
                self._role_secret(role)
        if not (self.place / PEERS).exists():
            self._write(self.place / PEERS, _PEERS_HEAD)
        if not (self.place / REVOKED).exists():
            self._write(self.place / REVOKED, "# Keys that are let in no more. `sparrowmq keys revoke` adds one.\n")
        digests = redis_acl.listed_digests(self._acl_lines())
        listed = {owner: redis_acl.listed_line(prefix, owner, digest) for owner, digest in digests.items()}
        self._users(redis_acl.users(prefix, passwords), listed)

    def list_peer(self, name: str, role: str, out: Path, prefix: str) -> bool:
        """Make a key of its own for one that connects, below ``out``, and list it; return whether it was new.

        A name that is listed with the key that lies there is left as it is; a key that is revoked is replaced. A client
        gets a Redis user of its own beside it. Raises UsageError for a name in use, and where the role's secret lies.
        """
        target = out / role
        if (target / secret_file(role)).exists():  # one that has both would not know which it is
            raise UsageError(
                f"{target} holds the secret of all {role}s, and a listed key has none", hint="choose another --out"
            )
        server_public = keyring.read_public(self.place / SERVER_PUBLIC)
        peers = keyring.read_peers(self.place)
        revoked = keyring.read_revoked(self.place, peers)
        before = next((peer for peer in peers if peer.name == name and peer.key.encode() not in revoked), None)
        lies = public_of(keyring.read_key(target / PEER_KEY)) if (target / PEER_KEY).exists() else b""
        if before is not None and (before.role != role or before.key.encode() != lies):
            raise UsageError(
                f"{name} is listed already, as {before.role}, and its key is not in {target}",
                hint=f"choose another name, or revoke that key first: `sparrowmq keys revoke {name}`",
            )
        if lies not in revoked and any(peer.key.encode() == lies and peer.name != name for peer in peers):
            raise UsageError(f"{target / PEER_KEY} is another's key", hint="choose another --out")
        if before is None:
            public = lies
            if not lies or lies in revoked:
                public, secret = new_pair()
                if role == CLIENT:  # first: the password of a key that was revoked is no good for the new one
                    (target / REDIS_PASSWORD).unlink(missing_ok=True)
                self._write(target / PEER_KEY, secret.decode())
            kept = [peer for peer in peers if peer.name != name]  # a revoked key needs no name to stay revoked
            self._write_peers([*kept, Peer(name, role, public.decode())])
        self._once(target / SERVER_PUBLIC, server_public.decode())
        self._same_server(target / SERVER_PUBLIC, server_public)
        if role == CLIENT:
            self._own_redis_user(out, prefix)
        else:
            password = keyring.redis_password(self.root, role)
            if password is not None and keyring.redis_password(out, role) != password:
                self._write(target / REDIS_PASSWORD, password)
        return before is None

    def _own_redis_user(self, out: Path, prefix: str) -> None:
        """Give the listed client below ``out`` a Redis user, if this is where users are given."""
        if self._acl.exists():
            file = out / CLIENT / REDIS_PASSWORD
            self._once(file, secrets.token_urlsafe(32))
            owner, digest = keyring.owner_in(out, CLIENT), redis_acl.digest(keyring.read_secret(file).decode())
            self._users({}, {owner: redis_acl.listed_line(prefix, owner, digest)})

    def revoke_key(self, what: str) -> list[tuple[str, str]]:
        """Revoke a public key, or every key of a name; return (key, name) of those that were not revoked before.

        A client's Redis user goes with it.
        """
        peers = keyring.read_peers(self.place)
        revoked = keyring.read_revoked(self.place, peers)
        if len(what) == KEY_BYTES and looks_like_key(what.encode()):
            named = [(what, next((peer.name for peer in peers if peer.key == what), ""))]
        else:
            named = [(peer.key, peer.name) for peer in peers if peer.name == what]
            if not named and what not in revoked.values():
                raise UsageError(
                    f"{what!r} is no name in {self.place / PEERS}, no public key and no role",
                    hint="`sparrowmq keys list` shows them",
                )
        new = [(key, name) for key, name in named if key.encode() not in revoked]
        if new:
            file = self.place / REVOKED
            text = file.read_text() if file.exists() else ""
            lines = "".join(f"{key} {name}".rstrip() + "\n" for key, name in new)
            self._write(file, text + ("" if text.endswith("\n") or not text else "\n") + lines)
        if self._acl.exists():
            self._users({}, {})
        return new

    def revoke_role(self, role: str, prefix: str) -> None:
        """Make a new secret and a new Redis password for a role: whoever has the old ones is nobody any more."""
        self.complete(prefix)
        self.made.clear()
        secret = secrets.token_hex(32)
        self._write(self.place / secret_file(role), secret)
        self._write(self.root / role / secret_file(role), secret)
        self._write(self.root / role / REDIS_PASSWORD, secrets.token_urlsafe(32))
        self.complete(prefix)

    def _server_key(self) -> bytes:
        """Return the public key of the schedulers, made if there is none."""
        file = self.place / SERVER_KEY
        if not file.exists():
            parts = [self.root / role / SERVER_PUBLIC for role in (SCHEDULER, *ROLES)]
            if found := next((part for part in parts if part.exists()), None):
                raise SecurityError(
                    f"{file} is missing, and {found} is there: this is a part of a cluster's keys",
                    hint="run this where the whole directory is, or name another one with --dir",
                )
            self._write(file, new_pair()[1].decode())
        public = public_of(keyring.read_key(file))
        self._once(self.place / SERVER_PUBLIC, public.decode())
        self._same_server(self.place / SERVER_PUBLIC, public)
        return public

    def _same_server(self, file: Path, public: bytes) -> None:
        if keyring.read_public(file) != public:
            raise SecurityError(
                f"{file} is not the public key of {self.place / SERVER_KEY}: they are of two clusters",
                hint="remove what does not belong here",
            )

    def _role_secret(self, role: str) -> None:
        """Make the secret of a role, and its copy; the schedulers' is what counts."""
        original, copy = self.place / secret_file(role), self.root / role / secret_file(role)
        self._once(original, secrets.token_hex(32))
        secret = keyring.read_secret(original)
        if not copy.exists() or keyring.read_secret(copy) != secret:  # a revocation that was interrupted
            self._write(copy, secret.decode())

    def _users(self, roles: Mapping[str, str], listed: Mapping[str, str]) -> None:
        """Write the ACL file, if it differs: lines of ``roles`` and, by owner, of ``listed`` clients.

        Lines of other listed clients stay unless these are revoked; users that are none of ours stay.
        """
        lines = self._acl_lines()
        known = {owner: line for line in lines for owner in redis_acl.listed_digests([line])}
        known.update(listed)
        others = [line for line in lines if line.split()[1:2] not in [[user] for user in roles]]
        others = [line for line in others if not redis_acl.listed_digests([line])]
        ours = [known[owner] for owner in self._owners() if owner in known]
        text = "\n".join([*roles.values(), *others, *ours]) + "\n"
        file = self._acl
        if not file.exists() or text != file.read_text():
            self._write(file, text)

    @property
    def _acl(self) -> Path:
        return self.root / REDIS / USERS_ACL

    def _acl_lines(self) -> list[str]:
        return [line for line in self._acl.read_text().splitlines() if line.strip()] if self._acl.exists() else []

    def _owners(self) -> list[str]:
        """Return the tags of the listed clients that are not revoked."""
        peers = keyring.read_peers(self.place)
        revoked = keyring.read_revoked(self.place, peers)
        keys = [peer.key.encode() for peer in peers if peer.role == CLIENT]
        return [owner_tag(key) for key in keys if key not in revoked]

    def _write_peers(self, peers: list[Peer]) -> None:
        entries = [f'\n[[peer]]\nname = "{peer.name}"\nrole = "{peer.role}"\nkey = "{peer.key}"\n' for peer in peers]
        self._write(self.place / PEERS, _PEERS_HEAD + "".join(entries))

    def _once(self, file: Path, text: str) -> None:
        if not file.exists():
            self._write(file, text + "\n")

    def _write(self, file: Path, text: str) -> None:
        """Write a file in one step, for its owner only."""
        _make_directory(file.parent)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mode 0600
        try:
            with open(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text if text.endswith("\n") else f"{text}\n")
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, file)
        except BaseException:
            os.unlink(temporary)
            raise
        self.made.append(file)


def _make_directory(path: Path) -> None:
    """Make a directory and what is missing above it, for its owner only; one that is there keeps its mode."""
    for part in (*reversed(path.parents), path):
        part.mkdir(mode=0o700, exist_ok=True)
