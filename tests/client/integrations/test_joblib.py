"""joblib's loops on a cluster."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed, parallel_config

from hpclaunch.client.client import Client
from hpclaunch.cluster.local import LocalCluster
from tests.client import work
from tests.comm.minihead import MiniCluster


def total(array: Any, i: int, *, other: Any = None) -> float:
    return float(array.sum()) + i + (0 if other is None else other[0])


def nested(n: int) -> int:
    return sum(Parallel(n_jobs=2)(delayed(work.inc)(i) for i in range(n)))


def doubly_nested(n: int) -> int:
    return sum(Parallel(n_jobs=2)(delayed(nested)(i) for i in range(n)))


def change(array: Any) -> None:
    array[0] = 5


class Counted:
    """Counts how often it was pickled."""

    def __init__(self, values: list[int]) -> None:
        self.values = values
        self.pickled = 0

    def __reduce__(self) -> Any:
        self.pickled += 1
        return Counted, (self.values,)


def look_up(table: Counted, i: int, spare: Counted | None = None) -> int:
    return table.values[i] * (1 if spare is None else 2)


def note_pid(log: Path) -> None:
    with log.open("a") as file:
        file.write(f"{work.pid()}\n")


def noted_pid(log: Path) -> int:
    assert str(work.pid()) in log.read_text().split()
    return work.pid()


def backend_in_a_thread() -> Any:
    return Parallel(n_jobs=2, batch_size=1)(delayed(own_backend)() for _ in range(2))[0]


def own_backend() -> Any:
    return Parallel()._backend


@pytest.fixture(autouse=True)
def on_the_cluster(client: Client) -> Any:
    with parallel_config(backend="hpclaunch"):
        yield


def test_calls(client: Client) -> None:
    assert Parallel()(delayed(work.inc)(i) for i in range(500)) == list(range(1, 501))
    assert Parallel()(delayed(lambda x, y=2: x * y)(i, y=3) for i in range(5)) == [0, 3, 6, 9, 12]
    pids = set(Parallel(batch_size=1)(delayed(work.pid)() for _ in range(50)))
    assert work.pid() not in pids
    assert pids <= set((client.run(work.pid) or {}).values())


def test_n_jobs(client: Client) -> None:
    assert joblib.effective_n_jobs(-1) == 2
    assert joblib.effective_n_jobs(100) == 2
    assert joblib.effective_n_jobs(1) == 1
    with pytest.raises(ValueError, match="n_jobs == 0"):
        Parallel(n_jobs=0)(delayed(work.inc)(i) for i in range(3))


def test_results_one_by_one(client: Client) -> None:
    results = Parallel(return_as="generator")(delayed(work.inc)(i) for i in range(20))
    assert list(results) == list(range(1, 21))
    unordered = Parallel(return_as="generator_unordered")(delayed(work.inc)(i) for i in range(20))
    assert sorted(unordered) == list(range(1, 21))


def test_an_error_comes_out(client: Client) -> None:
    with pytest.raises(ValueError, match="7 is odd"):
        Parallel()(delayed(work.fail_odds)(i) for i in [0, 2, 7, 8] * 3)
    assert Parallel()(delayed(work.inc)(i) for i in range(3)) == [1, 2, 3]


def test_a_large_array_is_sent_once(client: Client) -> None:
    array, other = np.ones(500_000), np.ones(20_000)
    sent: list[Any] = []
    scatter = client.scatter
    client.scatter = lambda value, **how: sent.append(value) or scatter(value, **how)  # type: ignore[method-assign]
    results = Parallel(batch_size=1)(delayed(total)(array, i, other=other) for i in range(30))
    assert results == [500_001 + i for i in range(30)]
    assert [id(one) for one in sent] == [id(array), id(other)]


def test_a_large_array_cannot_be_changed(client: Client) -> None:
    with pytest.raises(ValueError, match="read-only"):
        Parallel()(delayed(change)(np.ones(50_000)) for _ in range(3))


def test_loops_inside_loops(client: Client) -> None:
    assert Parallel()(delayed(nested)(i) for i in range(6)) == [sum(range(1, i + 1)) for i in range(6)]
    assert Parallel()(delayed(doubly_nested)(i) for i in range(4)) == [0, 0, 1, 4]


@pytest.mark.slow
def test_loops_inside_loops_on_one_thread(cluster: MiniCluster, tmp_path: Path) -> None:
    with MiniCluster(tmp_path, jobs=1) as small, Client(small.directory) as client:
        client.wait_for_workers(1, 10)
        with parallel_config(backend="hpclaunch", n_jobs=4):
            assert Parallel()(delayed(doubly_nested)(i) for i in range(4)) == [0, 0, 1, 4]


def test_options_go_to_submit(client: Client, tmp_path: Path) -> None:
    with parallel_config(backend="hpclaunch", retries=2, n_jobs=2):
        assert Parallel()(delayed(work.Flaky(str(tmp_path / "a"), 2))() for _ in range(1)) == [3]


def test_what_is_no_option_is_refused_at_once(client: Client) -> None:
    with pytest.raises(TypeError, match="flavour: neither an option of this backend"):
        parallel_config(backend="hpclaunch", flavour="sweet")
    with pytest.raises(TypeError, match="scatter is a list or tuple"):
        parallel_config(backend="hpclaunch", scatter=1)


def test_values_to_scatter_are_sent_before_the_calls_and_once(client: Client) -> None:
    table = Counted([1, 2, 3])
    with parallel_config(backend="hpclaunch", scatter=[table]):
        assert table.pickled == 1
        for _ in range(2):
            assert Parallel(batch_size=1)(delayed(look_up)(table, i, spare=table) for i in range(3)) == [2, 4, 6]
        assert table.pickled == 1
    Parallel(batch_size=1)(delayed(look_up)(table, i) for i in range(3))
    assert table.pickled == 4


def test_an_initializer_is_called_once_in_each_process(client: Client, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    with parallel_config(backend="hpclaunch", initializer=note_pid, initargs=(log,)):
        pids = set(Parallel(batch_size=1)(delayed(noted_pid)(log) for _ in range(30)))
    assert sorted(log.read_text().split()) == sorted(map(str, pids))
    log.write_text("")
    pids = set(
        Parallel(batch_size=1, initializer=note_pid, initargs=(log,))(delayed(work.pid)() for _ in range(9))
    )
    assert sorted(log.read_text().split()) == sorted(map(str, pids))


def test_batches_are_named_by_their_function(client: Client) -> None:
    assert Parallel(batch_size=1)(delayed(work.own_key)() for _ in range(2))[0].startswith(
        "batch_of_own_key_1_calls-"
    )


def test_a_loop_in_threads_inside_a_call_knows_the_cluster_where_its_results_come_in(client: Client) -> None:
    (backend,) = Parallel()(delayed(backend_in_a_thread)() for _ in range(1))
    assert type(backend).__name__ == "HPCLaunchBackend"


@pytest.mark.slow
def test_an_adaptive_cluster_starts_a_worker_for_a_loop() -> None:
    with LocalCluster(n_workers=0, processes=False) as small, Client(small):
        small.adapt(minimum=0, maximum=1, interval="100 ms")
        with parallel_config(backend="hpclaunch"):
            assert Parallel()(delayed(work.inc)(i) for i in range(3)) == [1, 2, 3]
        small.adapt(minimum=0, maximum=0)


@pytest.mark.slow
def test_a_search_of_scikit_learn(client: Client) -> None:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import RandomizedSearchCV
    from sklearn.svm import SVC

    digits = load_digits()
    parameters = {"C": [1, 10], "gamma": [0.0005, 0.001]}
    search = RandomizedSearchCV(SVC(), parameters, n_iter=3, cv=3, random_state=0)
    search.fit(digits.data[:300], digits.target[:300])
    with parallel_config(backend="sequential"):
        alone = RandomizedSearchCV(SVC(), parameters, n_iter=3, cv=3, random_state=0)
        alone.fit(digits.data[:300], digits.target[:300])
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])


@pytest.mark.slow
def test_the_backend_has_its_name_from_the_first_client_on(cluster: MiniCluster) -> None:
    program = f"""
        from hpclaunch import Client
        with Client({str(cluster.directory)!r}) as client:
            import joblib
            with joblib.parallel_config(backend="hpclaunch"):
                assert joblib.Parallel()(joblib.delayed(abs)(-i) for i in range(9)) == list(range(9))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)
    program = """
        import hpclaunch.joblib, joblib
        try:
            joblib.parallel_config(backend="hpclaunch")
        except ValueError as error:
            assert "there is no client here" in str(error)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)
