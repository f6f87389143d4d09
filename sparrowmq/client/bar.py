"""The bar itself: what `progress` draws with rich.

Owns: the columns. Must not know: futures, what is counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Count(Protocol):
    """What is read whenever the bar is drawn."""

    description: str
    total: int | None
    done: int
    failed: int


class Bar(Progress):
    """A context manager: draws ``count`` until the end of its block, and leaves the last state there."""

    def __init__(self, count: Count, console: Console) -> None:
        self._count = count
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]}", style="red"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._id = self.add_task(count.description, total=count.total, failed="")

    def get_renderables(self) -> Iterable[RenderableType]:
        """Read the count first: nobody has to tell the bar of every task."""
        if self.tasks:
            failed = f"{self._count.failed:,} failed" if self._count.failed else ""
            self.update(self._id, completed=self._count.done, failed=failed)
        return super().get_renderables()


def bar(count: Count, *, in_notebook: bool) -> Bar:
    """Return the bar for where this runs: the output of a notebook's cell, or the terminal at standard error."""
    return Bar(count, Console(force_jupyter=True) if in_notebook else Console(stderr=True))
