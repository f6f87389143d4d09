"""The client: what users call.

Owns: `Client` and the views that `Client.options` returns. Must not know: messages' bytes, sockets, how a
scheduler is chosen.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, ParamSpec, Self, TypeVar, Unpack, overload

from sparrowmq.client import (
    attached,
    default,
    ending,
    handle,
    ledger,
    options as opts,
    source,
    stream,
    submission,
    waiting,
)
from sparrowmq.client.attached import AttachedJob
from sparrowmq.client.connection import Connection
from sparrowmq.client.future import Batch, Future, cancel
from sparrowmq.client.handle import Detached, JobHandle
from sparrowmq.client.job import Job
from sparrowmq.client.options import JobOptions
from sparrowmq.client.outcomes import CommandResult
from sparrowmq.client.stream import Stream
from sparrowmq.errors import UsageError
from sparrowmq.protocol import codec, messages as m
from sparrowmq.settings import ClientSettings, StoreSettings

QUERY_TIMEOUT_S: Final = handle.QUERY_TIMEOUT_S

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
        self._calls = submission.Calls.under(spec)

    def options(self, **options: Unpack[JobOptions]) -> Submitter:
        """Return a view of the same client whose jobs have these options (see `JobOptions`)."""
        return Submitter(self._connection, opts.make_spec(self._spec, **options))

    @property
    def detached(self) -> Detached:
        """A view with the same options whose jobs outlive this client; its methods return a `JobHandle`."""
        return Detached(self._connection, self._spec)

    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...
    @overload
    def submit(self, fn: str, /, *args: Any, **kwargs: Any) -> Future[Any]: ...
    def submit(self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn(*args, **kwargs)``. All keyword arguments go to ``fn``; options of the job go through `options`.

        A call is a job of its own, but for calls of one function that come in quick succession while many are under
        way: those may share a job, in which `Future.index` tells them apart.
        """
        return self._connection.call(*self._calls.call(fn, args, kwargs))

    @overload
    def map(self, fn: Callable[..., T], /, *iterables: Iterable[Any], **options: Unpack[JobOptions]) -> Job[T]: ...
    @overload
    def map(self, fn: str, /, *iterables: Iterable[Any], **options: Unpack[JobOptions]) -> Job[Any]: ...
    def map(
        self, fn: Callable[..., Any] | str, /, *iterables: Iterable[Any], **options: Unpack[JobOptions]
    ) -> Job[Any]:
        """Run ``fn`` on the first items, the second items, ... of ``iterables``, as one job.

        Ends with the shortest iterable. Keyword arguments are options of the job (see `JobOptions`); use
        `functools.partial` for constant arguments of ``fn``. Everything is turned into bytes before anything is sent;
        for more tasks than fit into memory see `imap`.
        """
        return self.send(submission.mapped(opts.make_spec(self._spec, **options), fn, iterables))

    def starmap(
        self, fn: Callable[..., Any] | str, rows: Iterable[Iterable[Any]], **options: Unpack[JobOptions]
    ) -> Job[Any]:
        """Run ``fn(*row)`` for each of ``rows``, as one job. Keyword arguments are options of the job."""
        return self.send(submission.calls(opts.make_spec(self._spec, **options), fn, map(tuple, rows)))

    @overload
    def imap(
        self, fn: Callable[..., T], /, *iterables: Iterable[Any], ordered: bool = True, **options: Unpack[JobOptions]
    ) -> Stream[T]: ...
    @overload
    def imap(
        self, fn: str, /, *iterables: Iterable[Any], ordered: bool = True, **options: Unpack[JobOptions]
    ) -> Stream[Any]: ...
    def imap(
        self,
        fn: Callable[..., Any] | str,
        /,
        *iterables: Iterable[Any],
        ordered: bool = True,
        **options: Unpack[JobOptions],
    ) -> Stream[Any]:
        """As `map`, for any number of items, even without end: return an iterator of the results.

        Items are taken and sent in parts (at most 20,000 tasks, small ones first), two of them under way; nothing more
        is taken while results wait to be read. Results come in the order of the items, or as they are done with
        ``ordered=False``. A task that failed raises in its place, and the iterator goes on after it. See `Stream`.
        """
        spec = opts.make_spec(self._spec, **options)
        return stream.start(self._connection, spec, fn, submission.rows(iterables), ordered=ordered)

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
        return self.send(submission.commands(spec, argv, n, env, cwd, stdin))

    def sleep(self, seconds: Iterable[float], **options: Unpack[JobOptions]) -> Job[None]:
        """Run one task for each of ``seconds`` that only sleeps so long: a load to measure scheduling with."""
        return self.send(submission.sleeps(opts.make_spec(self._spec, **options), seconds))

    def send(self, work: submission.Work) -> Job[Any]:
        """Submit ``work`` as one job, or as several, two in flight, where the limits of one are exceeded."""
        connection, spec = self._connection, work.spec
        function = submission.wrap(work.function)
        jobs: list[tuple[m.Submit, Batch]] = []
        for count, payloads in submission.parts(work):
            submit = m.Submit(connection.new_id(), 0, spec, count, payloads, function)
            codec.check_submit(submit)
            jobs.append((submit, Batch(submit.job, spec.kind, count, connection)))
        batches = [batch for _, batch in jobs]
        job: Job[Any] = Job([future for batch in batches for future in batch.futures], batches, self._job_status)
        if jobs:
            connection.submit(jobs, flight=len(jobs) > 1)
        return job

    def _job_status(self, job: str) -> list[m.Status]:
        return [told.status for told in self._connection.inquire(m.Query(1, "job", job), QUERY_TIMEOUT_S)]


