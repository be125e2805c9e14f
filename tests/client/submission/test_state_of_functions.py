"""State that functions bring along: a call sees what the client had when it was submitted, and no other's."""

from __future__ import annotations

import functools
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from hpclaunch import Client, LocalCluster, delayed
from hpclaunch.comm import class_copies
from hpclaunch.comm.serialize import load_value
from tests.client.conftest import until

SEEN: list[int] = []


def models() -> dict[str, Callable[[int], Any]]:
    """Return functions of one argument that change what they bring along; none can be imported by name."""

    class Model:
        made = 0

        def __init__(self) -> None:
            self.steps = 0
            self.seen: list[int] = []

        def step(self, x: int) -> int:
            self.steps += 1
            return self.steps + x

        def __call__(self, x: int) -> list[int]:
            self.seen.append(x)
            return list(self.seen)

        @classmethod
        def count(cls, x: int) -> int:
            cls.made += 1
            return cls.made + x

    def closure() -> Callable[[int], list[int]]:
        seen: list[int] = []
        return lambda x: [seen.append(x), *seen][1:]

    def counting() -> Callable[[int], int]:
        n = 0

        def count(x: int) -> int:
            nonlocal n
            n += 1
            return n + x

        return count

    def default(x: int, seen: list[int] = []) -> list[int]:  # noqa: B006
        seen.append(x)
        return list(seen)

    def attribute(x: int) -> int:
        attribute.n = getattr(attribute, "n", 0) + 1  # type: ignore[attr-defined]
        return int(attribute.n) + x  # type: ignore[attr-defined]

    def captured(x: int) -> list[int]:
        SEEN.append(x)
        return list(SEEN)

    def of_class(x: int) -> int:
        Model.made += 1
        return Model.made + x

    def collect(seen: dict[int, int], x: int) -> list[int]:
        seen[x] = x
        return sorted(seen)

    def helper(x: int) -> list[int]:
        return captured(x)

    dice = random.Random(1)
    return {
        "a bound method": Model().step,
        "an object": Model(),
        "a class method": Model.count,
        "a closure": closure(),
        "a nonlocal variable": counting(),
        "a mutable default": default,
        "an attribute of itself": attribute,
        "a captured global": captured,
        "a helper's global": helper,
        "a class": of_class,
        "a partial": functools.partial(collect, {}),
        "a random generator": lambda x: dice.random() + x,
        "an array": array_model(),
    }


def array_model() -> Callable[[int], int]:
    np = pytest.importorskip("numpy")
    large = np.zeros(300_000)

    def add(x: int) -> int:
        large[7] += 1
        return int(large[7]) + x

    return add


KINDS = sorted(models())


@pytest.mark.parametrize("kind", KINDS)
def test_calls_do_not_see_each_other(client: Client, kind: str) -> None:
    model = models()[kind]
    right = [alone(model, x) for x in (5, 6, 6)]
    assert client.gather([client.submit(model, x) for x in (5, 6, 6)]) == right
    assert client.gather(client.map(model, [5, 6, 6])) == right
    assert [client.submit(model, x).result() for x in (5, 6, 6)] == right
    assert list(client.get_executor().map(model, [5, 6, 6])) == right
    assert [client.compute(delayed(model)(x), sync=True) for x in (5, 6, 6)] == right


def alone(function: Callable[[int], Any], x: int) -> Any:
    """Return what a call of a function gives of which nothing else has a copy, and change nothing here."""
    data = cloudpickle.dumps(function)
    found: list[Any] = []

    def call() -> None:
        class_copies.enter({})  # or the call would change the classes that are here; see tests/comm
        found.append(load_value(data)(x))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_try_does_not_see_the_first_one_s_state(client: Client, kind: str) -> None:
    model = models()[kind]

    def fails(x: int) -> Any:
        raise ValueError(model(x))

    error = client.submit(fails, 5, retries=3).exception()
    assert error is not None
    assert error.args == (alone(model, 5),)


def test_a_call_sees_what_the_client_had_when_it_was_submitted(client: Client) -> None:
    class Settings:
        rate = 1

    def read() -> int:
        return Settings.rate

    rates = [1, 2, 1, 3, 1]
    results = []
    for Settings.rate in rates:
        results.append(client.submit(read).result())
    assert results == rates
    futures = []
    for Settings.rate in rates:
        futures.append(client.submit(read))
    assert client.gather(futures) == rates
    assert Settings.rate == 1

    state = {"a": 0}
    futures = []
    for state["a"] in rates:
        futures.append(client.submit(lambda: state["a"]))
    assert client.gather(futures) == rates


def test_a_result_does_not_change_the_client_s_class(client: Client) -> None:
    class Thing:
        n = 0

    def change() -> Thing:
        Thing.n = 7
        return Thing()

    back = client.submit(change).result()
    assert type(back) is Thing
    assert Thing.n == 0
    assert client.submit(lambda one: isinstance(one, Thing), client.submit(change)).result()


def test_an_actor_and_its_calls_have_one_class(client: Client) -> None:
    class Part:
        def __init__(self, n: int) -> None:
            self.n = n

    class Keeper:
        made = 0

        def __init__(self) -> None:
            self.parts: list[Part] = []

        def take(self, part: Part) -> int:
            assert isinstance(part, Part)
            Keeper.made += 1
            self.parts.append(part)
            return Keeper.made

        def first(self) -> Part:
            return self.parts[0]

    keeper = client.submit(Keeper, actor=True).result()
    other = client.submit(Keeper, actor=True).result()
    assert [keeper.take(Part(i)).result() for i in range(3)] == [1, 2, 3]
    assert other.take(Part(1)).result() == 1
    assert type(keeper.first().result()) is Part
    assert Keeper.made == 0


