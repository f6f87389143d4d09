"""Calls to jobs: kinds, names, limits, and errors before anything is sent."""

from __future__ import annotations

import functools
import sys
import threading
from typing import Any

import msgpack
import pytest

from sparrowmq import limits
from sparrowmq.client import options, submission
from sparrowmq.errors import NotSerializable, TooLarge, UsageError
from sparrowmq.payload import command, python
from sparrowmq.protocol import codec, messages as m

SPEC = options.make_spec()


def call(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[m.JobSpec, bytes, bytes]:
    return submission.Calls(SPEC).call(fn, args, kwargs)


def takes_name(name: str) -> str:
    return name


def takes_anything(**kwargs: Any) -> dict[str, Any]:
    return kwargs


def test_a_callable_becomes_a_python_job_named_after_it() -> None:
    work = submission.calls(SPEC, takes_name, [("a",), ("b",)])
    assert (work.spec.kind, work.spec.name, work.tasks) == (m.PYTHON, "takes_name", 2)
    assert work.spec.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert python.load_function(work.function) is takes_name
    assert [python.load_call(payload) for payload in work.payloads] == [(("a",), {}), (("b",), {})]


def test_a_partial_is_named_after_its_function() -> None:
    assert submission.calls(SPEC, functools.partial(takes_name, name="x"), [()]).spec.name == "takes_name"


def test_a_text_becomes_a_call_with_plain_data() -> None:
    spec, function, payload = call("math:pow", (2, 3), {})
    assert (spec.kind, spec.name, function, spec.python) == (m.CALL, "math:pow", b"math:pow", "")
    assert msgpack.unpackb(payload) == [[2, 3], {}]


@pytest.mark.parametrize("text", ["math", "math:", ":pow", "a b:c", "math:pow:x", "math:1x", "x" * 300 + ":y"])
def test_a_text_that_names_no_function_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="names no function"):
        call(text, (), {})


def test_what_cannot_be_pickled_is_named_with_its_task() -> None:
    with pytest.raises(NotSerializable, match=r"task 1: args\[0\]\['lock'\] cannot be pickled"):
        submission.calls(SPEC, takes_name, [("fine",), ({"lock": threading.Lock()},)])


def test_what_is_not_plain_is_named() -> None:
    with pytest.raises(NotSerializable, match=r"args\[1\]\[0\] is a set"):
        call("math:pow", (1, [set()]), {})
    with pytest.raises(NotSerializable, match=r"kwargs\['x'\] is a complex"):
        call("math:pow", (), {"x": 1j})


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(UsageError, match="a int cannot be called"):
        submission.calls(SPEC, 3, [()])  # type: ignore[arg-type]


def test_an_option_among_the_functions_arguments_is_explained() -> None:
    with pytest.raises(UsageError, match="takes no argument 'policy'") as caught:
        call(takes_name, ("x",), {"policy": "batch"})
    assert "client.options(policy=" in caught.value.hint
    call(takes_name, (), {"name": "x"})
    call(takes_anything, (), {"policy": "x"})


def test_one_command_many_times_shares_its_payload() -> None:
    work = submission.commands(SPEC, ["sleep", "0.1"], 200, {"A": "1"}, "/tmp", b"in")
    assert (work.spec.kind, work.spec.name, work.tasks, len(work.payloads)) == (m.COMMAND, "sleep 0.1", 200, 1)
    assert command.loads(work.payloads[0]) == command.Command(["sleep", "0.1"], {"A": "1"}, "/tmp", b"in")


def test_several_commands_run_n_times_each() -> None:
    work = submission.commands(SPEC, [["true"], ["false"]], 2, None, "", b"")
    argvs = [command.loads(payload).argv for payload in work.payloads]
    assert (work.tasks, argvs) == (4, [["true"], ["true"], ["false"], ["false"]])


@pytest.mark.parametrize(
    ("argv", "n"), [("sleep 1", 1), ([], 1), ([[]], 1), ([["a"], "b"], 1), (["a", 1], 1), (["a"], 0), (["a"], True)]
)
def test_what_is_no_command_is_refused(argv: Any, n: Any) -> None:
    with pytest.raises(UsageError):
        submission.commands(SPEC, argv, n, None, "", b"")


