"""Dask's collections inside tasks: however they get there, what a task computes of them is their value."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from hpclaunch import LocalCluster, delayed, futures_of, get_client, wait, worker_client
from hpclaunch.client.client import Client
from tests.client import work
from tests.client.conftest import until
from tests.comm.minihead import MiniCluster

if TYPE_CHECKING:
    import dask
    import dask.array as da
    import dask.bag as db
    import dask.dataframe as dd
    import pandas as pd

pytestmark = pytest.mark.slow

KINDS = ("frame", "array", "bag", "delayed", "own")


@pytest.fixture(scope="module", autouse=True)
def _dask() -> None:
    names = {"dask": "dask", "da": "dask.array", "db": "dask.bag", "dd": "dask.dataframe", "pd": "pandas"}
    globals().update({short: pytest.importorskip(name) for short, name in names.items()})


@pytest.fixture(scope="module", params=[True, False], ids=["processes", "threads"])
def shared(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A cluster of one worker with one thread: what does not step aside while it waits, waits without end."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=request.param) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(1, 30)
        yield client


def collection(kind: str) -> Any:
    """Return a lazy collection; its value is :func:`plain` of the kind."""
    made = {
        "frame": lambda: dd.from_pandas(pd.DataFrame({"x": range(10), "y": list("ab") * 5}), npartitions=3),
        "array": lambda: da.arange(10, chunks=3) + 1,
        "bag": lambda: db.from_sequence(range(10), npartitions=3).map(work.inc),
        "delayed": lambda: dask.delayed(work.inc)(dask.delayed(work.inc)(3)),
        "own": lambda: delayed(work.inc)(delayed(work.inc)(3)),
    }
    return made[kind]()


def persisted(client: Client, kind: str) -> Any:
    return client.persist(collection(kind))


def plain(value: Any) -> Any:
    """Return a value in a form that can be compared, with its type."""
    if type(value).__name__ == "DataFrame":
        value = value.to_dict("list")
    elif type(value).__name__ == "ndarray":
        value = value.tolist()
    return type(value).__name__, value


VALUES = {
    "frame": ("dict", {"x": list(range(10)), "y": list("ab") * 5}),
    "array": ("list", list(range(1, 11))),
    "bag": ("list", list(range(1, 11))),
    "delayed": ("int", 5),
    "own": ("int", 5),
}


def compute(x: Any) -> Any:
    return plain(x.compute())


def compute_in_a_list(x: list[dict[str, Any]]) -> Any:
    return plain(x[0]["it"].compute())


def compute_by_worker_client(x: Any) -> Any:
    with worker_client() as client:
        return plain(client.compute(x).result())


def compute_in_a_task_of_a_task(x: Any) -> Any:
    client = get_client()
    values = client.gather([client.submit(compute, x), client.submit(compute, client.scatter(x))])
    assert values[0] == values[1]
    return values[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "function", [compute, compute_by_worker_client, compute_in_a_task_of_a_task], ids=lambda f: f.__name__
)
def test_ways_into_a_task(shared: Client, kind: str, function: Callable[[Any], Any]) -> None:
    """Twice each: Dask keeps instances of expressions by their names, so one way may spoil another."""
    frame, value = persisted(shared, kind), VALUES[kind]
    scattered = shared.scatter(frame)
    shared.publish_dataset(frame, name=f"{kind}-{function.__name__}")
    name = f"{kind}-{function.__name__}"
    for _ in range(2):
        assert shared.submit(function, scattered).result(30) == value
        assert shared.submit(function, frame).result(30) == value
        assert shared.submit(function, collection(kind)).result(30) == value
        assert shared.submit(lambda: function(frame)).result(30) == value
        assert shared.submit(lambda: function(get_client().get_dataset(name))).result(30) == value
        assert shared.gather(shared.map(function, [frame, scattered] * 3)) == [value] * 6
        assert shared.submit(compute_in_a_list, [{"it": scattered}]).result(30) == value
        assert shared.submit(compute_in_a_list, [{"it": frame}]).result(30) == value
    shared.unpublish_dataset(name)


class Keeper:
    def __init__(self, kept: Any) -> None:
        self.kept = kept

    def compute(self) -> Any:
        return plain(self.kept.compute())

    def compute_this(self, x: Any) -> Any:
        return plain(x.compute())


@pytest.mark.parametrize("kind", KINDS)
def test_in_an_actor_and_beside_tasks(shared: Client, kind: str) -> None:
    frame, value = persisted(shared, kind), VALUES[kind]
    for given in (frame, shared.scatter(frame)):
        actor = shared.submit(Keeper, given, actor=True).result(30)
        assert actor.compute().result(30) == value
        assert actor.compute_this(frame).result(30) == value
    assert list(shared.run(compute, frame).values()) == [value]
    assert list(shared.run(lambda: compute(frame)).values()) == [value]


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_returns_what_it_was_given(shared: Client, kind: str) -> None:
    given = shared.submit(lambda x: [x], persisted(shared, kind)).result(30)
    assert plain(given[0].compute()) == VALUES[kind]
    assert {future.client for future in futures_of(given)} == {shared}


def test_a_graph_whose_tasks_compute(shared: Client) -> None:
    frame = persisted(shared, "array")
    sums = [dask.delayed(lambda f, i: int(f.sum().compute()) + i)(shared.scatter(frame), i) for i in range(4)]
    assert dask.compute(*sums) == (55, 56, 57, 58)


def test_the_default_scheduler_is_the_tasks_client(client: Client) -> None:
    def names() -> list[str]:
        with dask.config.set(scheduler="sync"):
            chosen = dask.base.get_scheduler().__name__
        return [
            type(dask.base.get_scheduler()).__name__,
            chosen,
            dask.base.get_scheduler(scheduler="threads").__module__,
        ]

    assert client.submit(names).result(30) == ["_CurrentClient", "get_sync", "dask.threaded"]


@pytest.mark.parametrize("scheduler", ["threads", "sync", "processes"])
@pytest.mark.parametrize("kind", ["frame", "array", "bag", "delayed"])
def test_dasks_own_schedulers_are_given_results(shared: Client, kind: str, scheduler: str) -> None:
    frame, value = persisted(shared, kind), VALUES[kind]

    def compute_here(x: Any) -> Any:
        with dask.config.set(scheduler=scheduler):
            return plain(x.compute())

    assert plain(frame.compute(scheduler=scheduler)) == value
    if scheduler != "processes":
        assert shared.submit(compute_here, frame).result(30) == value
        assert shared.submit(compute_here, shared.scatter(frame)).result(30) == value


def test_a_future_among_arguments_under_a_scheduler_of_dask(client: Client) -> None:
    future = client.submit(work.inc, 1)
    total = dask.delayed(lambda values, also: sum(values) + also)([future, 3], also=future)
    assert total.compute(scheduler="threads") == 2 + 3 + 2
    failed = dask.delayed(work.inc)(client.submit(work.fail, "in its task"))
    with pytest.raises(ValueError, match="in its task"):
        failed.compute(scheduler="sync")


def test_a_thread_of_a_task(client: Client) -> None:
    def in_a_thread(x: Any) -> Any:
        values: list[Any] = []
        thread = threading.Thread(target=lambda: values.append(compute(x)))
        thread.start()
        thread.join()
        return values[0]

    frame = persisted(client, "array")
    wait(frame)
    assert client.submit(in_a_thread, client.scatter(frame)).result(30) == VALUES["array"]


def test_a_task_persists(client: Client) -> None:
    given = client.submit(lambda x: dask.persist(x + 1)[0], persisted(client, "array")).result(30)
    assert len(futures_of(given)) == 4
    assert given.sum().compute() == 65


def test_what_another_client_has_persisted(cluster: MiniCluster, client: Client) -> None:
    """Dask gives out the other client's object for the name; what it holds is of no use once that is closed."""
    with Client(cluster.directory, set_as_default=False) as other:
        frames = {kind: persisted(other, kind) for kind in KINDS}
        for kind, frame in frames.items():
            assert plain(client.compute(frame).result(30)) == VALUES[kind]
            client.publish_dataset(frame, name=kind)
    for kind in KINDS:
        again = client.get_dataset(kind)
        assert {future.client for future in futures_of(again)} == {client}
        assert plain(client.compute(again).result(30)) == VALUES[kind]
        client.unpublish_dataset(kind)


def test_parts_live_as_long_as_their_collection_is_in_use(client: Client) -> None:
    """The client releases the collection at once: the task, and what it has made of it, keep the parts."""
    frames = [
        client.submit(lambda x: x + 1, client.persist(da.arange(10, chunks=3) + i)).result(30) for i in range(3)
    ]
    assert [int(frame.sum().compute()) for frame in frames] == [55, 65, 75]
    keys = {future._key for frame in frames for future in futures_of(frame)}
    assert len(keys) == 12
    del frames
    until(lambda: not keys & set(client.who_has()), "release of the parts")


def test_frames_are_shuffled_by_tasks_inside_tasks(client: Client) -> None:
    def method() -> Any:
        return dask.config.get("dataframe.shuffle.method", None)

    assert client.submit(method).result(30) == "tasks"
    grouped = client.submit(lambda x: sorted(x.shuffle("y").y.compute()), persisted(client, "frame"))
    assert grouped.result(30) == sorted(list("ab") * 5)
