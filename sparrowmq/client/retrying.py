"""Which failures a user wants tried again, as the names that travel with a job.

Owns: how an exception class, or a text, becomes such a name. Must not know: who compares them with what was raised.
"""

from __future__ import annotations

import builtins
import difflib
from collections.abc import Collection

from sparrowmq import errors, limits
from sparrowmq.errors import UsageError
from sparrowmq.protocol import retries

Failure = type[BaseException] | str
Failures = Failure | Collection[Failure] | None


def names(failures: Failures) -> list[str]:
    """Return the names of ``failures`` (a class, a name, or several): none means any failure.

    A bare name is a builtin exception's or one of `sparrowmq.errors`; others are "module.Class". Raises UsageError for
    what can never be raised: no exception class, a misspelt name.
    """
    if failures is None:
        return []
    if isinstance(failures, str | type):
        failures = [failures]
    if not isinstance(failures, Collection):
        raise _wrong(failures)
    found = list(dict.fromkeys(_name(failure) for failure in failures))
    if not found:
        raise UsageError("retry_on: no exception is named", hint="None means any failure")
    if len(found) > limits.RETRY_ON_MAX:
        raise UsageError(
            f"retry_on: {len(found)} exceptions, the limit is {limits.RETRY_ON_MAX}", hint="name a common base class"
        )
    return found


def _name(failure: object) -> str:
    if isinstance(failure, type) and issubclass(failure, BaseException):
        return _checked(retries.name_of(failure))
    if isinstance(failure, str):
        return _from_text(failure)
    raise _wrong(failure)


def _from_text(text: str) -> str:
    module, _, name = text.rpartition(".")
    if module in ("builtins", "sparrowmq", errors.__name__):
        module, text = "", name
    if not module and not _is_exception(text):
        known = [name for place in (builtins, errors) for name in vars(place) if _is_exception(name)]
        close = difflib.get_close_matches(text, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else "name other classes as 'module.Class'"
        raise UsageError(f"retry_on: there is no exception {text[:80]!r}", hint=hint)
    return _checked(text)


def _is_exception(name: str) -> bool:
    value = getattr(errors, name, None) or getattr(builtins, name, None)
    return isinstance(value, type) and issubclass(value, BaseException)


def _checked(name: str) -> str:
    if len(name) > limits.TEXT_CHARS_MAX or not name.isprintable():
        raise UsageError(f"retry_on: {name[:80]!r} is no name of at most {limits.TEXT_CHARS_MAX} characters")
    return name


def _wrong(value: object) -> UsageError:
    shown = value.__name__ if isinstance(value, type) else repr(value)[:80]
    return UsageError(
        f"retry_on: {shown} is no exception", hint="give an exception class, its name, or several of them"
    )
