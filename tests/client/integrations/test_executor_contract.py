"""The futures of an executor beside the standard library's: texts, snapshots, and CPython's own tests of them.

Where the interpreter comes with its package of tests, those of executors are run on ours as they are.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import logging
import re
import sys
import threading
import time
import unittest
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest

from hpclaunch.client.client import Client
from hpclaunch.client.integrations.executor import ClientExecutor
from tests.client import work
from tests.client.conftest import until
from tests.client.inside import calls_outstanding


@pytest.fixture
def executor(client: Client) -> Iterator[ClientExecutor]:
    with client.get_executor() as executor:
        yield executor


def told(future: Future[Any]) -> Future[Any]:
    """Return a future that is done, and whose result was not asked for."""
    concurrent.futures.wait([future], timeout=15)
    assert future.done()
    return future


# --- what asyncio reads


def copy_by_snapshot(source: Any, dest: asyncio.Future[Any]) -> None:
    """Do what CPython 3.14 does to copy the outcome of a future (gh-134173)."""
    assert source.done()
    if dest.cancelled():
        return
    done, cancelled, result, exception = source._get_snapshot()
    assert done
    if cancelled:
        dest.cancel()
    elif exception is not None:
        dest.set_exception(exception)
    else:
        dest.set_result(result)


@pytest.fixture(params=["today", "snapshot"])
def asyncio_copies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "snapshot":
        monkeypatch.setattr("asyncio.futures._copy_future_state", copy_by_snapshot)


@pytest.mark.usefixtures("asyncio_copies")
@pytest.mark.parametrize("size", [3, 1_000_000])
def test_asyncio_gets_results(executor: ClientExecutor, size: int) -> None:
    async def main() -> list[bytes]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, work.big, size, i) for i in range(3)))

    assert asyncio.run(main()) == [work.big(size, i) for i in range(3)]


@pytest.mark.usefixtures("asyncio_copies")
def test_asyncio_gets_errors(executor: ClientExecutor) -> None:
    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(executor, work.fail, "so it goes")

    with pytest.raises(ValueError, match="so it goes"):
        asyncio.run(main())


@pytest.mark.usefixtures("asyncio_copies")
def test_asyncio_sees_a_cancelled_call(client: Client, executor: ClientExecutor, tmp_path: Path) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"

    async def main() -> None:
        first = executor.submit(work.note_and_wait, str(notes), str(gate))
        late = executor.submit(work.inc, first.task)
        waiting = asyncio.ensure_future(asyncio.wrap_future(late))
        await asyncio.sleep(0)
        assert late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())
    gate.touch()


def test_snapshots(client: Client, executor: ClientExecutor, tmp_path: Path) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    slow = executor.submit(work.note_and_wait, str(notes), str(gate), 7)
    late = executor.submit(work.inc, slow.task)
    assert slow._get_snapshot() == late._get_snapshot() == (False, False, None, None)
    assert late.cancel()
    assert late._get_snapshot() == (True, True, None, None)
    gate.touch()
    assert told(slow)._get_snapshot() == (True, False, 7, None)
    failed = told(executor.submit(work.fail, "so it goes"))
    done, cancelled, result, error = failed._get_snapshot()  # type: ignore[attr-defined]
    assert (done, cancelled, result) == (True, False, None)
    assert isinstance(error, ValueError)


# --- texts


def state_of(future: Future[Any]) -> str:
    matched = re.fullmatch(r"<TaskFuture at 0x[0-9a-f]+ state=(.*)>", repr(future))
    assert matched
    return matched[1]


def test_texts_tell_the_state(executor: ClientExecutor, tmp_path: Path) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    slow = executor.submit(work.note_and_wait, str(notes), str(gate))
    late = executor.submit(work.inc, slow.task)
    until(lambda: work.times_called(notes) == 1)
    assert state_of(slow) == "running"
    assert state_of(late) == "pending"
    assert late.cancel()
    assert state_of(late) == "cancelled"
    gate.touch()
    assert state_of(told(slow)) == "finished returned NoneType"


def test_texts_tell_the_type(executor: ClientExecutor) -> None:
    assert state_of(told(executor.submit(work.inc, 1))) == "finished returned int"
    assert state_of(told(executor.submit(work.fail))) == "finished raised ValueError"
    large = told(executor.submit(work.big, 1_000_000))
    assert state_of(large) == "finished returned a large result that is not loaded yet"
    large.result(10)
    assert state_of(large) == "finished returned bytes"


def test_texts_of_a_closed_client(client: Client, tmp_path: Path) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    future = client.get_executor().submit(work.note_and_wait, str(notes), str(gate))
    with pytest.warns(UserWarning, match="are dropped"):
        client.close()
    gate.touch()
    assert state_of(told(future)) == "finished raised CommClosedError"


# --- behaviours of the standard library's futures


def test_callbacks_are_called_in_their_order_whatever_one_raises(
    executor: ClientExecutor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    called: list[Any] = []
    ended = threading.Event()
    future = executor.submit(work.note_and_wait, str(notes), str(gate), 5)

    def fail(future: Future[Any]) -> None:
        called.append("failing")
        raise ValueError("in a callback")

    future.add_done_callback(lambda f: called.append(f))
    future.add_done_callback(fail)
    future.add_done_callback(lambda f: (called.append(f.result()), ended.set()))
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        gate.touch()
        assert ended.wait(10)
    assert called == [future, "failing", 5]
    assert "exception calling callback" in caplog.text
    called.clear()
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        future.add_done_callback(fail)  # at once, in this thread
    assert called == ["failing"]


def test_a_callback_that_exits_ends_nothing(
    client: Client, executor: ClientExecutor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    futures = [executor.submit(work.note_and_wait, str(notes), str(gate), i) for i in range(4)]
    for future in futures:
        future.add_done_callback(lambda f: sys.exit(3))
    gate.touch()
    assert [future.result(15) for future in futures] == [0, 1, 2, 3]
    until(lambda: not calls_outstanding(client))
    assert "a future's callback raised" in caplog.text


def test_a_cancelled_future_calls_back_once(executor: ClientExecutor, tmp_path: Path) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    called: list[bool] = []
    late = executor.submit(work.inc, executor.submit(work.note_and_wait, str(notes), str(gate)).task)
    late.add_done_callback(lambda f: called.append(f.cancelled()))
    assert late.cancel()
    assert late.cancel()
    until(lambda: called)
    gate.touch()
    assert called == [True]
    with pytest.raises(CancelledError):
        late.result(0)


def test_an_outcome_is_set_once(executor: ClientExecutor) -> None:
    for future in (told(executor.submit(work.inc, 1)), told(executor.submit(work.fail))):
        with pytest.raises(concurrent.futures.InvalidStateError, match="FINISHED"):
            future.set_result(1)
        with pytest.raises(concurrent.futures.InvalidStateError, match="FINISHED"):
            future.set_exception(ValueError())


def test_a_result_is_waited_for_with_zero_seconds(executor: ClientExecutor, tmp_path: Path) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    future = executor.submit(work.note_and_wait, str(notes), str(gate), 1)
    for ask in (future.result, future.exception):
        with pytest.raises(concurrent.futures.TimeoutError):
            ask(0)
    gate.touch()
    told(future)
    assert (future.result(0), future.exception(0)) == (1, None)


def test_many_threads_wait_for_one_future(executor: ClientExecutor, tmp_path: Path) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    future = executor.submit(work.note_and_wait, str(notes), str(gate), [1])
    got: list[Any] = []
    threads = [threading.Thread(target=lambda: got.append(future.result(20))) for _ in range(8)]
    for thread in threads:
        thread.start()
    gate.touch()
    for thread in threads:
        thread.join(20)
    assert len(got) == 8
    assert all(one is got[0] for one in got)


def test_as_completed_says_how_many_are_left(executor: ClientExecutor, tmp_path: Path) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    some = [told(executor.submit(work.inc, 1)), executor.submit(work.note_and_wait, str(notes), str(gate))]
    with pytest.raises(TimeoutError, match=re.escape("1 (of 2) futures unfinished")):
        list(concurrent.futures.as_completed(some, timeout=0))
    gate.touch()


def test_the_executor_says_how_much_runs_at_once(executor: ClientExecutor) -> None:
    assert executor._max_workers == 2


# --- CPython's own tests

#: What CPython's tests ask for and ours does otherwise, and why.
_OTHERWISE = {
    "test_max_workers_negative": "the cluster decides how many workers there are",
    "test_interpreter_shutdown": "makes executors of the standard library by name; see test_executor_ends",
    "test_submit_after_interpreter_shutdown": "makes executors of the standard library by name",
    "test_hang_gh83386": "makes executors of the standard library by name",
    "test_hang_gh94440": "makes executors of the standard library by name",
}


def their_tests() -> dict[str, type]:
    """Return the classes of CPython's tests that take any executor; none where they are not installed."""
    classes = {}
    for module, name in (
        ("executor", "ExecutorTest"),
        ("test_wait", "WaitTests"),
        ("test_as_completed", "AsCompletedTests"),
        ("test_shutdown", "ExecutorShutdownTest"),
    ):
        try:
            found = importlib.import_module(f"test.test_concurrent_futures.{module}")
        except ImportError:
            continue
        classes[name] = getattr(found, name)
    return classes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ExecutorTest", "WaitTests", "AsCompletedTests", "ExecutorShutdownTest"])
def test_the_tests_of_cpython(client: Client, name: str) -> None:
    mixin: Any = their_tests().get(name)
    if mixin is None:
        pytest.skip("this interpreter comes without CPython's own tests of concurrent.futures")
    make: Callable[[], ClientExecutor] = client.get_executor

    class OnCluster(mixin):  # type: ignore[misc]
        worker_count = 2
        executor_type = ClientExecutor

        def setUp(self) -> None:
            self.executor = make()
            self.t1 = time.monotonic()

        def tearDown(self) -> None:
            self.executor.shutdown()

    suite = type(name, (OnCluster, unittest.TestCase), {})
    tests = unittest.TestLoader().loadTestsFromTestCase(suite)
    chosen = [test for test in tests if test._testMethodName not in _OTHERWISE]  # type: ignore[union-attr]
    assert chosen
    result = unittest.TestResult()
    unittest.TestSuite(chosen).run(result)
    assert not [f"{test}\n{text}" for test, text in [*result.failures, *result.errors]]
