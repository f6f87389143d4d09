"""A bar that shows how far tasks are.

Owns: `progress`, and when a bar is drawn and when a line must do. Must not know: clients, clusters. Rich is loaded only
where a bar is drawn.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Collection, Generator, Iterator
from concurrent.futures import Future as BaseFuture
from typing import Any, TypeVar, overload

from sparrowmq.client.future import Future
from sparrowmq.client.waiting import as_completed
from sparrowmq.protocol import messages as m

T = TypeVar("T")


@overload
def progress(
    work: Collection[Future[T]], *, description: str = "", timeout_s: float | None = None
) -> list[Future[T]]: ...
@overload
def progress(work: Iterator[T], *, description: str = "", total: int | None = None) -> Iterator[T]: ...
def progress(work: Any, *, description: str = "", timeout_s: float | None = None, total: int | None = None) -> Any:
    """Show how far ``work`` is: a bar on a terminal (standard error) or in a notebook, elsewhere one line at the end.

    A job, or any collection of futures: returns when all are over, with the futures in the order of their ends; raises
    nothing for those that failed, but counts them. Raises TimeoutError where not all are over in ``timeout_s``.

        progress(job)
        for future in progress(job): ...

    An iterator is passed on item by item, while the bar moves; ``total`` says how many are to come:

        for future in progress(as_completed(job), total=len(job)): ...
        for value in progress(client.imap(f, xs), total=len(xs)): ...
    """
    if isinstance(work, Iterator):
        return _passed_on(work, _Count(description, total))
    futures = list(dict.fromkeys(work))
    return list(_passed_on(as_completed(futures, timeout_s), _Count(description or _name(work), len(futures))))


def _name(work: object) -> str:
    identity = getattr(work, "id", "")
    return f"job {identity}" if isinstance(identity, str) and identity else ""


class _Count:
    """How far it is: written by the reader's thread, read by the one that draws."""

    def __init__(self, description: str, total: int | None) -> None:
        self.description = description
        self.total = total
        self.done = 0
        self.failed = 0
        self.began = time.monotonic()

    def add(self, item: object) -> None:
        """One more is over."""
        self.done += 1
        if isinstance(item, BaseFuture) and item.done() and _failed(item):
            self.failed += 1

    def line(self) -> str:
        """Return what there is to say at the end."""
        subject = f"{self.description}: " if self.description else ""
        of = "" if self.total is None or self.total == self.done else f" of {self.total:,}"
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"{subject}{self.done:,}{of} done{failed} in {time.monotonic() - self.began:.2f} s"


def _failed(future: BaseFuture[Any]) -> bool:
    if isinstance(future, Future):
        return future._status > m.SUCCEEDED  # its error is loaded when somebody asks for it
    return future.cancelled() or future.exception() is not None


def _passed_on(items: Iterator[T], count: _Count) -> Generator[T, None, None]:
    with _shown(count):
        for item in items:
            count.add(item)
            yield item


@contextlib.contextmanager
def _shown(count: _Count) -> Generator[None, None, None]:
    if not _in_notebook() and not sys.stderr.isatty():
        try:
            yield
        finally:
            print(count.line(), file=sys.stderr)
        return
    from sparrowmq.client.bar import bar  # loads rich

    with bar(count, in_notebook=_in_notebook()):
        yield


def _in_notebook() -> bool:
    """Tell whether this runs in a Jupyter kernel, without loading anything of it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell" or type(shell).__module__.startswith("google.colab")
