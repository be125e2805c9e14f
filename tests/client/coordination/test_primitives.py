"""Locks, events, queues, variables and datasets that clients and tasks share by name."""

from __future__ import annotations

import gc
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from hpclaunch import Event, Lock, MultiLock, Queue, Semaphore, Variable, get_client, wait
from hpclaunch.client.client import Client
from tests.client import work
from tests.client.conftest import until
from tests.comm.minihead import MiniCluster


def guarded(lock: Any, path: str) -> None:
    with lock:
        with Path(path).open("a") as file:
            file.write("+")
        time.sleep(0.002)
        with Path(path).open("a") as file:
            file.write("-")


def test_one_task_at_a_time_has_a_lock(client: Client, tmp_path: Path) -> None:
    log = tmp_path / "log"
    lock = Lock("mine")
    client.gather(client.map(guarded, [lock] * 10, [str(log)] * 10))
    assert log.read_text() == "+-" * 10
    assert not lock.locked()


def test_a_lock(client: Client, cluster: MiniCluster) -> None:
    mine, other = Lock("x"), Lock("x")
    assert mine.acquire()
    assert other.locked()
    assert not other.acquire(blocking=False)
    assert not other.acquire(timeout=0.01)
    assert not other.acquire(timeout="10 ms")
    with pytest.raises(ValueError, match="takes no timeout"):
        other.acquire(blocking=False, timeout=1)
    with pytest.raises(RuntimeError, match="without having been acquired"):
        other.release()
    mine.release()
    with other:
        assert mine.locked()
    assert not mine.locked()
    assert Lock().name != Lock().name
    assert mine.client is client


@pytest.mark.parametrize("name", [7, ("file", 7), b"file", 1.5])
def test_a_name_may_be_any_small_value(client: Client, name: Any) -> None:
    Variable(name).set("value")
    assert Variable(name).get("1s") == "value"
    assert Variable(name).name == name
    Variable(name).delete()
    with Lock(name):
        assert not client.submit(Lock.acquire, Lock(name), blocking=False).result(10)


def test_what_a_client_holds_goes_back_with_it(client: Client, cluster: MiniCluster) -> None:
    with Client(cluster.directory, set_as_default=False) as other:
        assert Lock("held", client=other).acquire()
        assert not Lock("held").acquire(timeout=0)
        waiting = threading.Thread(target=Lock("held").acquire)
        waiting.start()
    waiting.join(10)
    assert Lock("held").locked()


def test_a_semaphore(client: Client) -> None:
    one, two, three = (Semaphore(2, name="s") for _ in range(3))
    assert one.acquire()
    assert two.acquire()
    assert two.get_value() == 2
    assert not three.acquire(timeout=0.01)
    assert one.release()
    with three:
        assert one.get_value() == 2
    assert pickle.loads(pickle.dumps(two)).max_leases == 2
    two.release()
    with pytest.raises(ValueError, match="max_leases"):
        Semaphore(0)


def test_semaphores_of_one_name_must_be_of_one_mind(client: Client, cluster: MiniCluster) -> None:
    with Semaphore(2, name="s"):
        pass
    with pytest.raises(ValueError, match=r"inconsistent max_leases: 's' has 2 for others, .* and 3 here"):
        Semaphore(3, name="s").acquire()
    with pytest.raises(ValueError, match="a Lock has 1"), Lock("s"):
        pass
    with pytest.raises(ValueError, match="inconsistent max_leases"):
        client.submit(lambda: Semaphore(5, name="s").acquire()).result(10)
    one = Semaphore(2, name="s")
    assert one.acquire()
    Semaphore(2, name="s").close()
    with Semaphore(3, name="s") as other:
        assert other.get_value() == 1
        assert not one.release()
    other.close()
    with Client(cluster.directory, set_as_default=False) as passing:
        Semaphore(4, "p", client=passing).acquire()
    until(lambda: Semaphore(7, "p").get_value() == 0)
    Semaphore(7, "p").close()


def hold_both(names: list[str], path: str) -> None:
    guarded(MultiLock(names), path)


