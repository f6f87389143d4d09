"""The page's answers: its files, one snapshot, and a stream of snapshots. GET and HEAD, nothing else.

Owns: paths, headers, how many may listen, and that a slow listener misses snapshots and holds up nobody. Must not know:
what is in a snapshot, or where it is from.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from importlib import resources
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LISTENERS_MAX: Final = 64
EVERY_S: Final = 0.2
SEND_S: Final = 10.0  # a listener that takes nothing for so long is hung up on
FILES: Final = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "panels.js": "text/javascript; charset=utf-8",
    "drawing.js": "text/javascript; charset=utf-8",
    "words.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = (
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("x-frame-options", "DENY"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("connection", "close"),  # one request each: nobody keeps a connection by half a second one
)
METHODS: Final = ("GET", "HEAD")
LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "[::1]"))


def make(
    frame: Callable[[], bytes],
    *,
    root_path: str = "",
    hosts: frozenset[str] = LOOPBACK,
    ending: Callable[[], bool] = lambda: False,
) -> ASGIApp:
    """Return the application. ``frame`` returns the newest snapshot, at once; ``ending`` is whether streams are to end.

    ``root_path`` is where a proxy has put the page, whether it takes that off or not. Only who has asked for one of
    ``hosts`` is answered, so that no other site's name can be made to point here; none given: whoever asks.
    """
    listeners = Listeners(frame, ending)
    routes = [Route(f"/{name}", _file(name, kind)) for name, kind in FILES.items()]
    routes += [
        Route("/", _file("index.html", FILES["index.html"])),
        Route("/events", listeners),
        Route("/snapshot.json", _snapshot(frame)),
        Route("/healthz", _health),
    ]
    made = Starlette(routes=routes)
    made.router.redirect_slashes = False  # it would send people to whatever name they have asked for
    return Guard(made, root_path=root_path, hosts=hosts)


class Guard:
    """What holds for every answer: the methods, the headers, the names, the path behind a proxy."""

    def __init__(self, app: ASGIApp, *, root_path: str, hosts: frozenset[str]) -> None:
        self._app = app
        self._root = root_path.strip("/")
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or have the application answer."""
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = [(name, value) for name, value in message.get("headers", ()) if name != b"server"]
                names = {name for name, _ in given}
                extra = [(name.encode(), value.encode()) for name, value in HEADERS]
                if b"cache-control" not in names:
                    extra.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*given, *extra]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
            return
        await self._app({**scope, "root_path": "", "path": self._path(scope["path"])}, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        if scope["method"] not in METHODS:
            said = "this page only shows: GET and HEAD"
            return PlainTextResponse(said, 405, headers={"allow": ", ".join(METHODS)})
        if self._hosts and _host(scope) not in self._hosts:
            names = ", ".join(sorted(self._hosts))
            return PlainTextResponse(f"ask for one of: {names} (--host NAME adds one)", 421)
        if self._root and scope["path"] == f"/{self._root}":
            return PlainTextResponse("the page is one level below", 308, headers={"location": f"/{self._root}/"})
        return None

    def _path(self, path: str) -> str:
        return path.removeprefix(f"/{self._root}") if path.startswith(f"/{self._root}/") else path


def _host(scope: Scope) -> str:
    """Return the name that was asked for, without a port."""
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    bare, colon, port = host.rpartition(":")
    return (bare if colon and port.isdecimal() else host).lower()


def _file(name: str, kind: str) -> Callable[[Request], object]:
    content = resources.files(__package__).joinpath("static", name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    return answer


def _snapshot(frame: Callable[[], bytes]) -> Callable[[Request], object]:
    async def answer(request: Request) -> Response:
        return Response(frame(), media_type="application/json")

    return answer


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


class Listeners:
    """The stream of snapshots, for LISTENERS_MAX at once. Nothing is queued: who is slow gets the newest next."""

    def __init__(self, frame: Callable[[], bytes], ending: Callable[[], bool]) -> None:
        self._frame = frame
        self._ending = ending
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send snapshots until the listener leaves or takes none any more."""
        if self._count >= LISTENERS_MAX:
            said = f"{LISTENERS_MAX} pages listen already, which is the limit: close one"
            await PlainTextResponse(said, 503, headers={"retry-after": "5"})(scope, receive, send)
            return
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        self._count += 1
        left = asyncio.ensure_future(_gone(receive))
        try:
            with contextlib.suppress(TimeoutError, OSError):
                await self._tell(send, left)
        finally:
            self._count -= 1
            left.cancel()

    async def _tell(self, send: Send, left: asyncio.Future[None]) -> None:
        body = b"retry: 1000\n\n"
        while not (left.done() or self._ending()):
            body += b"data: %b\n\n" % self._frame()
            async with asyncio.timeout(SEND_S):
                await send({"type": "http.response.body", "body": body, "more_body": True})
            body = b""
            await asyncio.wait((left,), timeout=EVERY_S)
        await send({"type": "http.response.body", "body": body})


async def _gone(receive: Receive) -> None:
    """Return when the listener has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
