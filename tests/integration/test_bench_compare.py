"""The comparison with other systems: what runs without installing, what fails, what hangs, and what is left of it."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from sparrowmq.bench import compare, guarded, side_by_side, venvs
from sparrowmq.bench.rivals import runner
from sparrowmq.cli import bench
from sparrowmq.cli.main import main
from sparrowmq.errors import Unavailable, UsageError

SMALL: dict[str, Any] = {"tasks": 50, "trips": 5, "payloads": 2, "naps": 4, "runs": 1}
RIVALS = Path(compare.__file__).with_name("rivals")

SYSTEM = """
import os, subprocess, sys, time

class System:
    settings = {"cluster": "none"}

    def __init__(self, options):
        if "broken" in __name__:
            raise ValueError("no such luck")

    def map(self, function, items):
        if "hangs" in __name__:
            daemon = "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(600)"
            process = subprocess.Popen([sys.executable, "-c", daemon], stdout=subprocess.PIPE, text=True)
            with open(os.path.join(os.path.dirname(__file__), "pid"), "w") as file:
                file.write(process.stdout.readline())
            time.sleep(600)
        if "wrong" in __name__:
            return [item + 1 for item in items]
        return list(items)

    submit = map

    def round_trip(self, function, item):
        return item

    def close(self):
        pass
"""


def measured(tmp_path: Path, name: str, timeout_s: float = 30.0, **changes: Any) -> dict[str, Any]:
    """Run the works on a system of this test's own; its behaviour goes with its name."""
    (tmp_path / f"{name}.py").write_text(SYSTEM)
    options = runner.Options(
        slots=1, budget_s=5.0, payload_bytes=100, nap_s=0.01, directory="", redis_server="", packages=[], **SMALL
    )
    system = compare.System(name, name, path=tmp_path, **changes)
    return compare.measure(system, options, tmp_path / "cache", timeout_s, lambda _text: None)


def test_sparrowmq_and_a_process_pool_do_all_works(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"--{name}={value}" for name, value in SMALL.items()]
    assert main(["-o", "json", "bench", "compare", "process-pool", "sparrowmq", *arguments]) == 0
    result = json.loads(capsys.readouterr().out)
    ours, pool = result["systems"]
    assert [ours["name"], pool["name"]] == ["sparrowmq", "process-pool"]
    assert [ours["error"], pool["error"]] == ["", ""]
    assert set(ours["works"]) == {"map", "submit", "latency", "payload", "naps"}
    assert set(pool["works"]) == {*ours["works"], "map_chunked"}
    for system in (ours, pool):
        assert system["settings"]["cluster"]
        assert system["versions"]["python"]
        assert system["works"]["map"]["tasks_per_s"] == system["works"]["map"]["runs"][0] > 0
        assert 0 < system["works"]["latency"]["p50_ms"] <= system["works"]["latency"]["p99_ms"]
        assert 0 < system["works"]["naps"]["efficiency"] < 1


def test_what_hangs_is_stopped_with_all_it_started_and_keeps_what_it_did(tmp_path: Path) -> None:
    row = measured(tmp_path, "hangs", timeout_s=3.0)
    assert row["error"] == "stopped after 3 s, while at: map"
    assert row["settings"] == {"cluster": "none"}
    daemon = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(daemon) or psutil.Process(daemon).status() == psutil.STATUS_ZOMBIE


def test_what_does_not_start_says_why(tmp_path: Path) -> None:
    row = measured(tmp_path, "broken")
    assert row["error"].startswith("ended with status 1, while at: its start")
    assert "ValueError: no such luck" in row["error"]


def test_wrong_results_are_no_figures(tmp_path: Path) -> None:
    row = measured(tmp_path, "wrong")
    assert row["error"] == ""
    assert row["works"]["map"] == {"error": "RuntimeError: task 0 gave 1 instead of 0"}
    assert row["works"]["latency"]["p50_ms"] >= 0


def test_what_cannot_be_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    row = measured(tmp_path, "absent", requirements=("sparrowmq-has-no-such-rival==1.0",))
    assert "absent could not be installed" in row["error"]
    assert "works" not in row


