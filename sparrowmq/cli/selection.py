"""Selectors: how jobs, tasks and workers are named on the command line.

Owns: what each form means, and the words for one that means nothing. Must not know: where the rows come from.

Jobs: ``last``, ``all``, ``running`` (whatever is unfinished), ``3`` (the third newest; 1 is ``last``), ``1-3``, an
id or the beginning of one; several, joined by commas. Tasks: ``all``, ``7``, ``0-9``; likewise. Workers: ``all``,
an id or the beginning of one, with or without ``worker-``; likewise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sparrowmq.errors import UsageError

Row = Mapping[str, Any]
R = TypeVar("R", bound=Row)

UNFINISHED = ("running", "waiting")
NUMBER_DIGITS_MAX = 6  # longer ones are the beginning of an id
SHOWN_MAX = 5
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def words(selector: str) -> list[str]:
    """Return the parts of a selector. Raises UsageError where one is empty."""
    found = [part.strip() for part in selector.split(",")]
    if not all(found):
        raise UsageError(f"{selector!r} selects nothing: there is an empty part between its commas")
    return found


def is_plural(selector: str) -> bool:
    """Return whether a job selector may mean any number of jobs, whatever there is."""
    return selector in ("all", "running") or "," in selector or "-" in selector


def jobs(rows: Sequence[R], selector: str) -> list[R]:
    """Return those of ``rows`` (oldest first, with ``id`` and ``state``) that ``selector`` means, oldest first.

    Raises UsageError for a part that means no job; only ``all`` and ``running`` may.
    """
    chosen = {row["id"] for word in words(selector) for row in _jobs_of(rows, word)}
    return [row for row in rows if row["id"] in chosen]


def _jobs_of(rows: Sequence[R], word: str) -> Sequence[R]:
    if word == "all":
        return rows
    if word == "running":
        return [row for row in rows if row["state"] in UNFINISHED]
    if word == "last":
        word = "1"
    match = _RANGE.fullmatch(word)
    if match is not None and all(len(digits or "") <= NUMBER_DIGITS_MAX for digits in match.groups()):
        return _newest(rows, word, int(match[1]), int(match[2] or match[1]))
    return [_by_prefix(rows, word, "job", "`sparrowmq job list` lists them")]


def _newest(rows: Sequence[R], word: str, first: int, last: int) -> Sequence[R]:
    """Return the ``first`` newest to the ``last`` newest; 1 is the newest."""
    if not 1 <= first <= last:
        raise UsageError(f"{word!r} is no range of jobs", hint="1 is the newest job, 1-3 the three newest")
    if last > len(rows):
        there = f"only {len(rows):,}" if rows else "none"
        raise UsageError(f"there is no job {last:,}: the schedulers know {there}", hint="`sparrowmq job list`")
    return rows[len(rows) - last : len(rows) - first + 1]


def tasks(selector: str, count: int) -> list[int]:
    """Return the indices, ascending, that ``selector`` means in a job of ``count`` tasks. Raises UsageError."""
    chosen: set[int] = set()
    for first, last in _ranges(selector):
        if last is None:
            chosen.update(range(count))
        elif last >= count:
            raise UsageError(f"there is no task {last:,}: the job's tasks are 0 to {count - 1:,}")
        else:
            chosen.update(range(first, last + 1))
    return sorted(chosen)


def check_tasks(selector: str) -> None:
    """Raise UsageError for what is no selector of tasks, whatever the job."""
    for _ in _ranges(selector):
        pass


def _ranges(selector: str) -> Iterator[tuple[int, int | None]]:
    for word in words(selector):
        match = _RANGE.fullmatch(word)
        if word == "all":
            yield 0, None
        elif match is None or int(match[1]) > int(match[2] or match[1]):
            raise UsageError(f"{word!r} names no tasks", hint="tasks are named like 7 or 0-9,12 or all")
        else:
            yield int(match[1]), int(match[2] or match[1])


def workers(rows: Sequence[R], selectors: Iterable[str]) -> list[R]:
    """Return those of ``rows`` (with ``id``) that ``selectors`` mean, in their order. Raises UsageError."""
    chosen: set[str] = set()
    for word in (word for selector in selectors for word in words(selector)):
        if word == "all":
            chosen.update(row["id"] for row in rows)
        else:
            full = word if word.startswith("worker-") else f"worker-{word}"
            exact = [row for row in rows if row["id"] == word]
            found = exact or [_by_prefix(rows, full, "worker", "`sparrowmq worker list` lists them")]
            chosen.update(row["id"] for row in found)
    return [row for row in rows if row["id"] in chosen]


def _by_prefix(rows: Sequence[R], prefix: str, what: str, hint: str) -> R:
    found = [row for row in rows if row["id"].startswith(prefix)]
    exact = [row for row in found if row["id"] == prefix]
    if len(found) == 1 or exact:
        return (exact or found)[0]
    if not found:
        raise UsageError(f"no scheduler knows a {what} {prefix}", hint=hint)
    some = ", ".join(row["id"] for row in found[:SHOWN_MAX]) + (", ..." if len(found) > SHOWN_MAX else "")
    raise UsageError(f"{len(found):,} {what}s begin with {prefix}: {some}", hint="give more of the id")
