"""sparrowmq as one of the systems that are compared: the counterpart of the modules in `rivals`.

Owns: how it is set up and called, which is as README.md does it. Must not know: the works.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Final

from sparrowmq.client.client import Client
from sparrowmq.local import LocalCluster

_WAIT_S: Final = 120.0


class System:
    """See `rivals.runner.System`; ``options`` are `rivals.runner.Options`."""

    def __init__(self, options: dict[str, Any]) -> None:
        slots: int = options["slots"]
        self._functions: Any = importlib.import_module("rival_functions")  # by the name that workers import
        self._cluster = LocalCluster(workers=slots, slots=1, schedulers=1)
        self._cluster.start()
        try:
            self._client = Client(self._cluster)
        except BaseException:
            self._cluster.close()
            raise
        self.settings = {
            "cluster": f"LocalCluster(workers={slots}, slots=1, schedulers=1), all else by default",
            "map": "client.gather(client.map(function, items))",
            "submit": "client.submit(function, item) each, then client.gather(futures)",
            "large arguments": "the same as map",
        }

    def map(self, function: str, items: Sequence[Any]) -> list[Any]:
        """See `rivals.runner.System`."""
        return self._client.gather(self._client.map(self._called(function), items), timeout_s=_WAIT_S)

    def submit(self, function: str, items: Sequence[Any]) -> list[Any]:
        """See `rivals.runner.System`."""
        called = self._called(function)
        return self._client.gather([self._client.submit(called, item) for item in items], timeout_s=_WAIT_S)

    def round_trip(self, function: str, item: Any) -> Any:
        """See `rivals.runner.System`."""
        return self._client.submit(self._called(function), item).result(_WAIT_S)

    def close(self) -> None:
        """See `rivals.runner.System`."""
        self._client.close()
        self._cluster.close()

    def _called(self, function: str) -> Any:
        return getattr(self._functions, function)
