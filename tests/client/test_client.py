"""Submit, map, gather, and what a Future can do, on a small real cluster."""

from __future__ import annotations

import concurrent.futures
import functools
import gc
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpclaunch import LocalCluster
from hpclaunch.client.client import Client
from hpclaunch.client.futures.future import Future
from hpclaunch.client.submission import functions, submit as submit_module
from hpclaunch.comm.serialize import RemoteTraceback
from hpclaunch.errors import (
    CancelledError,
    ClusterNotFoundError,
    CommClosedError,
    SerializationError,
    TaskError,
    UserError,
)
from tests.client import work
from tests.client.conftest import until
from tests.client.inside import core_of
from tests.comm.minihead import MiniCluster

# --- submit


def test_submit(client: Client) -> None:
    future = client.submit(work.inc, 41)
    assert isinstance(future, Future)
    assert future.result(10) == 42
    assert future.done()
    assert future.status == "finished"
    assert future.exception() is None
    assert future.traceback() is None
    assert not future.cancelled()
    assert repr(future) == f"<Future finished, key: {future.key}>"


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "expected"),
    [
        (lambda a, *, b: a - b, (5,), {"b": 3}, 2),
        (functools.partial(pow, 2), (10,), {}, 1024),
        (str.upper, ("a",), {}, "A"),
        (work.Box, (7,), {}, None),
        (dict, (), {"a": 1}, {"a": 1}),
        (int, (), {}, 0),
    ],
)
def test_any_callable_with_any_arguments(
    client: Client, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], expected: Any
) -> None:
    value = client.submit(function, *args, **kwargs).result(10)
    assert value == expected or value.inside == 7


def test_tasks_run_in_the_workers(client: Client) -> None:
    assert client.submit(work.pid).result(10) != os.getpid()


def test_a_function_that_changes_is_sent_anew(client: Client) -> None:
    for n in range(3):
        assert client.submit(lambda x, n=n: x + n, 1).result(10) == 1 + n


def test_arrays_arrive_writable(client: Client) -> None:
    def twice(a: Any) -> Any:
        a *= 2
        return a

    value = client.submit(twice, np.arange(10)).result(10)
    value += 1
    np.testing.assert_array_equal(value, np.arange(10) * 2 + 1)


def test_a_key_names_a_task(client: Client) -> None:
    one = client.submit(work.inc, 1, key="my task")
    two = client.submit(work.inc, 1, key="my task")
    assert one is two
    assert one.key == "my task"
    assert one.result(10) == 2


@pytest.mark.parametrize("key", ["", "x" * 401, 7, b"bytes"])
def test_a_key_that_cannot_be(client: Client, key: Any) -> None:
    with pytest.raises(ValueError, match="a key is a text of 1 to 400 bytes"):
        client.submit(work.inc, 1, key=key)


def test_a_key_can_be_used_again_after_its_future_is_gone(client: Client) -> None:
    for _ in range(50):
        assert client.submit(work.inc, 1, key="again").result(10) == 2


def test_two_clients_share_a_key(cluster: MiniCluster, client: Client, tmp_path: Path) -> None:
    with Client(cluster.directory) as other:
        gate, notes = str(tmp_path / "gate"), tmp_path / "notes"
        one = client.submit(work.note_and_wait, str(notes), gate, 5, key="shared")
        until(lambda: work.times_called(notes))
        two = other.submit(work.note_and_wait, str(notes), gate, 5, key="shared")
        Path(gate).touch()
        assert one.result(10) == two.result(10) == 5
        assert work.times_called(notes) == 1
        del one
        gc.collect()
        assert two.result() == 5


def test_retries(client: Client, tmp_path: Path) -> None:
    assert client.submit(work.Flaky(str(tmp_path / "a"), 2), retries=2).result(10) == 3
    with pytest.raises(OSError, match="not yet"):
        client.submit(work.Flaky(str(tmp_path / "b"), 2), retries=1).result(10)