def test_sleeps() -> None:
    work = submission.sleeps(SPEC, [0.5, 0.5])
    assert (work.spec.kind, work.tasks, [msgpack.unpackb(payload) for payload in work.payloads]) == (m.SLEEP, 2, [0.5])
    assert [msgpack.unpackb(payload) for payload in submission.sleeps(SPEC, [0, 1]).payloads] == [0.0, 1.0]
    for wrong in (-1.0, float("nan"), float("inf"), True, "1"):
        with pytest.raises(UsageError, match=r"seconds\[1\]"):
            submission.sleeps(SPEC, [1.0, wrong])  # type: ignore[list-item]


def parts(payloads: list[bytes], tasks: int = 0) -> list[tuple[int, list[m.Payload]]]:
    return list(submission.parts(submission.Work(SPEC, b"", payloads, tasks or len(payloads))))


def test_a_job_of_ordinary_size_stays_one() -> None:
    assert parts([b"a", b"b"]) == [(2, [b"a", b"b"])]
    assert parts([b"a"], 5) == [(5, [b"a"])]
    assert parts([b"a"]) == [(1, [b"a"])]
    assert parts([]) == []


def test_too_many_tasks_are_several_jobs() -> None:
    most = limits.TASKS_PER_JOB_MAX
    assert [tasks for tasks, _ in parts([b"x"] * (2 * most + 1))] == [most, most, 1]
    assert [tasks for tasks, _ in parts([b"x"], most + 5)] == [most, 5]


def test_large_payloads_travel_in_frames_and_few_enough_a_job() -> None:
    large = bytes(limits.INLINE_BYTES_MAX + 1)
    cut = parts([large] * 2500 + [b"small"])
    assert [tasks for tasks, _ in cut] == [1000, 1000, 501]
    assert all(isinstance(payload, m.Blob) for _, payloads in cut for payload in payloads[:500])
    assert cut[-1][1][-1] == b"small"


def test_every_part_fits_one_message() -> None:
    inline, huge = bytes(limits.INLINE_BYTES_MAX), bytes(64 * 1024 * 1024)
    assert len(parts([inline] * 9000)) == 3
    cut = parts([inline] * 9000 + [huge, huge, b""])
    assert sum(tasks for tasks, _ in cut) == 9003
    for tasks, payloads in cut:
        deaths = [3] * tasks
        indices = list(range(99_999, 99_999 - tasks, -1))
        submit = m.Submit("j" * 20, 1, SPEC, tasks, payloads, m.Blob(huge, len(huge)), indices, deaths)
        assert len(codec.Encoder().encode([submit])) == 1


def test_a_single_argument_beyond_a_frame_is_refused() -> None:
    with pytest.raises(TooLarge, match="task 1: arguments: "):
        submission.calls(SPEC, takes_name, [("x",), (bytes(limits.FRAME_BYTES_MAX),)])


def test_options_are_checked_and_kept() -> None:
    spec = options.make_spec(policy="BATCH+LATE_BINDING", probe_ratio=3, name="n", timeout_s=5, max_attempts=1)
    assert spec == m.JobSpec(policy="late-binding", probe_ratio=3.0, name="n", timeout_s=5.0, max_attempts=1)
    assert options.make_spec(spec, timeout_s=None).timeout_s == 0.0
    assert options.make_spec(spec, policy="random").probe_ratio == 3.0


@pytest.mark.parametrize(
    "given",
    [
        {"policy": "nearest"},
        {"policy": 3},
        {"probe_ratio": 0.5},
        {"probe_ratio": 101},
        {"probe_ratio": float("nan")},
        {"probe_ratio": True},
        {"probe_ratio": "2"},
        {"name": "x" * 300},
        {"name": None},
        {"timeout_s": 0},
        {"timeout_s": -1},
        {"timeout_s": float("inf")},
        {"max_attempts": 0},
        {"max_attempts": 1.5},
        {"max_attempts": 101},
        {"retries": -1},
    ],
)
def test_options_out_of_range_are_refused_by_name(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(given))):
        options.make_spec(**given)
