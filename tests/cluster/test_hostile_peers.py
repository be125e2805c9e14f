"""A real cluster beside those who want to harm it: strangers at its port, and holders of a worker certificate."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpclaunch import Client, LocalCluster
from hpclaunch.comm import messages as m, tls
from hpclaunch.comm.blocking import BlockingConnection, dial_blocking
from hpclaunch.errors import CommClosedError, HandshakeError, PeerError, UserError

from .test_local_cluster import add, wait_until

pytestmark = pytest.mark.slow


def never_waits(message: str) -> str:
    """Return a message; what is imported by workers must be there by its name."""
    return message


# --- strangers


#: Brings a cluster up and does what its words say, one a line; answers with a line of JSON.
OWNER = """
    import json, sys
    from hpclaunch import Client, LocalCluster
    with LocalCluster(n_workers=1) as cluster, Client(cluster) as client:
        cluster.wait_for_workers(1, timeout=60)
        answer = cluster.scheduler_address
        while True:
            print(json.dumps(answer), flush=True)
            word = sys.stdin.readline().strip()
            if word == "scale":
                cluster.scale(3)
                cluster.wait_for_workers(3, timeout=60)
                answer = sorted(job["state"] for job in cluster.jobs())
            elif word == "compute":
                answer = client.gather(client.map(abs, range(-50, 0)))
            elif word == "shrink":
                cluster.scale(0)
                while not all(job["state"] == "ended" for job in cluster.jobs()):
                    pass
                answer = sorted(job["state"] for job in cluster.jobs())
            else:
                break
"""


@pytest.mark.parametrize("hard", [256, None], ids=["hard limit", "soft limit"])
def test_half_open_connections_leave_the_cluster_what_it_needs(hard: int | None, tmp_path: Path) -> None:
    """With 256 descriptors for each process, 400 silent strangers keep out no worker and stop no command."""
    _, ours = resource.getrlimit(resource.RLIMIT_NOFILE)
    script = tmp_path / "owner.py"
    script.write_text(textwrap.dedent(OWNER))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard or ours)),
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def ask(word: str) -> object:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(word + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    try:
        host, _, port = json.loads(process.stdout.readline()).removeprefix("tls://").rpartition(":")
        with contextlib.ExitStack() as strangers:
            for _ in range(400):
                strangers.enter_context(socket.create_connection((host, int(port)), 20))
            assert ask("scale") == ["up"] * 3
            assert ask("compute") == list(range(50, 0, -1))
            assert ask("shrink") == ["ended"] * 3
        process.stdin.close()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


# --- those with a worker's certificate


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2) as one:
        one.wait_for_workers(2, timeout=30)
        yield one


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    """A client; after the test the same two workers are there as before, and they work."""
    with Client(cluster) as client:
        workers, jobs = set(client.nthreads()), [job["id"] for job in cluster.jobs()]
        yield client
        assert client.gather(client.map(add, range(20), range(20))) == [2 * i for i in range(20)]
        assert set(client.nthreads()) == workers
        assert [job["id"] for job in cluster.jobs()] == jobs
        assert {job["state"] for job in cluster.jobs()} == {"up"}


def greeting(cluster: LocalCluster, role: str, job: str, **facts: object) -> m.Hello:
    name = {"supervisor": f"supervisor-{job}", "worker": f"{job}-7"}.get(role, "a client in a task")
    told = {"name": name, "host": "elsewhere", "pid": 1, "threads": 1, "secret": bytes(m.PASS_BYTES), **facts}
    return m.Hello(m.PROTOCOL_VERSION, role, cluster_id=cluster.facts["id"], job_id=job, **told)  # type: ignore[arg-type]


def come(cluster: LocalCluster, hello: m.Hello, certificate: str = "worker") -> BlockingConnection:
    context = tls.client_context(cluster.directory, certificate)
    return dial_blocking(cluster.facts["addresses"][0], hello, context)[0]


def test_nobody_takes_the_place_of_a_jobs_supervisor(cluster: LocalCluster, client: Client) -> None:
    for job in cluster.jobs():
        with pytest.raises(CommClosedError, match=f"another process speaks for job {job['id']}"):
            come(cluster, greeting(cluster, "supervisor", job["id"]))


@pytest.mark.parametrize("role", ["worker", "task"])
def test_nobody_speaks_as_a_worker_of_another_job(cluster: LocalCluster, client: Client, role: str) -> None:
    for job in cluster.jobs():
        with pytest.raises(HandshakeError, match=f"does not have the pass of job {job['id']}"):
            come(cluster, greeting(cluster, role, job["id"]))
        with pytest.raises(HandshakeError, match="shows no pass"):
            come(cluster, greeting(cluster, role, job["id"], secret=b""))


def test_a_job_that_has_not_started_has_no_supervisor(cluster: LocalCluster, client: Client) -> None:
    with pytest.raises(CommClosedError, match=r"no start ticket of job 999\.1"):
        come(cluster, greeting(cluster, "supervisor", "999.1"))
    with pytest.raises(HandshakeError, match="is no id that a job of this cluster could have"):
        come(cluster, greeting(cluster, "supervisor", "--user=root"))


@pytest.fixture
def guest(cluster: LocalCluster, client: Client) -> Iterator[Callable[[str], BlockingConnection]]:
    """Come in as what a worker's certificate allows: for a job of one's own, which is a rank here."""
    own: list[BlockingConnection] = []

    def enter(role: str) -> BlockingConnection:
        if not own:
            own.append(come(cluster, greeting(cluster, "supervisor", "rank1.abc")))
        if role != "supervisor":
            own.append(come(cluster, greeting(cluster, role, "rank1.abc")))
        return own[-1]

    yield enter
    for connection in own:
        connection.close()
    wait_until(lambda: len(client.nthreads()) == 2, "the guest to be forgotten")


def connection_name(role: str) -> str:
    """Return how the head's log names the guest."""
    return {"supervisor": "supervisor supervisor-rank1.abc", "worker": "worker rank1.abc-7"}[role]