def test_several_locks_at_once(client: Client, tmp_path: Path) -> None:
    log = tmp_path / "log"
    pairs = [["x", "y"], ["y", "x"], ["y", "z"], ["z", "y", "x"]] * 5
    client.gather(client.map(hold_both, pairs, [str(log)] * len(pairs)))  # each pair has y
    assert log.read_text() == "+-" * len(pairs)
    one, other = MultiLock(["x", ("file", 7)]), MultiLock([("file", 7), "z"])
    with one:
        assert one.locked()
        assert not other.acquire(blocking=False)
        assert not other.acquire(timeout="10 ms")
        assert not other.locked()
        assert other.acquire(num_locks=1)
        other.release()
        with pytest.raises(RuntimeError, match="held by this object already"):
            one.acquire()
        waiting = threading.Thread(target=other.acquire)
        waiting.start()
    waiting.join(10)
    assert other.locked()
    other.release()
    assert pickle.loads(pickle.dumps(one)).names == ["x", ("file", 7)]


def test_several_locks_that_can_not_be(client: Client) -> None:
    with pytest.raises(TypeError, match="takes a list of names, not 'xy'"):
        MultiLock("xy")
    with pytest.raises(ValueError, match=r"from 1 to that of the names \(0\), not 0"):
        MultiLock().acquire()
    with pytest.raises(ValueError, match="not 3"):
        MultiLock(["a", "b"]).acquire(num_locks=3)
    with pytest.raises(ValueError, match="takes no timeout"):
        MultiLock(["a"]).acquire(blocking=False, timeout=1)
    with pytest.raises(ValueError, match="without having been acquired"):
        MultiLock(["a"]).release()


def test_an_event(client: Client, tmp_path: Path) -> None:
    event = Event("go")
    notes = str(tmp_path / "notes")

    def wait_for_it() -> bool:
        work.note(notes)
        return Event("go").wait()

    waiting = client.map(lambda _: wait_for_it(), range(4))  # more than there are threads
    until(lambda: work.times_called(notes) == 4)
    assert not event.is_set()
    assert not event.wait(0.01)
    event.set()
    assert client.gather(waiting) == [True] * 4
    assert event.wait()
    event.clear()
    assert not event.is_set()


def test_a_queue_between_tasks(client: Client) -> None:
    queue = Queue("results")

    def produce(n: int) -> None:
        for i in range(n):
            queue.put(i)

    def consume(n: int) -> int:
        return sum(queue.get() for _ in range(n))

    consumer = client.submit(consume, 20)
    client.gather(client.map(produce, [10, 10]))
    assert consumer.result(10) == 90
    assert queue.qsize() == 0


def test_a_queue(client: Client) -> None:
    queue = Queue("q", maxsize=2)
    queue.put("a")
    queue.put(["b"])
    with pytest.raises(TimeoutError, match=r"queue 'q' was full for 0\.01 s: nothing was taken"):
        queue.put("c", timeout=0.01)
    assert queue.qsize() == 2
    assert queue.get() == "a"
    assert queue.get(batch=True) == [["b"]]
    assert queue.get(batch=True) == []
    with pytest.raises(TimeoutError, match=r"queue 'q' was empty for 0\.01 s: nothing was put"):
        queue.get(timeout=0.01)
    for i in range(2):
        queue.put(i)
    assert queue.get(batch=5) == [0, 1]


def fill(queue: Queue, size: int) -> None:
    queue.put(get_client().submit(work.big, size))
    queue.close()


def test_a_queue_is_closed_by_all_who_have_used_it(client: Client) -> None:
    queue = Queue("q")
    assert queue.qsize() == 0
    client.submit(fill, queue, 100_000).result(10)
    assert len(queue.get(timeout=10).result(10)) == 100_000
    client.submit(fill, queue, 100_000).result(10)
    queue.close()
    until(lambda: not client.scheduler_info()["held"], "releasing what was in it")
    assert queue.qsize() == 0  # it can be used again
    Queue("q").close()
    queue.close()
    Queue("never used").close()


