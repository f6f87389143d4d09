"""concurrent.futures.ProcessPoolExecutor: no cluster, one machine, the least there can be.

Owns: how it is set up and called. Must not know: the works.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

_FUNCTIONS: Any = importlib.import_module("rival_functions")


class System:
    """See `runner.System`."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._slots: int = options["slots"]
        self._pool = ProcessPoolExecutor(self._slots)
        self.settings = {
            "cluster": f"ProcessPoolExecutor({self._slots}), the default start method",
            "map": "executor.map(function, items)",
            "map_chunked": "executor.map(function, items, chunksize=len(items) // (4 * slots))",
            "submit": "executor.submit, then Future.result of each",
        }

    def map(self, function: str, items: Sequence[Any]) -> list[Any]:
        """See `runner.System`."""
        return list(self._pool.map(getattr(_FUNCTIONS, function), items))

    def map_chunked(self, function: str, items: Sequence[Any]) -> list[Any]:
        """See `runner.System`."""
        chunk = max(1, len(items) // (4 * self._slots))
        return list(self._pool.map(getattr(_FUNCTIONS, function), items, chunksize=chunk))

    def submit(self, function: str, items: Sequence[Any]) -> list[Any]:
        """See `runner.System`."""
        called = getattr(_FUNCTIONS, function)
        futures = [self._pool.submit(called, item) for item in items]
        return [future.result() for future in futures]

    def round_trip(self, function: str, item: Any) -> Any:
        """See `runner.System`."""
        return self._pool.submit(getattr(_FUNCTIONS, function), item).result()

    def close(self) -> None:
        """See `runner.System`."""
        self._pool.shutdown(cancel_futures=True)
