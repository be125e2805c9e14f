"""LocalCluster and everything below it, for real: head process, local jobs, workers, and their violent ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpclaunch import Client, JobQueueCluster, LocalCluster
from hpclaunch.comm import tls
from hpclaunch.current_cluster import leave
from hpclaunch.errors import ConfigError, HeadError, JobsFailedError, ScriptError, UserError, WaitTimeoutError


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 20.0) -> Any:
    """Return the first true value of a condition."""
    until = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < until, f"waited {timeout:g} s for {what}"
        time.sleep(0.02)
    return value


def add(x: int, y: int) -> int:
    return x + y


def where(_: int) -> int:
    time.sleep(0.01)
    return os.getpid()


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2) as one:
        one.wait_for_workers(2, timeout=30)
        yield one


# --- the everyday -------------------------------------------------------------------------------------------


def test_a_computation(cluster: LocalCluster) -> None:
    with Client(cluster) as client:
        assert client.gather(client.map(add, range(100), range(100))) == [2 * i for i in range(100)]
        assert len(Counter(client.gather(client.map(where, range(40))))) == 2


def test_client_without_arguments_is_the_with_blocks(cluster: LocalCluster) -> None:
    cluster.__enter__()
    try:
        with Client() as client:
            assert client.cluster is cluster
            assert client.submit(add, 1, 2).result(10) == 3
    finally:
        leave(cluster)


@pytest.mark.parametrize("how", ["name", "directory", "file", "address"])
def test_client_finds_a_cluster_by(cluster: LocalCluster, how: str) -> None:
    what = {
        "name": cluster.name,
        "directory": str(cluster.directory),
        "file": str(cluster.directory / "cluster.json"),
        "address": cluster.scheduler_address,
    }[how]
    with Client(what) as client:
        assert client.submit(add, 1, 2).result(10) == 3


def test_client_of_an_unknown_name(cluster: LocalCluster) -> None:
    with pytest.raises(UserError, match=f"no running cluster is named 'unknown'; there are: {cluster.name}"):
        Client("unknown")


def test_job_script_is_byte_for_byte_what_is_submitted(cluster: LocalCluster) -> None:
    assert (cluster.directory / "job.sh").read_text() == cluster.job_script()


def test_jobs_tell_their_story(cluster: LocalCluster) -> None:
    table = cluster.jobs()
    assert {job["state"] for job in table} == {"up"}
    assert "reaching the head at 127.0.0.1:" in str(table)
    assert "submitting" in table.stories()
    assert "<table>" in table._repr_html_()


def test_logs_by_job(cluster: LocalCluster) -> None:
    logs = cluster.logs()
    assert set(logs) == {job["id"] for job in cluster.jobs()}
    assert all("reached the head at" in text for text in logs.values())
    with pytest.raises(UserError, match=r"no job '99\.1'; it has 1\.1"):
        cluster.logs("99.1")


def test_repr_says_what_matters(cluster: LocalCluster) -> None:
    assert "2 up" in repr(cluster)
    assert "TLS" in repr(cluster)
    assert "&lt;" not in cluster._repr_html_() or "<table>" in cluster._repr_html_()


def test_scale_takes_one_measure(cluster: LocalCluster) -> None:
    with pytest.raises(ValueError, match="one of n, jobs=, cores= and memory="):
        cluster.scale()
    with pytest.raises(ValueError, match="not n and jobs"):
        cluster.scale(2, jobs=3)
    with pytest.raises(ValueError, match="whole number of 0 or more"):
        cluster.scale(-1)


def test_scale_up_and_down() -> None:
    with LocalCluster(n_workers=1) as cluster:
        cluster.scale(3)
        cluster.wait_for_workers(3, timeout=30)
        cluster.scale(jobs=1)
        wait_until(lambda: len(cluster.workers()) == 1, "two workers to go")
        with Client(cluster) as client:
            assert client.gather(client.map(add, range(10), range(10)))[9] == 18


@pytest.mark.slow
def test_processes_and_threads_per_job() -> None:
    with JobQueueCluster(config_name="local", cores=4, processes=2, n_workers=2) as cluster:
        cluster.wait_for_workers(2, timeout=30)
        workers = cluster.workers()
        assert [worker["threads"] for worker in workers] == [2, 2]
        assert len({worker["job_id"] for worker in workers}) == 1
        assert cluster._jobs_for(cluster.config, None, None, 5, None) == 2
        assert cluster._jobs_for(cluster.config, None, None, None, cluster.config.memory + 1) == 2


def test_threads_in_this_process() -> None:
    with LocalCluster(processes=False, n_workers=2, threads_per_worker=2) as cluster, Client(cluster) as client:
        assert set(client.gather(client.map(where, range(10)))) == {os.getpid()}
        assert len(cluster.jobs()) == 2
        cluster.scale(1)
        assert len(cluster.jobs()) == 1
        assert client.submit(add, 1, 2).result(10) == 3


@pytest.mark.slow
def test_a_client_of_its_own_ends_its_cluster() -> None:
    client = Client(n_workers=1)
    directory = client.cluster.directory
    assert client.submit(add, 2, 3).result(30) == 5
    client.close()
    assert not directory.exists()


@pytest.mark.slow
def test_without_security_there_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="anyone who can reach"):
        cluster = LocalCluster(n_workers=1, security=False)
    with cluster, Client(cluster) as client:
        assert "no TLS" in repr(cluster)
        assert client.submit(add, 2, 3).result(30) == 5


# --- mistakes -----------------------------------------------------------------------------------------------


def test_a_log_directory_that_cannot_be_made() -> None:
    with pytest.raises(ConfigError, match="log-directory /proc/nothing can't be made"):
        LocalCluster(n_workers=1, log_directory="/proc/nothing")


@pytest.mark.parametrize(
    "wrong",
    [
        {"log_directory": "BASE/a/b", "shebang": "#!/bin/csh"},
        {"log_directory": "BASE/a/b", "shared_temp_directory": "/proc/x"},
        {"log_directory": f"BASE/a/{'b' * 300}"},
        {"log_directory": "BASE/a/$NOWHERE"},
        {"log_directory": "BASE/a/b", "shared_temp_directory": "$NOWHERE/x"},
        {"shared_temp_directory": f"BASE/a/{'b' * 300}"},
        {"shared_temp_directory": "BASE/a/b", "template_directory": "BASE/none"},
        {"shared_temp_directory": "BASE/a/b", "scheduler_options": {"port": -1}},
    ],
)
def test_a_refused_value_leaves_no_directory_behind(wrong: dict[str, Any], tmp_path: Path) -> None:
    values = {
        key: one.replace("BASE", str(tmp_path)) if isinstance(one, str) else one for key, one in wrong.items()
    }
    with pytest.raises(UserError):
        LocalCluster(n_workers=1, **values)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_scheduler_option() -> None:
    with pytest.raises(ConfigError, match="unknown 'prot'; there are host, port"):
        LocalCluster(n_workers=1, scheduler_options={"prot": 1})


@pytest.mark.slow
def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HeadError, match=r"could not start.*(in use|97|98)"):
            LocalCluster(n_workers=1, scheduler_options={"port": port})


def test_an_engine_that_is_not_there_yet() -> None:
    with pytest.raises(ConfigError, match="engine 'ray' is not in this version yet"):
        LocalCluster(n_workers=1, engine="ray")


def test_a_template_with_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "local.sh.j2").write_text("#!/bin/bash\n{{ nothing }}\n")
    with pytest.raises(ScriptError, match="'nothing' is undefined"):
        LocalCluster(n_workers=1, template_directory=str(tmp_path))


@pytest.mark.slow
def test_jobs_that_die_early_stop_with_one_error_that_quotes_the_log() -> None:
    with LocalCluster(n_workers=0, job_script_prologue=["echo doing something", "cd /no/such/place"]) as cluster:
        cluster.scale(2)
        with pytest.raises(JobsFailedError, match=r"(?s)ended early.*cd /no/such/place.*scale\(\) again"):
            cluster.wait_for_workers(2, timeout=60)
        with Client(cluster) as client, pytest.raises(JobsFailedError):
            client.submit(add, 1, 2).result(30)
        assert cluster.status == "failed"


@pytest.mark.slow
def test_waiting_in_vain_says_where_each_job_stands() -> None:
    with LocalCluster(n_workers=1) as cluster:
        with pytest.raises(WaitTimeoutError, match=r"(?s)\d of 5 workers.*job 1\.1: "):
            cluster.wait_for_workers(5, timeout=0.5)
        with pytest.raises(TimeoutError):
            cluster.wait_for_workers(5, timeout=0.1)


# --- security -----------------------------------------------------------------------------------------------


def test_everything_in_the_run_directory_is_private(cluster: LocalCluster) -> None:
    for path in [cluster.directory, *cluster.directory.rglob("*")]:
        assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path
        assert path.lstat().st_uid == os.geteuid()


def test_no_secret_is_anywhere_but_in_its_file(cluster: LocalCluster) -> None:
    secrets = [
        line
        for role in tls.ROLES
        for line in (cluster.directory / f"{role}.pem").read_text().splitlines()
        if len(line) > 40
    ]
    assert secrets
    places = [p.read_bytes() for p in cluster.directory.rglob("*") if p.is_file() and p.suffix != ".pem"]
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                places.append((process / name).read_bytes())
            except OSError:
                continue
    for secret in secrets:
        assert not any(secret.encode() in place for place in places)


def test_strangers_are_sent_away_and_the_cluster_goes_on(cluster: LocalCluster, tmp_path: Path) -> None:
    host, port = cluster.facts["addresses"][0].split(":")
    with socket.create_connection((host, int(port))) as plain:  # no TLS at all
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n" + b"\0" * 1000)
        plain.settimeout(15)
        with contextlib.suppress(ConnectionError):
            while plain.recv(4096):
                pass
    anonymous = ssl.create_default_context()
    anonymous.check_hostname = False
    anonymous.verify_mode = ssl.CERT_NONE
    assert _is_refused(anonymous, host, int(port))
    tmp_path.chmod(0o700)
    tls.write_credentials(tmp_path, "another-cluster")
    other = tls.client_context(tmp_path, "client")
    other.verify_mode = ssl.CERT_NONE  # it would take our head for its own, but has no certificate of this cluster
    assert _is_refused(other, host, int(port))
    with Client(cluster) as client:
        assert client.submit(add, 20, 3).result(10) == 23
    log = cluster.directory / "head.log"
    wait_until(lambda: "no certificate of this cluster" in log.read_text(), "a line about them")


def _is_refused(context: ssl.SSLContext, host: str, port: int) -> bool:
    """Say whether the head closes a TLS connection before it has answered anything."""
    try:
        with context.wrap_socket(socket.create_connection((host, port), timeout=15)) as sock:
            sock.sendall(b"\0" * 100)
            return sock.recv(100) == b""
    except OSError:  # ssl.SSLError too
        return True


# --- violent ends -------------------------------------------------------------------------------------------


OWNER = """
    import json, sys, time
    from hpclaunch import LocalCluster
    if __name__ == "__main__":
        cluster = LocalCluster(n_workers=2)
        cluster.wait_for_workers(2, timeout=30)
        print(json.dumps({"pids": [cluster._head.pid], "directory": str(cluster.directory)}), flush=True)
        time.sleep(600)
