"""Every error a user can meet.

Owns: the exception tree and the exit status each branch maps to. Must not know: where an error is raised.
Each message says what happened, where, which limit was met, and what to do about it.
"""

from __future__ import annotations


class SparrowError(Exception):
    """Base of every error that sparrowmq raises on purpose.

    ``exit_code`` is what the command line returns for it, ``code`` is stable and for programs, ``hint`` is one line
    that tells what to do.
    """

    exit_code = 1
    code = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(SparrowError, ValueError):
    """A call or command line that cannot mean anything; nothing was sent."""

    exit_code = 2
    code = "usage"


class Unavailable(SparrowError, ConnectionError):
    """Redis, every scheduler or every worker could not be reached within the timeout."""

    exit_code = 3
    code = "unavailable"


class ConfigError(SparrowError, ValueError):
    """A setting that is missing, unknown, of the wrong type or out of range; names file, key and value."""

    exit_code = 4
    code = "config"


class SecurityError(ConfigError):
    """A key file that is missing, no key, or open to others; names the file, its mode and what to do."""

    code = "security"


class Rejected(SparrowError):
    """A scheduler refused a job: nothing of it runs. ``code`` is stable and machine-readable."""

    exit_code = 5

    def __init__(self, message: str, *, code: str = "rejected", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class Refused(SparrowError):
    """A peer refused the connection, for example because the protocol versions differ."""

    exit_code = 6

    def __init__(self, message: str, *, code: str = "refused", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class ProtocolError(SparrowError):
    """Bytes that are not a message of this protocol. ``code`` names the rule that they break."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class NotSerializable(SparrowError, TypeError):
    """An argument or a function that cannot be turned into bytes; names the path to the culprit."""

    exit_code = 2
    code = "not_serializable"


class TooLarge(SparrowError, ValueError):
    """Something exceeds a limit; says by how much and which limit."""

    exit_code = 2
    code = "too_large"


class TaskError(SparrowError):
    """Base of what ``Future.result`` raises for a task that did not succeed (unless it raised itself)."""

    code = "task_failed"


class RemoteError(TaskError):
    """A task raised; ``remote_traceback`` is the text of the traceback in the task process.

    Raised itself only where the original exception could not be rebuilt here; otherwise it is the
    ``__cause__`` of the original.
    """

    def __init__(self, message: str, *, remote_traceback: str = "") -> None:
        super().__init__(message)
        self.remote_traceback = remote_traceback

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n\n{self.remote_traceback}" if self.remote_traceback else text


class TaskCrashed(TaskError):
    """The task's process ended without a result (signal, ``os._exit``, out of memory)."""


class TaskTimedOut(TaskError, TimeoutError):
    """The task ran longer than its ``timeout_s`` and was killed."""


class TaskLost(TaskError):
    """The task's workers died ``max_attempts`` times; the text names each attempt."""


class CommandFailed(TaskError):
    """A command ended with a status other than 0; the captured output is attached."""

    def __init__(self, message: str, *, status: int, stdout: bytes, stderr: bytes) -> None:
        super().__init__(message)
        self.status = status
        self.stdout = stdout
        self.stderr = stderr
