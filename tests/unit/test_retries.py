"""Which failures a job wants tried again."""

from __future__ import annotations

import concurrent.futures

import pytest

from sparrowmq import errors
from sparrowmq.protocol import messages as m
from sparrowmq.protocol.retries import name_of, names_of, wants_retry


class Own(ConnectionResetError):
    class Inner(Exception):
        pass


def test_names_are_bare_for_builtins_and_sparrowmq_and_qualified_for_others() -> None:
    assert name_of(ValueError) == "ValueError"
    assert name_of(errors.TaskCrashed) == "TaskCrashed"
    assert name_of(Own.Inner) == f"{__name__}.Own.Inner"
    assert names_of(Own) == (
        f"{__name__}.Own", "ConnectionResetError", "ConnectionError", "OSError", "Exception", "BaseException",
    )  # fmt: skip
    assert names_of(errors.TaskTimedOut) == (
        "TaskTimedOut", "sparrowmq.errors.TaskTimedOut", "TaskError", "sparrowmq.errors.TaskError", "SparrowError",
        "sparrowmq.errors.SparrowError", "TimeoutError", "OSError", "Exception", "BaseException",
    )  # fmt: skip
    assert "concurrent.futures._base.Error" in names_of(concurrent.futures.CancelledError)


@pytest.mark.parametrize(
    ("retries", "retry_on", "wanted"),
    [
        (0, [], False),
        (1, [], True),
        (0, ["OSError"], False),
        (1, ["OSError"], True),
        (1, [f"{__name__}.Own"], True),
        (1, ["Own", "ValueError"], False),
        (100, ["ValueError", "Exception"], True),
    ],
)
def test_any_name_of_the_class_or_its_bases_counts(retries: int, retry_on: list[str], wanted: bool) -> None:
    assert wants_retry(m.JobSpec(retries=retries, retry_on=retry_on), names_of(Own)) is wanted
