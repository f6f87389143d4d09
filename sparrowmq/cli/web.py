"""web: the live page.

Owns: the command, and where it may listen. Must not know: what is on the page, or how it is served (web/).
"""

from __future__ import annotations

import click

from sparrowmq.cli.base import Command, Globals, pass_globals
from sparrowmq.cli.metrics import Endpoint, Listen
from sparrowmq.errors import ConfigError, Unavailable, UsageError

LISTEN = "127.0.0.1:8787"


@click.command(cls=Command)
@click.option("--listen", type=Listen(), default=LISTEN, show_default=True, help="Where to answer.")
@click.option("--root-path", metavar="PATH", default="", help="Where a proxy has put the page, such as /cluster.")
@pass_globals
def web(options: Globals, listen: Endpoint, root_path: str) -> int:
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
    try:
        from sparrowmq.web import server
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise UsageError("web needs starlette and uvicorn", hint="pip install 'sparrowmq[web]'") from None
    from sparrowmq.runtime import health, logs

    logs.setup(loaded.log, role="web")
    health.setup(loaded.health.file)
    try:
        listener = server.listen(listen.host, listen.port)
    except OSError as error:
        where = f"--listen {listen.host}:{listen.port}"
        raise Unavailable(f"{where}: {error.strerror or error}", hint="is the port taken?") from None
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    click.echo(f"serving http://{host}:{listener.getsockname()[1]}/", err=True)
    with listener:
        server.serve(listener, loaded.store, loaded.security.keys, root_path=root_path, local=local)
    return 0