def test_whoever_has_a_job_of_his_own_ends_no_other(
    cluster: LocalCluster, client: Client, guest: Callable[[str], BlockingConnection]
) -> None:
    """He speaks of other jobs' workers, as supervisor and worker, in words of all roles."""
    workers = sorted(client.nthreads())
    deaths = [m.WorkerDied(name, 1, None, 0, [], restarted=False) for name in workers]
    vitals = m.Heartbeat([m.WorkerVitals(name, 1, 1 << 50, 0.0) for name in workers])
    foreign: list[m.Message] = [*deaths, vitals, m.StopWorkers("end"), m.ReplaceWorkers(workers, [], "end")]
    future = client.submit(never_waits, "kept")
    assert future.result(20) == "kept"
    for role in ("supervisor", "worker"):
        connection = guest(role)
        connection.send(foreign)
        connection.send(
            [m.CancelKeys([future.key], force=True), m.TasksFailed([future.key], [m.Failure("", "bad")], [0.0])]
        )
        connection.send([m.Request(1, "close", b"\x80"), m.Request(2, "restart", b"\x80")])
        last = f"a Request of {connection_name(role)} is ignored"
        wait_until(lambda last=last: last in (cluster.directory / "head.log").read_text(), last)
    assert future.result(20) == "kept"
    log = (cluster.directory / "head.log").read_text()
    for kind in ("WorkerDied", "Heartbeat"):
        told = f"a {kind} of {connection_name('supervisor')} is ignored: worker {workers[0]} is of another job"
        assert told in log
    for kind in ("StopWorkers", "ReplaceWorkers", "CancelKeys", "Request"):
        for role in ("supervisor", "worker"):
            assert f"a {kind} of {connection_name(role)} is ignored: its role may not say that" in log


def test_a_client_in_a_task_does_not_rule_the_cluster(
    cluster: LocalCluster, client: Client, guest: Callable[[str], BlockingConnection]
) -> None:
    connection = guest("task")
    for number, method in enumerate(["close", "scale", "adapt", "add_group", "logs", "jobs", "restart"]):
        connection.send([m.Request(number, method, b"\x80")])
        (answer,) = connection.wait(20)
        assert isinstance(answer, m.Reply)
        assert answer.error is not None
        assert answer.error.kind == UserError.__name__
        assert "not rule it" in answer.error.text


@pytest.mark.parametrize("role", ["head", "client"])
def test_a_workers_certificate_is_no_other_roles(cluster: LocalCluster, client: Client, role: str) -> None:
    with pytest.raises(HandshakeError, match="may not act as"):
        come(cluster, greeting(cluster, role, ""))


def test_a_stranger_gets_not_even_an_answer(cluster: LocalCluster, client: Client) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for keys in (context, None):
        with pytest.raises(PeerError):
            dial_blocking(cluster.facts["addresses"][0], greeting(cluster, "client", ""), keys)
