"""Who may be whom at one router: a key, the role that it has proven, and the id that it goes by.

Owns: what is asked of a stranger before anything else that it says is read, and which key holds which id. Must not
know: sockets, files, or what follows from a refusal.

A key holds an id while one of its connections goes by it, and for some kinds of peers a while longer: what waits for a
client that has lost its connection is for nobody else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

import msgspec
import zmq

from sparrowmq.errors import ProtocolError
from sparrowmq.protocol import codec, messages as m
from sparrowmq.security.credentials import Trust, fingerprint

HELD_MAX: Final = 65_536  # ids kept for keys that are not connected


class Claim(NamedTuple):
    """Whom a connection speaks for, proven. ``key`` is its public key."""

    key: bytes
    role: str
    id: str
    mac: bytes


class _Holder:
    """The key that has an id. ``connections`` that go by it now; without any it holds the id up to ``until``."""

    __slots__ = ("connections", "key", "until")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.connections = 0
        self.until = 0.0


class Guard:
    """Lets peers of some ``roles`` in. ``hold_s``: how long a role's ids are kept for their keys; others: not."""

    def __init__(self, trust: Trust, roles: Collection[str], hold_s: Mapping[str, float]) -> None:
        self.trust = trust
        self._roles = frozenset(roles)
        self._hold_s = dict(hold_s)
        self._claims: dict[bytes, Claim] = {}  # of connected peers, by routing id
        self._holders: dict[tuple[str, str], _Holder] = {}
        self._left: deque[tuple[float, tuple[str, str]]] = deque()  # ids without connections, and until when they hold

    def read(self, frame: zmq.Frame) -> Claim:
        """Return what a stranger's first message proves; the rest of it is not looked at.

        Raises ProtocolError "forbidden" for no proof, a false one, or a role that has no business here.
        """
        key = _key_of(frame)
        proof = codec.proof_in(frame.buffer)
        if proof is None:
            raise ProtocolError("forbidden", "this scheduler wants keys, and no proof of a role came before the hello")
        if proof.role not in self._roles:
            expected = " and ".join(f"{role}s" for role in sorted(self._roles))
            raise ProtocolError("forbidden", f"this socket is for {expected}, not for a {proof.role[:20]}")
        why = self.trust.verify(key, proof.role, proof.id, proof.mac)
        if why:
            raise ProtocolError("forbidden", why)
        return Claim(key, proof.role, proof.id, proof.mac)

    def introduce(self, claim: Claim, batch: list[m.AnyMessage], now: float) -> list[m.AnyMessage]:
        """Return ``batch`` without its proof and with a hello that bears the key's fingerprint and its owner's tag.

        Raises ProtocolError "forbidden" where the hello claims more than was proven, "identity_conflict" where the id
        is another key's.
        """
        _, *rest = batch
        if not rest or type(rest[0]) is not m.Hello:
            raise ProtocolError("no_hello", "a proof comes together with a hello")
        hello = rest[0]
        if (hello.role, hello.id) != (claim.role, claim.id):
            raise ProtocolError("forbidden", f"the hello is not of the {claim.role} whose proof came with it")
        if m.Hello in map(type, rest[1:]):
            raise ProtocolError("malformed", "a second hello on one connection")
        holder = self._holders.get((claim.role, claim.id))
        if holder is not None and holder.key != claim.key and (holder.connections or holder.until > now):
            raise ProtocolError("identity_conflict", f"{claim.id} is in use by another key")
        rest[0] = msgspec.structs.replace(hello, key=fingerprint(claim.key), owner=self.trust.owner(claim.key))
        return rest

    def enter(self, rid: bytes, claim: Claim) -> None:
        """A peer that was introduced is connected."""
        name = (claim.role, claim.id)
        holder = self._holders.get(name)
        if holder is None or holder.key != claim.key:
            holder = self._holders[name] = _Holder(claim.key)
        holder.connections += 1
        self._claims[rid] = claim

    def leave(self, rid: bytes, now: float) -> None:
        """A connection is over; one that never entered does no harm."""
        claim = self._claims.pop(rid, None)
        if claim is None:
            return
        name = (claim.role, claim.id)
        holder = self._holders[name]
        holder.connections -= 1
        if not holder.connections:
            holder.until = now + self._hold_s.get(claim.role, 0.0)
            self._left.append((holder.until, name))
        while self._left and (self._left[0][0] <= now or len(self._left) > HELD_MAX):
            self._let_go(self._left.popleft())

    def _let_go(self, left: tuple[float, tuple[str, str]]) -> None:
        until, name = left
        holder = self._holders.get(name)
        if holder is not None and not holder.connections and holder.until == until:
            del self._holders[name]

    def renew(self, trust: Trust) -> list[tuple[bytes, str]]:
        """Go by another trust from now on; return the routing ids of peers that it does not cover, and why not."""
        self.trust = trust
        judged = ((rid, trust.verify(c.key, c.role, c.id, c.mac)) for rid, c in self._claims.items())
        return [(rid, why) for rid, why in judged if why]


def _key_of(frame: zmq.Frame) -> bytes:
    """Return the public key of the connection that the frame came over (see zap.py). Raises ProtocolError if none."""
    try:
        return str(frame.get("User-Id")).encode()
    except zmq.ZMQError:
        raise ProtocolError("forbidden", "this scheduler wants keys, and the connection has none") from None
