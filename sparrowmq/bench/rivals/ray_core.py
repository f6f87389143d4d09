"""Ray with a local node.

Owns: how it is set up and called. Must not know: the works.

As its documentation recommends: results fetched by one ``ray.get`` of all, and for tiny tasks chunks, which its
own `ray.util.multiprocessing.Pool` makes. A map without chunks is one call a task: it has no other. Large
arguments go to its shared memory by themselves. No dashboard, no log forwarding, no usage reports.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read while it is imported

import ray
from ray.util.multiprocessing import Pool

_FUNCTIONS: Any = importlib.import_module("rival_functions")
_STORE_BYTES = 2 * 2**30
_NAMES = ("echo", "nap", "label", "block")


class System:
    """See `runner.System`."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._slots: int = options["slots"]
        ray.init(
            num_cpus=self._slots,
            object_store_memory=_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=options["directory"],
        )
        self._remote = {name: ray.remote(getattr(_FUNCTIONS, name)) for name in _NAMES}
        self._pool: Any = None
        self.settings = {
            "cluster": f"ray.init(num_cpus={self._slots}, object_store_memory=2 GiB, include_dashboard=False)",
            "map": "ray.get([function.remote(item) for item in items])",
            "map_chunked": f"ray.util.multiprocessing.Pool({self._slots}).map, its own chunk size",
            "submit": "the same as map",
            "large arguments": "the same as map; beyond 100 kB it puts them into shared memory by itself",
        }

    def map(self, function: str, items: Sequence[Any]) -> list[Any]:
        """See `runner.System`."""
        called = self._remote[function]
        results: list[Any] = ray.get([called.remote(item) for item in items])
        return results

    def map_chunked(self, function: str, items: Sequence[Any]) -> list[Any]:
        """See `runner.System`."""
        if self._pool is None:
            self._pool = Pool(self._slots)  # takes all slots from now on
        results: list[Any] = self._pool.map(getattr(_FUNCTIONS, function), items)
        return results

    def submit(self, function: str, items: Sequence[Any]) -> list[Any]:
        """See `runner.System`."""
        return self.map(function, items)

    def round_trip(self, function: str, item: Any) -> Any:
        """See `runner.System`."""
        return ray.get(self._remote[function].remote(item))

    def close(self) -> None:
        """See `runner.System`."""
        if self._pool is not None:
            self._pool.terminate()
        ray.shutdown()
