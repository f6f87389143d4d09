"""Jobs and tasks in words: the summary line, the ledger, why a task failed.

Owns: these sentences. Must not know: where the rows come from, or where the sentences go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from sparrowmq.cli import merge, show
from sparrowmq.protocol import messages as m

Row = Mapping[str, Any]

ENDS = ("succeeded", "failed", "timed_out", "cancelled", "lost")
NAME_CHARS_SHOWN = 60


class _Failure(msgspec.Struct):
    """What the CLI reads of a failure (docs/protocol.md): text only, so that nothing is unpickled here."""

    type: str = ""
    message: str = ""
    traceback: str = ""


def failure(payload: bytes) -> dict[str, str]:
    """Return ``type``, ``message`` and ``traceback`` of a failed task's payload; {} where there is none to read."""
    try:
        return msgspec.structs.asdict(msgspec.msgpack.decode(payload, type=_Failure)) if payload else {}
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


def error_line(found: Mapping[str, str]) -> str:
    """Return what went wrong in one line, "" where that is not known."""
    if not found:
        return ""
    message = show.one_line(found["message"])
    return show.listed([found["type"]]) + (f": {message}" if message else "")


def counts(row: Row, names: Sequence[str] = ENDS) -> str:
    """Return "3 succeeded, 1 timed out": the ends that there are."""
    return show.listed(f"{row[name]:,} {name.replace('_', ' ')}" for name in names if row[name])


def summary(row: Row) -> str:
    """Return a job's ledger in one line."""
    over = row["response_s"] > 0
    parts = [
        f"job {row['id']}",
        f"{row['succeeded']:,}/{row['tasks']:,} {show.tick(row['succeeded'] == row['tasks'])}",
        *(f"{row[name]:,} {name.replace('_', ' ')}" for name in ENDS[1:] if row[name]),
        f"response {show.milliseconds(row['response_s'] * 1e3)}" if over else str(row["state"]),
        f"queueing p50 {show.milliseconds(row['queueing_p50_ms'])} p99 {show.milliseconds(row['queueing_p99_ms'])}",
        placing(row),
    ]
    return "  ".join(parts)


def placing(row: Row) -> str:
    """Return what placing the job took."""
    parts = [show.count(row[f"{name}s"], name.replace("_", "-")) for name in ("probe", "no_op", "cancel")]
    for one, key in (("relaunch", "relaunches"), ("retry", "retries"), ("hedge", "hedges")):
        if row[key]:
            parts.append(f"{row[key]:,} {one if row[key] == 1 else key}")
    return "  ".join(parts)


def job(row: Row, failures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of `job show`."""
    name = show.one_line(row["name"], NAME_CHARS_SHOWN)
    yield f"job {row['id']}  {row['state']}" + (f"  {name}" if name else "")
    ended = counts(row) or "none ended"
    open_tasks = show.listed(
        f"{row[key]:,} {key}{' (resting before their next attempt)' * (key == 'resting')}"
        for key in ("running", "unplaced", "resting")
        if row[key]
    )
    yield f"  tasks      {row['tasks']:,}: {ended}" + (f"; {open_tasks}" if open_tasks else "")
    yield f"  submitted  {show.moment(row['submitted_unix_s'])} ({show.ago(row['submitted_unix_s'])} ago)" + (
        "  detached" if row["detached"] else f"  by {row['client']}"
    )
    if row["response_s"]:
        yield f"  response   {show.seconds(row['response_s'])}"
    yield (
        f"  times      queueing p50 {show.milliseconds(row['queueing_p50_ms'])} p99 "
        f"{show.milliseconds(row['queueing_p99_ms'])}  service p50 {show.milliseconds(row['service_p50_ms'])}"
    )
    epoch = f"  epoch {row['epoch']}" if row["epoch"] else ""
    yield f"  placing    {row['policy']}  {placing(row)}{epoch}  by {row['scheduler']}"
    if row["output_bytes"]:
        yield f"  output     {show.count(row['output_bytes'], 'byte')} kept: sparrowmq job logs {row['id']}"
    if row["detail"]:
        yield f"  detail     {show.one_line(row['detail'])}"
    yield from _failures(row, failures)


def _failures(row: Row, failures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for found in failures:
        where = f" on {found['worker']}" if found["worker"] else ""
        yield (
            f"  task {found['index']} {found['state'].replace('_', ' ')}{where}, "
            f"{show.count(found['attempts'], 'attempt')}: {error_line(found['error']) or 'no reason is known'}"
        )
    more = sum(row[name] for name in merge.UNSUCCESSFUL) - len(failures)
    if failures and more > 0:
        yield f"  and {more:,} more: sparrowmq task show {row['id']} all"


def task_row(task: m.TaskStatus) -> dict[str, Any]:
    """Return a task as a row: its failure as texts."""
    row = msgspec.structs.asdict(task)
    row["events"] = [msgspec.structs.asdict(event) for event in task.events]
    return row | {"error": failure(row.pop("failure"))}


def task(row: Row) -> Iterator[str]:
    """Yield the lines of `task show`."""
    parts = [f"task {row['index']}", row["state"].replace("_", " "), show.count(row["attempts"], "attempt")]
    if row["worker"]:
        parts.append(row["worker"])
    if row["service_us"]:
        parts.append(f"ran {show.milliseconds(row['service_us'] / 1e3)}")
    yield "  ".join(parts)
    begin = row["events"][0]["unix_s"] if row["events"] else 0.0
    for event in row["events"]:
        passed = show.seconds(max(0.0, event["unix_s"] - begin))
        attempt = f"attempt {event['attempt']}" if event["attempt"] else ""
        told = "  ".join(part for part in (attempt, event["worker"], show.one_line(event["detail"])) if part)
        kind = event["kind"].replace("_", " ")
        yield f"  {show.clock(event['unix_s'])}  {'+' + passed:>9}  {kind:10}  {told}".rstrip()
    if row["error"]:
        yield f"  error: {error_line(row['error'])}"
