"""The sign of life of a loop, and what `sparrowmq health` says of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparrowmq.cli.main import main
from sparrowmq.runtime import health
from sparrowmq.runtime.loop import Loop


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    monkeypatch.setattr(health, "INTERVAL_S", 0.01)
    loop = Loop()
    yield loop
    health.setup("")
    loop.close()


def test_a_loop_that_turns_keeps_the_file_fresh_and_one_that_hangs_does_not(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "alive"
    health.setup(str(path))
    health.show_life(loop)
    assert path.exists()

    def look() -> None:
        if os.stat(path).st_mtime > 0.0:
            loop.stop()

    loop.on_turn.append(look)
    loop.call_later(5.0, loop.stop)
    for _ in range(2):  # again and again
        os.utime(path, (0.0, 0.0))
        age_s = health.age_s(str(path))  # of a loop that does not turn
        assert age_s is not None
        assert age_s > health.STALE_S
        loop.run()
        assert health.age_s(str(path)) < 5.0
    health.hide_life()
    assert health.age_s(str(path)) is None


def test_without_a_file_nothing_is_done(loop: Loop) -> None:
    health.setup("")
    before = loop._timer_count
    health.show_life(loop)
    health.hide_life()
    assert loop._timer_count == before


def test_a_file_that_cannot_be_written_is_told_once_and_ends_nothing(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(health.logs, "emit", lambda level, event, fields: said.append(event))
    health.setup(str(tmp_path / "missing" / "alive"))
    health.show_life(loop)
    loop.call_later(0.1, loop.stop)
    loop.run()
    assert said == ["health file cannot be written"]


@pytest.mark.parametrize(("age_s", "status"), [(0.0, 0), (health.STALE_S - 1.0, 0), (health.STALE_S + 1.0, 1)])
def test_the_command_goes_by_the_age(
    age_s: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "alive"
    path.touch()
    then = time.time() - age_s
    os.utime(path, (then, then))
    monkeypatch.setenv("SPARROWMQ_HEALTH_FILE", str(path))
    assert main(["health"]) == status
    assert capsys.readouterr().out.startswith("unhealthy: " if status else "healthy: ")
    assert main(["-o", "json", "health"]) == status
    assert json.loads(capsys.readouterr().out)["healthy"] is (status == 0)


def test_the_command_tells_a_missing_file_from_a_missing_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPARROWMQ_HEALTH_FILE", str(tmp_path / "alive"))
    assert main(["health"]) == 1
    assert "is not there" in capsys.readouterr().out
    monkeypatch.delenv("SPARROWMQ_HEALTH_FILE")
    assert main(["health"]) == 4
    assert "SPARROWMQ_HEALTH_FILE" in capsys.readouterr().err
