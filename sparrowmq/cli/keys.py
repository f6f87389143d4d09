"""keys new, list, revoke: the keys of a cluster whose machines talk over a network that is not theirs alone.

Owns: these commands, and what is said about keys; a secret is never printed. Must not know: how files look (security/).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sparrowmq.cli import show
from sparrowmq.cli.base import Globals, Group, pass_globals
from sparrowmq.errors import UsageError

if TYPE_CHECKING:
    from sparrowmq.config import Config

DIRECTORY: Final = "keys"
ROLES: Final = ("client", "worker", "assistant")

Row = dict[str, Any]
_LOAD: Final = "Have Redis read users.acl again (ACL LOAD)."
_DIR: Final = click.option(
    "--dir",
    "directory",
    metavar="DIR",
    type=click.Path(),
    help="The cluster's keys.  [default: security.keys, or keys]",
)


def _load(options: Globals) -> Config:
    """Return the settings. A file that says to bind everywhere without keys is no reason not to make some."""
    from sparrowmq import config

    return config.load(options.config, os.environ, {"store.url": options.redis}, exposed=False)


@click.group(cls=Group)
def keys() -> None:
    """Make, list, revoke keys."""


@keys.command("new")
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--role", type=click.Choice(ROLES), help="What the owner of the new key may be.")
@click.option(
    "--out", metavar="DIR", type=click.Path(), help="Where to put it.  [default: listed/NAME beside the others]"
)
@_DIR
@pass_globals
def new_keys(options: Globals, name: str | None, role: str | None, out: str | None, directory: str | None) -> int:
    """Make a cluster's keys, or with NAME one more that schedulers know by this name.

    What is there is kept, and what is missing is made: it may be run again. Each subdirectory is all that a role may
    know; copy no more than that to its machines. NAME may also be the cluster's directory, if it has a / in it.
    """
    from sparrowmq import config
    from sparrowmq.security import keyring
    from sparrowmq.security.making import LISTED, Tree

    loaded = _load(options)
    if name is not None and "/" in name and role is None and directory is None:
        name, directory = None, name
    if name is not None and role is None:
        raise UsageError(
            f"what may {name} be? --role is missing",
            hint=f"for a cluster's keys in ./{name}: `sparrowmq keys new --dir {name}`",
        )
    if name is None and (role or out):
        raise UsageError(
            "a name is missing for the new key", hint=f"`sparrowmq keys new NAME --role {role or 'client'}`"
        )
    if name is not None and (not keyring.is_name(name) or name in (*ROLES, "scheduler")):
        raise UsageError(
            f"{name!r} is no name for a key", hint="up to 32 letters, digits, _ . -, and none of the roles"
        )
    tree = Tree(directory or loaded.security.keys or DIRECTORY)
    row: Row = {"id": str(tree.root), "directory": str(tree.root)}
    if name is not None and role is not None:
        keyring.load_trust(tree.root)  # there is a cluster, and nothing is wrong with its keys
        out_of = Path(out) if out else tree.root / LISTED / name
        with tree.changing():
            listed = tree.list_peer(name, role, out_of, loaded.store.prefix)
            row |= {"name": name, "role": role, "listed": listed, "directory": str(out_of)}
    else:
        with tree.changing():
            tree.complete(loaded.store.prefix)
    row["made"] = [str(file) for file in tree.made]
    show.emit(options, row, lambda: _say_new(row, config.variable("security.keys")))
    return 0


def _say_new(row: Row, variable: str) -> None:
    if not row["made"]:
        click.echo(f"{row['directory']}: complete, nothing was made")
        return
    click.echo(f"{row['directory']}: made {show.count(len(row['made']), 'file')}")
    for file in row["made"]:
        click.echo(f"  {file}")
    if "name" in row:
        click.echo(
            f"{row['name']} is listed as {row['role']}. Hand out this directory; its owner sets {variable} to it."
        )
        if row["role"] == "client":
            click.echo(f"Its jobs are its own. {_LOAD}")
    else:
        click.echo(
            f"Copy to a machine only the subdirectory of its role, and set {variable} to the directory above it.\n"
            f"Start Redis with --aclfile {row['directory']}/redis/users.acl"
        )


@keys.command("list")
@_DIR
@pass_globals
def list_keys(options: Globals, directory: str | None) -> int:
    """List a cluster's keys: what stands for them, never a secret."""
    from sparrowmq.security import keyring
    from sparrowmq.security.credentials import SCHEDULER, fingerprint

    root = directory or _load(options).security.keys or DIRECTORY
    trust = keyring.load_trust(root)
    place = Path(root) / SCHEDULER
    named = keyring.read_revoked(place, keyring.read_peers(place))
    server = fingerprint(trust.server_public)
    rows: list[Row] = [_row("server", "", SCHEDULER, server, "ok", trust.server_public)]
    for role, secret in sorted(trust.secrets.items()):
        rows.append(_row("secret", "", role, fingerprint(secret), "ok"))
    for key, (role, name) in trust.listed.items():
        rows.append(_row("listed", name, role, fingerprint(key), "revoked" if key in trust.revoked else "ok", key))
    for key in sorted(trust.revoked - trust.listed.keys()):
        rows.append(_row("revoked", named.get(key, ""), "", fingerprint(key), "revoked", key))
    show.emit(options, rows, lambda: show.print_table(rows, ["kind", "name", "role", "fingerprint", "state"]))
    return 0


