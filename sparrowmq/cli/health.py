"""health: whether the role on this machine, or in this container, still turns its loop.

Owns: the command. Must not know: how a role shows its life (runtime/health.py).
"""

from __future__ import annotations

import click

from sparrowmq.cli import show
from sparrowmq.cli.base import Command, Ended, Globals, pass_globals
from sparrowmq.errors import ConfigError

UNHEALTHY = 1


@click.command(cls=Command)
@pass_globals
def health(options: Globals) -> int:
    """Say whether the role here is well: whether its loop has touched health.file within the last 5 s.

    Exit status: 0 if so, 1 if the file is older or missing (the loop hangs, the process is stopped, gone, or starting).
    """
    from sparrowmq.runtime import health as life

    path = options.load().health.file
    if not path:
        raise ConfigError(
            "no health.file is configured, so roles show no sign of life",
            hint="set SPARROWMQ_HEALTH_FILE=/run/sparrowmq.alive for the role and for this command",
        )
    age_s = life.age_s(path)
    healthy = age_s is not None and age_s <= life.STALE_S
    said = f"{path} is not there: no role runs here" if age_s is None else f"the loop last turned {age_s:.1f} s ago"
    row = {"file": path, "age_s": None if age_s is None else round(age_s, 3), "healthy": healthy}
    verdict = "healthy" if healthy else "unhealthy"
    show.emit(options, row, lambda: click.echo(f"{verdict}: {said}"), quiet=lambda _row: verdict)
    if not healthy:
        hint = "has it just started, or ended? Its log tells" if age_s is None else "its loop hangs or it is stopped"
        raise Ended(UNHEALTHY, verdict, said, hint=hint, said=True)
    return 0
