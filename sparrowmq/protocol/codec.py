"""Messages to frames and back.

Owns: the layout of one ZeroMQ multipart message, and what is refused before it can do harm. Must not know:
sockets, machines, or what is inside a payload.

Layout: frame 0 is a msgpack array of messages, each a positional array that starts with its tag; frames 1..n
are payloads too large to be inlined, named in the messages by their number, counted from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, cast, get_args

import msgspec
from msgspec import Meta, Raw

from sparrowmq import limits
from sparrowmq.errors import ProtocolError, TooLarge, UsageError
from sparrowmq.protocol import messages as m


class _Head(msgspec.Struct, array_like=True):
    """What the error text looks at; the rest of a message is skipped without being built."""

    tag: Raw
    protocol: Raw = Raw()
    package: Raw = Raw()


class _Opening(msgspec.Struct, array_like=True):
    """What is looked at of a stranger's first message before anything else of it is built."""

    proof: m.Proof


_opening_decoder = msgspec.msgpack.Decoder(_Opening)
_decoder = msgspec.msgpack.Decoder(Annotated[list[m.AnyMessage], Meta(max_length=limits.MESSAGES_MAX)])
_head_decoder = msgspec.msgpack.Decoder(Annotated[list[_Head], Meta(max_length=limits.MESSAGES_MAX)])
_plain_decoder = msgspec.msgpack.Decoder(int | str)
_TAGS: Final = frozenset(cls.__struct_config__.tag for cls in get_args(m.AnyMessage))
_HELLO: Final = m.Hello.__struct_config__.tag

_BY_REFERENCE: Final = "pass large data by reference (a path, a URL)"


class Encoder:
    """Turns a batch of messages into frames. One per thread: it keeps the frames of the batch at hand."""

    def __init__(self) -> None:
        self._blobs: list[object] = []
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._blob)

    def _blob(self, value: object) -> int | memoryview:
        if not isinstance(value, m.Blob):
            raise TypeError(f"{type(value).__name__} is not a message field")
        if value.size > limits.FRAME_BYTES_MAX:
            raise TooLarge(
                f"a payload of {value.size:,} bytes exceeds the limit of {limits.FRAME_BYTES_MAX:,} bytes a frame",
                hint=_BY_REFERENCE,
            )
        if len(self._blobs) + 1 >= limits.FRAMES_MAX:  # no frame is left: copy it into the body
            return memoryview(cast(Any, value.buffer))
        self._blobs.append(value.buffer)
        return len(self._blobs) - 1

    def encode(self, batch: Sequence[m.AnyMessage]) -> list[list[object]]:
        """Return one or more multipart messages that together say ``batch``, in order.

        Raises TooLarge when a single message or payload exceeds the size of a frame; nothing is sent then.
        What a user chooses about a job is checked before, by `check_submit`.
        """
        blobs: list[object] = []
        self._blobs = blobs
        body = self._encoder.encode(batch)
        if len(body) <= limits.FRAME_BYTES_MAX and len(batch) <= limits.MESSAGES_MAX:
            return [[body, *blobs]]
        if len(batch) == 1:
            what = type(batch[0]).__name__.lower()
            raise TooLarge(
                f"a {what} message of {len(body):,} bytes exceeds the limit of {limits.FRAME_BYTES_MAX:,} a frame",
                hint=f"split the job, or {_BY_REFERENCE}",
            )
        half = len(batch) // 2
        return self.encode(batch[:half]) + self.encode(batch[half:])


