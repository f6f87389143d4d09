"""The entry point: the command tree, and the one place where errors become a line and an exit status.

Owns: `main`. Must not know: what a command does.

Exit status: 0 ok, 1 a task failed, 2 usage, 3 cannot reach the cluster, 4 bad configuration, 5 rejected,
6 not authorised or versions differ, 124 timed out, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from sparrowmq import __version__
from sparrowmq.cli.base import Group
from sparrowmq.errors import SparrowError

EXIT_STATUS = """\b
Exit status: 0 ok, 1 a task failed, 2 usage, 3 cannot reach the cluster,
4 bad configuration, 5 rejected, 6 not authorised or versions differ,
124 timed out, 130 interrupted."""

USAGE = 2
INTERRUPTED = 130

_COMMANDS = {
    "up": ("sparrowmq.cli.cluster:up", "Start a cluster on this machine."),
    "down": ("sparrowmq.cli.cluster:down", "End the cluster that `up` started."),
    "status": ("sparrowmq.cli.cluster:status", "Show schedulers and workers."),
    "run": ("sparrowmq.cli.run:run", "Run a command or a function on the cluster."),
    "job": ("sparrowmq.cli.job:job", "List jobs, show one."),
    "scheduler": ("sparrowmq.cli.role:scheduler", "Start a scheduler."),
    "worker": ("sparrowmq.cli.role:worker", "Start a worker, list workers."),
    "bench": ("sparrowmq.cli.bench:bench", "Measure throughput, latency, placement."),
}


@click.group(cls=Group, lazy=_COMMANDS, epilog=EXIT_STATUS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sparrowmq")
def root() -> None:
    """Run many short tasks on many machines, without a central scheduler."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    try:
        result = root.main(args=arguments, prog_name="sparrowmq", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return USAGE
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        path = context.command_path if context is not None else "sparrowmq"
        return _fail(error.format_message(), f"see `{path} --help`", error.exit_code)
    except SparrowError as error:
        return _fail(str(error), error.hint, error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", "", INTERRUPTED)
    except BrokenPipeError:  # the reader (`head`, for example) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def _fail(message: str, hint: str, status: int) -> int:
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
