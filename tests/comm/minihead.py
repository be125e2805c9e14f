"""A head with nothing but a scheduler, and workers started by hand: what the compute half's tests run on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import uvloop

from hpclaunch import trusted
from hpclaunch.comm import tls
from hpclaunch.comm.listener import Listener
from hpclaunch.comm.loop_errors import on_loop_error
from hpclaunch.scheduler import heartbeats as silences, invariants
from hpclaunch.scheduler.server import SchedulerServer


def work_of_clients(server: SchedulerServer) -> dict[str, int]:
    """Return how much there is of what clients have asked for."""
    state = server.reactor.state
    return {
        "tasks": len(state.tasks),
        "held": sum(len(worker.holds) for worker in state.workers.values()),
        "relays": sum(len(peer.relays) for peer in server.peers.workers.values()),
    }


async def serve(directory: Path, ready: Any, until: Any) -> None:
    """Be a head whose run directory this is, until the coroutine function ``until``, given the server, returns."""
    cluster_id = directory.name
    tls.write_credentials(directory, cluster_id)
    asyncio.get_running_loop().set_exception_handler(on_loop_error)

    async def on_request(method: str, params: dict[str, Any]) -> Any:
        state = server.reactor.state
        if method == "wait_for_workers":
            while len(server.workers()) < params["n_workers"]:
                await server.wait_for_change()
            return None
        if method == "info":
            return {
                "left": left,
                "threads": [w.threads for w in server.workers()],
                "rss": [w.rss for w in server.workers()],
                "workers": [w.name for w in server.workers()],
                **work_of_clients(server),
                "ready": state.ready_count,
                "worker_list": [
                    {"name": w.name, "address": w.address, "threads": w.threads, "host": w.host}
                    for w in state.workers.values()
                ],
                "clients": len(state.clients),
                "fds": len(os.listdir("/proc/self/fd")),
            }
        if method == "retire":
            await server.retire_job(params["job"], drain=params["drain"], reason="the test says so", timeout=30.0)
            return [w.name for w in server.workers()]
        if method == "blame":  # how the workers ended that ran a task, as it is known
            return [list(death) for task in state.tasks.values() for death in task.deaths or ()]
        if method == "tasks":  # what is known of each
            return [task.story() for task in state.tasks.values()]
        if method == "job_notes":  # it has no batch system
            return []
        if method == "ping":  # clients ask whether it lives
            return None
        if method == "check":
            return invariants.check(state)
        if method == "hide_workers":  # as if a firewall stood before them
            for i, (name, peer) in enumerate(server.peers.workers.items()):
                peer.hello.addresses = [f"127.1.0.{i}:{params['port']}"]
                server.reactor.state.workers[name].address = peer.hello.addresses[0]
            return None
        raise ValueError(method)

    left: list[str] = []
    server = SchedulerServer(
        cluster_id, on_request=on_request, on_worker_left=lambda job, worker, how: left.append(f"{worker}: {how}")
    )
    listener = Listener(cluster_id, tls.server_context(directory, "head"), server.on_peer)
    await listener.start(["127.0.0.1"])
    facts = {"id": cluster_id, "name": "mini", "addresses": [f"127.0.0.1:{listener.port}"], "pid": os.getpid()}
    trusted.write_file(directory / "cluster.json", json.dumps(facts).encode())
    ready()
    await until(server)
    await server.close("the test is over")
    await listener.close()
    await asyncio.sleep(0.05)


def main() -> None:
    """Be a head process; each line of standard input asks for a check, and it ends when standard input does."""
    directory = Path(sys.argv[1])

    async def stdin_closed(server: SchedulerServer) -> None:
        while await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
            invariants.check(server.reactor.state)
            print(json.dumps(work_of_clients(server)), flush=True)

    silences.HEARTBEAT_SECONDS, silences.SILENCE_SECONDS = map(float, sys.argv[2:])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(directory, lambda: print("ready", flush=True), stdin_closed))


class MiniCluster:
    """A head process and worker jobs, each a process group."""

    def __init__(
        self,
        base: Path,
        *,
        jobs: int = 2,
        processes: int = 1,
        threads: int = 1,
        death_timeout: float = 5,
        memory: dict[str, Any] | None = None,
        memory_limit: int = 0,
        tmp: Path | None = None,
        heartbeat: float = silences.HEARTBEAT_SECONDS,
        silence: float = silences.SILENCE_SECONDS,
    ) -> None:
        self.death_timeout = death_timeout
        self.memory_limit = memory_limit
        self.tmp = tmp
        self.directory = base / "mini-00000000"
        self.directory.mkdir(mode=0o700, parents=True)
        (self.directory / "jobs").mkdir(mode=0o700)
        self.head = subprocess.Popen(
            [sys.executable, "-m", "tests.comm.minihead", str(self.directory), str(heartbeat), str(silence)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(errors := (self.directory / "head.err").open("wb")),
            text=True,
            cwd=Path(__file__).parents[2],
        )
        errors.close()
        assert self.head.stdout is not None
        assert self.head.stdout.readline() == "ready\n"
        if memory is not None:  # what the head writes of its configuration
            facts = json.loads((self.directory / "cluster.json").read_bytes())
            (self.directory / "cluster.json").write_text(json.dumps({**facts, "memory": memory}))
        self.jobs: list[subprocess.Popen[bytes]] = []
        for _ in range(jobs):
            self.start_job(processes=processes, threads=threads)

    def start_job(self, *arguments: str, processes: int = 1, threads: int = 1) -> subprocess.Popen[bytes]:
        """Start one more job."""
        number = len(self.jobs) + 1
        argv = [
            sys.executable,
            "-m",
            "hpclaunch.worker",
            "--directory",
            str(self.directory),
            "--job",
            f"{number}.1",
        ]
        argv += ["--processes", str(processes), "--threads", str(threads)]
        argv += ["--death-timeout", str(self.death_timeout), *arguments]
        argv += ["--memory", str(self.memory_limit)]
        if self.tmp is not None:
            argv += ["--local-directory", str(self.tmp)]
        log = (self.directory / f"{number}.log").open("wb")
        job = subprocess.Popen(argv, start_new_session=True, stdout=log, stderr=log)
        log.close()
        self.jobs.append(job)
        return job

    def check(self) -> dict[str, int]:
        """Have the head check its state; return how many tasks, held results and questions under way it knows."""
        assert self.head.stdin is not None
        assert self.head.stdout is not None
        self.head.stdin.write("check\n")
        self.head.stdin.flush()
        answer = self.head.stdout.readline()
        assert answer, self.head_log()
        return dict(json.loads(answer))

    def logs(self) -> str:
        """What the workers have printed."""
        return "".join(path.read_text() for path in sorted(self.directory.glob("*.log")))

    def head_log(self) -> str:
        """What the head has printed."""
        return (self.directory / "head.err").read_text()

    def close(self) -> None:
        """End everything; what does not end is killed."""
        assert self.head.stdin is not None
        self.head.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.head.wait(10)
        self.head.kill()
        self.head.wait()
        assert self.head.stdout is not None
        self.head.stdout.close()
        for job in self.jobs:
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
            job.wait()

    def __enter__(self) -> MiniCluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


if __name__ == "__main__":
    main()
