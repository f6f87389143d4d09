"""A proxy between processes of one machine, which can cut the links of one of them as a network would.

Owns: forwarding byte streams (TCP, Unix), whose links they are, four ways to cut them. Must not know: what is said over
them, or who listens where.

A cut link is closed and every new one refused ("close"), or it stands and carries nothing: in both directions ("drop"),
or in one: what the process sends ("drop-out"), what it is sent ("drop-in"). When it heals, what was held back follows,
as TCP does it after a short partition.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import psutil

from sparrowmq.errors import Unavailable, UsageError

HOWS: Final = ("close", "drop", "drop-out", "drop-in")
Address = str | tuple[str, int]  # the path of a Unix socket, or host and port

_CHUNK_BYTES: Final = 64 * 1024
_HELD_BYTES_MAX: Final = 256 * 1024  # of one direction; then its source is not read
_BACKLOG: Final = 512
_COMMAND_TIMEOUT_S: Final = 5.0
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time at all
_ENDED: Final = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ECONNABORTED)


class _End:
    """One side of a link: its socket, and what is to be written to it."""

    __slots__ = ("held", "link", "mask", "other", "outward", "sock")

    def __init__(self, sock: socket.socket, link: _Link, *, outward: bool) -> None:
        self.sock = sock
        self.link = link
        self.outward = outward  # what is read here comes from the process that made the link
        self.held = bytearray()
        self.mask = 0
        self.other: _End = self


class _Link:
    """One connection through the proxy. ``how``: the way in which it is cut, "" if it is not."""

    __slots__ = ("how", "near", "pid", "port", "remote")

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.how = ""
        self.near = _End(near, self, outward=True)
        self.remote = _End(far, self, outward=False)
        self.near.other, self.remote.other = self.remote, self.near
        self.pid, self.port = _peer(near)

    def owner(self, owners: Mapping[int, int]) -> int:
        """Return whose link it is, by the owners of TCP ports where the kernel has not told; 0 where nobody knows."""
        self.pid = self.pid or owners.get(self.port, 0)
        return self.pid


class Proxy:
    """Forwards until `close`. Its methods may be called from any thread, and return when they have taken effect."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._links: set[_Link] = set()
        self._targets: dict[socket.socket, Address] = {}
        self._cuts: dict[int, str] = {}  # by pid
        self._commands: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._reader, self._waker = socket.socketpair()
        self._reader.setblocking(False)
        self._selector.register(self._reader, selectors.EVENT_READ)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    # Called by other threads.

    def listen(self, address: Address, target: Address) -> None:
        """Forward whatever connects to ``address`` to ``target``. Raises OSError where nothing can listen there."""
        listener = socket.socket(_family(address), socket.SOCK_STREAM)
        if isinstance(address, tuple):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError:
            listener.close()
            raise
        listener.listen(_BACKLOG)
        listener.setblocking(False)

        def add() -> None:
            self._targets[listener] = target
            self._selector.register(listener, selectors.EVENT_READ)

        self._do(add)

    def cut(self, pid: int, how: str) -> None:
        """Cut all links of this process, and those that it makes from now on; see the module for ``how``."""
        if how not in HOWS:
            raise UsageError(f"{how!r} is no way to cut a link", hint=f"they are {', '.join(HOWS)}")

        def act() -> None:
            self._cuts[pid] = how
            self._apply(self._links)

        self._do(act)

    def heal(self) -> None:
        """Undo every cut; links that were closed stay so."""

        def act() -> None:
            self._cuts.clear()
            self._apply(self._links)

        self._do(act)

    def links_of(self, pid: int) -> int:
        """Return how many links this process has."""
        found: list[int] = []

        def act() -> None:
            owners = _owners([pid])
            found.append(sum(link.owner(owners) == pid for link in self._links))

        self._do(act)
        return found[0]

    def close(self) -> None:
        """Close every link and stop listening. Does nothing the second time."""
        if not self._closed:
            self._do(self._finish)
            self._thread.join()

    def _do(self, act: Callable[[], None]) -> None:
        done = threading.Event()
        self._commands.append((act, done))
        self._waker.send(b"\0")
        if not done.wait(_COMMAND_TIMEOUT_S):
            raise Unavailable(f"the proxy did not react within {_COMMAND_TIMEOUT_S:g} s")

    # The thread.

    def _run(self) -> None:
        while not self._closed:
            for key, mask in self._selector.select():
                if key.fileobj is self._reader:
                    self._obey()
                elif isinstance(key.data, _End):
                    self._serve(key.data, mask)
                elif isinstance(key.fileobj, socket.socket) and not self._closed:
                    self._accept(key.fileobj)

    def _obey(self) -> None:
        self._reader.recv(4096)
        while self._commands:
            act, done = self._commands.popleft()
            act()
            done.set()

    def _finish(self) -> None:
        self._closed = True
        for link in list(self._links):
            self._end(link)
        for listener in self._targets:
            self._selector.unregister(listener)
            with contextlib.suppress(FileNotFoundError):
                name = listener.getsockname()
                if isinstance(name, str):
                    os.unlink(name)
            listener.close()
        self._selector.close()
        self._reader.close()
        self._waker.close()

    def _accept(self, listener: socket.socket) -> None:
        near, _ = listener.accept()
        far = socket.socket(_family(self._targets[listener]), socket.SOCK_STREAM)
        try:
            far.connect(self._targets[listener])
        except OSError:  # as if it had been tried there
            near.close()
            far.close()
            return
        for sock in (near, far):
            sock.setblocking(False)
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link(near, far)
        self._links.add(link)
        for end in (link.near, link.remote):
            self._watch(end)
        if self._cuts:
            self._apply([link])

    def _apply(self, links: Iterable[_Link]) -> None:
        """Bring these links to what the cuts say of their owners."""
        owners = _owners(self._cuts)
        for link in list(links):
            how = self._cuts.get(link.owner(owners), "")
            if how == "close":
                self._end(link, reset=True)
            elif link.how != how:
                link.how = how
                self._watch(link.near)
                self._watch(link.remote)

    def _serve(self, end: _End, mask: int) -> None:
        if end.link not in self._links:  # ended by an event of the same turn
            return
        try:
            if mask & selectors.EVENT_WRITE:
                del end.held[: end.sock.send(end.held)]
            if mask & selectors.EVENT_READ:
                data = end.sock.recv(_CHUNK_BYTES)
                if not data:
                    self._end(end.link)
                    return
                end.other.held += data
        except BlockingIOError:
            pass  # it is not as ready as it was said to be
        except OSError as error:
            if error.errno not in _ENDED:
                raise
            self._end(end.link)
            return
        self._watch(end)
        self._watch(end.other)

    def _watch(self, end: _End) -> None:
        """Ask for what can be done with this end now."""
        how = end.link.how
        stalled = how == "drop" or how == ("drop-out" if end.outward else "drop-in")
        unwritable = how == "drop" or how == ("drop-in" if end.outward else "drop-out")
        mask = 0
        if not stalled and len(end.other.held) < _HELD_BYTES_MAX:
            mask |= selectors.EVENT_READ
        if end.held and not unwritable:
            mask |= selectors.EVENT_WRITE
        if mask == end.mask:
            return
        if not mask:
            self._selector.unregister(end.sock)
        elif end.mask:
            self._selector.modify(end.sock, mask, end)
        else:
            self._selector.register(end.sock, mask, end)
        end.mask = mask

    def _end(self, link: _Link, *, reset: bool = False) -> None:
        if link not in self._links:
            return
        self._links.discard(link)
        for end in (link.near, link.remote):
            if end.mask:
                self._selector.unregister(end.sock)
            if end.held and not reset:
                with contextlib.suppress(OSError):
                    end.sock.send(end.held)
            if reset:
                with contextlib.suppress(OSError):
                    end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.sock.close()


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_UNIX if isinstance(address, str) else socket.AF_INET


def _owners(pids: Iterable[int]) -> dict[int, int]:
    """Return which of these processes has which local TCP port."""
    found: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            connections = psutil.Process(pid).net_connections("tcp4")
            found |= {connection.laddr.port: pid for connection in connections if connection.laddr}
    return found


def _peer(near: socket.socket) -> tuple[int, int]:
    """Return the pid of who has connected, where the kernel tells (Unix); else 0 and its port."""
    if near.family == socket.AF_UNIX:
        data: Any = near.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return _CREDENTIALS.unpack(data)[0], 0
    return 0, near.getpeername()[1]