def test_an_actor_s_answer_is_what_it_was_at_that_moment(client: Client) -> None:
    np = pytest.importorskip("numpy")

    class Simulation:
        def __init__(self, size: int) -> None:
            self.x = np.zeros(size)

        def step(self) -> Any:
            self.x += 1
            return self.x

        def view(self) -> Any:
            self.x += 1
            return {"half": self.x[: len(self.x) // 2]}

    for size in (10, 300_000):
        simulation = client.submit(Simulation, size, actor=True).result()
        futures = [simulation.step() for _ in range(6)]
        assert [float(f.result()[0]) for f in futures] == [1, 2, 3, 4, 5, 6]
        futures = [simulation.view() for _ in range(3)]
        assert [float(f.result()["half"][0]) for f in futures] == [7, 8, 9]


def test_a_result_that_a_thread_of_the_task_changes_later_stays_as_it_was(client: Client, tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    gate, done = tmp_path / "gate", tmp_path / "done"

    def make() -> Any:
        array = np.zeros(300_000)

        def change() -> None:
            until(gate.exists, "the gate's opening")
            array[:] = 5
            done.touch()

        threading.Thread(target=change, daemon=True).start()
        return array

    future = client.submit(make)
    gate.touch() if future.exception() is None else None
    until(done.exists, "the change")
    assert not future.result().any()


def test_what_a_client_does_to_an_array_after_the_call_is_not_seen(client: Client) -> None:
    np = pytest.importorskip("numpy")
    array = np.zeros(300_000)
    future = client.submit(lambda: float(array[0]))
    scattered = client.scatter(array)
    array += 1
    assert future.result() == 0
    assert client.submit(lambda a: float(a[0]), scattered).result() == 0
    assert client.submit(lambda: float(array[0])).result() == 1


@pytest.mark.slow
def test_fitting_and_scoring_in_a_closure(client: Client) -> None:
    np = pytest.importorskip("numpy")
    linear = pytest.importorskip("sklearn.linear_model").LinearRegression()

    def fit(seed: int) -> float:
        rng = np.random.default_rng(seed)
        x = rng.random((50, 3))
        y = x @ rng.random(3)
        return round(float(linear.fit(x, y).score(x, y)), 6)

    assert client.gather(client.map(fit, range(20))) == [1.0] * 20


STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 9), st.sampled_from("scrm")), max_size=12)


@pytest.fixture(scope="module", params=[True, False], ids=["processes", "threads of this process"])
def threaded(request: pytest.FixtureRequest) -> Any:
    """A client of a cluster whose workers have four threads each."""
    workers = 2 if request.param else 1
    with (
        LocalCluster(n_workers=workers, threads_per_worker=4, processes=request.param) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(workers)
        yield client


@pytest.mark.slow
@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_each_result_is_that_of_a_fresh_copy(threaded: Client, steps: list[tuple[str, int, str]]) -> None:
    """Many calls at once, on threads that share a process, while the client goes on changing what they call."""
    known = models()
    futures, right = [], []
    for kind, x, how in steps:
        model = known[kind]
        if how == "c":  # the client calls it itself, and so changes it
            model(x)
            continue
        right += [alone(model, x)] * (3 if how == "m" else 1)
        if how == "m":
            futures += threaded.map(model, [x] * 3)
        elif how == "r":
            futures.append(threaded.submit(_retried, model, x, retries=2))
        else:
            futures.append(threaded.submit(model, x))
    assert threaded.gather(futures) == right


def _retried(model: Callable[[int], Any], x: int) -> Any:
    return model(x)


@pytest.mark.slow
def test_a_call_whose_worker_has_died_begins_with_what_the_client_had(
    own_cluster: Callable[..., tuple[Any, Client]], tmp_path: Path
) -> None:
    _, client = own_cluster(jobs=2)
    for kind, model in models().items():
        mark = tmp_path / kind.replace(" ", "-")

        def dies(x: int, model: Callable[[int], Any] = model, mark: Path = mark) -> Any:
            value = model(x)
            if not mark.exists():
                mark.touch()
                os._exit(1)
            return value

        assert client.submit(dies, 5).result(30) == alone(model, 5)


@pytest.mark.slow
def test_functions_that_hold_much_data_do_not_fill_their_worker() -> None:
    np = pytest.importorskip("numpy")

    def make(i: int) -> Callable[[], float]:
        large = np.full(50 * 131072, float(i))
        return lambda: float(large[-1])

    with LocalCluster(n_workers=1, memory="400 MB") as cluster, Client(cluster) as client:
        client.wait_for_workers(1)
        (worker,) = client.scheduler_info()["workers"]
        with pytest.warns(UserWarning, match="52 MB of arguments"):
            assert client.gather([client.submit(make(i)) for i in range(12)]) == list(map(float, range(12)))
        assert list(client.scheduler_info()["workers"]) == [worker]  # it was not replaced
        until(lambda: client.scheduler_info()["workers"][worker]["rss"] < 100e6, "freeing of what they held")


def test_many_threads_submit_stateful_calls_at_once(client: Client) -> None:
    model = models()["an object"]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: client.submit(model, x).result(), range(40)))
    assert found == [[x] for x in range(40)]
