"""Set-up of workers: plugins and files that reach every worker before its first task, and their errors."""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpclaunch import Client, LocalCluster, WorkerPlugin, get_worker
from hpclaunch.comm.messages import MAX_SETUP_BYTES
from hpclaunch.errors import SerializationError, SetupError, UserError
from tests.client import work
from tests.client.conftest import until
from tests.client.inside import request
from tests.comm.minihead import MiniCluster

Make = Callable[..., tuple[MiniCluster, Client]]


class Mark(WorkerPlugin):
    """Sets a variable, and takes it away."""

    def __init__(self, value: str, name: str = "mark") -> None:
        self.name, self.value = name, value

    def setup(self, worker: Any) -> None:
        os.environ[f"SETUP_{self.name.upper()}"] = self.value

    def teardown(self, worker: Any) -> None:
        os.environ.pop(f"SETUP_{self.name.upper()}", None)


class Fails:
    """Raises while a file is there; in its teardown, if told so."""

    name = "fails"

    def __init__(self, path: Path, *, in_teardown: bool = False) -> None:
        self.path, self.in_teardown = path, in_teardown

    def setup(self, worker: Any) -> None:
        if self.path.exists() and not self.in_teardown:
            raise ValueError(f"no licence on {worker.name}")

    def teardown(self, worker: Any) -> None:
        if self.path.exists() and self.in_teardown:
            raise ValueError("can't stop")


class Dies(WorkerPlugin):
    """Ends its process while a file is there."""

    name = "dies"

    def __init__(self, path: Path) -> None:
        self.path = path

    def setup(self, worker: Any) -> None:
        if self.path.exists():
            os._exit(7)


class Waits(WorkerPlugin):
    """Waits for a file."""

    def __init__(self, gate: Path) -> None:
        self.gate = gate

    def setup(self, worker: Any) -> None:
        work.wait_for(str(self.gate))


def mark(name: str = "mark") -> str | None:
    return os.environ.get(f"SETUP_{name.upper()}")


def use(module: str) -> Any:
    return __import__(module).VALUE


# --- plugins


def test_a_plugin_on_all_workers(client: Client) -> None:
    assert client.register_plugin(Mark("a")) == {name: {"status": "OK"} for name in client.nthreads()}
    assert client.has_plugin("mark")
    assert client.has_plugin([Mark("b"), "other"]) == {"mark": True, "other": False}
    assert set((client.run(mark) or {}).values()) == {"a"}
    assert client.submit(lambda: get_worker().plugins["mark"].value).result(10) == "a"
    client.register_plugin(Mark("b"), idempotent=True)
    assert set((client.run(mark) or {}).values()) == {"a"}
    client.register_worker_plugin(Mark("c"))
    assert set((client.run(mark) or {}).values()) == {"c"}
    assert list(client.unregister_worker_plugin("mark")) == list(client.nthreads())
    assert set((client.run(mark) or {}).values()) == {None}
    with pytest.raises(UserError, match="there is no plugin 'mark'; there are: none"):
        client.unregister_worker_plugin("mark")


def test_plugins_that_are_none(client: Client) -> None:
    for bad in (Mark, 5, object(), len):
        with pytest.raises(TypeError, match="setup"):
            client.register_plugin(bad)
    with pytest.raises(TypeError, match="name of a plugin"):
        client.register_plugin(Mark("a"), name=5)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="refused"):
        client.register_worker_plugin(Mark("a"), nanny=True)
    locked = Mark("a")
    locked.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(SerializationError):
        client.register_plugin(locked)


def test_functions_and_coroutines_as_set_ups(client: Client) -> None:
    async def later(dask_worker: Any) -> None:
        os.environ["SETUP_MARK"] = f"of {dask_worker.name}"

    client.register_worker_callbacks(later)
    client.register_worker_callbacks(setup=later)  # the same one
    assert client.run(mark) == {name: f"of {name}" for name in client.nthreads()}
    (name,) = request(client, "plugins")
    client.unregister_worker_plugin(name)
    client.run(lambda: os.environ.pop("SETUP_MARK"))


