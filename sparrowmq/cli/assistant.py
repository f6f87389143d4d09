"""assistant start, show: one assistant in the foreground, and what the assistants of a cluster think of its nodes.

Owns: these commands. Must not know: how an assistant judges.
"""

from __future__ import annotations

import time
from typing import Any, Final, get_args, get_type_hints

import click

from sparrowmq.cli import show
from sparrowmq.cli.base import Globals, Group, pass_globals
from sparrowmq.cli.values import Whole
from sparrowmq.settings import AssistantSettings

Row = dict[str, Any]

_DETECTORS: Final = get_args(get_type_hints(AssistantSettings)["detector"])
OLD_S: Final = 2.0  # a report older than that, by this machine's clock, says so
_COLUMNS: Final = ("node", "kind", "state", "silent_ms", "for", "beats", "suspicions", "running", "queued")


@click.group(cls=Group)
def assistant() -> None:
    """Start an assistant, show what it thinks of whom.

    Assistants listen to heartbeats, tell the schedulers who is gone, and which workers have little to do. Of several,
    one leads and the others stand by.
    """


@assistant.command("start")
@click.option("--detector", type=click.Choice(_DETECTORS), help="How it judges who may be gone.")
@pass_globals
def start_assistant(options: Globals, detector: str | None) -> int:
    """Run one assistant in the foreground. SIGTERM ends it; another one takes over."""
    loaded = options.load_found({"assistant.detector": detector}, role="assistant")
    from sparrowmq.runtime import assisting, health

    options.check_store(loaded)
    health.setup(loaded.health.file)
    return assisting.run_assistant(loaded.assistant, loaded.store, loaded.log, keys=loaded.security.keys)


@assistant.command("show")
@click.option("--top", type=Whole(1, 100_000), default=100, show_default=True, help="Nodes to print; JSON has all.")
@pass_globals
def show_assistants(options: Globals, top: int) -> int:
    """Show the assistants, the leader first, and the nodes as it sees them: alive, suspect or dead."""
    found = rows(options)

    def people() -> None:
        if not found:
            click.echo("no assistant runs; dropped connections and local timeouts find who is gone")
            return
        for row in found:
            click.echo(_sentence(row))
        nodes = found[0].get("nodes", [])
        if nodes:
            click.echo()
            show.print_table([_node(node, found[0]["unix_s"]) for node in nodes[:top]], _COLUMNS)
        if len(nodes) > top:
            click.echo(f"... and {show.count(len(nodes) - top, 'node')} more (--top)")

    show.emit(options, found, people)
    return 0


def rows(options: Globals) -> list[Row]:
    """Return what each registered assistant last told of itself, the leader first; its nodes by urgency, then by id.

    ``leads`` is whether it holds the lease now. One that has not told anything yet, or nothing that can be read, is
    there with its id, host, pid and package.
    """
    import msgspec

    from sparrowmq.core.assistant import AssistantReport
    from sparrowmq.store import lease
    from sparrowmq.store.registry import Registry

    loaded = options.load_found()
    options.check_store(loaded)
    registry = Registry(loaded.store)
    try:
        records = registry.assistants()
        reports = registry.reports(records)
        holder, _ = lease.leader(loaded.store)
    finally:
        registry.close()
    found: list[Row] = []
    for id, record in records.items():
        row: Row = {"id": id, "host": record.host, "pid": record.pid, "package": record.package}
        row["leads"] = holder == f"{id}:{record.incarnation}"
        try:
            row |= msgspec.to_builtins(msgspec.json.decode(reports.get(id, b""), type=AssistantReport)) | {"id": id}
        except (msgspec.DecodeError, UnicodeDecodeError):
            found.append(row)
            continue
        urgency = {"dead": 0, "suspect": 1}
        row["nodes"].sort(key=lambda node: (urgency.get(node["state"], 2), node["kind"], node["id"]))
        found.append(row)
    return sorted(found, key=lambda row: (not row["leads"], row["id"]))


def _sentence(row: Row) -> str:
    who = f"{row['id']}  {row['host']}  pid {row['pid']}"
    if "nodes" not in row:
        return f"{who}  has told nothing yet"
    role = f"leads (term {row['term']})" if row["leads"] else "stands by"
    counts = dict.fromkeys(("alive", "suspect", "dead"), 0)
    for node in row["nodes"]:
        counts[node["state"]] = counts.get(node["state"], 0) + 1
    states = show.listed(f"{number:,} {state}" for state, number in counts.items() if number)
    lag = show.milliseconds(row["lag_ms"])
    past = f"deaths {row['deaths']:,}, refuted {row['refuted']:,}"
    fixed = f"a fixed timeout of {show.seconds(row['baseline_timeout_s'])} would have said {row['baseline_deaths']:,}"
    age_s = time.time() - row["unix_s"]
    if age_s > OLD_S:
        role = f"has told nothing for {show.seconds(age_s)}"
    return f"{who}  {role}  {row['detector']}, lag {lag}  {states or 'nobody heard'}  {past} ({fixed})"


def _node(node: Row, told_unix_s: float) -> Row:
    since_s = max(0.0, told_unix_s - node["state_since_unix_s"])
    return {**node, "node": node["id"], "for": show.seconds(since_s)}
