"""CURVE key pairs. Owns: making them, and what a key looks like. Must not know: whose they are."""

from __future__ import annotations

import re
from typing import Final

import zmq

_Z85: Final = re.compile(rb"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


def new_pair() -> tuple[bytes, bytes]:
    """Return a new (public key, secret key), 40 bytes of Z85 text each."""
    public, secret = zmq.curve_keypair()
    return public, secret


def public_of(secret_key: bytes) -> bytes:
    """Return the public key that belongs to a secret one. Raises ValueError for what is no key."""
    try:
        return bytes(zmq.curve_public(secret_key))
    except zmq.ZMQError:
        raise ValueError("40 characters that are no key") from None


def looks_like_key(text: bytes) -> bool:
    """Return whether this may be a key: 40 characters of Z85."""
    return _Z85.fullmatch(text) is not None
