"""Functions, arguments, results and failures as bytes: what survives the trip, and what is said when it cannot."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import msgpack
import pytest
from hypothesis import given, strategies as st

from sparrowmq import errors, limits
from sparrowmq.payload import command, failure, plain, python
from sparrowmq.payload.command import Command

ROOT = Path(__file__).parents[2]
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text() | st.integers(-9, 9), inner, max_size=5),
    max_leaves=20,
)


@dataclass
class Connection:
    name: str
    lock: Any


class Stubborn:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError


class WantsMore(Exception):
    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def raised(function: Callable[[], object]) -> BaseException:
    """The exception of a call, with the traceback that a task's would have."""
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


class TestPython:
    def test_call_comes_back(self) -> None:
        args, kwargs = python.load_call(python.dump_call((1, "two", [3.0]), {"four": {4}}))
        assert args == (1, "two", [3.0])
        assert kwargs == {"four": {4}}

    def test_lambdas_closures_and_local_classes_travel_by_value(self) -> None:
        factor = 3

        class Local:
            value = 7

        function = python.load_function(python.dump_function(lambda x: x * factor))
        (instance, key), _ = python.load_call(python.dump_call((Local(), lambda: 5), {}))
        assert function(4) == 12
        assert instance.value == 7
        assert key() == 5

    def test_what_main_defines_travels_by_value(self) -> None:
        """Another program's __main__ is another module: a reference to it would find nothing there."""
        program = (
            "import sys\n"
            "from sparrowmq.payload import python\n"
            "class Point:\n    def __init__(self, x): self.x = x\n"
            "sys.stdout.buffer.write(python.dump_call((Point(5),), {}))\n"
        )
        data = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=ROOT).stdout
        (point,), _ = python.load_call(data)
        assert point.x == 5

    def test_plain_pickle_is_used_where_it_serves(self) -> None:
        assert python.dump_call((1,), {}) == pickle.dumps(((1,), {}), 5)
        assert b"cloudpickle" not in python.dump_call((Connection("a", None),), {})

    @pytest.mark.parametrize(
        ("args", "kwargs", "path"),
        [
            ((1, Connection("db", threading.Lock())), {}, "args[1].lock cannot be pickled"),
            ((), {"conns": [1, {"a": threading.Lock()}]}, "kwargs['conns'][1]['a'] cannot be pickled"),
            (({Stubborn()},), {}, "an item of args[0] cannot be pickled"),
            ((functools.partial(print, threading.Lock()),), {}, "args[0].args[0] cannot be pickled"),
        ],
    )
    def test_culprit_is_named(self, args: tuple[object, ...], kwargs: dict[str, object], path: str) -> None:
        with pytest.raises(errors.NotSerializable) as caught:
            python.dump_call(args, kwargs)
        assert str(caught.value).startswith(path)

    def test_culprit_in_a_closure_is_named(self) -> None:
        lock = threading.Lock()

        def guarded() -> object:
            return lock

        with pytest.raises(errors.NotSerializable, match=r"^the variable 'lock' of guarded cannot be pickled"):
            python.dump_function(guarded)

    def test_what_is_no_function_is_refused(self) -> None:
        with pytest.raises(errors.NotSerializable, match="expected something callable, got int"):
            python.dump_function(3)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="expected a function, got int"):
            python.load_function(cloudpickle.dumps(3))
        with pytest.raises(TypeError):
            python.load_call(cloudpickle.dumps(([], {})))

    def test_too_deep_is_not_serializable(self) -> None:
        deep: list[object] = []
        for _ in range(100_000):
            deep = [deep]
        with pytest.raises(errors.NotSerializable, match="cannot be pickled"):
            python.dump_result(deep)

    def test_limit_leaves_room_for_64_mib(self) -> None:
        data = python.dump_result(bytes(64 * 1024 * 1024))
        assert len(data) <= limits.FRAME_BYTES_MAX
        with pytest.raises(errors.TooLarge, match=r"result: 67,11\d,\d{3} bytes are .* more than the limit"):
            python.dump_result(bytes(64 * 1024 * 1024 + 5000))


class TestPlain:
    @given(PLAIN)
    def test_comes_back_equal(self, value: object) -> None:
        assert plain.loads(plain.dumps(value)) == value

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ([1, {"when": (1, 2)}], r"^value\[1\]\['when'\] is a tuple, which is not plain data: pass a list$"),
            ({"x": {1}}, r"^value\['x'\] is a set"),
            ([2**64], r"^value\[0\] cannot be encoded: "),
            (["\ud800"], r"^value\[0\] cannot be encoded: "),
            (Connection("a", 1), r"^value is a Connection, which is not plain data$"),
            (True + 0j, r"^value is a complex"),
        ],
    )
    def test_culprit_is_named(self, value: object, message: str) -> None:
        with pytest.raises(errors.NotSerializable, match=message):
            plain.dumps(value)

    @pytest.mark.parametrize(
        "data", [b"", b"\xc1", b"\x92\x01", b"\x01\x01", b"\xd4\x05a", b"\xa1\xff", b"\x81\x90\x01"]
    )
    def test_other_bytes_are_refused(self, data: bytes) -> None:
        with pytest.raises(errors.NotSerializable, match="not msgpack of plain data"):
            plain.loads(data)


