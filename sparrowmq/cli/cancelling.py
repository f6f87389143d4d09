"""What became of the tasks of a job that was cancelled.

Owns: the verdicts, as the ledger and the tasks' rows tell them, and their sentence. Must not know: the commands.

The outcomes themselves, which say "interrupted" or "killed", go to the job's own client. Others see that a task had
run, and whether it ended before its grace was over.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sparrowmq.cli import merge, show, words

if TYPE_CHECKING:
    from sparrowmq.cli.base import Globals
    from sparrowmq.client.client import Client

ENDING_S = 10.0  # how long to wait beyond the grace for the job's end
ROWS_MAX = 20_000  # tasks whose rows are read for the verdicts
VERDICTS = ("dequeued", "interrupted", "killed", "too_late")


def cancel(options: Globals, client: Client, row: Mapping[str, Any], grace_s: float) -> dict[str, Any]:
    """End one job, wait for its end, and return its verdicts by name.

    ``too_late``: tasks that were unfinished and ended by themselves; ``ended_before``: those that were over already.
    """
    from sparrowmq.cli.job import tasks_of, wait_until_over

    before = sum(row[name] for name in words.ENDS)
    verdict: dict[str, Any] = {"id": row["id"], "was_over": merge.is_over(row), **dict.fromkeys(VERDICTS, 0)}
    verdict |= {"ended_before": before, "over": True}
    if verdict["was_over"]:
        return verdict
    ahead_s = _clock_ahead_s(options, row)
    if not client.job(row["id"]).cancel(grace_s=grace_s):
        return verdict | {"was_over": True}
    told_unix_s = time.time() + ahead_s
    (after,), over = wait_until_over(options, [dict(row)], grace_s + ENDING_S)
    cancelled = after["cancelled"] - row["cancelled"]
    ended = sum(after[name] for name in words.ENDS) - before
    verdict |= {"over": over, "too_late": max(0, ended - cancelled)}
    known = Counter[str]()
    if cancelled and after["tasks"] <= ROWS_MAX:
        known = tell(tasks_of(options, "tasks", after, range(after["tasks"])), told_unix_s, grace_s)
    stopped = known["interrupted"] + known["killed"]
    return verdict | {**known, "dequeued": max(0, cancelled - stopped)}


def _clock_ahead_s(options: Globals, row: Mapping[str, Any]) -> float:
    """Return by how much the clock of the job's scheduler is ahead of ours; 0 where it does not tell."""
    for status in options.ask("job", row["id"]):
        if status.scheduler == row["scheduler"] and status.unix_s:
            return status.unix_s - time.time()
    return 0.0


def tell(tasks: Iterable[Mapping[str, Any]], told_unix_s: float, grace_s: float) -> Counter[str]:
    """Count the tasks that were interrupted or killed, of a job that was told to end at ``told_unix_s``."""
    said = Counter[str]()
    for task in tasks:
        if task["state"] != "cancelled" or not task["events"]:
            continue
        last = task["events"][-1]
        if last["detail"] in ("interrupted", "killed"):
            said[last["detail"]] += 1
        elif task["service_us"]:
            said["killed" if last["unix_s"] - told_unix_s >= grace_s else "interrupted"] += 1
    return said


def sentence(verdict: Mapping[str, Any]) -> str:
    """Return the verdicts in a line."""
    if verdict["was_over"]:
        return f"job {verdict['id']} was over already"
    told = show.listed(f"{verdict[name]:,} {name.replace('_', ' ')}" for name in VERDICTS if verdict[name])
    late = "" if verdict["over"] else "; some tasks have not ended yet"
    return f"job {verdict['id']} cancelled: {told or 'nothing was left to end'}{late}"
