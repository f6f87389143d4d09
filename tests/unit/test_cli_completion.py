"""Completion: the scripts, what is offered, and silence where nothing can be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from sparrowmq.cli import completion
from sparrowmq.cli.base import Globals
from sparrowmq.cli.main import root

ROOT = str(Path(__file__).resolve().parents[2])


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SPARROWMQ_")}
    return {**clean, "XDG_STATE_HOME": str(tmp_path), "PYTHONPATH": ROOT}


def call(environ: dict[str, str], *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sparrowmq.cli.main", *words]
    return subprocess.run(command, env={**environ, **more}, capture_output=True, text=True, timeout=30)


def complete(environ: dict[str, str], line: str) -> list[str]:
    """Return what bash would offer at the end of ``line``."""
    words = line.split(" ")
    done = call(
        environ, COMP_WORDS="\n".join(words), COMP_CWORD=str(len(words) - 1), **{completion.VARIABLE: "bash_complete"}
    )
    assert done.stderr == ""
    return [item.split(",", 1)[1] for item in done.stdout.split("\n") if item]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script_with_a_hint(shell, environ):
    done = call(environ, "completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("# To have it in every shell, add this line to ~/.")
    assert f"sparrowmq completion {shell}" in done.stdout
    assert completion.VARIABLE in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sparrowmq jo", ["job"]),
        ("sparrowmq job w", ["wait"]),
        ("sparrowmq job show l", ["last"]),
        ("sparrowmq job show last,r", ["last,running"]),
        ("sparrowmq worker drain ", ["all"]),
        ("sparrowmq -o ", ["table", "json", "jsonl", "quiet"]),
        ("sparrowmq run --policy ra", ["random"]),
        ("sparrowmq run --ret", ["--retries", "--retry-on"]),
        ("sparrowmq completion z", ["zsh"]),
    ],
)
def test_what_is_offered_without_a_cluster(line, offered, environ):
    assert complete(environ, line) == offered


def test_silence_where_the_cluster_cannot_be_reached(environ):
    begin = time.monotonic()
    assert complete(environ, "sparrowmq --redis redis://127.0.0.1:1/0 job show ") == ["last", "all", "running"]
    assert complete(environ, "sparrowmq --redis nonsense job show ") == ["last", "all", "running"]
    assert time.monotonic() - begin < 3.0


def test_without_a_cluster_nothing_slow_is_loaded(environ):
    code = (
        "import sys; from sparrowmq.cli import completion, base; completion._ask(base.Globals(), 'jobs');"
        "print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=30)
    assert not {"zmq", "redis", "rich"} & set(loaded.stdout.split())


def test_what_the_cluster_has_is_offered(monkeypatch):
    kind = completion._Live("workers", lambda statuses: [("worker-a1", "alive"), ("worker-b2", "")], "all")
    monkeypatch.setattr(completion, "_ask", lambda options, what: [])
    context = click.Context(root, obj=Globals())
    parameter = click.Argument(["x"])
    items = kind.shell_complete(context, parameter, "worker-a1,worker-")
    assert [(item.value, item.help) for item in items] == [
        ("worker-a1,worker-a1", "alive"),
        ("worker-a1,worker-b2", None),
    ]
    monkeypatch.setattr(completion, "_ask", lambda options, what: 1 / 0)
    assert [item.value for item in kind.shell_complete(context, parameter, "")] == ["all"]
