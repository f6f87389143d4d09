"""Options of jobs: what they become on the wire, and the words for those that make no sense."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from sparrowmq import errors
from sparrowmq.client import options, submission
from sparrowmq.errors import TaskCrashed, UsageError
from sparrowmq.protocol import messages as m


class Local(Exception):
    """Of this module."""


def test_retries_and_hedges_reach_the_spec() -> None:
    spec = options.make_spec(retries=3, backoff_s=0.5, retry_on=ValueError, hedge_after="p95")
    assert spec == m.JobSpec(retries=3, backoff_s=0.5, retry_on=["ValueError"], hedge_quantile=0.95)
    assert options.make_spec(hedge_after=2).hedge_after_s == 2.0
    assert options.make_spec(spec, hedge_after=1.5) == m.JobSpec(
        retries=3, backoff_s=0.5, retry_on=["ValueError"], hedge_after_s=1.5
    )
    assert options.make_spec(spec, hedge_after=None, retry_on=None, retries=0, backoff_s=0) == m.JobSpec()


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (ValueError, ["ValueError"]),
        ("OSError", ["OSError"]),
        (IOError, ["OSError"]),
        (KeyboardInterrupt, ["KeyboardInterrupt"]),
        (Local, [f"{Local.__module__}.Local"]),
        (subprocess.CalledProcessError, ["subprocess.CalledProcessError"]),
        ("some.where.Error", ["some.where.Error"]),
        (TaskCrashed, ["TaskCrashed"]),
        ("sparrowmq.TaskCrashed", ["TaskCrashed"]),
        ("sparrowmq.errors.TaskCrashed", ["TaskCrashed"]),
        ("builtins.KeyError", ["KeyError"]),
        ((KeyError, "IndexError", KeyError), ["KeyError", "IndexError"]),
        ({"TaskTimedOut"}, ["TaskTimedOut"]),
        (None, []),
    ],
)
def test_failures_are_named_as_the_cluster_names_them(given: Any, names: list[str]) -> None:
    assert options.make_spec(retry_on=given).retry_on == names


@pytest.mark.parametrize(
    ("given", "text", "hint"),
    [
        ({"polcy": "batch"}, "unknown option 'polcy'", "did you mean 'policy'?"),
        ({"quxx": 1}, "unknown option 'quxx'", "the options are at_most_once, backoff_s, durable, hedge_after"),
        ({"at_most_once": 1}, "at_most_once: expected True or False, got 1", ""),
        ({"retry_on": "ValuError"}, "no exception 'ValuError'", "did you mean 'ValueError'?"),
        ({"retry_on": "TaskCrash"}, "no exception 'TaskCrash'", "did you mean 'TaskCrashed'?"),
        ({"retry_on": "len"}, "no exception 'len'", ""),
        ({"retry_on": int}, "int is no exception", "class, its name, or several"),
        ({"retry_on": 3}, "3 is no exception", ""),
        ({"retry_on": [ValueError, 3]}, "3 is no exception", ""),
        ({"retry_on": []}, "no exception is named", "None means any"),
        ({"retry_on": [f"a.E{n}" for n in range(33)]}, "33 exceptions, the limit is 32", "common base class"),
        ({"retry_on": "a." + "x" * 300}, "at most 256 characters", ""),
        ({"retries": -1}, "retries: expected a number from 0 to 100, got -1", ""),
        ({"retries": 2.5}, "retries: expected a whole number", ""),
        ({"retries": True}, "retries: expected a number", ""),
        ({"backoff_s": -1}, "backoff_s: expected a number", ""),
        ({"backoff_s": float("nan")}, "backoff_s: expected a number", ""),
        ({"hedge_after": 0}, "hedge_after: expected a number greater than 0", "None means"),
        ({"hedge_after": "p0"}, "'p0' is no quantile", '"p1" to "p99"'),
        ({"hedge_after": "p100"}, "'p100' is no quantile", ""),
        ({"hedge_after": "95"}, "'95' is no quantile", ""),
        ({"hedge_after": b"p95"}, "hedge_after: expected a number", ""),
        ({"timeout_s": 0}, "timeout_s: expected a number greater than 0", "None means"),
    ],
)
def test_what_makes_no_sense_is_said_precisely(given: dict[str, Any], text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        options.make_spec(**given)
    assert text in str(caught.value)
    assert hint in caught.value.hint


@pytest.mark.parametrize("given", [{"retry_on": ValueError}, {"backoff_s": 1.0}])
def test_options_of_retries_without_retries_are_refused_when_a_job_is_made(given: dict[str, Any]) -> None:
    spec = options.make_spec(**given)
    with pytest.raises(UsageError, match=f"{next(iter(given))} without retries"):
        submission.calls(spec, abs, [(1,)])
    assert submission.calls(options.make_spec(spec, retries=1), abs, [(1,)]).spec.retries == 1


@pytest.mark.parametrize("given", [{"retries": 1}, {"hedge_after": "p95"}, {"hedge_after": 2.0}])
def test_what_starts_a_task_twice_contradicts_at_most_once(given: dict[str, Any]) -> None:
    spec = options.make_spec(at_most_once=True, **given)
    with pytest.raises(UsageError, match=f"{next(iter(given))} with at_most_once"):
        submission.calls(spec, abs, [(1,)])
    assert submission.calls(options.make_spec(at_most_once=True), abs, [(1,)]).spec.at_most_once


def test_a_quantile_may_have_a_fraction() -> None:
    assert options.make_spec(hedge_after="p99.9").hedge_quantile == pytest.approx(0.999)


@pytest.mark.parametrize(
    ("text", "hint"),
    [("math.sqrt", "'math:sqrt'"), ("os.path.join", "'os.path:join'"), ("math", "expected"), ("a.b:c:d", "expected")],
)
def test_a_dotted_name_gets_the_colon_that_is_missing(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match="names no function") as caught:
        submission.calls(options.make_spec(), text, [(1,)])
    assert hint in caught.value.hint
    assert ("did you mean" in caught.value.hint) == hint.startswith("'")


def test_every_error_of_sparrowmq_can_be_named() -> None:
    names = [name for name in vars(errors) if name[0].isupper()]
    assert options.make_spec(retry_on=names[:30]).retry_on == names[:30]