def test_what_is_not_a_function(client: Client) -> None:
    with pytest.raises(TypeError, match="the first argument must be a function, not 5"):
        client.submit(5)  # type: ignore[arg-type]


# --- what cannot be pickled


def test_an_argument_that_cannot_be_pickled_raises_at_once(client: Client) -> None:
    with pytest.raises(SerializationError, match="lock"):
        client.submit(work.same, threading.Lock())
    with pytest.raises(SerializationError, match="lock"):
        client.map(work.same, [1, threading.Lock()])
    with pytest.raises(SerializationError, match="lock"):
        client.map(work.same, [1], value=threading.Lock())


def test_a_function_that_cannot_be_pickled_raises_at_once(client: Client) -> None:
    lock = threading.Lock()
    with pytest.raises(SerializationError, match="lock"):
        client.submit(lambda: lock)


def test_a_result_that_cannot_be_pickled_is_the_tasks_error(client: Client) -> None:
    with pytest.raises(SerializationError, match=r"a _thread\.lock can't be pickled"):
        client.submit(threading.Lock).result(10)
    assert client.submit(work.inc, 1).result(10) == 2


def test_a_module_that_only_the_client_has(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def f(): return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here  # type: ignore[import-not-found]

    with pytest.raises(SerializationError, match=r"function f: .*only_here.*must be installed, or lie beside"):
        client.submit(only_here.f).result(10)


def test_a_call_that_is_too_large_says_what_to_do_instead(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "_MAX_CALL", 1000)
    monkeypatch.setattr(submit_module, "_MAP_BYTES", 1000)
    data = bytes(2000)
    for call in (
        lambda: client.submit(work.length, data),
        lambda: client.map(work.length, [b"", data]),
        lambda: client.submit(lambda: len(data)),
    ):
        with pytest.raises(SerializationError, match="Make or read the data in a task"):
            call()
    assert client.submit(work.length, bytes(500)).result(10) == 500


# --- map and gather


def test_map_and_gather(client: Client) -> None:
    futures = client.map(work.inc, range(10_000))
    assert client.gather(futures) == list(range(1, 10_001))
    assert len({f.key for f in futures}) == 10_000
    assert client.map(work.inc, []) == []


def test_map_over_several_iterables_stops_with_the_shortest(client: Client) -> None:
    assert client.gather(client.map(work.add, [1, 2, 3], iter([10, 20]))) == [11, 22]


def test_map_with_keywords(client: Client) -> None:
    assert client.gather(client.map(int, ["10", "11"], base=2)) == [2, 3]
    two = client.submit(work.inc, 1)
    assert client.gather(client.map(int, ["10", "11"], base=two)) == [2, 3]


def test_map_with_keys(client: Client) -> None:
    futures = client.map(work.inc, [1, 2], key=["a", "b"])
    assert [f.key for f in futures] == ["a", "b"]
    assert client.gather(futures) == [2, 3]
    assert all(f.key.startswith("mine-") for f in client.map(work.inc, [1, 2], key="mine"))
    with pytest.raises(ValueError, match="1 keys for 2 calls"):
        client.map(work.inc, [1, 2], key=["a"])
    same, too = client.map(work.inc, [1, 2], key=["same", "same"])
    assert same is too


def test_map_with_large_arguments_is_sent_in_parts(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit_module, "_MAP_BYTES", 10_000)
    sizes = [100, 9_000, 20_000, 5, 30_000, 0, 1, 2]
    first = client.submit(work.inc, 0)
    calls = [[bytes(size), first] if size % 2 else [bytes(size)] for size in sizes]
    assert client.gather(client.map(work.length, calls)) == [len(call) for call in calls]
    assert client.gather(client.map(work.length, [bytes(size) for size in sizes])) == sizes


def test_gather_keeps_the_nesting(client: Client) -> None:
    a, b, c = client.map(work.inc, range(3))
    assert client.gather({"x": [a, (b, {c})], "y": a}) == {"x": [1, (2, {3})], "y": 1}
    assert client.gather(a) == 1
    assert client.gather(f for f in (a, b)) == [1, 2]
    assert client.gather([]) == []
    assert client.gather([a, 5]) == [1, 5]


def test_gather_raises_the_first_error_or_skips_them(client: Client) -> None:
    futures = client.map(work.fail_odds, range(5))
    with pytest.raises(ValueError, match="1 is odd"):
        client.gather(futures)
    assert client.gather(futures, errors="skip") == [0, 2, 4]
    assert client.gather({"a": futures[1], "b": futures[2]}, errors="skip") == {"b": 2}
    with pytest.raises(ValueError, match='errors is "raise" or "skip"'):
        client.gather(futures, errors="ignore")


# --- futures as arguments


def test_futures_as_arguments_however_deep(client: Client) -> None:
    one, two = client.submit(work.inc, 0), client.submit(work.inc, 1)
    assert client.submit(work.add, one, two).result(10) == 3
    assert client.submit(work.same, [one, {"x": (two, [one])}]).result(10) == [1, {"x": (2, [1])}]
    assert client.submit(work.open_box, work.Box([one])).result(10) == [1]
    assert client.submit(dict, a=one).result(10) == {"a": 1}
    assert client.gather(client.map(work.add, [one, 10], [two, two])) == [3, 12]
    assert client.submit(work.add, one, one, one).result(10) == 3


def test_a_future_that_failed_as_an_argument(client: Client) -> None:
    bad = client.submit(work.fail, "the first")
    chain = client.submit(work.inc, client.submit(work.inc, bad))
    with pytest.raises(ValueError, match="the first"):
        chain.result(10)
    with pytest.raises(ValueError, match="the first"):
        client.submit(work.inc, bad).result(10)


def test_a_future_lives_as_long_as_a_task_needs_it(client: Client) -> None:
    chain = client.submit(work.inc, client.submit(work.inc, client.submit(work.inc, 0)))
    gc.collect()
    assert chain.result(10) == 3


def test_a_chain_of_a_thousand(client: Client) -> None:
    future = client.submit(work.inc, 0)
    for _ in range(999):
        future = client.submit(work.inc, future)
    assert future.result(30) == 1000


def test_a_tree_of_a_thousand(client: Client) -> None:
    layer = client.map(work.inc, [0] * 512)
    while len(layer) > 1:
        layer = client.map(work.add, layer[::2], layer[1::2])
    assert layer[0].result(30) == 512


def test_a_fan_of_a_thousand(client: Client) -> None:
    root = client.submit(work.inc, 0)
    leaves = client.map(work.add, [root] * 1000, range(1000))
    assert client.submit(sum, leaves).result(30) == sum(range(1, 1001))


# --- exceptions


def test_an_exception_comes_back_with_its_remote_traceback(client: Client) -> None:
    future = client.submit(work.fail, "bad input")
    with pytest.raises(ValueError, match="bad input") as caught:
        future.result(10)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "work.py" in str(caught.value.__cause__)
    assert "in fail" in str(caught.value.__cause__)
    assert future.status == "error"
    assert future.done()
    error = future.exception()
    assert type(error) is ValueError
    assert error.args == ("bad input",)
    assert "in fail" in (future.traceback() or "")


def test_an_exception_with_a_cause_shows_both(client: Client) -> None:
    def chained() -> None:
        try:
            {}["missing"]
        except KeyError as error:
            raise RuntimeError("outer") from error

    with pytest.raises(RuntimeError, match="outer") as caught:
        client.submit(chained).result(10)
    assert "KeyError: 'missing'" in str(caught.value.__cause__)


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "raise KeyboardInterrupt", "import sys; sys.exit('no')"])
def test_a_task_that_exits_ends_neither_the_worker_nor_us(client: Client, code: str) -> None:
    before = client.scheduler_info()["workers"]
    with pytest.raises(TaskError, match=r"SystemExit|KeyboardInterrupt"):
        client.submit(exec, code).result(10)
    assert client.submit(work.inc, 1).result(10) == 2
    assert client.scheduler_info()["workers"] == before