def test_a_plugin_that_fails_is_not_registered(client: Client, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    client.register_plugin(Fails(flag))
    flag.touch()
    with pytest.raises(
        SetupError, match=r"plugin 'fails' can't set up on 2 workers, first on .*no licence"
    ) as raised:
        client.register_plugin(Fails(flag))
    assert isinstance(raised.value.__cause__, ValueError)
    assert client.has_plugin("fails")  # the one before
    client.unregister_worker_plugin("fails")
    with pytest.raises(SetupError, match="not registered"):
        client.register_plugin(Fails(flag))
    assert not client.has_plugin("fails")
    assert client.submit(work.inc, 1).result(10) == 2


def test_a_teardown_that_fails(client: Client, tmp_path: Path) -> None:
    client.register_plugin(Fails(tmp_path / "flag", in_teardown=True))
    (tmp_path / "flag").touch()
    with pytest.raises(SetupError, match=r"can't be torn down on 2 workers.*can't stop.*unregistered all"):
        client.unregister_worker_plugin("fails")
    assert not client.has_plugin("fails")


def test_more_than_the_head_keeps(client: Client, tmp_path: Path) -> None:
    large = tmp_path / "large.zip"
    with large.open("wb") as file:
        file.truncate(MAX_SETUP_BYTES + 1)
    with pytest.raises(
        UserError, match=r"file 'large.zip' has 536\.9 MB; the head keeps 537 MB of files and plugins"
    ):
        client.upload_file(large)


# --- workers that come later


@pytest.mark.slow
def test_all_later_workers_are_set_up_before_their_first_task(own_cluster: Make, tmp_path: Path) -> None:
    cluster, client = own_cluster(jobs=0)
    (tmp_path / "module_of_setup.py").write_text("VALUE = 5\n")
    with pytest.warns(UserWarning, match=r"on no worker.*register_worker_callbacks"):
        assert client.run(mark) == {}
    assert client.register_plugin(Mark("a")) == {}
    client.upload_file(tmp_path / "module_of_setup.py")
    futures = client.map(lambda i: (mark(), use("module_of_setup"), i), range(20))
    cluster.start_job()
    cluster.start_job()
    assert client.gather(futures) == [("a", 5, i) for i in range(20)]
    client.restart()
    assert client.gather(client.map(lambda i: (mark(), use("module_of_setup"), i), range(20))) == [
        ("a", 5, i) for i in range(20)
    ]
    crash = client.submit(os._exit, 3, retries=0)
    assert client.submit(lambda: (mark(), use("module_of_setup"))).result(30) == ("a", 5)
    crash.cancel()


@pytest.mark.slow
def test_why_names_the_set_up_that_is_waited_for(own_cluster: Make, tmp_path: Path) -> None:
    cluster, client = own_cluster(jobs=0)
    client.register_plugin(Waits(tmp_path / "gate"), name="waits")
    future = client.submit(mark)
    running: list[Any] = []
    cluster.start_job()
    until(lambda: "it is being set up by plugin 'waits'" in client.why(future))
    thread = threading.Thread(target=lambda: running.append(client.run(mark)))  # comes after the set-up, too
    thread.start()
    other = threading.Thread(target=lambda: client.register_plugin(Mark("b")))
    other.start()
    (tmp_path / "gate").touch()
    assert future.result(10) in (None, "b")
    other.join(10)
    thread.join(10)
    assert set((client.run(mark) or {}).values()) == {"b"}
    assert running


@pytest.mark.slow
def test_a_plugin_that_fails_on_a_later_worker(own_cluster: Make, tmp_path: Path) -> None:
    cluster, client = own_cluster(jobs=1)
    flag = tmp_path / "flag"
    client.register_plugin(Fails(flag))
    flag.touch()
    cluster.start_job()
    client.wait_for_workers(2, 10)
    assert client.gather(client.map(work.inc, range(20))) == list(range(1, 21))  # the other one works
    client.restart()
    with pytest.raises(SetupError, match=r"plugin 'fails' can't set up worker .*: .*no licence on"):
        client.submit(work.inc, 1).result(20)
    future = client.submit(work.inc, 5)
    assert "no licence on" in client.why(future)
    client.unregister_worker_plugin("fails")
    assert future.result(10) == 6


@pytest.mark.slow
def test_a_plugin_that_ends_workers_is_named_and_tasks_fail(own_cluster: Make, tmp_path: Path) -> None:
    _, client = own_cluster(jobs=1)
    flag = tmp_path / "flag"
    flag.touch()
    with pytest.raises(SetupError, match=r"plugin 'dies' can't set up on 3 workers, .*gone before it answered"):
        client.register_plugin(Dies(flag))
    assert client.submit(work.inc, 1).result(20) == 2  # it is not registered
    flag.unlink()
    client.register_plugin(Dies(flag))
    flag.touch()
    (old,) = client.nthreads()
    client.restart(wait_for_workers=False)
    until(lambda: old not in client.nthreads(), "the end of the worker")
    with pytest.raises(SetupError, match=r"3 workers in a row have ended while plugin 'dies' set them up"):
        client.submit(work.inc, 1).result(30)


@pytest.mark.slow
def test_threads_of_this_process_are_set_up(tmp_path: Path) -> None:
    (tmp_path / "module_for_threads.py").write_text("VALUE = 1\n")
    with LocalCluster(n_workers=1, processes=False) as cluster, Client(cluster) as client:
        client.register_plugin(Mark("a"))
        client.upload_file(tmp_path / "module_for_threads.py")
        cluster.scale(3)
        assert set(client.gather(client.map(lambda _: (mark(), use("module_for_threads")), range(9)))) == {
            ("a", 1)
        }
        assert mark() == "a"
    until(lambda: mark() is None, "the teardown")


@pytest.mark.slow
def test_a_worker_that_ends_in_order_tears_plugins_down(tmp_path: Path) -> None:
    class Notes(WorkerPlugin):
        def teardown(self, worker: Any) -> None:
            (tmp_path / worker.name).touch()

    with LocalCluster(n_workers=2) as cluster, Client(cluster) as client:
        client.register_plugin(Notes())
        cluster.scale(1)
        until(lambda: len(list(tmp_path.iterdir())) == 1, "the teardown")


# --- files


def test_a_function_of_a_changed_module_is_the_new_one(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "module_by_name.py"
    path.write_text("def get(): return 1\n")
    client.upload_file(path)

    def call() -> Any:
        import module_by_name  # type: ignore[import-not-found]

        return module_by_name.get

    get = client.submit(call)
    apply = client.submit(lambda function: function(), get)
    assert apply.result(10) == 1
    path.write_text("def get(): return 2\n")
    client.upload_file(path)
    assert client.submit(lambda function: function(), get).result(10) == 2
    request(client, "unregister_setup", kind="file", name=path.name)


def test_a_second_upload_of_a_changed_archive(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "changing.egg"
    for value in (1, 2, 3):
        with zipfile.ZipFile(path, "w") as bundle:
            bundle.writestr("changing_package/__init__.py", "from changing_package.part import VALUE\n")
            bundle.writestr("changing_package/part.py", f"VALUE = {value}\n")
        client.upload_file(path)
        assert set((client.run(use, "changing_package") or {}).values()) == {value}
        assert client.submit(use, "changing_package").result(10) == value
    request(client, "unregister_setup", kind="file", name=path.name)


def test_workers_that_are_not_there(client: Client) -> None:
    future = client.submit(work.big, 1_000_000)
    with pytest.raises(UserError, match="there is no worker nowhere"):
        client.run(mark, workers=["nowhere"])
    with pytest.raises(UserError, match="there is no worker nowhere"):
        client.replicate([future], workers=["nowhere"])


@pytest.mark.slow
def test_registering_while_workers_end_for_other_reasons(own_cluster: Make, tmp_path: Path) -> None:
    _, client = own_cluster(jobs=2)
    client.register_plugin(Mark("a"))
    for value in "bcd":
        client.restart(wait_for_workers=False)
        client.register_plugin(Mark(value))
        assert set(client.gather(client.map(lambda _: mark(), range(9)))) == {value}
    crash = client.submit(os._exit, 3)
    until(lambda: len(client.nthreads()) < 2 or crash.done())
    client.register_plugin(Mark("e"))
    crash.cancel()
    assert set(client.gather(client.map(lambda _: mark(), range(9)))) == {"e"}