class TestCommand:
    def test_comes_back(self) -> None:
        order = Command(["sh", "-c", "true"], env={"A": "b"}, cwd="/", stdin=b"\0\xff")
        assert command.loads(command.dumps(order)) == order

    def test_layout_is_a_map(self) -> None:
        assert msgpack.unpackb(command.dumps(Command(["ls"]))) == {"argv": ["ls"]}

    @pytest.mark.parametrize("argv", [[], [""], ["a\0b"], ["\ud800"]])
    def test_what_no_system_can_run_is_refused(self, argv: list[str]) -> None:
        with pytest.raises(errors.UsageError, match="command: "):
            command.dumps(Command(argv))

    @pytest.mark.parametrize("value", [{}, {"argv": []}, {"argv": [1]}, {"argv": ["a"], "shell": True}, 3, ["ls"]])
    def test_other_bytes_are_refused(self, value: object) -> None:
        with pytest.raises(errors.NotSerializable, match="not a command"):
            command.loads(msgpack.packb(value))


class TestFailure:
    def test_original_exception_with_remote_traceback(self) -> None:
        loaded = failure.load(failure.dump(raised(lambda: dict[str, int]()["missing"])))
        assert type(loaded) is KeyError
        assert loaded.args == ("missing",)
        assert isinstance(loaded.__cause__, errors.RemoteError)
        assert "KeyError: 'missing'" in str(loaded.__cause__)
        assert "in raised" in loaded.__cause__.remote_traceback

    def test_exception_that_cannot_be_rebuilt_becomes_text(self) -> None:
        def fail() -> None:
            raise WantsMore(3, reason="none")

        loaded = failure.load(failure.dump(raised(fail)))
        assert type(loaded) is errors.RemoteError
        assert "WantsMore: 3: none" in str(loaded)
        assert "in fail" in loaded.remote_traceback

    def test_no_pickle_where_none_is_allowed(self) -> None:
        data = failure.dump(raised(lambda: 1 / 0), allow_pickle=False)
        assert msgpack.unpackb(data)["pickle"] is None
        loaded = failure.load(failure.dump(raised(lambda: 1 / 0)), allow_pickle=False)
        assert type(loaded) is errors.RemoteError
        assert "ZeroDivisionError: division by zero" in str(loaded)

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
    def test_exits_do_not_end_the_client(self, kind: type[BaseException]) -> None:
        def leave() -> None:
            raise kind("bye")

        loaded = failure.load(failure.dump(raised(leave)))
        assert type(loaded) is errors.RemoteError
        assert f"{kind.__name__}: bye" in str(loaded)

    def test_hostile_exceptions_are_reported_all_the_same(self) -> None:
        def mute() -> None:
            raise Mute

        assert "no message: RuntimeError" in msgpack.unpackb(failure.dump(raised(mute)))["message"]
        assert "\\ud800" in msgpack.unpackb(failure.dump(OSError("\ud800")))["message"]

    def test_large_parts_are_cut(self) -> None:
        fields = msgpack.unpackb(failure.dump(ValueError("x" * 10_000_000)))
        assert len(fields["message"]) == limits.DETAIL_CHARS_MAX
        assert len(fields["traceback"]) < 2 * failure.TRACEBACK_CHARS_MAX
        assert fields["pickle"] is None

    @pytest.mark.parametrize("name", ["TaskCrashed", "TaskTimedOut", "TaskLost", "TooLarge", "NotSerializable"])
    def test_what_sparrowmq_says_keeps_its_class(self, name: str) -> None:
        data = msgpack.packb({"type": name, "message": "why", "traceback": "", "pickle": None})
        loaded = failure.load(data)
        assert type(loaded) is getattr(errors, name)
        assert str(loaded) == "why"

    def test_command_keeps_status_and_output(self) -> None:
        loaded = failure.load(failure.command_failed("sh: exit status 3", status=3, stdout=b"o", stderr=b"e"))
        assert isinstance(loaded, errors.CommandFailed)
        assert (loaded.status, loaded.stdout, loaded.stderr) == (3, b"o", b"e")

    @given(st.binary(max_size=40) | PLAIN.map(msgpack.packb))
    def test_any_bytes_give_an_exception(self, data: bytes) -> None:
        assert isinstance(failure.load(data), errors.RemoteError)

    @given(st.sampled_from(["annotations", "ProtocolError", "SparrowError", "x.y", "", "__doc__"]), PLAIN)
    def test_any_fields_give_an_exception(self, kind: str, pickled: object) -> None:
        data = msgpack.packb({"type": kind, "message": "m", "pickle": pickled})
        assert isinstance(failure.load(data), errors.SparrowError)