class Client(Submitter):
    """A session with a cluster: submits tasks, returns futures, survives the loss of a scheduler.

    ``target``: a `LocalCluster` (anything with a ``url``), a Redis URL where schedulers register, the address of
    a scheduler (``tcp://`` or ``ipc://``; several separated by commas), or None: SPARROWMQ_STORE_URL, then the
    local cluster that ``sparrowmq up --detach`` has started. ``store``: how Redis is talked to (prefix, timeouts).
    ``keys``: the directory with the cluster's keys, "" for none, None: those of the local cluster that is the target,
    else what SPARROWMQ_SECURITY_KEYS names.

    Returns when a scheduler has answered; raises Unavailable after ``timeout_s`` (default:
    ``settings.connect_timeout_s``), saying what was tried, Refused where all schedulers refuse this client, and
    SecurityError where the keys cannot be used. Thread-safe. `close`, the end of a ``with`` block and
    the end of the process say goodbye: unfinished tasks are cancelled (those of `detached` and durable jobs are not),
    and their futures raise CancelledError. A client does not survive `os.fork`: using it or its unfinished futures in
    the child raises UsageError.
    """

    def __init__(
        self,
        target: object = None,
        *,
        timeout_s: float | None = None,
        settings: ClientSettings | None = None,
        store: StoreSettings | None = None,
        keys: str | None = None,
    ) -> None:
        settings = settings or ClientSettings()
        connection = Connection(source.find(target, store, keys), settings)
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

    # Waiting.

    @overload
    def gather(
        self, futures: Iterable[Future[T]], timeout_s: float | None = None, errors: Literal["raise"] = "raise"
    ) -> list[T]: ...
    @overload
    def gather(
        self, futures: Iterable[Future[T]], timeout_s: float | None = None, *, errors: Literal["return"]
    ) -> list[T | BaseException]: ...
    def gather(self, futures: Iterable[Future[T]], timeout_s: float | None = None, errors: str = "raise") -> list[Any]:
        """Return the results in the order of ``futures``; raise what the first failed one of them raises.

        With ``errors="return"`` the list holds exceptions (CancelledError too) in place of results instead. Raises
        TimeoutError where not all are in within ``timeout_s``.
        """
        return waiting.gather(futures, timeout_s, errors)

    def wait(
        self, futures: Iterable[Future[T]], timeout_s: float | None = None, return_when: str = waiting.ALL_COMPLETED
    ) -> tuple[set[Future[T]], set[Future[T]]]:
        """Wait, up to ``timeout_s``, and return the sets (done, not done). Raises nothing for what failed.

        ``return_when``: "ALL_COMPLETED", "FIRST_COMPLETED" or "FIRST_EXCEPTION", as in `concurrent.futures`.
        """
        return waiting.wait(futures, timeout_s, return_when)

    # Ending.

    def cancel(self, futures: Iterable[Future[Any]]) -> int:
        """Cancel those tasks that have not started, by one message a job; return how many will truly never run.

        Tasks that were cancelled before do not count.
        """
        return cancel(futures)

    def interrupt(self, futures: Iterable[Future[Any]], grace_s: float = 1.0) -> list[str]:
        """End tasks, running ones too, wait until they are over, and return what became of each, in order.

        A running Python task gets a KeyboardInterrupt, a command SIGTERM; after ``grace_s`` seconds its process is
        killed. "dequeued": it had not started; "interrupted"; "killed"; "too late": it ended by itself before, however.
        Raises TimeoutError where the cluster does not answer in time.
        """
        return ending.interrupt(futures, opts.seconds("grace_s", grace_s))

    def kill(self, job: Job[Any] | Future[Any]) -> None:
        """End a job or a task at once, running ones too; the futures raise CancelledError soon."""
        if isinstance(job, Future):
            job.batch.link.kill(job.job, [job.index])
        else:
            job.kill()

    # Asking.

    def query(
        self, what: str, job: str = "", indices: Iterable[int] = (), *, timeout_s: float = QUERY_TIMEOUT_S
    ) -> list[m.Status]:
        """Ask every scheduler once; return the status of each that answers within ``timeout_s``.

        ``what``: "summary", "workers", "jobs", "recent" (workers, and the newest jobs), "job" (with ``job``: an id or
        its prefix), "tasks" (with a full id and up to 1,000 ``indices``) or "failures" (with a full id).
        """
        question = m.Query(1, what, job, list(indices))
        return [told.status for told in self._connection.inquire(question, timeout_s)]

    def job(self, id: str) -> JobHandle:
        """Return a handle of any job of this client's owner, by its id or the beginning of it.

        Those who share the clients' secret are one owner, as are all where there are no keys; each listed key is
        another. So it is with `attach` and `jobs`: what is another owner's does not exist here.

        Raises UsageError where a beginning fits no job, or several.
        """
        return handle.find(self._connection, id)

    def attach(self, id: str) -> AttachedJob:
        """Return a durable job by its full id: it waits for results and gives them, from Redis.

        Raises UsageError where Redis does not know it, or where this client knows no Redis.
        """
        return attached.attached(self._connection.store, id, self._connection.owner)

    def jobs(self) -> list[m.JobStatus]:
        """Return the ledgers of all jobs that the schedulers know, also of finished ones, oldest first."""
        return ledger.jobs(self.query("jobs"))

    def workers(self) -> list[m.WorkerStatus]:
        """Return all workers, by id; each with what all schedulers together have there."""
        return ledger.workers(self.query("workers"))

    def drain_worker(self, worker_id: str, grace_s: float = 30.0) -> m.WorkerStatus | None:
        """Take a worker out of service: it finishes what runs, for ``grace_s`` at most, and ends; nothing is lost.

        Returns at once: the worker as a scheduler sees it, None where none knows a worker with this id.
        """
        grace_s = opts.seconds("grace_s", grace_s)
        if not isinstance(worker_id, str) or not worker_id:
            raise UsageError(f"{worker_id!r:.80} is no worker id", hint="`sparrowmq worker list` shows them")
        for address in self._connection.addresses.values():  # one that tells the worker is enough
            question = m.Drain(1, worker_id, grace_s)
            for told in self._connection.inquire(question, QUERY_TIMEOUT_S, addresses=[address]):
                if told.status.workers:
                    return told.status.workers[0]
        return None

    def close(self) -> None:
        """Leave the cluster: see the class. Does nothing the second time."""
        atexit.unregister(self.close)
        self._connection.close()

    def __enter__(self) -> Self:
        default.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        default.leave(self)
        self.close()

    def __repr__(self) -> str:
        return f"<Client {self.id}>"
