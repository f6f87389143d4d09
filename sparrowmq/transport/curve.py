"""Keys on a socket: what makes its connections encrypted, and both ends of them sure of each other's key.

Owns: the socket options of CURVE (RFC 26). Must not know: where keys are kept, or whose they are.
"""

from __future__ import annotations

from typing import Any

import zmq

from sparrowmq.security.credentials import Credentials, Trust
from sparrowmq.transport.zap import DOMAIN


def serve(sock: zmq.Socket[Any], trust: Trust) -> None:
    """Accept only peers that know this server's key, and that whoever answers for the context (zap.py) admits."""
    sock.set(zmq.CURVE_SERVER, 1)
    sock.set(zmq.CURVE_SECRETKEY, trust.server_secret)
    sock.set_string(zmq.ZAP_DOMAIN, DOMAIN)


def connect(sock: zmq.Socket[Any], credentials: Credentials) -> None:
    """Connect only to who has the secret half of the server key, as the owner of these credentials."""
    sock.set(zmq.CURVE_SERVERKEY, credentials.server_key)
    sock.set(zmq.CURVE_PUBLICKEY, credentials.public_key)
    sock.set(zmq.CURVE_SECRETKEY, credentials.secret_key)