def test_a_batch_of_a_queue_is_as_long_as_was_asked(client: Client, cluster: MiniCluster) -> None:
    queue = Queue("q")
    queue.put(0)
    with pytest.raises(TimeoutError):
        queue.get(timeout=0.01, batch=2)
    many = client.submit(lambda: Queue("q").get(batch=3))
    one = client.submit(lambda: Queue("q").get(timeout=10))
    for number in range(1, 4):
        queue.put(number)
    assert sorted([*many.result(10), one.result(10)]) == [0, 1, 2, 3]


def test_a_future_out_of_a_variable_knows_how_its_task_stands(client: Client, cluster: MiniCluster) -> None:
    done, failed = client.submit(work.inc, 1), client.submit(work.fail)
    wait([done, failed])
    Variable("v").set([done, failed])
    with Client(cluster.directory) as other:
        assert [one.status for one in Variable("v", client=other).get()] == ["finished", "error"]
    Variable("v").delete()


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_futures_in_a_queue_and_in_a_variable(client: Client, cluster: MiniCluster, size: int) -> None:
    Queue("q").put({"future": client.submit(work.big, size)})
    Variable("v").set([client.submit(work.big, size), "and more"])
    gc.collect()
    with Client(cluster.directory) as other:
        inside = Queue("q").get()["future"]
        assert inside.client is other
        assert len(inside.result(10)) == size
        (held, text) = Variable("v").get(timeout=5)
        assert len(other.submit(work.same, held).result(10)) == size
        assert text == "and more"
        Variable("v").delete()
        assert len(held.result(10)) == size
        del inside, held


def test_a_variable(client: Client) -> None:
    variable = Variable("x")
    with pytest.raises(TimeoutError, match=r"variable 'x' had no value for 0\.01 s: it was not set"):
        variable.get(timeout=0.01)
    later = client.submit(lambda: Variable("x").get())
    variable.set(5)
    assert later.result(10) == 5
    variable.set(6)
    assert variable.get() == 6
    variable.delete()


def test_datasets(client: Client, cluster: MiniCluster) -> None:
    futures = client.map(work.inc, range(3))
    client.publish_dataset(futures, name="numbers")
    client.publish_dataset(a=1, b=[2])
    del futures
    gc.collect()
    with Client(cluster.directory, set_as_default=False) as other:
        assert other.list_datasets() == ["a", "b", "numbers"]
        numbers = other.get_dataset("numbers")
        assert other.gather(numbers) == [1, 2, 3]
        del numbers
        with pytest.raises(KeyError, match="already"):
            other.publish_dataset(5, name="a")
        other.publish_dataset(5, name="a", override=True)
        other.datasets["c"] = 7
        assert sorted(other.datasets) == ["a", "b", "c", "numbers"]
    assert client.datasets["a"] == 5
    assert "c" in client.datasets
    assert client.get_dataset("nothing", default=3) == 3
    assert client.get_dataset("nothing", None) is None
    client.publish_dataset(7, name=("run", 7))
    assert client.get_dataset(("run", 7)) == 7
    assert ("run", 7) in client.datasets
    client.unpublish_dataset(("run", 7))
    with pytest.raises(KeyError, match="no dataset 'nothing'"):
        client.get_dataset("nothing")
    for name in client.list_datasets():
        del client.datasets[name]
    with pytest.raises(KeyError, match="no dataset 'a'"):
        client.unpublish_dataset("a")
    with pytest.raises(ValueError, match="takes one value and its name"):
        client.publish_dataset(1)


@pytest.mark.slow
def test_a_dataset_of_dask(client: Client) -> None:
    da = pytest.importorskip("dask.array")
    client.publish_dataset(client.persist(da.ones((100, 100), chunks=50)), name="ones")
    assert (
        client.submit(
            lambda: float(get_client().get_dataset("ones").sum().compute(scheduler=get_client()))
        ).result(20)
        == 10_000
    )
    assert client.datasets["ones"].sum().compute() == 10_000
    client.unpublish_dataset("ones")
