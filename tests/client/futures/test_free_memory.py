"""Results that do not fit into the client's memory: they are refused, with sizes, and are still there."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hpclaunch.cgroup import ControlGroup
from hpclaunch.client.client import Client
from hpclaunch.client.futures import free_memory
from hpclaunch.client.futures.free_memory import MemoryLimit, Stored, check, explained
from hpclaunch.errors import ResultTooLargeError
from tests.client import work
from tests.client.inside import core_of

MB = 1_000_000
FAR = ["10.255.0.1:5000"]
NEAR = ["127.0.0.1:5000"]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have so many bytes be free."""

    def set_free(size: int, *, is_of_addresses: bool = False) -> None:
        monkeypatch.setattr(
            free_memory, "memory_limits", lambda: [MemoryLimit(size, "as the test says", is_of_addresses)]
        )

    return set_free


def test_results_within_the_part_that_they_may_have(free: Callable[..., None]) -> None:
    free(1000 * MB)
    check({"a": Stored(FAR, 450 * MB), "b": Stored(FAR, 450 * MB)}, 0.9)
    with pytest.raises(ResultTooLargeError, match="2 results of 901 MB together") as caught:
        check({"a": Stored(FAR, 450 * MB), "b": Stored(FAR, 451 * MB)}, 0.9)
    text = str(caught.value)
    assert "the largest is b, 451 MB" in text
    assert "1000 MB are free (as the test says), of which results may have 90%" in text
    assert "result-memory" in text
    check({"a": Stored(FAR, 5000 * MB)}, None)


def test_one_result_is_named(free: Callable[..., None]) -> None:
    free(100 * MB)
    with pytest.raises(MemoryError, match=r"the result of task a \(200 MB\) does not fit"):
        check({"a": Stored(FAR, 200 * MB)}, 1.0)


def test_what_is_mapped_needs_address_space_only(free: Callable[..., None]) -> None:
    near = {"a": Stored(NEAR, 200 * MB)}
    free(100 * MB)
    check(near, 1.0)
    free(100 * MB, is_of_addresses=True)
    with pytest.raises(ResultTooLargeError):
        check(near, 1.0)


def test_only_errors_about_memory_are_explained(free: Callable[..., None]) -> None:
    free(100 * MB)
    results = {"a": Stored(FAR, 200 * MB)}
    assert explained(OSError(errno.EIO, "no"), results) is None
    assert explained(ValueError("no"), results) is None
    for error in (MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")):
        text = str(explained(error, results))
        assert "there was no memory for the result of task a (200 MB)" in text
        assert "100 MB are free: as the test says" in text


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"memory.max": "1000", "memory.current": "700", "memory.stat": "anon 5\ninactive_file 100"}, 400),
        ({"memory.max": "max", "memory.current": "700"}, None),
        (
            {
                "memory.limit_in_bytes": "1000",
                "memory.usage_in_bytes": "900",
                "memory.stat": "total_inactive_file 7",
            },
            107,
        ),
        ({"memory.limit_in_bytes": str(1 << 62), "memory.usage_in_bytes": "900"}, None),
        ({}, None),
    ],
)
def test_what_a_control_group_may_still_have(tmp_path: Path, files: dict[str, str], free: int | None) -> None:
    (tmp_path / "cgroup").write_text("0::/job\n")
    job = tmp_path / "mounted" / "job"
    job.mkdir(parents=True)
    for name, text in files.items():
        (job / name).write_text(text + "\n")
    assert ControlGroup(tmp_path, tmp_path / "mounted").free() == free


def test_this_process_knows_what_is_free() -> None:
    assert [limit.size > 0 for limit in free_memory.memory_limits()]
    assert any("this machine" in limit.why for limit in free_memory.memory_limits())


def test_refused_results_are_still_there(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whatever way they are asked for; small results come all the same."""
    made = client.map(work.big, [9 * MB, 9 * MB], range(2))
    executor = client.get_executor()
    called = executor.submit(work.big, 18 * MB)
    small = client.submit(work.inc, 1)
    client.gather(client.map(work.length, made))
    with monkeypatch.context() as patch:
        patch.setattr(free_memory, "memory_limits", lambda: [MemoryLimit(10 * MB, "as the test says", True)])
        with pytest.raises(ResultTooLargeError, match="2 results of 18 MB together"):
            client.gather({"both": made, "small": small})
        with pytest.raises(ResultTooLargeError, match="18 MB"):
            called.result(10)
        assert client.gather([small]) == [2]
        assert made[0].result(10)[0] == 0
        patch.setattr(core_of(client).table.results, "memory_part", None)
        assert len(client.gather(made)) == 2
    assert [value[0] for value in client.gather(made)] == [0, 1]
    assert len(called.result(10)) == 18 * MB


_PROGRAM = """
import resource
from hpclaunch import Client, LocalCluster
from hpclaunch.errors import ResultTooLargeError

def many(count):
    return list(range(count))

if __name__ == "__main__":
    with LocalCluster(n_workers=1, memory="3 GB") as cluster, Client(cluster) as client:
        client.wait_for_workers(1)
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 400_000_000,) * 2)
        for futures in (client.map(bytes, [100_000_000] * 5), [client.submit(many, 20_000_000)]):
            try:
                client.gather(futures)
                print("it fits")
            except ResultTooLargeError as error:
                print(error)
        print(client.submit(sum, [1, 2]).result(30))
"""


@pytest.mark.slow
def test_a_client_with_little_address_space(tmp_path: Path) -> None:
    """What is larger than the rest is refused; what grows when it is unpickled is an error of ours; it goes on."""
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=120, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stdout + done.stderr
    assert lines[0].startswith("5 results of 500 MB together")
    assert "RLIMIT_AS" in lines[0]
    assert lines[1].startswith("there was no memory for the result of task many-")
    assert lines[2] == "3"