def test_an_exception_that_does_not_travel_comes_as_text(client: Client) -> None:
    def odd() -> None:
        class Odd(Exception):
            def __init__(self, a: int, b: int) -> None:
                super().__init__("odd")

        raise Odd(1, 2)

    with pytest.raises(TaskError, match="Odd: odd") as caught:
        client.submit(odd).result(10)
    assert "in odd" in str(caught.value.__cause__)


# --- waiting


def test_timeouts(client: Client, tmp_path: Path) -> None:
    future = client.submit(work.wait_for, str(tmp_path / "gate"), 7)
    for call in (future.result, future.exception, future.traceback):
        with pytest.raises(TimeoutError, match=r"has not ended within 0.01 s"):
            call(0.01)
    with pytest.raises(TimeoutError):
        future.result(0)
    assert not future.done()
    assert future.status == "pending"
    (tmp_path / "gate").touch()
    assert future.result(10) == 7


def test_result_can_be_asked_for_from_many_threads(client: Client, tmp_path: Path) -> None:
    future = client.submit(work.wait_for, str(tmp_path / "gate"), 7)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(future.result, 10) for _ in range(8)]
        (tmp_path / "gate").touch()
        assert [w.result() for w in waiting] == [7] * 8


def test_waiting_in_our_own_loop_is_an_error_not_a_deadlock(client: Client) -> None:
    future = client.submit(work.inc, 1)

    async def in_the_loop() -> None:
        future_there = client.submit(work.inc, 2)
        future_there.result()

    with pytest.raises(RuntimeError, match="would never end"):
        core_of(client).link.thread.run(in_the_loop())
    assert future.result(10) == 2


