"""demo: a local cluster under load, hurt before your eyes.

Owns: the commands, and how what happens is printed. Must not know: how anything is hurt or watched (bench/).
"""

from __future__ import annotations

from typing import Final

import click

from sparrowmq.cli import show
from sparrowmq.cli.base import Ended, Globals, Group, pass_globals

FAILED: Final = 1

_times = click.option(
    "--times", type=click.IntRange(1, 100), default=4, show_default=True, help="How often a worker is hurt."
)
_seed = click.option("--seed", type=int, default=1, show_default=True, help="The same seed draws the same load.")


@click.group(cls=Group)
def demo() -> None:
    """Hurt a local cluster under load, and show what becomes of its tasks.

    Each starts a cluster of its own. The exit status is 0 where the ledger ends with "incomplete 0, duplicated 0".
    """


@demo.command()
@_times
@_seed
@pass_globals
def kill(options: Globals, times: int, seed: int) -> int:
    """Kill workers (SIGKILL) that run tasks, then the scheduler that has the jobs."""
    return _run(options, "kill", times, seed)


@demo.command()
@_times
@_seed
@pass_globals
def freeze(options: Globals, times: int, seed: int) -> int:
    """Freeze workers (SIGSTOP): until their tasks run elsewhere, and, every other time, for 200 ms only."""
    return _run(options, "freeze", times, seed)


@demo.command()
@_times
@_seed
@pass_globals
def partition(options: Globals, times: int, seed: int) -> int:
    """Cut workers off from schedulers and Redis by a proxy between them: closed, silent, mute, deaf."""
    return _run(options, "partition", times, seed)


def _run(options: Globals, kind: str, times: int, seed: int) -> int:
    from sparrowmq.bench import chaos

    people = not (options.json or options.quiet)
    result = chaos.run(kind, times=times, seed=seed, say=click.echo if people else lambda _text: None)
    if options.json:
        show.as_json(result)
    elif options.quiet:
        click.echo("ok" if result["ok"] else "failed")
    else:
        click.echo("")
        for line in chaos.verdict(result):
            click.echo(line)
    if not result["ok"]:
        raise Ended(FAILED, "incomplete", result["error"] or "the ledger has gaps or doubles", said=True)
    return 0
