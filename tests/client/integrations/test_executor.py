"""The ``concurrent.futures.Executor`` of a client, held to the standard library's contract."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor
from pathlib import Path

import pytest

from hpclaunch.client.client import Client
from hpclaunch.client.integrations.executor import ClientExecutor
from tests.client import work
from tests.client.conftest import until


@pytest.fixture
def executor(client: Client) -> Iterator[ClientExecutor]:
    with client.get_executor() as executor:
        yield executor


class Gate:
    """Tasks that have begun wait until the gate is opened."""

    def __init__(self, path: Path) -> None:
        self.notes, self.path = path / "notes", path / "gate"
        self.args = (str(self.notes), str(self.path))

    def wait_until_running(self, count: int = 1) -> None:
        until(lambda: work.times_called(self.notes) >= count)

    def open(self) -> None:
        self.path.touch()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path)
    yield gate
    gate.open()


# --- calls


def test_it_is_an_executor(executor: ClientExecutor) -> None:
    assert isinstance(executor, Executor)
    future = executor.submit(pow, 2, 8)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(10) == 256
    assert future.done()
    assert not future.cancelled()
    assert not future.running()
    assert future.exception() is None


@pytest.mark.parametrize("word", ["function", "fn", "self", "key", "retries", "priority", "workers", "pure"])
def test_every_keyword_reaches_the_function(executor: ClientExecutor, word: str) -> None:
    assert executor.submit(dict, **{word: 1}).result(10) == {word: 1}


def test_a_result_is_one_object(executor: ClientExecutor) -> None:
    future = executor.submit(work.big, 1_000_000)
    assert future.result(10) is future.result()
    assert future.task is None  # the cluster needs to keep it no longer


def test_an_error_is_raised_and_returned(executor: ClientExecutor) -> None:
    future = executor.submit(work.fail, "so it goes")
    with pytest.raises(ValueError, match="so it goes"):
        future.result(10)
    error = future.exception()
    assert isinstance(error, ValueError)
    assert "in fail" in str(error.__cause__)


def test_a_task_that_raises_timeout_error(executor: ClientExecutor) -> None:
    future = executor.submit(work.time_out)
    with pytest.raises(TimeoutError, match="in the task"):
        future.result(10)
    assert "in the task" in str(future.exception())


def test_waiting_no_longer_than_said(executor: ClientExecutor, gate: Gate) -> None:
    future = executor.submit(work.note_and_wait, *gate.args)
    with pytest.raises(TimeoutError):
        future.result(0.01)
    with pytest.raises(TimeoutError):
        future.exception(0.01)
    assert not future.done()


def test_options_go_with_each_call(client: Client, tmp_path: Path) -> None:
    executor = client.get_executor(retries=2)
    assert executor.submit(work.Flaky(str(tmp_path / "a"), 2)).result(10) == 3


def test_a_future_of_the_client_is_an_argument(client: Client, executor: ClientExecutor) -> None:
    assert executor.submit(work.inc, client.submit(work.inc, 1)).result(10) == 3


# --- what the standard library does with futures


def test_wait(executor: ClientExecutor, gate: Gate) -> None:
    slow = executor.submit(work.note_and_wait, *gate.args)
    quick = executor.submit(work.inc, 1)
    done, not_done = concurrent.futures.wait([slow, quick], return_when="FIRST_COMPLETED", timeout=10)
    assert (done, not_done) == ({quick}, {slow})
    gate.open()
    done, not_done = concurrent.futures.wait([slow, quick], timeout=10)
    assert not not_done


def test_wait_for_the_first_exception(executor: ClientExecutor, gate: Gate) -> None:
    slow = executor.submit(work.note_and_wait, *gate.args)
    bad = executor.submit(work.fail)
    done, left = concurrent.futures.wait([slow, bad], return_when="FIRST_EXCEPTION")
    assert (done, left) == ({bad}, {slow})
    with pytest.raises(ValueError, match="bad input"):
        bad.result()
    assert isinstance(bad.exception(), ValueError)


def test_an_exception_ends_the_wait_for_the_first_though_others_never_end(
    executor: ClientExecutor, gate: Gate
) -> None:
    other: concurrent.futures.Future[None] = concurrent.futures.Future()
    failing = executor.submit(work.fail)
    done, left = concurrent.futures.wait([other, failing], 20, return_when="FIRST_EXCEPTION")
    assert (done, left) == ({failing}, {other})
    with pytest.raises(ValueError, match="bad input"):
        failing.result()


def test_an_option_that_submit_does_not_have(client: Client) -> None:
    with pytest.raises(TypeError, match="and not retires, worker"):
        client.get_executor(worker="x", retires=2, priority=1)


def test_map_keeps_nothing_of_what_it_has_given(executor: ClientExecutor) -> None:
    for counter in executor.map(work.Counter, range(3)):
        reference = weakref.ref(counter)
        del counter
        assert reference() is None


def test_wait_sees_what_is_cancelled(client: Client, executor: ClientExecutor, gate: Gate) -> None:
    first = executor.submit(work.note_and_wait, *gate.args)
    late = executor.submit(work.inc, first.task)
    gate.wait_until_running()
    assert late.cancel()
    assert concurrent.futures.wait([late], timeout=10).done == {late}
    assert list(concurrent.futures.as_completed([late], timeout=10)) == [late]


def test_as_completed(executor: ClientExecutor) -> None:
    futures = [executor.submit(work.inc, i) for i in range(20)]
    assert {f.result() for f in concurrent.futures.as_completed(futures, timeout=10)} == set(range(1, 21))


def test_callbacks(executor: ClientExecutor, gate: Gate) -> None:
    called: list[object] = []
    here = threading.Event()
    future = executor.submit(work.note_and_wait, *gate.args, 7)
    future.add_done_callback(lambda f: (called.append(f.result()), here.set()))
    gate.open()
    assert here.wait(10)
    assert called == [7]
    future.add_done_callback(called.append)
    assert called == [7, future]


def test_asyncio_takes_it(executor: ClientExecutor) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, work.inc, i) for i in range(5)))

    assert asyncio.run(main()) == [1, 2, 3, 4, 5]


# --- cancelling


def test_what_has_not_begun_is_cancelled(executor: ClientExecutor, gate: Gate) -> None:
    futures = [executor.submit(work.note_and_wait, *gate.args, i) for i in range(10)]
    gate.wait_until_running(2)
    results = [future.cancel() for future in futures]
    assert results.count(False) == 2  # one on each worker
    gate.open()
    for i, (future, is_cancelled) in enumerate(zip(futures, results, strict=True)):
        assert future.cancelled() is is_cancelled
        if is_cancelled:
            with pytest.raises(CancelledError):
                future.result(10)
            with pytest.raises(CancelledError):
                future.exception(10)
        else:
            assert future.result(10) == i
    assert work.times_called(gate.notes) == 2


def test_running(executor: ClientExecutor, gate: Gate) -> None:
    futures = [executor.submit(work.note_and_wait, *gate.args) for _ in range(6)]
    gate.wait_until_running(2)
    running = [future for future in futures if future.running()]
    assert len(running) == 2
    assert not any(future.cancel() for future in running)
    gate.open()
    concurrent.futures.wait(futures, timeout=10)
    assert not any(future.running() for future in futures)


def test_what_has_ended_cannot_be_cancelled(executor: ClientExecutor) -> None:
    future = executor.submit(work.inc, 1)
    assert future.result(10) == 2
    assert not future.cancel()
    assert not future.cancelled()


# --- map


def test_map(executor: ClientExecutor) -> None:
    assert list(executor.map(pow, range(10), [2] * 9)) == [i * i for i in range(9)]
    assert list(executor.map(work.inc, [])) == []


@pytest.mark.parametrize("chunksize", [1, 3, 7, 100])
def test_map_in_chunks(executor: ClientExecutor, chunksize: int) -> None:
    assert list(executor.map(pow, range(20), range(20), chunksize=chunksize)) == [i**i for i in range(20)]


def test_map_submits_at_once(executor: ClientExecutor, gate: Gate) -> None:
    results = executor.map(work.note_and_wait, [gate.args[0]] * 2, [gate.args[1]] * 2)
    gate.wait_until_running(2)
    gate.open()
    assert list(results) == [None, None]


def test_map_submits_no_further_than_said(executor: ClientExecutor, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    results = executor.map(work.note, [str(notes)] * 9, range(9), buffersize=2)
    until(lambda: work.times_called(notes) == 2)
    assert next(results) == 0
    until(lambda: work.times_called(notes) == 3)
    assert list(results) == list(range(1, 9))


@pytest.mark.parametrize(("word", "value"), [("chunksize", 0), ("chunksize", -1), ("buffersize", 0)])
def test_map_with_what_cannot_be(executor: ClientExecutor, word: str, value: int) -> None:
    with pytest.raises(ValueError, match=word):
        executor.map(work.inc, [1], **{word: value})


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_raises_where_the_error_is(executor: ClientExecutor, chunksize: int) -> None:
    results = executor.map(work.fail_odds, [0, 2, 4, 5, 6], chunksize=chunksize)
    assert next(results) == 0
    assert next(results) == 2
    with pytest.raises(ValueError, match="5 is odd"):
        list(results)


def test_map_with_a_timeout(executor: ClientExecutor, gate: Gate) -> None:
    results = executor.map(work.wait_if_odd, [0, 1], [gate.args[1]] * 2, timeout=5)
    assert next(results) == 0
    results = executor.map(work.wait_if_odd, [1], [gate.args[1]], timeout=0.05)
    with pytest.raises(TimeoutError):
        next(results)


def test_map_that_is_left_ends_the_rest(client: Client, executor: ClientExecutor, gate: Gate) -> None:
    results = executor.map(work.wait_if_odd, [0] + [1] * 20, [gate.args[1]] * 21)
    assert next(results) == 0
    results.close()
    gate.open()
    until(lambda: not client.scheduler_info()["tasks"])


# --- shutting down


def test_nothing_after_shutdown(client: Client) -> None:
    executor = client.get_executor()
    executor.shutdown()
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(work.inc, 1)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.map(work.inc, [1])
    assert client.submit(work.inc, 1).result(10) == 2  # the client is not touched


def test_shutdown_waits(client: Client, gate: Gate) -> None:
    with client.get_executor() as executor:
        future = executor.submit(work.note_and_wait, *gate.args, 5)
        gate.wait_until_running()
        opener = threading.Timer(0.1, gate.open)
        opener.start()
    assert future.done()
    assert future.result() == 5


def test_shutdown_without_waiting(client: Client, gate: Gate) -> None:
    executor = client.get_executor()
    future = executor.submit(work.note_and_wait, *gate.args, 5)
    executor.shutdown(wait=False)
    assert not future.done()
    gate.open()
    assert future.result(10) == 5


def test_shutdown_cancels_what_has_not_begun(client: Client, gate: Gate) -> None:
    executor = client.get_executor()
    futures = [executor.submit(work.note_and_wait, *gate.args, i) for i in range(10)]
    gate.wait_until_running(2)
    executor.shutdown(wait=False, cancel_futures=True)
    gate.open()
    done = concurrent.futures.wait(futures, timeout=10).done
    assert done == set(futures)
    assert sum(future.cancelled() for future in futures) == 8
    assert sorted(f.result() for f in futures if not f.cancelled()) == [
        i for i in range(10) if not futures[i].cancelled()
    ]


def test_a_closed_client_is_a_broken_executor(client: Client, gate: Gate) -> None:
    executor = client.get_executor()
    future = executor.submit(work.note_and_wait, *gate.args)
    with pytest.warns(UserWarning, match="are dropped"):
        client.close()
    with pytest.raises(concurrent.futures.BrokenExecutor, match="closed"):
        executor.submit(work.inc, 1)
    assert "closed" in str(future.exception(10))
    executor.shutdown()
