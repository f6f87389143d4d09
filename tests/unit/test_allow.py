"""What entries of `worker.allow` admit: exactly what they say, decided before anything of the task is loaded."""

from __future__ import annotations

import functools
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparrowmq.errors import RemoteError, SparrowError, TaskError
from sparrowmq.executor import allow, runners
from sparrowmq.payload import failure, plain, python
from sparrowmq.protocol import messages as m

LIST = frozenset({"jobs.etl:load", "jobs.model:Model.fit", "tools:*"})


@pytest.mark.parametrize("name", ["jobs.etl:load", "jobs.model:Model.fit", "tools:run", "tools:größe"])
def test_what_is_listed_is_admitted(name: str) -> None:
    assert allow.refusal(LIST, m.CALL, name) == ""


@pytest.mark.parametrize(
    "name",
    [
        "jobs.etl:load.__globals__",  # an attribute of what is listed
        "jobs.etl:Load",
        "jobs.etl:load ",
        "jobs.etl:load\n",
        "jobs.etl",
        "jobs:etl.load",  # the same function by another way
        "jobs.etl.load:load",
        "jobs.model:Model",
        "jobs.model:Model.fit.__call__",
        "tools",
        "tools:",
        "tools:*",
        "tools:run.__globals__",  # a whole module's functions, and nothing behind them
        "tools:os.system",
        "tools:_private",
        "tools:__getattr__",
        "tools.more:run",
        "mytools:run",
        "tool:run",
        "Tools:run",
        "tools:run:run",
        "*:run",
        "os:system",
        "",
        ":",
        "\ufffd",
    ],
)
def test_nothing_else_is(name: str) -> None:
    assert "worker.allow" in allow.refusal(LIST, m.CALL, name)


@pytest.mark.parametrize(
    ("kind", "what"),
    [(m.PYTHON, "a pickled function"), (m.COMMAND, "a command"), (m.SLEEP, "a sleep"), (9, "a task of kind 9")],
)
def test_only_calls_by_name_can_be_listed(kind: int, what: str) -> None:
    for name in ("", "jobs.etl:load"):
        assert allow.refusal(LIST, kind, name).startswith(f"{what} is refused by the setting worker.allow")


@pytest.mark.parametrize("kind", [m.PYTHON, m.CALL, m.COMMAND, m.SLEEP])
def test_without_a_list_everything_runs(kind: int) -> None:
    assert allow.refusal(frozenset(), kind, "os:system") == allow.refusal_of_import((), "os:system", os.system) == ""


@pytest.mark.parametrize("entry", ["jobs:*", "jobs.sub:*"])
def test_an_entry_for_a_module_is_for_exactly_that_module(entry: str) -> None:
    others = {"jobs:*", "jobs.sub:*"} - {entry}
    assert allow.refusal({entry}, m.CALL, entry.replace("*", "f")) == ""
    assert all(allow.refusal({entry}, m.CALL, other.replace("*", "f")) for other in others)


# -- what is loaded, and what is not


class Loading:
    """A finder that notes which modules are looked for; `theirs` is a task's module, `tools` a listed one."""

    def __init__(self) -> None:
        self.looked_for: list[str] = []

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        self.looked_for.append(name)


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Loading:
    loading = Loading()
    monkeypatch.setattr(sys, "meta_path", [loading, *sys.meta_path])
    return loading


@pytest.fixture
def tools() -> Iterator[types.ModuleType]:
    module = types.ModuleType("sparrowmq_test_tools")
    source = """
import functools, os
from os import system
from sparrowmq.payload import plain

def own(x):
    return x + 1

class Own:
    def __init__(self, x):
        self.x = x

wrapped = functools.wraps(own)(lambda x: x + 2)
bare = functools.partial(own, 1)
"""
    exec(source, vars(module))
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def run(kind: int, function: bytes, allowed: set[str], payload: bytes = plain.dumps([[1], {}])) -> Any:
    surroundings = runners.Surroundings(None, None, frozenset(allowed))  # type: ignore[arg-type]  # a call needs neither
    try:
        return plain.loads(runners.make(kind, "j", function, surroundings)(payload, 0, 1))
    except runners.Failed as failed:
        report, kind_of_failure = failed.report, failed.kind
    assert kind_of_failure is None, "no other attempt would end otherwise"
    return failure.load(report)


def refused(answer: object) -> str:
    assert isinstance(answer, TaskError), answer
    assert not isinstance(answer, RemoteError)
    assert "worker.allow" in str(answer)
    return str(answer)


def test_a_refused_module_is_not_even_looked_for(loading: Loading) -> None:
    assert "'theirs:run'" in refused(run(m.CALL, b"theirs:run", {"tools:run"}))
    refused(run(m.CALL, b"theirs.run:run", {"theirs:*"}))
    refused(run(m.CALL, b"\xff\xfe", {"tools:run"}))
    assert loading.looked_for == []
    assert not isinstance(run(m.CALL, b"theirs:run", {"theirs:run"}), int)
    assert loading.looked_for == ["theirs"], "or this test sees nothing"


class Bomb:
    """Its pickle calls `mkdir` when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_refused_pickle_is_not_read(tmp_path: Path) -> None:
    bomb = python._by_reference(Bomb(tmp_path / "hole"), lambda _buffer: True)
    refused(run(m.PYTHON, bomb, {"tools:*"}))
    assert not list(tmp_path.iterdir())
    run(m.PYTHON, bomb, set())
    assert list(tmp_path.iterdir()), "or this bomb is none"


def test_refused_commands_and_sleeps_do_not_begin(tmp_path: Path) -> None:
    made = tmp_path / "made"
    payload = plain.dumps({"argv": ["touch", str(made)]})
    assert "a command" in refused(run(m.COMMAND, b"", {"tools:*"}, payload))
    assert not made.exists()
    assert "a sleep" in refused(run(m.SLEEP, b"", {"tools:*"}, plain.dumps(86_400.0)))


@pytest.mark.parametrize(("path", "value"), [("own", 2), ("wrapped", 3)])
def test_a_whole_module_gives_what_it_defines(tools: types.ModuleType, path: str, value: int) -> None:
    assert run(m.CALL, f"{tools.__name__}:{path}".encode(), {f"{tools.__name__}:*"}) == value


@pytest.mark.parametrize("path", ["system", "bare", "os"])
def test_what_a_whole_module_has_imported_is_not_its_own(tools: types.ModuleType, path: str) -> None:
    answer = run(m.CALL, f"{tools.__name__}:{path}".encode(), {f"{tools.__name__}:*"}, plain.dumps([["false"], {}]))
    if path == "os":
        assert "cannot be called" in str(answer)
    else:
        assert "what it defines itself" in refused(answer)


def test_what_is_listed_by_name_may_be_anybodys(tools: types.ModuleType) -> None:
    name = f"{tools.__name__}:system"
    assert run(m.CALL, name.encode(), {name}, plain.dumps([["true"], {}])) == 0


def test_a_target_without_a_module_is_nobodys() -> None:
    nameless = functools.partial(abs)
    assert "of 'None'" in allow.refusal_of_import({"tools:*"}, "tools:f", types.SimpleNamespace(__module__=None))
    assert allow.refusal_of_import({"tools:*"}, "tools:f", nameless)


def test_errors_of_a_refusal_are_texts_that_name_the_setting() -> None:
    answer = run(m.CALL, b"os:" + b"x" * 100_000, {"tools:*"})
    assert isinstance(answer, SparrowError)
    assert len(refused(answer)) < 500