"""


def start_owner(tmp_path: Path) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """Start a process that holds a cluster; return it and what it says of the cluster."""
    path = tmp_path / "owner.py"
    path.write_text(textwrap.dedent(OWNER))
    owner = subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    facts = json.loads(owner.stdout.readline())
    owner.stdout.close()
    return owner, facts


def processes_of(directory: str) -> list[int]:
    """Return the processes whose command line names a run directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if directory.encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_nothing_is_left_when_the_owner_is_killed(tmp_path: Path, number: int) -> None:
    owner, facts = start_owner(tmp_path)
    assert len(processes_of(facts["directory"])) >= 3
    owner.send_signal(number)
    owner.wait(10)
    wait_until(lambda: not processes_of(facts["directory"]), "all processes to end")
    wait_until(lambda: not Path(facts["directory"]).exists(), "the run directory to go")


@pytest.mark.slow
def test_nothing_is_left_though_a_forked_child_of_the_owner_lives_on(tmp_path: Path) -> None:
    path = tmp_path / "owner.py"
    path.write_text(textwrap.dedent(OWNER).replace("time.sleep(600)", "import os; os.fork(); time.sleep(600)"))
    owner = subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert owner.stdout is not None
    facts = json.loads(owner.stdout.readline())
    try:
        wait_until(lambda: len(_children(owner.pid)) >= 2, "the head and the fork")
        owner.kill()
        owner.wait(10)
        wait_until(lambda: not processes_of(facts["directory"]), "all processes to end")
    finally:
        os.killpg(owner.pid, signal.SIGKILL)
        owner.stdout.close()


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(c) for task in tasks.iterdir() for c in (task / "children").read_text().split()]


