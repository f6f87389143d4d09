"""web: the live page; and how `up` has it beside a local cluster.

Owns: the command, and where it may listen. Must not know: what is on the page, or how it is served (web/).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click

from sparrowmq.cli.base import Command, Globals, pass_globals
from sparrowmq.cli.metrics import Endpoint, Listen
from sparrowmq.errors import ConfigError, Unavailable, UsageError

if TYPE_CHECKING:
    from sparrowmq.runtime.launch import OnConnect

HOST = "127.0.0.1"
PORT = 8787
PORTS = 20  # that `up` tries
NEEDED = ("starlette", "uvicorn")
_RUN = "import sys; sys.path.append(sys.argv.pop(1)); from sparrowmq.cli.main import main; sys.exit(main())"


@click.command(cls=Command)
@click.option("--listen", type=Listen(), default=f"{HOST}:{PORT}", show_default=True, help="Where to answer.")
@click.option("--host", "hosts", metavar="NAME", multiple=True, help="Answer those only who ask for this name (or "
              "that; default: this machine's own where only it can connect, any elsewhere).")  # fmt: skip
@click.option("--root-path", metavar="PATH", default="", help="Where a proxy has put the page, such as /cluster.")
@click.option("--fd", type=int, hidden=True, help="A socket that listens already.")
@pass_globals
def web(options: Globals, listen: Endpoint, hosts: tuple[str, ...], root_path: str, fd: int | None) -> int:
    """Serve the live page of a cluster, in the foreground until SIGTERM.

    Workers and their heartbeats, deaths and recoveries, load, jobs. It only shows: there is nothing to press. HTTP is
    not encrypted, and names of jobs and workers are on the page: beyond loopback it takes security.keys or --insecure.
    """
    loaded = options.load_found(role="client")
    options.check_store(loaded)
    from sparrowmq.config import is_local

    local = is_local(f"tcp://{listen.host}:{listen.port}")
    if not (local or loaded.security.keys or loaded.security.insecure):
        raise ConfigError(
            f"--listen {listen.host}:{listen.port} can be reached from other machines, and everybody there can read it",
            hint="listen on 127.0.0.1, use security.keys, or say --insecure on a network that you trust",
        )
    server, app = _libraries()
    from sparrowmq.runtime import health, logs

    logs.setup(loaded.log, role="web")
    health.setup(loaded.health.file)
    own = app.LOOPBACK if local else frozenset[str]()
    names = own | {name.lower() for name in hosts}
    with _listener(listen, fd) as listener:
        server.serve(listener, loaded.store, loaded.security.keys, root_path=root_path, hosts=names)
    return 0


def _libraries() -> tuple[ModuleType, ModuleType]:
    try:
        from sparrowmq.web import app, server
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in NEEDED:
            raise
        raise UsageError(
            "web needs starlette and uvicorn, which are not installed", hint="pip install 'sparrowmq[web]'"
        ) from None
    return server, app


def _listener(listen: Endpoint, fd: int | None) -> socket.socket:
    """Return a socket that listens there, or that did before this process began."""
    if fd is not None:
        try:
            return socket.socket(fileno=fd)
        except OSError as error:
            raise UsageError(f"--fd {fd} is no socket: {error.strerror or error}") from None
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    try:
        made = _bound(listen.host, listen.port)
    except OSError as error:
        where = f"--listen {host}:{listen.port}"
        raise Unavailable(f"{where}: {error.strerror or error}", hint="is the port taken?") from None
    click.echo(f"serving http://{host}:{made.getsockname()[1]}/", err=True)
    return made


def _bound(host: str, port: int) -> socket.socket:
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128)


# Beside a local cluster.


def listen_for_up() -> socket.socket | None:
    """Return a socket for the page of a local cluster: at its usual port, else at the next free one; None for no page.

    There is none where the extra is not installed, or no port is free: `up` does not fail for its page.
    """
    if not all(map(importlib.util.find_spec, NEEDED)):
        return None
    for port in range(PORT, PORT + PORTS):
        with contextlib.suppress(OSError):
            return _bound(HOST, port)
    return None


def on_connect(listener: socket.socket, words: Sequence[str]) -> OnConnect:
    """Return what runs the page once somebody connects; ``words`` are global options."""
    from sparrowmq.runtime.launch import OnConnect

    here = str(Path(__file__).resolve().parents[2])
    given = [os.path.abspath(sys.executable), "-c", _RUN, here, *words, "web", "--fd", str(listener.fileno())]
    return OnConnect(listener.fileno(), given)
