"""Makes one system do all works, one after the other, and writes down how long it took.

Owns: the works, how they are timed and checked, the file with the figures. Must not know: any system.

    python runner.py MODULE OPTIONS_JSON FIGURES_PATH

The file is written anew after each work, so that a system that hangs keeps what it has done. The end of standard
input ends the runner: whoever started it is gone.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import os
import platform
import signal
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypedDict


class Options(TypedDict):
    """How much of each work, and what a system needs to start."""

    slots: int  # tasks at once, one process each
    runs: int
    budget_s: float  # a work that has taken so long is not repeated
    tasks: int  # no-ops of one map, and of separate submits
    trips: int  # sequential round trips
    payloads: int  # arguments, and results
    payload_bytes: int
    naps: int
    nap_s: float
    directory: str  # for whatever a system keeps; gone afterwards
    redis_server: str  # the path of a Redis or Valkey server; "": none is installed
    packages: list[str]  # whose versions are told


class System(Protocol):
    """A running system. ``function`` is a name in `rival_functions`; each returns results in order.

    Two methods may be missing: ``map_chunked``, where a system has no call that cuts a map to chunks, and
    ``map_large``, where large arguments go the same way as small ones. A ``tidy`` is called after each run,
    outside the time. ``settings`` says how it was set up and called, and why that is fair.
    """

    settings: dict[str, str]

    def map(self, function: str, items: Sequence[Any]) -> list[Any]:
        """Run all by one call of the system."""

    def submit(self, function: str, items: Sequence[Any]) -> list[Any]:
        """Run all by one call each, then wait for all."""

    def round_trip(self, function: str, item: Any) -> Any:
        """Run one and wait for it."""

    def close(self) -> None:
        """End it."""


class Runner:
    """Runs the works on ``system``."""

    def __init__(self, system: System, options: Options) -> None:
        self._system = system
        self._options = options

    def works(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """Return the works by name, in their order: chunks come last, as some systems set slots aside for them."""
        works = {
            "map": lambda: self._rate(self._system.map),
            "submit": lambda: self._rate(self._system.submit),
            "latency": self._latency,
            "payload": self._payload,
            "naps": self._naps,
        }
        chunked = getattr(self._system, "map_chunked", None)
        if chunked is not None:
            works["map_chunked"] = lambda: self._rate(chunked)
        return works

    def _rate(self, call: Callable[[str, Sequence[Any]], list[Any]]) -> dict[str, Any]:
        items = range(self._options["tasks"])
        _check(call("echo", items[:200]), items[:200])  # warms it up
        took_s = self._repeat(lambda: _check(call("echo", items), items))
        return _median("tasks_per_s", [len(items) / each for each in took_s])

    def _latency(self) -> dict[str, Any]:
        p50_ms, p99_ms = [], []

        def once() -> None:
            times_ms = []
            for number in range(self._options["trips"]):
                began = time.perf_counter()
                _check([self._system.round_trip("echo", number)], [number])
                times_ms.append((time.perf_counter() - began) * 1e3)
            times_ms.sort()
            p50_ms.append(round(times_ms[math.ceil(len(times_ms) * 0.5) - 1], 3))
            p99_ms.append(round(times_ms[math.ceil(len(times_ms) * 0.99) - 1], 3))

        self._repeat(once)
        return _median("p50_ms", p50_ms) | {"p99_ms": statistics.median_low(p99_ms), "p99_runs": p99_ms}

    def _payload(self) -> dict[str, Any]:
        functions = importlib.import_module("rival_functions")
        count, size_bytes = self._options["payloads"], self._options["payload_bytes"]
        labels = [[number, size_bytes] for number in range(count)]
        blocks = [functions.block((number, size_bytes)) for number in range(count)]
        rows = [(number, size_bytes) for number in range(count)]
        there = getattr(self._system, "map_large", self._system.map)
        arguments_s = self._repeat(lambda: _check(there("label", blocks), labels))
        results_s = self._repeat(
            lambda: _check([functions.label(data) for data in self._system.map("block", rows)], labels)
        )
        total_mb = count * size_bytes / 1e6
        arguments = _median("arguments_mb_per_s", [total_mb / each for each in arguments_s], "arguments_runs")
        return arguments | _median("results_mb_per_s", [total_mb / each for each in results_s], "results_runs")

    def _naps(self) -> dict[str, Any]:
        naps = [self._options["nap_s"]] * self._options["naps"]
        ideal_s = sum(naps) / self._options["slots"]
        took_s = self._repeat(lambda: _check(self._system.map("nap", naps), naps))
        return _median("efficiency", [ideal_s / each for each in took_s], digits=4)

    def _repeat(self, once: Callable[[], None]) -> list[float]:
        """Return the seconds of each run: as many as asked for, fewer where they take long."""
        tidy: Callable[[], None] = getattr(self._system, "tidy", lambda: None)
        took_s: list[float] = []
        while len(took_s) < self._options["runs"] and sum(took_s) < self._options["budget_s"]:
            began = time.perf_counter()
            once()
            took_s.append(time.perf_counter() - began)
            tidy()
        return took_s


def _check(results: Iterable[Any], expected: Iterable[Any]) -> None:
    for number, (result, wanted) in enumerate(zip(results, expected, strict=True)):
        if result != wanted:
            raise RuntimeError(f"task {number} gave {result!r:.80} instead of {wanted!r:.80}")


def _median(name: str, values: list[float], runs: str = "runs", digits: int = 3) -> dict[str, Any]:
    rounded = [round(value, digits) for value in values]
    return {name: statistics.median_low(rounded), runs: rounded}


def _versions(packages: list[str]) -> dict[str, str]:
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def _write(path: str, figures: dict[str, Any]) -> None:
    fresh = f"{path}.fresh"
    with open(fresh, "w", encoding="utf-8") as file:
        json.dump(figures, file)
    os.replace(fresh, path)


def _end_with_owner() -> None:
    while os.read(0, 4096):  # not sys.stdin, whose lock a forked process would inherit
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main(module: str, options: Options, path: str) -> None:
    """Start the system, run all works, end it. What fails is written down in place of its figures."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))  # so that the system is closed
    threading.Thread(target=_end_with_owner, daemon=True).start()
    told: dict[str, Any] = {"versions": _versions(options["packages"])}
    _write(path, told)
    began = time.perf_counter()
    system: System = importlib.import_module(module).System(options)
    try:
        _check([system.round_trip("echo", 1)], [1])
        told |= {"start_s": round(time.perf_counter() - began, 3), "settings": system.settings, "works": {}}
        for name, work in Runner(system, options).works().items():
            told["under_way"] = name
            _write(path, told)
            try:
                told["works"][name] = work()
            except Exception as error:
                traceback.print_exc()
                told["works"][name] = {"error": f"{type(error).__name__}: {error}"[:500]}
        del told["under_way"]
        _write(path, told)
    finally:
        system.close()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3])