@pytest.mark.slow
def test_a_killed_head_is_told_and_leaves_no_jobs() -> None:
    cluster = LocalCluster(n_workers=2, death_timeout=2)
    cluster.wait_for_workers(2, timeout=30)
    directory = cluster.directory
    os.kill(cluster._head.pid, signal.SIGKILL)
    with pytest.raises(HeadError, match=r"ended with exit code -9.*Its workers end by themselves within 2 s"):
        wait_until(lambda: cluster.jobs() and False, "the error")
    cluster.close()
    wait_until(lambda: not processes_of(str(directory)), "the workers to end")
    assert not directory.exists()


@pytest.mark.slow
def test_workers_end_by_themselves_when_nobody_cleans_up() -> None:
    cluster = LocalCluster(n_workers=2, death_timeout=1)
    cluster.wait_for_workers(2, timeout=30)
    directory = cluster.directory
    os.kill(cluster._head.pid, signal.SIGKILL)
    wait_until(lambda: not processes_of(str(directory)), "the workers to end")
    cluster.close()
    assert not directory.exists()


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_tasks_run_again() -> None:
    with LocalCluster(n_workers=2) as cluster, Client(cluster) as client:
        cluster.wait_for_workers(2, timeout=30)
        futures = client.map(where, range(300))
        pid = futures[0].result(20)
        os.kill(pid, signal.SIGKILL)
        assert len(client.gather(futures)) == 300
        cluster.wait_for_workers(2, timeout=30)


