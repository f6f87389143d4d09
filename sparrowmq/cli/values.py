"""The kinds of values that options take: whole numbers, durations, addresses, KEY=VALUE.

Owns: how they are read and the words for what is none. Must not know: which option has which kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # generic since click 8.3 only


class Whole(ParamType):
    """A whole number within bounds, such as 10000 or 10_000."""

    name = "N"

    def __init__(self, least: int, most: int) -> None:
        self.least = least
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        bounds = f"expected {self.least:,} to {self.most:,}"
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is no whole number: {bounds}", param, ctx)
        if not self.least <= number <= self.most:
            self.fail(f"{number:,} is out of range: {bounds}", param, ctx)
        return number


class Duration(ParamType):
    """Seconds, as a number or with a unit: 500ms, 14s, 2m, 1.5h."""

    name = "DURATION"

    def __init__(self, *, least_s: float = 0.0, most_s: float = 86_400.0, positive: bool = False) -> None:
        self.least_s = least_s
        self.most_s = most_s
        self.positive = positive

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        from sparrowmq.config import duration_s

        try:
            seconds = value if isinstance(value, float) else duration_s(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if self.positive and seconds <= 0.0:
            self.fail(f"{value!r}: expected more than 0 seconds", param, ctx)
        if not self.least_s <= seconds <= self.most_s:
            self.fail(f"{value!r}: expected {self.least_s:g} to {self.most_s:,.0f} seconds", param, ctx)
        return seconds


class Hedge(Duration):
    """When a slow task gets a second attempt: a quantile of its siblings (p95), or a duration."""

    name = "p95|DURATION"

    def convert(  # type: ignore[override]
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | float:
        """Return the text of a quantile, or seconds."""
        text = str(value).strip().lower()
        if text[:1] != "p":
            return super().convert(value, param, ctx)
        try:
            percent = float(text[1:])
        except ValueError:
            percent = 0.0
        if not 0.0 < percent < 100.0:
            self.fail(f"{value!r} is no quantile: expected p1 to p99.9, such as p95, or a duration", param, ctx)
        return text


class Address(ParamType):
    """Where a socket binds."""

    name = "ADDRESS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the address as it was given."""
        example = "expected tcp://HOST:PORT or ipc:///PATH, such as tcp://127.0.0.1:7701 (port 0: the system chooses)"
        text = str(value)
        if text.startswith("ipc://") and len(text) > len("ipc://"):
            return text
        host, colon, port = text.removeprefix("tcp://").rpartition(":")
        if not text.startswith("tcp://") or not host or not colon:
            self.fail(f"{text!r} is no address: {example}", param, ctx)
        if port != "*" and not (port.isdecimal() and int(port) <= 65_535):
            self.fail(f"{text!r}: {port!r} is no port: expected 0 to 65,535", param, ctx)
        return text


class KeyValue(ParamType):
    """A variable for a command's environment."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return name and value."""
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r}: expected KEY=VALUE, such as {key or 'MODE'}=fast", param, ctx)
        return key, text


class Policy(ParamType):
    """A placement policy; the names are checked where they are known."""

    name = "NAME"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Offer the four."""
        from click.shell_completion import CompletionItem

        from sparrowmq import placement

        return [CompletionItem(name) for name in placement.POLICIES if name.startswith(incomplete)]
