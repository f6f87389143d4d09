"""dask.distributed with a local cluster.

Owns: how it is set up and called. Must not know: the works.

As its documentation recommends: one process with one thread a slot for functions that hold the interpreter's
lock; ``pure=False``, or it hashes every argument to find equal calls; large arguments scattered ahead and
results fetched directly from the workers, past the scheduler. No dashboard, which takes from the scheduler's time.
A worker saturation without bound: by default most tasks wait with the scheduler, which saves memory in graphs, and
costs short tasks that depend on nothing two thirds of their throughput. It has no call that cuts a map of futures
to chunks.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

import dask
from distributed import Client, LocalCluster

_FUNCTIONS: Any = importlib.import_module("rival_functions")
_SATURATION = "distributed.scheduler.worker-saturation"


class System:
    """See `runner.System`."""

    def __init__(self, options: dict[str, Any]) -> None:
        slots: int = options["slots"]
        dask.config.set({"temporary-directory": options["directory"], _SATURATION: math.inf})
        self._cluster = LocalCluster(n_workers=slots, threads_per_worker=1, processes=True, dashboard_address=None)
        self._client = Client(self._cluster)
        self.settings = {
            "cluster": f"LocalCluster(n_workers={slots}, threads_per_worker=1, processes=True, dashboard_address=None)",
            "configuration": f"{_SATURATION}: inf",
            "map": "client.gather(client.map(function, items, pure=False), direct=True)",
            "submit": "client.submit(function, item, pure=False) each, then client.gather(futures, direct=True)",
            "round trip": "client.submit(function, item, pure=False).result()",
            "large arguments": "client.scatter(items, direct=True, hash=False), then map as above",
        }

    def map(self, function: str, items: Sequence[Any]) -> list[Any]:
        """See `runner.System`."""
        return self._gather(self._client.map(getattr(_FUNCTIONS, function), items, pure=False))

    def map_large(self, function: str, items: Sequence[Any]) -> list[Any]:
        """See `runner.System`."""
        return self.map(function, self._client.scatter(items, direct=True, hash=False))

    def submit(self, function: str, items: Sequence[Any]) -> list[Any]:
        """See `runner.System`."""
        called = getattr(_FUNCTIONS, function)
        return self._gather([self._client.submit(called, item, pure=False) for item in items])

    def round_trip(self, function: str, item: Any) -> Any:
        """See `runner.System`."""
        return self._client.submit(getattr(_FUNCTIONS, function), item, pure=False).result()

    def close(self) -> None:
        """See `runner.System`."""
        self._client.close()
        self._cluster.close()

    def _gather(self, futures: Sequence[Any]) -> list[Any]:
        results: list[Any] = self._client.gather(futures, direct=True)
        return results
