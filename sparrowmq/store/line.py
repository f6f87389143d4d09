"""A connection for one thread that asks Redis often: little work for each command, and no error ends the thread.

Owns: packed commands and their replies, how long to wait after an outage, and how often trouble is named in the log.
Must not know: keys, or what is asked.

A command takes a fifth of the processor time that redis-py's own interface takes for it (docs/decisions/0019).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from sparrowmq.settings import StoreSettings
from sparrowmq.store.connection import connect, describe, explain

BACKOFF_MIN_S: Final = 0.05
BACKOFF_MAX_S: Final = 0.5
SAME_REFUSAL_EVERY_S: Final = 60.0
REFUSALS_MAX: Final = 64  # kinds that are told apart
DETAIL_CHARS_MAX: Final = 300

Log = Callable[[str, str, Mapping[str, Any]], None]


def pack(*words: bytes | str | int) -> bytes:
    """Return one command in the bytes that Redis reads."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


class Line:
    """A connection of one thread. ``without`` says in the log what there is none of while Redis does not answer.

    ``timeout_s`` bounds connecting and each reply where it is shorter than the settings' own bounds.
    """

    def __init__(self, settings: StoreSettings, without: str, log: Log, *, timeout_s: float = float("inf")) -> None:
        bounded = msgspec.structs.replace(
            settings,
            connect_timeout_s=min(settings.connect_timeout_s, timeout_s),
            reply_timeout_s=min(settings.reply_timeout_s, timeout_s),
        )
        self._settings = settings
        self._client = connect(bounded)
        self._connection = self._client.connection_pool.make_connection()
        self._without = without
        self._log = log
        self._refusals: dict[str, tuple[float, int]] = {}  # by code: when it was last named, how many since
        self.down = False
        self.wait_s = 0.0  # before it is worth asking again

    def ask(self, command: bytes, replies: int = 1, *, optional: bool = False) -> list[Any] | None:
        """Send packed commands and return their replies; None where one is missing or an error, which is in the log.

        Blocks for at most the timeouts. The next call connects anew if that is needed; make it after ``wait_s``. What
        is ``optional`` may be forbidden or unknown without a word in the log.
        """
        import redis

        found: list[Any] = []
        refused: Exception | None = None
        try:
            if getattr(self._connection, "_sock", None) is None:
                self._connection.connect()  # sending would connect, too, but without asking the sentinels where to
            self._connection.send_packed_command((command,), check_health=False)
            for _ in range(replies):
                try:
                    found.append(self._connection.read_response())
                except redis.ResponseError as error:
                    refused = error
        except Exception as error:  # whatever it is: a thread that ended for it would look like a death
            self.give_up(error)
            return None
        self._answered()
        if refused is not None:
            if not optional:
                code = str(getattr(refused, "status_code", "")) or str(refused).partition(" ")[0]
                self.refused(code, str(refused))
            return None
        return found

    def lend(self) -> socket.socket | None:
        """Return the connection's socket, which does not block, for use without this line until `give_up`.

        None where there is no connection, or one that is more than its socket (TLS).
        """
        lent = getattr(self._connection, "_sock", None)
        if type(lent) is not socket.socket:
            return None
        lent.setblocking(False)
        return lent

    def give_up(self, error: Exception) -> None:
        """End the connection, for this reason; the next call connects anew."""
        self._connection.disconnect()
        self.wait_s = min(self.wait_s * 2 or BACKOFF_MIN_S, BACKOFF_MAX_S)
        if not self.down:
            self.down = True
            reason = str(explain(self._settings, error))[:DETAIL_CHARS_MAX]
            self._log("warning", f"Redis does not answer: no {self._without}", {"reason": reason})

    def reconnect(self) -> None:
        """Have the next call connect anew."""
        self._connection.disconnect()

    def _answered(self) -> None:
        if self.down:
            self.down, self.wait_s = False, 0.0
            self._log("info", "Redis answers again", {"redis": describe(self._settings.url), "resumed": self._without})

    def refused(self, code: str, reason: str) -> None:
        """Count something that was answered and is of no use, and name its ``code``: at once, then once in a while."""
        now = time.monotonic()
        since, count = self._refusals.get(code, (-SAME_REFUSAL_EVERY_S, 0))
        count += 1
        if now - since >= SAME_REFUSAL_EVERY_S:
            named = reason if reason.startswith(code) else f"{code}: {reason}"
            fields = {"reason": named[:DETAIL_CHARS_MAX], "count": count}
            self._log("warning", f"Redis gives what is of no use: no {self._without}", fields)
            since, count = now, 0
        if len(self._refusals) >= REFUSALS_MAX and code not in self._refusals:
            self._refusals.clear()
        self._refusals[code] = (since, count)

    def close(self) -> None:
        """End the connection."""
        self._connection.disconnect()
        self._client.close()
