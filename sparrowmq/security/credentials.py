"""Who may speak to a scheduler, and how one that connects proves it. Arithmetic only.

Owns: the proof of enrolment, what a scheduler checks of it, how a key is named to people, whose its jobs are. Must not
know: files (`keyring`), sockets, or what a role may do.

CURVE proves that a peer has the secret half of its public key. What is left to prove is that this key may act as its
role: either schedulers have it on a list, or its owner knows the role's secret and says so with an HMAC that is good
for this key, role and id, at this cluster's schedulers, and for nothing else. Never both: so both ends agree on whose
the jobs are, a key's own or those of all who know the secret.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

import msgspec

SCHEDULER: Final = "scheduler"
CLIENT: Final = "client"
ROLES: Final = ("worker", "assistant", CLIENT)  # those that connect
KEY_BYTES: Final = 40  # a CURVE key as Z85 text
PROOF_BYTES: Final = 32
_CONTEXT: Final = b"sparrowmq enrolment 1"


class Credentials(msgspec.Struct, frozen=True):
    """What one that connects knows. Keys are Z85 text; without a ``secret`` its key must be on the schedulers' list."""

    role: str
    server_key: bytes
    public_key: bytes
    secret_key: bytes
    secret: bytes = b""

    def proof(self, id: str) -> bytes:
        """Return what shows schedulers that this key may act as the role, under this id; b"" without a secret."""
        return _proof(self.secret, self.server_key, self.public_key, self.role, id) if self.secret else b""

    @property
    def owner(self) -> str:
        """The tag that ids of this one's jobs bear: see `owner_tag`."""
        return "" if self.secret else owner_tag(self.public_key)

    def __repr__(self) -> str:
        return f"Credentials({self.role}, {fingerprint(self.public_key)})"


class Trust(msgspec.Struct, frozen=True):
    """What a scheduler knows. ``listed`` maps public keys to (role, name); roles without a secret cannot enrol."""

    server_public: bytes
    server_secret: bytes
    secrets: dict[str, bytes]
    listed: dict[bytes, tuple[str, str]]
    revoked: frozenset[bytes]

    def admits(self, public_key: bytes) -> str:
        """Return "" where a peer with this key may connect and say who it is, else why not."""
        if public_key not in self.revoked:
            return ""
        _, name = self.listed.get(public_key, ("", ""))
        return f"the key {fingerprint(public_key)}{f' of {name}' if name else ''} is revoked"

    def verify(self, public_key: bytes, role: str, id: str, proof: bytes) -> str:
        """Return "" where the owner of this key may act as ``role`` under this id, else why not."""
        if refused := self.admits(public_key):
            return refused
        if public_key in self.listed:
            listed_as, name = self.listed[public_key]
            if listed_as != role:
                return f"the key of {name} is listed as {listed_as}, not as {_shown(role)}"
            return f"the key of {name} is listed: it sends no proof of enrolment, and here is one" if proof else ""
        if not proof:
            return f"the key {fingerprint(public_key)} is not listed, and no proof of enrolment came with it"
        secret = self.secrets.get(role, b"")
        if not secret:
            return f"nobody can enrol as {_shown(role)} here: there is no secret for that"
        expected = _proof(secret, self.server_public, public_key, role, id)
        return "" if hmac.compare_digest(expected, proof) else f"the proof of enrolment as {role} is false"

    def owner(self, public_key: bytes) -> str:
        """Return the tag that ids of this key's jobs bear, "" for a key that has enrolled."""
        return owner_tag(public_key) if public_key in self.listed else ""

    def __repr__(self) -> str:
        return f"Trust({fingerprint(self.server_public)}, {len(self.listed)} listed, {len(self.revoked)} revoked)"


def fingerprint(public_key: bytes) -> str:
    """Return a short text that stands for a key in logs and lists: 20 hex digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:20]


def owner_tag(public_key: bytes) -> str:
    """Return the tag of a listed key in job ids (ids.py): its fingerprint, which people see in lists and logs anyhow.

    80 bits are enough. To pass for another, one needs a second key with the very fingerprint of a listed one: 2^80
    pairs to be made, 2^67 for any of 10,000. And a list with two keys of one fingerprint is refused (`keyring`).
    """
    return fingerprint(public_key)


def _shown(role: str) -> str:
    return role if role in ROLES else repr(role)  # a stranger has said it


def _proof(secret: bytes, server_key: bytes, public_key: bytes, role: str, id: str) -> bytes:
    parts = (server_key, public_key, role.encode(), id.encode(errors="surrogatepass"))
    framed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)  # lengths: no two lists of parts meet
    return hmac.digest(secret, _CONTEXT + framed, "sha256")