def test_an_environment_is_made_once_and_anew_when_its_making_was_cut_short(tmp_path: Path) -> None:
    python = venvs.ensure(tmp_path, "empty", ["pip"])  # which is there already
    made = python.parent.parent.stat().st_ctime_ns
    (python.parent.parent / "marker").touch()
    assert venvs.ensure(tmp_path, "empty", ["pip"]) == python
    assert (python.parent.parent / "marker").exists()
    (python.parent.parent / "whole").unlink()
    assert venvs.ensure(tmp_path, "empty", ["pip"]) == python
    assert not (python.parent.parent / "marker").exists()
    assert python.parent.parent.stat().st_ctime_ns > made


def test_an_installation_that_takes_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venvs, "INSTALL_TIMEOUT_S", 0.001)
    with pytest.raises(Unavailable, match=r"slow could not be installed within 0\.001 s"):
        venvs.ensure(tmp_path, "slow", ["pip"])


def test_a_program_ends_when_its_owner_is_gone(tmp_path: Path) -> None:
    """Its standard input ends; the runner then closes its system and goes."""
    (tmp_path / "hangs.py").write_text(SYSTEM)
    os.mkfifo(tmp_path / "pid")
    options = {**SMALL, "slots": 1, "budget_s": 5.0, "payload_bytes": 100, "nap_s": 0.01, "packages": []}
    process = psutil.Popen(
        [sys.executable, "-P", str(RIVALS / "runner.py"), "hangs", json.dumps(options), str(tmp_path / "figures")],
        stdin=subprocess.PIPE,
        env={"PYTHONPATH": f"{tmp_path}:{RIVALS}"},
    )
    daemon = psutil.Process(int((tmp_path / "pid").read_text()))
    try:
        process.stdin.close()
        assert process.wait(10.0) == 1
    finally:
        daemon.kill()


def test_output_is_kept_to_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    status = guarded.run(
        [sys.executable, "-c", "print('x' * 9000 + 'end')"], environment={}, log_path=log, timeout_s=20
    )
    assert status == 0
    assert len(guarded.tail(log)) < 2100
    assert guarded.tail(log).endswith("xend")


def test_rivals_import_nothing_of_this_package() -> None:
    for path in RIVALS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith("sparrowmq")], path.name


def test_the_command_knows_every_system() -> None:
    assert bench._SYSTEMS == compare.NAMES
    with pytest.raises(UsageError, match="unknown system 'slurm'"):
        compare.run(names=["slurm"])


def test_the_table_tells_what_is_missing_from_what_failed() -> None:
    done = {"tasks_per_s": 12345.6, "runs": [12345.6]}
    whole = {"name": "fast", "error": "", "versions": {"fast": "1.2"}, "start_s": 0.5, "settings": {"cluster": "one"}}
    result = {
        "works": {"slots": 2, "runs": 5, "tasks": 1, "trips": 1, "payloads": 1, "payload_bytes": 2**20}
        | {"naps": 1, "nap_s": 0.01},
        "environment": {"cpus": 2, "processor": "abacus", "python": "3.11"},
        "systems": [
            {**whole, "works": {"map": done, "latency": {"p50_ms": 0.123, "p99_ms": 4.0}, "naps": {"error": "Oh: no"}}},
            {"name": "absent", "error": "absent could not be installed: no index"},
        ],
    }
    fast, absent = side_by_side.rows(result)
    assert list(fast.values()) == ["fast 1.2", "12,346", "-", "-", "0.12 / 4.00", "-", "failed", "0.50"]
    assert list(absent.values()) == ["absent", *["failed"] * 7]
    lines = side_by_side.markdown(result).splitlines()
    assert "| fast 1.2 | 12,346 | - | - | 0.12 / 4.00 | - | failed | 0.50 |" in lines
    assert "- **fast** fast 1.2. cluster: one" in lines
    assert lines[-2:] == ["- failed: fast, naps: Oh: no", "- failed: absent: absent could not be installed: no index"]