def check_submit(submit: m.Submit) -> None:
    """Raise TooLarge or UsageError, in words for a user, where no scheduler would take this job's bytes.

    For the thread that makes a job: it gets the error at once, instead of a rejection later.
    """
    if submit.count < 1:
        raise UsageError("a job without tasks", hint="a job has at least one task")
    _at_most(limits.TASKS_PER_JOB_MAX, submit.count, "tasks in one job", "split the job")
    for field in ("name", "policy", "python"):
        _check_text(field, getattr(submit.spec, field))
    for name in submit.spec.retry_on:
        _check_text("retry_on", name)
    _at_most(limits.FRAME_BYTES_MAX, len(submit.function), "bytes of the function", _BY_REFERENCE)
    sizes = [len(payload) for payload in submit.payloads]
    largest = max(sizes, default=0)
    if largest > limits.FRAME_BYTES_MAX:
        _at_most(limits.FRAME_BYTES_MAX, largest, f"bytes of task {sizes.index(largest):,}'s payload", _BY_REFERENCE)
    total = sum(sizes) + len(submit.function)
    _at_most(limits.JOB_BYTES_MAX, total, "bytes of payloads in one job", f"split the job, or {_BY_REFERENCE}")
    in_frames = [len(payload) for payload in submit.payloads if isinstance(payload, m.Blob)][: limits.FRAMES_MAX - 2]
    around = 9 * (len(sizes) + len(submit.indices) + len(submit.deaths)) + limits.INLINE_BYTES_MAX
    body = total - sum(in_frames) + around
    _at_most(limits.FRAME_BYTES_MAX, body, "bytes of small payloads in one job", f"split the job, or {_BY_REFERENCE}")


def _at_most(limit: int, value: int, what: str, hint: str) -> None:
    if value > limit:
        raise TooLarge(f"{value:,} {what}: the limit is {limit:,}", hint=hint)


