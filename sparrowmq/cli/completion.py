"""completion: the shells' scripts, and what they offer from the running cluster.

Owns: the command, and the kinds of arguments that are completed with live ids. Must not know: what a selector means.

A shell asks at every press of a key, so that an answer must be fast, and silence is the answer to any trouble.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from sparrowmq.cli import show
from sparrowmq.cli.base import Command, Globals, pass_globals
from sparrowmq.cli.values import ParamType

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from sparrowmq.protocol import messages as m

VARIABLE = "_SPARROWMQ_COMPLETE"
TIMEOUT_S = 0.3
OFFERED_MAX = 50
HINTS = {
    "bash": ('eval "$(sparrowmq completion bash)"', "~/.bashrc"),
    "zsh": ('eval "$(sparrowmq completion zsh)"', "~/.zshrc, after compinit"),
    "fish": ("sparrowmq completion fish | source", "~/.config/fish/config.fish"),
}


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(list(HINTS)))
@pass_globals
def completion(options: Globals, shell: str) -> int:
    """Print the script that completes commands, options, job ids, worker ids and policies in SHELL."""
    line, where = HINTS[shell]
    script = f"# To have it in every shell, add this line to {where}:\n#   {line}\n{_script(shell)}"
    show.emit(options, {"shell": shell, "script": script}, lambda: click.echo(script), quiet=lambda row: row["script"])
    return 0


def _script(shell: str) -> str:
    from click.shell_completion import get_completion_class

    from sparrowmq.cli.main import root

    made = get_completion_class(shell)
    assert made is not None
    completer = made(root, {}, "sparrowmq", VARIABLE)
    return str(completer.source_template % completer.source_vars())  # `source` would start a bash to ask its version


class _Live(ParamType):
    """An argument that is completed with words and with what the cluster has now."""

    def __init__(self, what: str, ids: Callable[[list[m.Status]], Iterable[tuple[str, str]]], *fixed: str) -> None:
        self._what = what
        self._ids = ids
        self._fixed = fixed

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the rest of the last part of a selector, whose parts are joined by commas."""
        from click.shell_completion import CompletionItem

        before, comma, last = incomplete.rpartition(",")
        offered = [(word, "") for word in self._fixed] + self._found(ctx)
        return [
            CompletionItem(before + comma + word, help=text or None)
            for word, text in offered[:OFFERED_MAX]
            if word.startswith(last)
        ]

    def _found(self, ctx: click.Context) -> list[tuple[str, str]]:
        try:
            return list(self._ids(_ask(ctx.find_object(Globals) or Globals(), self._what)))
        except Exception:  # whatever it is: a traceback over a half-typed line helps nobody
            return []


def _ask(options: Globals, what: str) -> list[m.Status]:
    """Ask the cluster within a moment; [] where none is to be found."""
    if not options.redis and not options.config and not any(name.startswith("SPARROWMQ_") for name in os.environ):
        from sparrowmq.runtime import state

        if not state.state_path().exists():
            return []  # before anything slow is imported
    import msgspec

    loaded = options.load_found()
    from sparrowmq.cli import ask

    quick = msgspec.structs.replace(loaded.store, connect_timeout_s=TIMEOUT_S, reply_timeout_s=TIMEOUT_S)
    found = ask.schedulers(quick, patience_s=0.0)
    addresses = {name: record.address_clients for name, record in found.items()}
    answers = ask.ask(addresses, what, timeout_s=TIMEOUT_S, credentials=options.credentials(loaded)).values()
    return [answer.status for answer in answers if answer.status is not None]


def _jobs(statuses: list[m.Status]) -> Iterable[tuple[str, str]]:
    from sparrowmq.cli import merge

    for row in reversed(merge.jobs(statuses)):
        yield row["id"], show.listed((row["state"], show.one_line(row["name"], 40)))


def _workers(statuses: list[m.Status]) -> Iterable[tuple[str, str]]:
    from sparrowmq.cli import merge

    for row in merge.workers(statuses):
        yield row["id"], show.listed((row["state"], row["host"]))


class JobSelector(_Live):
    """Names jobs; see selection.py."""

    name = "JOB"

    def __init__(self) -> None:
        super().__init__("jobs", _jobs, "last", "all", "running")


class WorkerSelector(_Live):
    """Names workers; see selection.py."""

    name = "WORKER"

    def __init__(self) -> None:
        super().__init__("workers", _workers, "all")


class TaskSelector(ParamType):
    """Names tasks of a job; see selection.py."""

    name = "TASKS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the selector as it is, once it looks like one."""
        from sparrowmq.cli import selection

        selection.check_tasks(str(value))
        return str(value)
