"""The client in an event loop.

Owns: `AsyncClient` and what its methods return: `AsyncFuture`, `AsyncJob`. Must not know: how outcomes come into the
loop (`bridge`), how a stream is cut (`aiostream`).

Nothing here waits in the loop's thread. What takes time is pickling arguments (of one job) and loading results.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any, Literal, ParamSpec, Self, TypeVar, Unpack, overload

from sparrowmq.client.aiostream import stream
from sparrowmq.client.bridge import Breather, Bridge
from sparrowmq.client.client import QUERY_TIMEOUT_S, Client, Submitter
from sparrowmq.client.future import Batch, Future
from sparrowmq.client.job import Job
from sparrowmq.client.options import JobOptions
from sparrowmq.client.outcomes import CommandResult
from sparrowmq.client.recall import recall
from sparrowmq.errors import UsageError
from sparrowmq.protocol import messages as m
from sparrowmq.settings import ClientSettings, StoreSettings

P = ParamSpec("P")
T = TypeVar("T")


class AsyncFuture(asyncio.Future[T]):
    """The outcome of one task, to be awaited in the loop where it was submitted.

    An `asyncio.Future`: for ``gather``, ``wait``, ``as_completed``, ``timeout`` and task groups. Cancelling it, as a
    timeout or a task group does, cancels the task on the cluster if it has not started; a task that runs goes on
    unseen, up to its ``timeout_s`` (`AsyncClient.kill` ends it). Raises what `sparrowmq.Future` raises.
    """

    def __init__(self, future: Future[T], bridge: Bridge) -> None:
        super().__init__(loop=bridge.loop)
        self._inner = future
        self._bridge = bridge
        bridge.when_over(future, self._settle)

    @property
    def future(self) -> Future[T]:
        """The same as a `sparrowmq.Future`: its job, its history, how it was cancelled."""
        return self._inner

    def cancel(self, msg: Any = None) -> bool:
        """Cancel; see the class. Returns at once: False only where it is over already."""
        if not super().cancel(msg):
            return False
        self._bridge.forget(self._inner)
        self._bridge.recall(self._inner)
        return True

    def _settle(self) -> None:
        if self.done():
            return
        if self._inner.cancelled():
            super().cancel()
            return
        error = self._inner.exception()
        if error is None:
            self.set_result(self._inner.result())
        elif isinstance(error, StopIteration):  # which no future of asyncio can hold
            wrapped = RuntimeError("the task raised StopIteration")
            wrapped.__cause__ = error
            self.set_exception(wrapped)
        else:
            self.set_exception(error)


class AsyncJob(Sequence[AsyncFuture[T]]):
    """The tasks of one `map`, `run_commands` or `sleep`, in the order of the arguments.

    ``await job`` gives the list of results, ``async for value in job`` one after the other, ``job[n]`` the future of
    one task. Each raises what its task raised, and `concurrent.futures.CancelledError` for one that was cancelled on
    the cluster. Cancelling what awaits the job cancels those of its tasks that have not started.
    """

    def __init__(self, job: Job[T], bridge: Bridge) -> None:
        self._job = job
        self._bridge = bridge
        self._made: dict[int, AsyncFuture[T]] = {}

    @property
    def job(self) -> Job[T]:
        """The same as the blocking client's `Job`."""
        return self._job

    @property
    def id(self) -> str:
        """The cluster's id of the (first) job."""
        return self._job.id

    @property
    def finished(self) -> int:
        """How many tasks are over, whatever their end."""
        return self._job.finished

    def __len__(self) -> int:
        return len(self._job)

    @overload
    def __getitem__(self, index: int) -> AsyncFuture[T]: ...
    @overload
    def __getitem__(self, index: slice) -> list[AsyncFuture[T]]: ...
    def __getitem__(self, index: int | slice) -> AsyncFuture[T] | list[AsyncFuture[T]]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        made = self._made.get(position)
        if made is None:
            made = self._made[position] = AsyncFuture(self._job[position], self._bridge)
        return made

    def __aiter__(self) -> AsyncIterator[T]:
        return self._results()

    def __await__(self) -> Generator[Any, None, list[T]]:
        return self._all().__await__()

    async def _all(self) -> list[T]:
        try:
            return await gather(self._job, self._bridge, "raise")
        except asyncio.CancelledError:
            recall(self._job)
            raise

    async def _results(self) -> AsyncIterator[T]:
        breather = Breather(self._bridge.loop)
        for future in self._job:
            await self._bridge.until(future.batch, future.done)
            if breather.is_due():
                await asyncio.sleep(0)
            yield future.result()

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until all tasks are over, up to ``timeout_s``; tell whether they are. Raises nothing for what failed."""
        try:
            async with asyncio.timeout(timeout_s):
                for batch in _batches(self._job):
                    await self._bridge.until(batch, lambda batch=batch: not batch.pending)  # type: ignore[misc]
        except TimeoutError:
            return False
        return True

    async def cancel(self) -> int:
        """Cancel all tasks that have not started; return how many that are."""
        return await asyncio.to_thread(self._job.cancel)

    def kill(self) -> None:
        """End all tasks, running ones too; returns at once."""
        self._job.kill()

    async def status(self) -> list[m.JobStatus]:
        """Return the schedulers' ledgers of the job; see `Job.status`."""
        return await asyncio.to_thread(self._job.status)

    def __repr__(self) -> str:
        return f"<Async{repr(self._job)[1:]}"