@pytest.mark.slow
def test_a_killed_job_is_replaced_and_its_tasks_run_again() -> None:
    with LocalCluster(n_workers=2) as cluster, Client(cluster) as client:
        cluster.wait_for_workers(2, timeout=30)
        futures = client.map(where, range(300))
        futures[0].result(20)
        victims = [
            p for p in processes_of("--job") if b"hpclaunch.worker" in Path(f"/proc/{p}/cmdline").read_bytes()
        ]
        supervisor = min(
            p for p in victims if str(cluster.directory).encode() in Path(f"/proc/{p}/cmdline").read_bytes()
        )
        os.kill(supervisor, signal.SIGKILL)
        assert len(client.gather(futures)) == 300
        cluster.wait_for_workers(2, timeout=30)
        ended = [job for job in cluster.jobs() if job["state"] == "ended"]
        assert len(ended) == 1
        assert "SIGKILL" in ended[0]["reason"] or "137" in ended[0]["reason"]


@pytest.mark.slow
def test_a_stopped_cluster_says_so() -> None:
    cluster = LocalCluster(n_workers=1)
    cluster.close()
    cluster.close()
    assert cluster.status == "closed"
    with pytest.raises(HeadError, match="is closed"):
        cluster.jobs()


@pytest.mark.slow
def test_shutdown_of_a_client_ends_its_cluster() -> None:
    cluster = LocalCluster(n_workers=1)
    with Client(cluster, set_as_default=False) as other:
        client = Client(cluster.directory)
        client.shutdown()
        assert client.status == "closed"
        deadline = time.monotonic() + 20
        while other.status != "closed":
            assert time.monotonic() < deadline
            time.sleep(0.01)
    own = Client(n_workers=1)
    own.shutdown()
    assert own.status == "closed"
    cluster.close()


def _limits_and_uploads(module: str) -> tuple[int, int, int]:
    import os
    import resource
    from pathlib import Path

    lines = Path(f"/proc/{os.getppid()}/limits").read_text().splitlines()
    supervisor = next(line for line in lines if "core file" in line)
    return resource.getrlimit(resource.RLIMIT_CORE)[0], int(supervisor.split()[4]), __import__(module).VALUE


@pytest.mark.slow
def test_no_core_dumps_and_nothing_left_of_uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    (tmp_path / "uploaded_here.py").write_text("VALUE = 5\n")
    with LocalCluster(n_workers=1) as cluster, Client(cluster) as client:
        client.upload_file(tmp_path / "uploaded_here.py")
        assert client.submit(_limits_and_uploads, "uploaded_here").result(30) == (0, 0, 5)
        assert [path.name for path in scratch.glob("hpclaunch-*")]
    assert [path.name for path in scratch.glob("hpclaunch-*")] == []
