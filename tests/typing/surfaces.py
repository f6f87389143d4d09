"""What a type checker must see in a user's program; read by test_typing.py, never run.

`# reveals:` is the type of the argument of `reveal_type` in that line, `# refused:` the code of the error there.
"""

from typing import reveal_type

from sparrowmq import AsyncClient, Client, Executor, as_completed, progress, task


@task
def area(width: int, height: float = 1.0) -> str:
    return f"{width * height}"


@task(retries=2, timeout_s=5.0, retry_on=ValueError)
def careful(name: str) -> bytes:
    return name.encode()


def plain(width: int, *, height: float) -> str:
    return f"{width * height}"


def tasks(client: Client) -> None:
    reveal_type(area(1, height=2.0))  # reveals: str
    reveal_type(careful("x"))  # reveals: bytes
    reveal_type(area.submit(1, 2.0))  # reveals: sparrowmq.client.future.Future[str]
    reveal_type(area.submit(1).result())  # reveals: str
    reveal_type(area.map([1, 2], [3.0, 4.0]))  # reveals: sparrowmq.client.job.Job[str]
    x = careful.options(policy="batch").on(client).submit("x")
    reveal_type(x)  # reveals: sparrowmq.client.future.Future[bytes]
    reveal_type(careful.options(policy="batch").on(client.options(name="y"))("x"))  # reveals: bytes
    reveal_type(client.submit(area, 1, height=2.0))  # reveals: sparrowmq.client.future.Future[str]
    area("1")  # refused: arg-type
    area.submit("1")  # refused: arg-type
    area.submit(1, depth=2)  # refused: call-arg
    careful.submit()  # refused: call-arg
    careful.options(retrys=2)  # refused: call-arg
    task(timeout_s="5")  # refused: call-overload


def submitting(client: Client, executor: Executor) -> None:
    reveal_type(client.submit(plain, 1, height=2.0).result())  # reveals: str
    reveal_type(client.map(plain, [1]))  # reveals: sparrowmq.client.job.Job[str]
    reveal_type(executor.submit(plain, 1, height=2.0))  # reveals: sparrowmq.client.future.Future[str]
    reveal_type(executor.map(plain, [1], chunksize=2))  # reveals: typing.Iterator[str]
    client.submit(plain, 1, width=2)  # refused: call-arg
    executor.submit(plain, "1", height=2.0)  # refused: arg-type
    executor.submit(plain, 1)  # refused: call-arg
    Executor(client, policy=3)  # refused: arg-type


def showing(client: Client) -> None:
    reveal_type(progress(client.map(plain, [1])))  # reveals: list[sparrowmq.client.future.Future[str]]
    for future in progress(client.map(plain, [1])):
        reveal_type(future.result())  # reveals: str
    for done in progress(as_completed(client.map(plain, [1])), total=1):
        reveal_type(done.result())  # reveals: str


async def waiting() -> None:
    async with AsyncClient() as client:
        reveal_type(client)  # reveals: sparrowmq.client.aio.AsyncClient
        reveal_type(await client.submit(plain, 1, height=2.0))  # reveals: str
        reveal_type(client.submit(area, 1))  # reveals: sparrowmq.client.aio.AsyncFuture[str]
        reveal_type(await client.map(plain, [1]))  # reveals: list[str]
        reveal_type(await client.gather(client.map(plain, [1])))  # reveals: list[str]
        x = await client.gather([client.submit(area, 1)], errors="return")
        reveal_type(x)  # reveals: list[str | BaseException]
        async for value in client.map(plain, [1]):
            reveal_type(value)  # reveals: str
        async for value in client.imap(plain, [1], ordered=False):
            reveal_type(value)  # reveals: str
        client.submit(plain, "1", height=2.0)  # refused: arg-type
        client.map(plain, [1], polcy="batch")  # refused: call-overload
