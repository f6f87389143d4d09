"""Remembered functions: the same bytes as long as nothing has changed, and never longer."""

from __future__ import annotations

import functools
import gc
import math
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import pytest

from sparrowmq.errors import NotSerializable
from sparrowmq.payload import functions, python


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    functions._entries.clear()
    functions._seen.clear()
    yield
    functions._entries.clear()


def of_main(source: str, **names: Any) -> dict[str, Any]:
    """The namespace of a script."""
    namespace: dict[str, Any] = {"__name__": "__main__", **names}
    exec(compile(source, "<script>", "exec", dont_inherit=True), namespace)
    return namespace


def kept(function: Callable[..., Any]) -> bool:
    """Whether two calls are enough for the third to find the bytes of the second."""
    functions.dump(function)
    return functions.dump(function) is functions.dump(function)


def run(function: Callable[..., Any], *args: Any) -> Any:
    """What the other side's function returns."""
    return python.load_function(functions.dump(function))(*args)


def by_name() -> int:
    return 1


def test_functions_of_modules_are_remembered() -> None:
    for function in (by_name, abs, math.sqrt, functools.reduce):
        assert kept(function)
        assert python.load_function(functions.dump(function)) == function


def test_the_bytes_are_those_of_a_fresh_pickle() -> None:
    script = of_main("def f(x): return x + 1")
    for function in (by_name, script["f"]):
        assert kept(function)
        assert functions.dump(function) == python.dump_function(function)


def test_functions_of_main_are_remembered_while_what_they_name_is_the_same() -> None:
    script = of_main(
        "import math\n"
        "N, WORDS = 3, ('a', ('b', 1))\n"
        "def helper(x): return x + N\n"
        "def f(x, y=2) -> int: return helper(x) + math.floor(y) + len(WORDS) + missing()\n"
        "def missing(): return 0\n"
    )
    f = script["f"]
    assert kept(f)
    assert run(f, 1) == 8
    script["N"] = 10
    assert run(f, 1) == 15
    exec("def helper(x): return 100", script)
    assert run(f, 1) == 104
    exec("def missing(): return 1000", script)
    assert run(f, 1) == 1104


@pytest.mark.parametrize(
    "change",
    [
        lambda f, g: setattr(f, "__code__", g.__code__),
        lambda f, g: setattr(f, "__defaults__", (7,)),
        lambda f, g: setattr(f, "__kwdefaults__", {"k": 7}),
        lambda f, g: setattr(f, "attribute", 7),
        lambda f, g: f.__annotations__.update(x=int),
    ],
)
def test_a_changed_function_is_pickled_anew(change: Callable[[Any, Any], None]) -> None:
    script = of_main("def f(x=1, *, k=1): return x + k\ndef g(x=1, *, k=1): return x * k")
    f = types.FunctionType(script["f"].__code__, script, "f", (1,))
    assert kept(f)
    before = functions.dump(f)
    f.__kwdefaults__ = None
    change(f, script["g"])
    assert functions.dump(f) is not before
    assert functions.dump(f) == python.dump_function(f)


def test_a_changed_closure_is_pickled_anew() -> None:
    def make() -> tuple[Callable[[], int], Callable[[int], None]]:
        cell = 1

        def get() -> int:
            return cell

        def put(value: int) -> None:
            nonlocal cell
            cell = value

        return get, put

    get, put = make()
    get.__module__ = "__main__"
    assert kept(get)
    assert run(get) == 1
    put(2)
    assert run(get) == 2


@pytest.mark.parametrize(
    "source",
    [
        "STATE = []\ndef f(): return STATE",
        "STATE = ([],)\ndef f(): return STATE",
        "class C: n = 1\ndef f(): return C.n",
        "class C: n = 1\ndef f(x: C): return 1",
        "def f(x=[]): return x",
        "def f(*, x=1): return x",
        "def f(): return 1\nf.state = []",
        "def g(x=[]): return x\ndef f(): return g()",
        "import functools\n@functools.wraps(len)\ndef f(): return 1",
        "import functools\n@functools.wraps(len)\ndef g(): return 1\ndef f(): return g()",
        "def f(): return [lambda: STATE for _ in 'ab']\nSTATE = {}",
    ],
)
def test_what_may_change_without_a_trace_is_never_remembered(source: str) -> None:
    function = of_main(source)["f"]
    assert not kept(function)
    assert functions._entries == {}


def test_a_function_that_calls_itself_and_a_global_that_comes_later_are_noticed() -> None:
    script = of_main("def f(n): return 1 if n < 2 else n * f(n - 1)\ndef g(): return later()")
    assert kept(script["f"])
    assert run(script["f"], 5) == 120
    assert kept(script["g"])
    exec("def later(): return 'came'", script)
    assert run(script["g"]) == "came"


def test_more_of_a_package_travels_once_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    script = of_main("import xml\ndef f(): return xml.dom.__name__")
    f = script["f"]
    for name in [name for name in sys.modules if name.startswith("xml.dom")]:
        monkeypatch.delitem(sys.modules, name)
    assert kept(f)
    before = functions.dump(f)
    import xml.dom  # noqa: F401

    assert functions.dump(f) is not before
    assert b"xml.dom" in functions.dump(f)


def test_a_function_whose_module_has_a_new_one_in_its_place_travels_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    old = by_name
    assert kept(old)
    monkeypatch.setattr(sys.modules[__name__], "by_name", lambda: 2)
    assert run(old) == 1


def test_modules_that_are_to_travel_along_are_respected() -> None:
    assert kept(by_name)
    before = functions.dump(by_name)
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        assert functions.dump(by_name) != before
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert functions.dump(by_name) == before


def test_a_lambda_made_for_one_call_is_not_kept_alive() -> None:
    for _ in range(3):
        function = eval("lambda: 1", {"__name__": "__main__"})
        functions.dump(function)
        gone = weakref.ref(function)
        del function
        gc.collect()
        assert gone() is None


def test_the_tables_are_bounded_and_large_functions_stay_out() -> None:
    made = [eval(f"lambda: {n}", {"__name__": "__main__"}) for n in range(functions.ENTRIES_MAX + 50)]
    for function in made * 2:
        functions.dump(function)
    assert len(functions._entries) <= functions.ENTRIES_MAX
    assert len(functions._seen) <= functions.ENTRIES_MAX
    assert run(made[-1]) == len(made) - 1
    large = of_main(f"BLOB = {bytes(functions.BYTES_MAX)!r}\ndef f(): return len(BLOB)")["f"]
    assert not kept(large)


def test_partials_and_objects_are_pickled_each_time() -> None:
    state = [1]
    assert not kept(functools.partial(sum, state))
    with pytest.raises(NotSerializable):
        functions.dump(3)  # type: ignore[arg-type]
