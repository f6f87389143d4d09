"""The asynchronous client on a real cluster, and functions decorated with `task` in real task processes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sparrowmq import AsyncClient, Client, CommandFailed, LocalCluster, TaskCrashed, task

pytestmark = pytest.mark.timeout(120)
TIMEOUT_S = 30.0
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=1, slots=2) as cluster:
        yield cluster


def wait_for(path: Path, value: int = 0) -> int:
    deadline = time.monotonic() + TIMEOUT_S
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    return value


@task
def square(n: int) -> int:
    return n * n


@task(name="pids")
def pid() -> int:
    return os.getpid()


def test_a_program_with_a_loop(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with asyncio.timeout(TIMEOUT_S), AsyncClient(cluster) as client:
            assert await client.submit(square, 7) == 49
            assert await client.submit(os.getpid) != os.getpid()
            assert await client.map(pow, range(5000), [2] * 5000) == [n * n for n in range(5000)]
            (result,) = await client.run_commands(["echo", "hi"])
            assert result.stdout == b"hi\n"
            with pytest.raises(CommandFailed):
                await client.run_commands(["false"])
            with pytest.raises(TaskCrashed):
                await client.submit(os._exit, 1)

            async def numbers() -> AsyncIterator[int]:
                for number in range(300):
                    if number % 100 == 0:
                        await asyncio.sleep(0.001)
                    yield number

            assert [value async for value in client.imap(square, numbers())] == [n * n for n in range(300)]
            assert len([value async for value in client.imap(abs, range(20_000), ordered=False)]) == 20_000

    asyncio.run(main())


def test_cancelled_tasks_do_not_run(cluster: LocalCluster, tmp_path: Path) -> None:
    gate, marks = tmp_path / "gate", [tmp_path / f"mark-{n}" for n in range(20)]

    async def main() -> None:
        async with asyncio.timeout(TIMEOUT_S), AsyncClient(cluster) as client:
            running = [client.submit(wait_for, gate, n) for n in range(2)]
            while sum(row.launched for status in await client.query("jobs") for row in status.jobs) < 2:
                await asyncio.sleep(0.005)
            awaited, asked = client.map(Path.touch, marks), client.map(Path.touch, marks)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await awaited
            waiting = [client.submit(Path.touch, mark) for mark in marks]
            for future in waiting:
                future.cancel()
            assert await client.cancel(asked) == len(marks)
            await asyncio.to_thread(concurrent.futures.wait, [future.future for future in waiting])
            assert await awaited.wait()
            gate.touch()
            assert await asyncio.gather(*running) == [0, 1]
            assert all(future.future.cancelled() for future in waiting)
            assert not any(mark.exists() for mark in marks)

    asyncio.run(main())


def test_many_loops_one_client(cluster: LocalCluster) -> None:
    with Client(cluster) as inner:

        async def main(number: int) -> int:
            async with AsyncClient(inner) as client:
                return await client.submit(square, number)

        assert [asyncio.run(main(number)) for number in range(5)] == [0, 1, 4, 9, 16]


def test_tasks_run_in_task_processes_by_their_name(cluster: LocalCluster) -> None:
    with Client(cluster) as client:
        assert square.submit(5).result(TIMEOUT_S) == 25
        assert client.gather(square.options(retries=1).map(range(100))) == [n * n for n in range(100)]
        assert client.submit(square, 6).result(TIMEOUT_S) == 36
        assert pid.submit().result(TIMEOUT_S) not in (0, os.getpid())


def test_tasks_of_the_main_program(cluster: LocalCluster, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        from sparrowmq import Client, Executor, task

        FACTOR = 10

        @task(timeout_s=30)
        def scaled(n):
            return n * FACTOR

        @task
        def fibonacci(n):
            return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

        with Client(sys.argv[1]) as client, Executor(client) as executor:
            print(scaled(1), scaled.submit(2).result(), client.gather(scaled.options(retries=1).map([3, 4])))
            print(client.submit(fibonacci, 10).result(), fibonacci.submit(11).result())
            print(list(executor.map(scaled, [5, 6], chunksize=2)), executor.submit(scaled, 7).result())
        """)
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, script, cluster.url], capture_output=True, text=True, timeout=60, env=environ, check=False
    )
    assert ended.stderr == ""
    assert ended.stdout == "10 20 [30, 40]\n55 89\n[50, 60] 70\n"
