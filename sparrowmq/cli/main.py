"""The entry point: the command tree, and the one place where errors become a line and an exit status.

Owns: `main`. Must not know: what a command does.

Exit status: 0 ok, 1 a task failed, 2 usage, 3 cannot reach the cluster, 4 bad configuration, 5 rejected,
6 not authorised or versions differ, 124 timed out, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

import click

from sparrowmq import __version__
from sparrowmq.cli.base import Ended, Group
from sparrowmq.errors import SparrowError

EXIT_STATUS = """\b
Exit status: 0 ok, 1 a task failed, 2 usage, 3 cannot reach the cluster,
4 bad configuration, 5 rejected, 6 not authorised or versions differ,
124 timed out, 130 interrupted."""

FAILED = 1
USAGE = 2
INTERRUPTED = 130

_COMMANDS = {
    "up": ("sparrowmq.cli.cluster:up", "Start a cluster on this machine."),
    "down": ("sparrowmq.cli.cluster:down", "End the cluster that `up` started."),
    "status": ("sparrowmq.cli.cluster:status", "Show schedulers and workers."),
    "run": ("sparrowmq.cli.run:run", "Run a command or a function on the cluster."),
    "job": ("sparrowmq.cli.job:job", "List, show, wait for, cancel jobs; their output."),
    "task": ("sparrowmq.cli.task:task", "Show what happened to single tasks."),
    "scheduler": ("sparrowmq.cli.role:scheduler", "Start a scheduler."),
    "worker": ("sparrowmq.cli.role:worker", "Start, list, drain, stop workers."),
    "assistant": ("sparrowmq.cli.assistant:assistant", "Start an assistant, show what it thinks of whom."),
    "metrics": ("sparrowmq.cli.metrics:metrics", "Serve figures to Prometheus."),
    "web": ("sparrowmq.cli.web:web", "Serve the live page: see the cluster work, fail and heal."),
    "config": ("sparrowmq.cli.configure:config", "Show settings, check files."),
    "keys": ("sparrowmq.cli.keys:keys", "Make, list, revoke keys."),
    "doctor": ("sparrowmq.cli.doctor:doctor", "Look for what is wrong, and say what to do."),
    "health": ("sparrowmq.cli.health:health", "Say whether the role in this container turns."),
    "completion": ("sparrowmq.cli.completion:completion", "Print a script that completes commands."),
    "demo": ("sparrowmq.cli.demo:demo", "Kill, freeze, cut off parts of a cluster."),
    "bench": ("sparrowmq.cli.bench:bench", "Measure throughput, latency, placement."),
    "sim": ("sparrowmq.cli.sim:sim", "Simulate clusters; reproduce the paper's figures."),
}


@click.group(cls=Group, lazy=_COMMANDS, epilog=EXIT_STATUS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sparrowmq")
def root() -> None:
    """Run many short tasks on many machines, without a central scheduler."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        result = root.main(args=words, prog_name="sparrowmq", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        if _wants_json(words):
            return _fail(words, "usage", "a command is missing", "see `sparrowmq --help`", USAGE)
        click.echo(error.format_message())
        return USAGE
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        path = context.command_path if context is not None else "sparrowmq"
        return _fail(words, "usage", error.format_message(), f"see `{path} --help`", error.exit_code)
    except SparrowError as error:
        if isinstance(error, Ended) and error.said and not _wants_json(words):
            return error.exit_code
        return _fail(words, error.code, str(error), error.hint, error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _fail(words, "interrupted", "interrupted", "", INTERRUPTED)
    except BrokenPipeError:  # the reader (`head`, for example) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        if error.filename is None:
            raise
        return _fail(words, "system", f"{error.filename}: {error.strerror}", "", FAILED)


def _fail(words: Sequence[str], code: str, message: str, hint: str, status: int) -> int:
    if _wants_json(words):
        report = {"code": code, "message": message, "hint": hint, "exit_code": status}
        click.echo(json.dumps(report, ensure_ascii=False), err=True)
        return status
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    return status


def _wants_json(words: Sequence[str]) -> bool:
    """Look for ``-o json`` in the words themselves: the mistake may be one that stopped their parsing."""
    wanted = ""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--":
            break
        if word in ("-o", "--output"):
            wanted = following
        elif word.startswith("--output="):
            wanted = word.removeprefix("--output=")
        elif word.startswith("-o") and not word.startswith("--"):
            wanted = word.removeprefix("-o").removeprefix("=")
    return wanted in ("json", "jsonl")


if __name__ == "__main__":
    sys.exit(main())