class AsyncSubmitter:
    """Submits tasks with certain options; made by `AsyncClient.options`, and every `AsyncClient` is one.

    The methods are those of `Submitter`, for callers in the event loop. Arguments are pickled before they return: for
    very many, `imap` does it in small parts.
    """

    _connected: tuple[Submitter, Bridge] | None

    def __init__(self, submitter: Submitter, bridge: Bridge) -> None:
        self._connected = (submitter, bridge)

    def options(self, **options: Unpack[JobOptions]) -> AsyncSubmitter:
        """Return a view of the same client whose jobs have these options (see `JobOptions`)."""
        submitter, bridge = self._use()
        return AsyncSubmitter(submitter.options(**options), bridge)

    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> AsyncFuture[T]: ...
    @overload
    def submit(self, fn: str, /, *args: Any, **kwargs: Any) -> AsyncFuture[Any]: ...
    def submit(self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> AsyncFuture[Any]:
        """Run ``fn(*args, **kwargs)``; see `Submitter.submit`. Returns at once: await what it returns."""
        submitter, bridge = self._use()
        return AsyncFuture(submitter.submit(fn, *args, **kwargs), bridge)

    @overload
    def map(self, fn: Callable[..., T], /, *iterables: Iterable[Any], **options: Unpack[JobOptions]) -> AsyncJob[T]: ...
    @overload
    def map(self, fn: str, /, *iterables: Iterable[Any], **options: Unpack[JobOptions]) -> AsyncJob[Any]: ...
    def map(
        self, fn: Callable[..., Any] | str, /, *iterables: Iterable[Any], **options: Unpack[JobOptions]
    ) -> AsyncJob[Any]:
        """Run ``fn`` on the first items, the second items, ... of ``iterables``, as one job; see `Submitter.map`."""
        submitter, bridge = self._use()
        return AsyncJob(submitter.map(fn, *iterables, **options), bridge)

    def starmap(
        self, fn: Callable[..., Any] | str, rows: Iterable[Iterable[Any]], **options: Unpack[JobOptions]
    ) -> AsyncJob[Any]:
        """Run ``fn(*row)`` for each of ``rows``, as one job; see `Submitter.starmap`."""
        submitter, bridge = self._use()
        return AsyncJob(submitter.starmap(fn, rows, **options), bridge)

    def run_commands(
        self,
        argv: Sequence[str] | Sequence[Sequence[str]],
        *,
        n: int = 1,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        stdin: bytes = b"",
        **options: Unpack[JobOptions],
    ) -> AsyncJob[CommandResult]:
        """Run a command, or each of several, ``n`` times, as one job; see `Submitter.run_commands`."""
        submitter, bridge = self._use()
        return AsyncJob(submitter.run_commands(argv, n=n, env=env, cwd=cwd, stdin=stdin, **options), bridge)

    def sleep(self, seconds: Iterable[float], **options: Unpack[JobOptions]) -> AsyncJob[None]:
        """Run one task for each of ``seconds`` that only sleeps so long; see `Submitter.sleep`."""
        submitter, bridge = self._use()
        return AsyncJob(submitter.sleep(seconds, **options), bridge)

    @overload
    def imap(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        ordered: bool = True,
        **options: Unpack[JobOptions],
    ) -> AsyncGenerator[T, None]: ...
    @overload
    def imap(
        self,
        fn: str,
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        ordered: bool = True,
        **options: Unpack[JobOptions],
    ) -> AsyncGenerator[Any, None]: ...
    def imap(
        self,
        fn: Callable[..., Any] | str,
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        ordered: bool = True,
        **options: Unpack[JobOptions],
    ) -> AsyncGenerator[Any, None]:
        """Yield what ``fn`` makes of the items, for iterables of any length, asynchronous ones too.

        Reads no further ahead than some thousand tasks; ``ordered=False`` yields results as they come. An exception of
        a task is raised at its place, one of the iterables after what they gave before. It ends the iteration; closing
        the generator (`contextlib.aclosing`), or dropping it, does so, too: what has not started is cancelled.
        """
        if not iterables:
            raise UsageError("imap needs at least one iterable of arguments", hint="submit(fn) runs fn() once")
        submitter, bridge = self._use()
        view = submitter.options(**options)
        return stream(bridge, lambda rows: view.starmap(fn, rows), iterables, ordered=ordered)

    def _use(self) -> tuple[Submitter, Bridge]:
        if self._connected is None:
            raise UsageError("this client is not connected", hint="async with AsyncClient(...) as client:")
        self._connected[1].check_loop()
        return self._connected


class AsyncClient(AsyncSubmitter):
    """A session with a cluster for programs with an event loop: ``async with AsyncClient(target) as client``.

    The arguments are those of `Client`; ``target`` may also be a `Client`, which stays open at the end. Belongs to the
    loop in which the block is entered. Entering raises what `Client` raises; leaving cancels what is unfinished.
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
        self._connected = None
        self._client: Client | None = target if isinstance(target, Client) else None
        self._owns_client = self._client is None
        self._make = lambda: Client(target, timeout_s=timeout_s, settings=settings, store=store, keys=keys)

    async def connect(self) -> Self:
        """Connect, without blocking the loop; what ``async with`` does."""
        if self._connected is not None:
            raise UsageError("this client is connected already")
        loop = asyncio.get_running_loop()
        if self._client is None:
            making = loop.run_in_executor(None, self._make)
            try:
                self._client = await asyncio.shield(making)
            except asyncio.CancelledError:
                making.add_done_callback(_close_unwanted)
                raise
        self._connected = (self._client, Bridge(loop))
        return self

    async def close(self) -> None:
        """Leave the cluster; see `Client.close`. Does nothing the second time."""
        client, self._client, self._connected = self._client, None, None
        if client is not None and self._owns_client:
            await asyncio.to_thread(client.close)

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    @property
    def client(self) -> Client:
        """The blocking client inside, for what this one does not have. Raises UsageError while not connected."""
        self._use()
        assert self._client is not None
        return self._client

    @property
    def id(self) -> str:
        """This client's id, as ``sparrowmq job list`` shows it."""
        return self.client.id

    @overload
    async def gather(
        self,
        futures: AsyncJob[T] | Iterable[AsyncFuture[T]],
        timeout_s: float | None = None,
        errors: Literal["raise"] = "raise",
    ) -> list[T]: ...
    @overload
    async def gather(
        self,
        futures: AsyncJob[T] | Iterable[AsyncFuture[T]],
        timeout_s: float | None = None,
        *,
        errors: Literal["return"],
    ) -> list[T | BaseException]: ...
    async def gather(
        self,
        futures: AsyncJob[T] | Iterable[AsyncFuture[T]],
        timeout_s: float | None = None,
        errors: str = "raise",
    ) -> list[Any]:
        """Return the results in the order of ``futures``; raise what the first failed one of them raises.

        With ``errors="return"`` the list holds exceptions in place of results instead. Raises TimeoutError where not
        all are in within ``timeout_s``. Unlike `asyncio.gather` it leaves the tasks alone when it is cancelled.
        """
        if errors not in ("raise", "return"):
            raise UsageError(f"errors: {errors!r:.80} is unknown", hint='it is "raise" or "return"')
        _, bridge = self._use()
        tasks = futures.job if isinstance(futures, AsyncJob) else [future.future for future in futures]
        async with asyncio.timeout(timeout_s):
            return await gather(tasks, bridge, errors)

    async def cancel(self, futures: AsyncJob[Any] | Iterable[AsyncFuture[Any]]) -> int:
        """Cancel those tasks that have not started; return how many will truly never run. See `Client.cancel`."""
        tasks = futures.job if isinstance(futures, AsyncJob) else [future.future for future in futures]
        return await asyncio.to_thread(self.client.cancel, tasks)

    def kill(self, job: AsyncJob[Any] | AsyncFuture[Any]) -> None:
        """End a job or a task at once, running ones too; returns at once."""
        self.client.kill(job.job if isinstance(job, AsyncJob) else job.future)

    async def query(
        self, what: str, job: str = "", indices: Iterable[int] = (), *, timeout_s: float = QUERY_TIMEOUT_S
    ) -> list[m.Status]:
        """Ask every scheduler once; see `Client.query`."""
        client = self.client
        return await asyncio.to_thread(lambda: client.query(what, job, indices, timeout_s=timeout_s))

    def __repr__(self) -> str:
        return f"<AsyncClient {self._client.id if self._client is not None else 'not connected'}>"


async def gather(tasks: Sequence[Future[Any]], bridge: Bridge, errors: str) -> list[Any]:
    """Return the results of ``tasks`` in their order; with ``errors`` "return", errors in place of some."""
    breather = Breather(bridge.loop)
    found: list[Any] = []
    for future in tasks:
        await bridge.until(future.batch, future.done)
        if breather.is_due():
            await asyncio.sleep(0)
        try:
            found.append(future.result())
        except BaseException as error:
            if errors == "raise":
                raise
            found.append(error)
    return found


def _batches(job: Job[Any]) -> list[Batch]:
    return list({future.batch: None for future in job})


def _close_unwanted(making: asyncio.Future[Client]) -> None:
    """Whoever wanted the client has gone: close it, in a thread."""
    if not making.cancelled() and making.exception() is None:
        asyncio.get_running_loop().run_in_executor(None, making.result().close)
