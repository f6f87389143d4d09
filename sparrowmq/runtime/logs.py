"""Log lines on standard error: human on a terminal, JSON otherwise.

Owns: the format, and that logging never harms who logs. Must not know: what is logged, or how often (the
callers limit rates). Import it only in processes that log; structlog takes a while to load.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

import structlog

from sparrowmq.settings import LogSettings

_logger: Any = structlog.get_logger()


def setup(settings: LogSettings, **bound: object) -> None:
    """Log from now on as ``settings`` say, with ``bound`` (a role and its id, for example) in every line."""
    human = settings.format == "human" or (settings.format == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.processors.JSONRenderer()
    if human:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if human else "iso", utc=not human),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    global _logger
    _logger = structlog.get_logger(**bound)


def emit(level: str, event: str, fields: Mapping[str, Any]) -> None:
    """Write one line. ``level`` is "debug", "info", "warning" or "error"; thread-safe.

    A line that cannot be written (standard error is closed or its disk is full) is dropped: there is no
    place left to say so, and a role must not end for it.
    """
    try:
        getattr(_logger, level)(event, **{name: value for name, value in fields.items() if name != "event"})
    except (OSError, ValueError):
        return