def _row(kind: str, name: str, role: str, fingerprint: str, state: str, key: bytes = b"") -> Row:
    row = {"kind": kind, "name": name, "role": role, "fingerprint": fingerprint, "state": state, "key": key.decode()}
    return {"id": name or fingerprint, **row}


@keys.command("revoke")
@click.argument("what", metavar="NAME|KEY|ROLE")
@_DIR
@pass_globals
def revoke_keys(options: Globals, what: str, directory: str | None) -> int:
    """Let a key in no more: schedulers that read these files end its connections within a second.

    KEY is a public key. Of a ROLE, the secret and the Redis password are made anew: whoever enrolled with the old ones
    needs the new ones.
    """
    from sparrowmq.security.credentials import SCHEDULER, fingerprint
    from sparrowmq.security.keyring import load_trust
    from sparrowmq.security.making import USERS_ACL, Tree

    loaded = _load(options)
    root = directory or loaded.security.keys or DIRECTORY
    if what == SCHEDULER:
        raise UsageError(
            "who has a scheduler's key can be everybody: nothing less than new keys for all helps",
            hint="make them in another directory: `sparrowmq keys new --dir DIR`",
        )
    load_trust(root)  # nothing is changed where something is wrong
    tree = Tree(root)
    rows: list[Row] = []
    with tree.changing():
        if what in ROLES:
            tree.revoke_role(what, loaded.store.prefix)
            rows.append({"id": what, "role": what, "name": "", "key": "", "made": [str(file) for file in tree.made]})
        else:
            for key, name in tree.revoke_key(what):
                rows.append({"id": name or key, "role": "", "name": name, "key": key, "made": []})
    user_removed = what not in ROLES and any(file.name == USERS_ACL for file in tree.made)

    def people() -> None:
        if not rows:
            click.echo(f"{what} was revoked before")
        for row in rows:
            if row["role"]:
                click.echo(
                    f"{what}: a new secret and a new Redis password.\n"
                    f"Copy {root}/{what} to its machines, and start its processes again. {_LOAD}"
                )
                if what != "client":  # of whom each listed one has a password of its own
                    click.echo(f"`sparrowmq keys new NAME --role {what}` puts the new password beside a listed key.")
            else:
                click.echo(f"{row['name'] or row['key']} is revoked: key {fingerprint(row['key'].encode())}")
        if user_removed:
            click.echo(f"Its Redis user is removed. {_LOAD}")

    show.emit(options, rows, people)
    return 0
