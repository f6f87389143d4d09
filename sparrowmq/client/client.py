"""The client: what users call.

Owns: `Client` and the views that `Client.options` returns. Must not know: messages' bytes, sockets, how a
scheduler is chosen.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar, Unpack, overload

from sparrowmq import ids
from sparrowmq.client import options as opts
from sparrowmq.client import source, submission
from sparrowmq.client.connection import Connection
from sparrowmq.client.future import Batch, Future, cancel
from sparrowmq.client.job import Job
from sparrowmq.client.options import JobOptions
from sparrowmq.client.outcomes import CommandResult
from sparrowmq.errors import UsageError
from sparrowmq.protocol import codec
from sparrowmq.protocol import messages as m
from sparrowmq.settings import ClientSettings, StoreSettings

QUERY_TIMEOUT_S: Final = 1.0

P = ParamSpec("P")
T = TypeVar("T")


class Submitter:
    """Submits tasks with certain options; made by `Client.options`, and every `Client` is one.

    A function is a callable, or a text "module:function" that workers import: then arguments and results are
    plain data (msgpack), and nothing is pickled on either side. All methods return at once. Before anything is sent
    they raise NotSerializable for what cannot be turned into bytes, TooLarge for a single argument beyond
    64 MiB, and UsageError for what makes no sense.
    """

    def __init__(self, connection: Connection, spec: m.JobSpec) -> None:
        self._connection = connection
        self._spec = spec

    def options(self, **options: Unpack[JobOptions]) -> Submitter:
        """Return a view of the same client whose jobs have these options (see `JobOptions`)."""
        return Submitter(self._connection, opts.make_spec(self._spec, **options))

    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...
    @overload
    def submit(self, fn: str, /, *args: Any, **kwargs: Any) -> Future[Any]: ...
    def submit(self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn(*args, **kwargs)``. All keyword arguments go to ``fn``; options of the job go through `options`."""
        return self._send(submission.call(self._spec, fn, args, kwargs))[0]

    @overload
    def map(self, fn: Callable[..., T], /, *iterables: Iterable[Any], **options: Unpack[JobOptions]) -> Job[T]: ...
    @overload
    def map(self, fn: str, /, *iterables: Iterable[Any], **options: Unpack[JobOptions]) -> Job[Any]: ...
    def map(
        self, fn: Callable[..., Any] | str, /, *iterables: Iterable[Any], **options: Unpack[JobOptions]
    ) -> Job[Any]:
        """Run ``fn`` on the first items, the second items, ... of ``iterables``, as one job.

        Ends with the shortest iterable. Keyword arguments are options of the job (see `JobOptions`); use
        `functools.partial` for constant arguments of ``fn``.
        """
        if not iterables:
            raise UsageError("map needs at least one iterable of arguments", hint="submit(fn) runs fn() once")
        return self._send(submission.calls(opts.make_spec(self._spec, **options), fn, zip(*iterables)))  # noqa: B905

    def starmap(
        self, fn: Callable[..., Any] | str, rows: Iterable[Iterable[Any]], **options: Unpack[JobOptions]
    ) -> Job[Any]:
        """Run ``fn(*row)`` for each of ``rows``, as one job. Keyword arguments are options of the job."""
        return self._send(submission.calls(opts.make_spec(self._spec, **options), fn, map(tuple, rows)))

    def run_commands(
        self,
        argv: Sequence[str] | Sequence[Sequence[str]],
        *,
        n: int = 1,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        stdin: bytes = b"",
        **options: Unpack[JobOptions],
    ) -> Job[CommandResult]:
        """Run a command (a list of words, no shell), or each of several, ``n`` times, as one job.

        Results are `CommandResult`; another exit status than 0 raises `CommandFailed`, which has the output too.
        ``cwd`` "" is the worker's directory. ``env`` adds to the worker's environment, which also holds
        SPARROWMQ_JOB, SPARROWMQ_TASK and SPARROWMQ_ATTEMPT.
        """
        spec = opts.make_spec(self._spec, **options)
        return self._send(submission.commands(spec, argv, n, env, cwd, stdin))

    def sleep(self, seconds: Iterable[float], **options: Unpack[JobOptions]) -> Job[None]:
        """Run one task for each of ``seconds`` that only sleeps so long: a load to measure scheduling with."""
        return self._send(submission.sleeps(opts.make_spec(self._spec, **options), seconds))

    def _send(self, work: submission.Work) -> Job[Any]:
        """Submit ``work`` as one job, or as several where the limits of one are exceeded."""
        connection, spec = self._connection, work.spec
        function = submission.wrap(work.function)
        submits: list[m.Submit] = []
        for count, payloads in submission.parts(work):
            job = ids.job_id(time.time_ns() // 1_000_000, connection.rng)
            submits.append(m.Submit(job, 0, spec, count, payloads, function))
            codec.check_submit(submits[-1])
        batches: list[Batch] = []
        futures: list[Future[Any]] = []
        for submit in submits:
            batch = Batch(submit.job, spec.kind, submit.count, connection)
            batch.futures = [Future(batch, index) for index in range(submit.count)]
            futures += batch.futures
            batches.append(batch)
            connection.submit(submit, batch)
        return Job(futures, batches, self._job_status)

    def _job_status(self, job: str) -> list[m.JobStatus]:
        answers = self._connection.inquire("job", job, QUERY_TIMEOUT_S)
        return [row for status in answers for row in status.jobs]


class Client(Submitter):
    """A session with a cluster: submits tasks, returns futures, survives the loss of a scheduler.

    ``target``: a `LocalCluster` (anything with a ``url``), a Redis URL where schedulers register, the address of
    a scheduler (``tcp://`` or ``ipc://``; several separated by commas), or None: SPARROWMQ_STORE_URL, then the
    local cluster that ``sparrowmq up --detach`` has started. ``store``: how Redis is talked to (prefix, timeouts).

    Returns when a scheduler has answered; raises Unavailable after ``timeout_s`` (default:
    ``settings.connect_timeout_s``), saying what was tried. Thread-safe. `close`, the end of a ``with`` block and
    the end of the process say goodbye: unfinished tasks are cancelled, and their futures raise CancelledError.
    A client does not survive `os.fork`: using it or its unfinished futures in the child raises UsageError.
    """

    def __init__(
        self,
        target: object = None,
        *,
        timeout_s: float | None = None,
        settings: ClientSettings | None = None,
        store: StoreSettings | None = None,
    ) -> None:
        settings = settings or ClientSettings()
        connection = Connection(source.find(target, store), settings)
        super().__init__(connection, opts.make_spec())
        connection.open(settings.connect_timeout_s if timeout_s is None else timeout_s)
        atexit.register(self.close)

    @property
    def id(self) -> str:
        """This client's id, as ``sparrowmq job list`` shows it."""
        return self._connection.id

    @property
    def schedulers(self) -> dict[str, str]:
        """The schedulers known now: address for clients by id."""
        return dict(self._connection.addresses)

    def gather(self, futures: Iterable[Future[T]], timeout_s: float | None = None) -> list[T]:
        """Return the results in the order of ``futures``; raise what the first failed one of them raises.

        Raises TimeoutError where not all are in within ``timeout_s``.
        """
        if timeout_s is None:
            return [future.result() for future in futures]
        deadline = time.monotonic() + timeout_s
        return [future.result(max(0.0, deadline - time.monotonic())) for future in futures]

    def cancel(self, futures: Iterable[Future[Any]]) -> int:
        """Cancel those tasks that have not started, by one message a job; return how many will truly never run.

        Tasks that were cancelled before do not count.
        """
        return cancel(futures)

    def kill(self, job: Job[Any] | Future[Any]) -> None:
        """End a job or a task, running ones too; the futures raise CancelledError soon."""
        if isinstance(job, Future):
            job.batch.link.kill(job.job, [job.index])
        else:
            job.kill()

    def query(self, what: str, job: str = "", *, timeout_s: float = QUERY_TIMEOUT_S) -> list[m.Status]:
        """Ask every scheduler for "summary", "workers", "jobs" or "job" (with ``job``: an id or its prefix).

        Returns one status for each scheduler that answers within ``timeout_s``.
        """
        return self._connection.inquire(what, job, timeout_s)

    def close(self) -> None:
        """Leave the cluster: see the class. Does nothing the second time."""
        atexit.unregister(self.close)
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client {self.id}>"