# --- cancelling


def test_cancel(client: Client, tmp_path: Path) -> None:
    gate, notes = tmp_path / "gate", str(tmp_path / "notes")
    blockers = client.map(work.wait_for, [str(gate)] * 4)
    future = client.submit(work.note, notes)
    after = client.submit(work.same, future)
    future.cancel()
    assert future.cancelled()
    assert future.status == "cancelled"
    for one in (future, after):
        with pytest.raises(CancelledError):
            one.result(10)
        with pytest.raises(concurrent.futures.CancelledError):
            one.exception(10)
    gate.touch()
    client.gather(blockers)
    assert work.times_called(notes) == 0


def test_cancel_of_what_runs_or_has_ended(client: Client, tmp_path: Path) -> None:
    gate, notes = tmp_path / "gate", tmp_path / "notes"
    running = client.submit(work.note_and_wait, str(notes), str(gate))
    until(lambda: work.times_called(notes))
    client.cancel(running)
    assert running.cancelled()
    gate.touch()
    ended = client.submit(work.inc, 1)
    assert ended.result(10) == 2
    ended.cancel()
    client.cancel([ended])
    assert ended.result() == 2
    assert not ended.cancelled()


def test_cancel_is_seen_by_other_clients(cluster: MiniCluster, client: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with Client(cluster.directory) as other:
        blockers = client.map(work.wait_for, [str(gate)] * 4)
        mine = client.submit(work.inc, 1, key="theirs too")
        theirs = other.submit(work.inc, 1, key="theirs too")
        until(lambda: client.scheduler_info()["tasks"] == 5)
        mine.cancel()
        with pytest.raises(CancelledError):
            theirs.result(10)
        gate.touch()
        client.gather(blockers)


# --- callbacks


def test_callbacks_are_called_once_with_the_future(client: Client, tmp_path: Path) -> None:
    called: list[Future] = []
    gate = tmp_path / "gate"
    future = client.submit(work.wait_for, str(gate))
    future.add_done_callback(called.append)
    future.add_done_callback(called.append)
    assert not called
    gate.touch()
    until(lambda: len(called) == 2)
    future.add_done_callback(called.append)  # it has ended
    until(lambda: len(called) == 3)
    assert all(one is future for one in called)
    failed = client.submit(work.fail)
    failed.add_done_callback(called.append)
    until(lambda: called[-1] is failed)
    called.clear()


def test_a_callback_may_block_and_submit_and_raise(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    got: list[int] = []

    def raise_it(future: Future) -> None:
        raise RuntimeError("in a callback")

    def go_on(future: Future) -> None:
        got.append(client.submit(work.inc, future).result(10))

    future = client.submit(work.inc, 0)
    with caplog.at_level(logging.ERROR):
        future.add_done_callback(raise_it)
        future.add_done_callback(go_on)
        until(lambda: got == [2])
    assert "in a callback" in caplog.text


def test_a_callback_does_not_keep_its_future(client: Client) -> None:
    done = threading.Event()
    client.submit(work.inc, 1).add_done_callback(lambda f: done.set())
    until(done.is_set)
    gc.collect()
    until(lambda: not client.scheduler_info()["tasks"])


# --- many threads


def test_many_threads_submit_at_once(client: Client) -> None:
    def some(thread: int) -> list[int]:
        futures = [client.submit(lambda x, t=thread % 5: 1000 * t + x, i) for i in range(50)]
        futures += client.map(lambda x, t=thread: -x - t, range(50))
        return client.gather(futures)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        got = list(pool.map(some, range(32)))
    for thread, values in enumerate(got):
        assert values[:50] == [1000 * (thread % 5) + i for i in range(50)]
        assert values[50:] == [-i - thread for i in range(50)]


def test_many_threads_use_one_key(client: Client) -> None:
    def use(_: int) -> int:
        return client.submit(work.inc, 1, key="one key").result(10)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert set(pool.map(use, range(300))) == {2}


# --- memory


def test_what_has_no_future_is_forgotten(client: Client) -> None:
    futures = client.map(work.inc, range(1000))
    client.gather(futures)
    assert client.scheduler_info()["tasks"] == 1000
    del futures[10:]
    until(lambda: client.scheduler_info()["tasks"] == 10)
    assert client.gather(futures) == list(range(1, 11))
    del futures
    until(lambda: client.scheduler_info()["tasks"] == 0)
    assert not client.futures


def test_pending_tasks_without_futures_are_not_run(client: Client, tmp_path: Path) -> None:
    gate, notes = tmp_path / "gate", str(tmp_path / "notes")
    blockers = client.map(work.wait_for, [str(gate)] * 4)
    until(lambda: client.scheduler_info()["tasks"] == 4)
    futures = client.map(work.note, [notes] * 50)
    until(lambda: client.scheduler_info()["tasks"] == 54)
    del futures
    until(lambda: client.scheduler_info()["tasks"] == 4)
    client.run(work.pid)  # the workers have heard by now which tasks they were given are not wanted any more
    gate.touch()
    client.gather(blockers)
    assert client.submit(work.inc, 1).result(10) == 2
    assert work.times_called(notes) == 0


# --- beginnings and ends


def test_a_client_has_a_name_and_says_what_it_is(cluster: MiniCluster, client: Client) -> None:
    with Client(cluster.directory, name="analysis") as named:
        assert named.name.startswith("analysis-")
        assert repr(named).startswith("<Client analysis-")
        assert "connected to 127.0.0.1:" in repr(named)
        assert "connected" in named._repr_html_()
    assert "closed: it was closed by close()" in repr(named)
    assert sorted(client.scheduler_info()["workers"]) == ["1.1-0", "2.1-0"]


def test_no_cluster_there(tmp_path: Path) -> None:
    with pytest.raises(ClusterNotFoundError):
        Client(tmp_path / "nothing")
    with pytest.raises(TypeError, match="go with a new LocalCluster"):
        Client(tmp_path, n_workers=3)


def test_a_directory_that_others_can_read(cluster: MiniCluster) -> None:
    cluster.directory.chmod(0o755)
    try:
        with pytest.raises(ClusterNotFoundError, match="other users"):
            Client(cluster.directory)
    finally:
        cluster.directory.chmod(0o700)


def test_after_close_everything_is_an_error_and_nothing_hangs(client: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    ended = client.submit(work.inc, 1)
    assert ended.result(10) == 2
    pending = client.submit(work.wait_for, str(gate))
    called: list[Future] = []
    pending.add_done_callback(called.append)
    client.close()
    client.close()
    gate.touch()
    assert ended.result() == 2  # it is here
    assert pending.status == "lost"
    until(lambda: called == [pending])
    for call in (
        lambda: pending.result(10),
        lambda: client.submit(work.inc, 1),
        lambda: client.map(work.inc, [1]),
        lambda: client.gather([pending]),
        lambda: client.get({"a": (work.inc, 1)}, "a"),
        lambda: client.scheduler_info(),
        lambda: client.wait_for_workers(1, 1),
    ):
        with pytest.raises(CommClosedError, match="closed"):
            call()
    pending.add_done_callback(called.append)
    assert called == [pending, pending]
    called.clear()


def test_closing_wakes_those_who_wait(client: Client, tmp_path: Path) -> None:
    pending = client.submit(work.wait_for, str(tmp_path / "gate"))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(pending.result), pool.submit(client.gather, [pending])]
        client.close()
        for one in waiting:
            with pytest.raises(CommClosedError):
                one.result(10)
    (tmp_path / "gate").touch()


def test_a_fork_gets_an_error_and_the_parent_is_not_disturbed(client: Client) -> None:
    futures = client.map(work.inc, range(100))
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        words = []
        for call in (futures[0].result, lambda: client.submit(work.inc, 1), client.scheduler_info):
            try:
                words.append(f"no error: {call()}")
            except RuntimeError as error:
                words.append(str(error))
            except BaseException as error:
                words.append(repr(error))
        del futures
        gc.collect()
        os.write(writer, "\n".join(words).encode())
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    lines = os.read(reader, 10_000).decode().splitlines()
    os.close(reader)
    os.close(writer)
    assert len(lines) == 3
    assert all("make another one here" in line or line.startswith("no error: 1") for line in lines), lines
    assert client.gather(futures) == list(range(1, 101))


def test_a_fork_can_have_a_client_of_its_own(cluster: MiniCluster, client: Client) -> None:
    pid = os.fork()
    if not pid:
        code = 1
        try:
            with Client(cluster.directory) as mine:
                code = 0 if mine.submit(work.inc, 1).result(10) == 2 else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert client.submit(work.inc, 1).result(10) == 2


def test_pure_calls_are_one_task(client: Client, tmp_path: Path) -> None:
    notes = str(tmp_path / "notes")
    one = client.submit(work.note, notes, 1, pure=True)
    assert client.submit(work.note, notes, 1, pure=True) is one
    assert client.submit(work.note, notes, 2, pure=True) is not one
    many = client.map(work.note, [notes] * 4, [1, 2, 3, 3], pure=True)
    assert many[0] is one
    assert many[2] is many[3]
    assert client.gather(many) == [1, 2, 3, 3]
    assert work.times_called(notes) == 3
    assert client.submit(work.inc, 1) is not client.submit(work.inc, 1)
    source = client.submit(work.inc, 1)
    assert client.submit(work.inc, source, pure=True) is client.submit(work.inc, source, pure=True)


def test_async_functions_are_awaited_on_the_worker(client: Client) -> None:
    assert client.submit(work.inc_later, 1).result(10) == 2
    assert client.gather(client.map(work.inc_later, range(5))) == [1, 2, 3, 4, 5]
    assert set(client.run(work.inc_later, 1).values()) == {2}  # type: ignore[union-attr]


def test_words_of_dasks_client(cluster: MiniCluster) -> None:
    with Client(
        address=cluster.directory, set_as_default=False, direct_to_workers=True, heartbeat_interval=5
    ) as one:
        assert one.submit(work.inc, 1).result(10) == 2
        one.close(timeout=5)
    with pytest.raises(TypeError, match="takes no scheduler_file=; a cluster is found by its name"):
        Client(scheduler_file="scheduler.json")
    with pytest.raises(TypeError, match=r"and not the class: Client\(LocalCluster\(\.\.\.\)\)"):
        Client(LocalCluster)
    with pytest.raises(TypeError, match="a cluster or its address="):
        Client(cluster.directory, address="elsewhere")


def test_what_is_not_there_says_what_is(client: Client) -> None:
    with pytest.raises(UserError, match=r"run\(nanny=True\) is refused"):
        client.run(work.inc, 1, nanny=True)
    with pytest.raises(AttributeError, match=r"'profile': it is not there in hpclaunch; py-spy"):
        client.profile()
    with pytest.raises(AttributeError, match=r"no attribute 'sbumit'$"):
        client.sbumit()
    assert not hasattr(client, "get_task_stream")


def test_a_client_describes_itself(client: Client) -> None:
    future = client.submit(work.inc, 1)
    assert client.id == client.name
    assert client.status == "running"
    assert client.futures == {future.key: future}
    assert future.client is client
    workers = client.scheduler_info()["workers"]
    assert workers.keys() == client.nthreads().keys()
    assert all(one["nthreads"] == 1 and one["host"] for one in workers.values())
    facts = client.run(lambda dask_worker: (dask_worker.id, dask_worker.nthreads, dask_worker.address))
    assert facts == {name: (name, 1, one["address"]) for name, one in workers.items()}
    key = client.submit(work.own_key).result(10)
    assert key.startswith("own_key-")


def test_waiting_for_what_is_no_number_of_workers_is_refused(client: Client) -> None:
    for number in (-1, 1.0, None):
        with pytest.raises(ValueError, match="n_workers is a whole number"):
            client.wait_for_workers(number)  # type: ignore[arg-type]
    client.wait_for_workers(1, timeout="5s")


def test_gather_raises_before_what_is_behind_has_ended(client: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    bad, slow = client.submit(work.fail), client.submit(work.wait_for, str(gate))
    with pytest.raises(ValueError, match="bad input"):
        client.gather([bad, slow])
    assert not slow.done()
    gate.touch()
    assert slow.result(10) is None


def test_map_takes_a_batch_size(client: Client) -> None:
    assert client.gather(client.map(work.inc, range(10), batch_size=3)) == list(range(1, 11))


@pytest.mark.slow
def test_large_functions_and_arguments_may_wait_for_the_first_worker(own_cluster: Any) -> None:
    cluster, client = own_cluster(jobs=0)
    data = bytes(200_000)
    futures = [client.submit(lambda: len(data)), *client.map(len, [data] * 3)]
    cluster.start_job()
    assert client.gather(futures) == [200_000] * 4
    assert client.scheduler_info()["left"] == []


def test_a_release_is_sent_also_while_its_future_is_still_being_deleted(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weak references to an object lead there until its ``__del__`` has returned, as another thread may see."""

    async def flush() -> None:
        core_of(client).link.flush()

    note = core_of(client).table.note_release
    seen: list[dict[Any, Any]] = []

    def note_slowly(key: str) -> None:
        note(key)
        seen.append(client.futures)
        core_of(client).link.thread.run(flush())

    monkeypatch.setattr(core_of(client).table, "note_release", note_slowly)
    future = client.submit(work.inc, 1)
    assert future.result(10) == 2
    del future
    assert seen == [{}]
    until(lambda: client.scheduler_info()["tasks"] == 0, "forgetting")
