"""Functions that know how they run on a cluster.

Owns: the decorator `task`, `Task`, and how one travels. Must not know: how jobs are sent; which client is the default.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, overload

from sparrowmq.client import default, options as opts
from sparrowmq.client.options import JobOptions
from sparrowmq.errors import UsageError

if TYPE_CHECKING:
    from sparrowmq.client.client import Submitter
    from sparrowmq.client.future import Future
    from sparrowmq.client.job import Job

P = ParamSpec("P")
T = TypeVar("T")


class Task(Generic[P, T]):
    """A function decorated with `task`: calling it runs it here, its methods run it on a cluster.

    The cluster is that of the client given with `on`; else of the innermost ``with Client(...)`` block that this code
    runs in; else of a client made as by ``Client()`` when it is first needed. What the methods raise is what the
    client's raise.
    """

    _options: JobOptions
    _client: Submitter | None
    _origin: Task[P, T] | None  # what a changed copy was made from: that one has the name in its module
    __wrapped__: Callable[P, T]

    def __init__(self, fn: Callable[P, T], options: JobOptions) -> None:
        functools.update_wrapper(self, fn)
        self._options = options
        self._client = None
        self._origin = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the function here."""
        return self.__wrapped__(*args, **kwargs)

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run the function on the cluster; see `Client.submit`."""
        return self._submitter().submit(self, *args, **kwargs)

    def map(self, *iterables: Iterable[Any]) -> Job[T]:
        """Run it on the first items, the second items, ... of ``iterables``, as one job; see `Client.map`."""
        return self._submitter().map(self, *iterables)

    def starmap(self, rows: Iterable[Iterable[Any]]) -> Job[T]:
        """Run it on each row of arguments, as one job; see `Client.starmap`."""
        return self._submitter().starmap(self, rows)

    def options(self, **options: Unpack[JobOptions]) -> Task[P, T]:
        """Return a copy with these options changed. Raises UsageError for an unknown option or a bad value."""
        changed = self._copy()
        changed._options = _checked(self._options | options)
        return changed

    def on(self, client: Submitter) -> Task[P, T]:
        """Return a copy that runs on this client (or view of one, made by `Client.options`)."""
        changed = self._copy()
        changed._client = client
        return changed

    def _copy(self) -> Task[P, T]:
        copied = Task(self.__wrapped__, self._options)
        copied._client = self._client
        copied._origin = self._origin or self
        return copied

    def _submitter(self) -> Submitter:
        client = self._client or default.current()
        return client.options(**self._options) if self._options else client

    def __reduce__(self) -> str | tuple[Any, ...]:
        """By name, where workers find it by its name; else the function itself travels."""
        origin = self._origin or self
        if not origin._is_importable():
            return (_rebuild, (), {**self.__dict__, "_client": None, "_origin": None})
        if origin is self:
            return self.__qualname__  # type: ignore[no-any-return, attr-defined]
        return (_changed, (origin, self._options))

    def _is_importable(self) -> bool:
        name: str = self.__qualname__  # type: ignore[attr-defined]
        found: object = sys.modules.get(self.__module__) if self.__module__ != "__main__" else None
        for part in name.split("."):
            found = getattr(found, part, None)
        return found is self

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self._options.items())
        return f"<Task {self.__module__}.{self.__qualname__}{options}>"  # type: ignore[attr-defined]


@overload
def task(fn: Callable[P, T], /) -> Task[P, T]: ...
@overload
def task(**options: Unpack[JobOptions]) -> Callable[[Callable[P, T]], Task[P, T]]: ...
def task(fn: Callable[..., Any] | None = None, /, **options: Unpack[JobOptions]) -> Any:
    """Decorate a function as a task: ``@task``, or ``@task(retries=2, timeout_s=5)`` with `JobOptions`.

        @task(retries=2)
        def area(width: int, height: int) -> int: ...

        area(6, 7)                        # here
        area.submit(6, 7).result()        # on the cluster
        area.map(range(9), range(9))      # a job
        area.options(retries=5).on(client).submit(6, 7)

    Raises UsageError for an unknown option or a bad value.
    """
    if fn is None:
        checked = _checked(options)
        return lambda decorated: _make(decorated, checked)
    return _make(fn, {})


def _make(fn: Callable[P, T], options: JobOptions) -> Task[P, T]:
    if not callable(fn):
        raise UsageError(f"a {type(fn).__name__} cannot be called", hint="use it as @task or @task(timeout_s=5)")
    return Task(fn, options)


def _checked(options: JobOptions) -> JobOptions:
    opts.make_spec(**options)
    return options


def _rebuild() -> Task[..., Any]:
    return Task.__new__(Task)


def _changed(origin: Task[P, T], options: JobOptions) -> Task[P, T]:
    """Return the copy of ``origin`` that was pickled."""
    changed = origin._copy()
    changed._options = options
    return changed
