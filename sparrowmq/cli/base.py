"""What all commands share: global options, lazily loaded sub-commands, settings, and finding the cluster.

Owns: the options that every command takes, before or after its name. Must not know: any single command. It
imports nothing but click, so that help and mistakes cost no more than that.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from sparrowmq.errors import ConfigError, SecurityError, SparrowError, Unavailable, UsageError

if TYPE_CHECKING:
    from sparrowmq.client.client import Client
    from sparrowmq.config import Config
    from sparrowmq.protocol import messages as m
    from sparrowmq.security.credentials import Credentials

OUTPUTS = ("table", "json", "jsonl", "quiet")
START_HINT = "start a cluster with `sparrowmq up --detach`, or give --redis redis://host:6379/0"


class Ended(SparrowError):
    """A command that did what it could, and whose exit status is not 0. ``said``: people have been told already."""

    def __init__(self, exit_code: int, code: str, message: str, *, hint: str = "", said: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
        self.code = code
        self.said = said


class Globals:
    """The global options of one invocation, and what follows from them."""

    def __init__(self) -> None:
        self.output = "table"
        self.config: str | None = None
        self.redis: str | None = None
        self.insecure: bool | None = None

    @property
    def json(self) -> bool:
        """Whether output is for machines."""
        return self.output in ("json", "jsonl")

    @property
    def quiet(self) -> bool:
        """Whether output is ids and values only."""
        return self.output == "quiet"

    def load(self, flags: Mapping[str, object] | None = None) -> Config:
        """Return the settings; ``flags`` are this command's own, by key."""
        from sparrowmq import config

        given = {"store.url": self.redis, "security.insecure": self.insecure, **(flags or {})}
        return config.load(self.config, os.environ, given)

    def load_found(self, flags: Mapping[str, object] | None = None, role: str = "client") -> Config:
        """Return the settings with a Redis URL: the configured one, or that of the running local cluster and its keys.

        Where the keys have a password for Redis it is this ``role``'s.
        """
        from msgspec.structs import replace

        from sparrowmq import local
        from sparrowmq.store.connection import authenticated

        loaded = self.load(flags)
        if not loaded.store.url:
            found = local.detached()
            if found is None:
                raise Unavailable("no Redis URL is configured and no local cluster runs", hint=START_HINT)
            security = replace(loaded.security, keys=found.keys)
            loaded = replace(loaded, store=replace(loaded.store, url=found.url), security=security)
        return replace(loaded, store=authenticated(loaded.store, loaded.security.keys, role))

    def credentials(self, loaded: Config) -> Credentials | None:
        """Return by what this command shows schedulers that it may talk to them; None without keys."""
        from sparrowmq.security import keyring

        return keyring.load_credentials(loaded.security.keys, "client") if loaded.security.keys else None

    def client(self) -> Client:
        """Return a connected client. Raises Unavailable within the configured time, at once if Redis refuses."""
        from sparrowmq.cli import ask
        from sparrowmq.client.client import Client

        loaded = self.load_found()
        with self._blame(loaded):
            ask.schedulers(loaded.store)  # the client goes on trying for seconds; people want to know now
            return Client(loaded.store.url, settings=loaded.client, store=loaded.store, keys=loaded.security.keys)

    def ask(self, what: str, job: str = "", indices: Sequence[int] = ()) -> list[m.Status]:
        """Return what every scheduler answers to a query (see `messages.Query`); at least one does."""
        from sparrowmq.cli import ask

        loaded = self.load_found()
        with self._blame(loaded):
            return ask.statuses(loaded.store, what, job, indices, credentials=self.credentials(loaded))

    def check_store(self, loaded: Config) -> None:
        """Raise UsageError or ConfigError for a Redis URL that redis-py does not take, before anything is started."""
        from sparrowmq.store.connection import connect

        with self._blame(loaded):
            connect(loaded.store).close()

    @contextlib.contextmanager
    def _blame(self, loaded: Config) -> Iterator[None]:
        """A URL that redis-py refuses is a usage error where it came from the command line."""
        try:
            yield
        except SecurityError:
            raise
        except ConfigError as error:
            if loaded.sources["store.url"] != "flag":
                raise
            raise UsageError(f"--redis: {error}", hint=error.hint) from None


pass_globals = click.make_pass_decorator(Globals, ensure=True)


def _remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and parameter.name is not None:
        setattr(ctx.ensure_object(Globals), parameter.name, value)


def _global_options() -> list[click.Parameter]:
    shared: dict[str, Any] = {"expose_value": False, "callback": _remember, "is_eager": True, "default": None}
    return [
        click.Option(["-o", "--output"], type=click.Choice(OUTPUTS), help="How to print results.", **shared),
        click.Option(["-c", "--config"], metavar="FILE", help="TOML file with settings.", **shared),
        click.Option(["--redis"], metavar="URL", help="Redis where the cluster registers.", **shared),
        click.Option(["--insecure"], is_flag=True, help="Allow to bind beyond loopback without keys.", **shared),
    ]


class Command(click.Command):
    """A command that takes the global options, too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        taken = {name for parameter in self.params for name in parameter.opts}
        self.params += [option for option in _global_options() if taken.isdisjoint(option.opts)]


class Group(click.Group):
    """A group whose commands are imported when they are called: ``lazy`` maps a name to (module:attribute, help)."""

    command_class = Command

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy or {})
        self.params += _global_options()

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of their definition."""
        return [*self._lazy, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command if it is a lazy one."""
        if cmd_name not in self._lazy:
            return self.commands.get(cmd_name)
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one is an error that names the nearest."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            raise click.UsageError(f"No such command '{name}'.{did_you_mean(name, self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing the lazy ones."""
        rows = [(name, text) for name, (_, text) in self._lazy.items()]
        rows += [(name, command.get_short_help_str(90)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return " Did you mean 'x'?" or nothing."""
    import difflib  # only a mistake pays for it

    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean '{nearest[0]}'?" if nearest else ""
