"""config show, check, paths: the settings, where they come from, and whether files are right.

Owns: these commands. Must not know: what a setting does, or how files are read (config.py).
"""

from __future__ import annotations

import json
import os
from typing import Any

import click

from sparrowmq.cli import show
from sparrowmq.cli.base import Ended, Globals, Group, pass_globals

BAD_CONFIGURATION = 4


@click.group(cls=Group)
def config() -> None:
    """Show settings, check files."""


@config.command("show")
@click.option("--sources", is_flag=True, help="Also where each value comes from: default, file:line, variable, flag.")
@pass_globals
def show_config(options: Globals, sources: bool) -> int:
    """Show every setting as the other commands would use it here. Passwords are left out."""
    from sparrowmq import config as settings

    loaded = options.load()
    rows: list[dict[str, Any]] = []
    for key in settings.keys():  # noqa: SIM118  # a function of that name
        row = {"key": key, "value": settings.shown(loaded, key)}
        rows.append(row | {"source": loaded.sources[key]} if sources else row)

    def people() -> None:
        texts = [row | {"value": json.dumps(row["value"], ensure_ascii=False)} for row in rows]
        show.print_table(texts, ["key", "value", *(["source"] if sources else [])])

    show.emit(options, rows, people, quiet=lambda row: f"{row['key']}={row['value']}")
    return 0


@config.command("check")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@pass_globals
def check_config(options: Globals, files: tuple[str, ...]) -> int:
    """Check configuration files, each by itself. Exit status: 0 if all are right, 4 if not."""
    from sparrowmq import config as settings
    from sparrowmq.errors import ConfigError

    rows: list[dict[str, Any]] = []
    for file in files:
        row: dict[str, Any] = {"file": file, "ok": True, "message": "", "hint": ""}
        try:
            changed = settings.load(file, {}, {"security.insecure": options.insecure})
            row["settings"] = sum(source != "default" for source in changed.sources.values())
        except ConfigError as error:
            row |= {"ok": False, "message": str(error), "hint": error.hint}
        rows.append(row)

    def people() -> None:
        for row in rows:
            if row["ok"]:
                click.echo(f"{row['file']}: ok, {show.count(row['settings'], 'setting')}")
            else:
                click.echo(f"{row['message']}" + (f"\n  {row['hint']}" if row["hint"] else ""))

    bad = [row for row in rows if not row["ok"]]
    show.emit(options, rows, people, quiet=lambda row: row["file"] if row["ok"] else f"{row['file']} bad")
    if bad:
        said = f"{show.count(len(bad), 'file')} of {len(rows):,} cannot be used"
        raise Ended(BAD_CONFIGURATION, "config", said, hint=bad[0]["message"], said=True)
    return 0


@config.command("paths")
@pass_globals
def show_paths(options: Globals) -> int:
    """Show which files are read and written, and whether they are there."""
    from sparrowmq import config as settings
    from sparrowmq.runtime import state

    named = options.config or os.environ.get(settings.CONFIG_VARIABLE, "")
    origin = "-c" if options.config else settings.CONFIG_VARIABLE if named else "not given: -c FILE or SPARROWMQ_CONFIG"
    cluster = state.state_path()
    paths = (
        ("configuration", named, origin),
        ("local cluster", str(cluster), "written by `sparrowmq up`"),
        ("its log", str(cluster.with_name("cluster.log")), "written by `sparrowmq up --detach`"),
    )
    rows = [
        {"what": what, "path": path, "exists": bool(path) and os.path.exists(path), "remark": remark}
        for what, path, remark in paths
    ]
    show.emit(
        options,
        rows,
        lambda: show.print_table(rows, ["what", "path", "exists", "remark"]),
        quiet=lambda row: row["path"],
    )
    return 0
