"""metrics serve: the cluster's figures over HTTP, for Prometheus.

Owns: the command, and where it may listen. Must not know: which figures there are (metrics.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import click

from sparrowmq.cli.base import Globals, Group, pass_globals
from sparrowmq.cli.values import ParamType
from sparrowmq.errors import ConfigError, Unavailable, UsageError

LISTEN = "127.0.0.1:9464"


class Endpoint(NamedTuple):
    """Where to listen; port 0: the system chooses."""

    host: str
    port: int


class Listen(ParamType):
    """HOST:PORT, [HOST]:PORT for IPv6."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Endpoint:
        """Return the parts."""
        text = str(value)
        host, colon, port = text.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        if not colon or not bare or (":" in bare) != (host != bare):
            self.fail(f"{text!r} is no HOST:PORT, such as {LISTEN} or [::1]:9464", param, ctx)
        if not (port.isascii() and port.isdecimal() and int(port) <= 65_535):
            self.fail(f"{text!r}: {port!r} is no port: expected 0 to 65,535", param, ctx)
        return Endpoint(bare, int(port))


@click.group(cls=Group)
def metrics() -> None:
    """Tell a monitoring system how the cluster does."""


@metrics.command("serve")
@click.option("--listen", type=Listen(), default=LISTEN, show_default=True, help="Where to answer.")
@pass_globals
def serve(options: Globals, listen: Endpoint) -> int:
    """Serve the cluster's figures to Prometheus, in the foreground until SIGTERM.

    Workers by state, slots, what runs and waits, and sparrowmq_queueing_delay_seconds: how long a task submitted now
    is to wait. It only reads, and names no task. HTTP is not encrypted: beyond loopback it takes security.keys or
    --insecure.
    """
    loaded = options.load_found(role="client")
    options.check_store(loaded)
    from sparrowmq.config import is_local

    if not (is_local(f"tcp://{listen.host}:{listen.port}") or loaded.security.keys or loaded.security.insecure):
        raise ConfigError(
            f"--listen {listen.host}:{listen.port} can be reached from other machines, and everybody there can read it",
            hint="listen on 127.0.0.1, use security.keys, or say --insecure on a network that you trust",
        )
    try:
        from sparrowmq import metrics as figures
    except ImportError as error:
        if not (error.name or "").startswith("prometheus_client"):
            raise
        raise UsageError(
            "metrics needs prometheus-client, which is not installed", hint="pip install 'sparrowmq[metrics]'"
        ) from None
    from sparrowmq.runtime import health, logs

    logs.setup(loaded.log, role="metrics")
    health.setup(loaded.health.file)

    def told(port: int) -> None:
        host = f"[{listen.host}]" if ":" in listen.host else listen.host
        click.echo(f"serving http://{host}:{port}/metrics", err=True)

    try:
        figures.serve(loaded.store, listen.host, listen.port, told)
    except OSError as error:
        where = f"--listen {listen.host}:{listen.port}"
        raise Unavailable(f"{where}: {error.strerror or error}", hint="is the port taken?") from None
    return 0