def _check_text(field: str, text: str) -> None:
    _at_most(limits.TEXT_CHARS_MAX, len(text), f"characters in the job's {field}", "shorten it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"the job's {field} {text!r} cannot be written as UTF-8") from None


def decode(body: bytes | memoryview, blobs: Sequence[m.Blob] = ()) -> list[m.AnyMessage]:
    """Return the messages of one multipart message; ``blobs`` are its frames 1..n.

    Raises ProtocolError with one of the codes "malformed", "unknown_type", "too_large", "version".
    """
    largest = len(body)
    for blob in blobs:
        largest = max(largest, blob.size)
    if largest > limits.FRAME_BYTES_MAX or len(blobs) >= limits.FRAMES_MAX:
        raise ProtocolError(
            "too_large",
            f"{len(blobs) + 1:,} frames of up to {largest:,} bytes; the limits are {limits.FRAMES_MAX:,} frames "
            f"of {limits.FRAME_BYTES_MAX:,} bytes",
        )
    try:
        batch: list[m.AnyMessage] = _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _explain(body, error) from None
    if not batch:
        raise ProtocolError("malformed", f"expected 1 to {limits.MESSAGES_MAX:,} messages, got none")
    for message in batch:
        _check(message)
    if blobs:
        _resolve(batch, blobs)
    else:
        _refuse_references(batch)
    return batch


def proof_in(body: bytes | memoryview) -> m.Proof | None:
    """Return the proof that ``body`` starts with, None if it does not; nothing else of it is built."""
    try:
        opening: _Opening = _opening_decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return opening.proof


# Messages whose payloads may refer to frames, with the fields that do.
_CARRIERS = (m.Submit, m.Task, m.Result, m.Outcome)
_FUNCTION_CARRIERS = (m.Submit, m.Task)


def _check(message: m.AnyMessage) -> None:
    """Hold the parallel lists of a message to one length; msgspec has checked types and bounds."""
    kind = type(message)
    if kind is m.Result:
        result = cast(m.Result, message)
        n = len(result.indices)
        ok = n == len(result.attempts) == len(result.statuses) == len(result.service_us) == len(result.payloads)
        ok = ok and (n == 0 or max(result.statuses) <= m.RETRY)
    elif kind is m.Task:
        task = cast(m.Task, message)
        n = len(task.indices)
        ok = n == len(task.attempts) and len(task.payloads) in (1, n)
    elif kind is m.Outcome:
        outcome = cast(m.Outcome, message)
        n = len(outcome.indices)
        ok = n == len(outcome.statuses) == len(outcome.payloads)
        ok = ok and (n == 0 or max(outcome.statuses) <= m.LOST)
    elif kind is m.Submit:
        ok = _submit_fits(cast(m.Submit, message))
    elif kind is m.Returned:
        returned = cast(m.Returned, message)
        ok = len(returned.attempts) in (0, len(returned.indices))
    elif kind is m.Hello:
        ok = all(len(held.indices) == len(held.attempts) for held in cast(m.Hello, message).held)
    elif kind is m.Claimed:
        claimed = cast(m.Claimed, message)
        ok = len(claimed.indices) == len(claimed.attempts)
    elif kind is m.Died:
        died = cast(m.Died, message)
        ok = len(died.indices) == len(died.deaths)
    elif kind is m.Hints:
        hints = cast(m.Hints, message)
        ok = len(hints.workers) == len(hints.waits_us)
    else:
        return
    if not ok:
        raise ProtocolError("malformed", f"{kind.__name__.lower()}: lists of different lengths or unknown statuses")


def _submit_fits(submit: m.Submit) -> bool:
    n = submit.count
    distinct = submit.indices
    return (
        len(submit.payloads) in (1, n)
        and len(submit.deaths) in (0, n)
        and (not distinct or len(distinct) == n == len(set(distinct)))
    )


def _resolve(batch: list[m.AnyMessage], blobs: Sequence[m.Blob]) -> None:
    """Put the blobs where the messages name their frames; each frame may be named by one payload only."""
    unused = set(range(len(blobs)))

    def blob(number: object) -> m.Blob:
        if not isinstance(number, int) or number not in unused:
            raise ProtocolError("malformed", f"frame {number!r} is not among the {len(blobs)} beside the message")
        unused.discard(number)
        return blobs[number]

    for message in batch:
        if not isinstance(message, _CARRIERS):
            continue
        payloads = message.payloads
        for position, payload in enumerate(payloads):
            if type(payload) is not bytes:
                payloads[position] = blob(payload)
        if isinstance(message, _FUNCTION_CARRIERS) and type(message.function) is not bytes:
            msgspec.structs.force_setattr(message, "function", blob(message.function))
    if unused:
        raise ProtocolError("malformed", f"{len(unused)} frames that no message names")


def _refuse_references(batch: list[m.AnyMessage]) -> None:
    for message in batch:
        if not isinstance(message, _CARRIERS):
            continue
        if isinstance(message, _FUNCTION_CARRIERS) and type(message.function) is not bytes:
            raise ProtocolError("malformed", "a function names a frame that is not there")
        for payload in message.payloads:
            if type(payload) is not bytes:
                raise ProtocolError("malformed", "a payload names a frame that is not there")


def _explain(body: bytes | memoryview, error: Exception) -> ProtocolError:
    """Find the best name for what is wrong with a body that does not decode; never raises, never shows payloads."""
    try:
        heads = _head_decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as reason:
        return ProtocolError("malformed", f"not a msgpack array of messages ({len(body):,} bytes): {_reason(reason)}")
    for head in heads:
        tag = _plain(head.tag)
        if tag == _HELLO:
            protocol, package = _plain(head.protocol), _plain(head.package)
            if isinstance(protocol, int) and protocol != m.PROTOCOL:
                return version_error(protocol, package[: limits.TEXT_CHARS_MAX] if isinstance(package, str) else "?")
        elif tag not in _TAGS:
            return ProtocolError("unknown_type", f"unknown message type {tag if isinstance(tag, int) else '?'}")
    return ProtocolError("malformed", _reason(error))


def _plain(raw: Raw) -> int | str | None:
    """Return the integer or text that stands in these bytes, None for anything else."""
    try:
        plain: int | str = _plain_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return plain


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError) or "UTF-8" in str(error):  # msgspec from 0.23 on has words of its own
        return "a text is not UTF-8"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error)[: limits.DETAIL_CHARS_MAX]


def version_error(protocol: int, package: str) -> ProtocolError:
    """Say which side of a handshake is behind. ``protocol`` and ``package`` are the peer's."""
    side = "upgrade the peer" if protocol < m.PROTOCOL else "upgrade this side"
    return ProtocolError(
        "version", f"the peer (sparrowmq {package}) speaks protocol {protocol}, here {m.PROTOCOL}: {side}"
    )
