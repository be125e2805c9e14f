"""Which process speaks for a job: the one that shows the pass of the job's present run. Pure.

All jobs of a cluster have the same worker's certificate, and their ids are no secret. So each supervisor makes a
pass, random bytes that stay in the memory of its processes and of the head. The start of a job, of which the job
script leaves a ticket, lets one supervisor in: the first that comes. From then on a peer that speaks for this job
must show that supervisor's pass, as its workers and their tasks do. A job that the batch system has put back
leaves another ticket, which lets in its new run's supervisor, and ends the old one's time.
"""

from __future__ import annotations

import hashlib

from hpclaunch.comm.messages import PASS_BYTES, Hello
from hpclaunch.comm.roles import is_of_job
from hpclaunch.errors import CommClosedError, HandshakeError


class _Run:
    def __init__(self, proof: bytes, start: object, host: str) -> None:
        self.proof = proof
        self.start = start
        self.host = host
        self.former: set[bytes] = set()


class Passes:
    """The passes of all jobs' runs, of which only hashes are kept."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    def check(self, hello: Hello, start: object) -> None:
        """Let in who may speak for its job.

        :param hello: of a supervisor, a worker or a client in a task.
        :param start: what tells the job's latest start from those before; None if it has not started.
        :raises HandshakeError: it may not.
        :raises CommClosedError: it may not yet; what lets it in may not be seen here yet.
        """
        if hello.role == "worker" and not is_of_job(hello.name, hello.job_id):
            raise HandshakeError(f"{hello.name!r} is no name of a worker of job {hello.job_id}")
        if len(hello.secret) < PASS_BYTES:
            raise HandshakeError(f"{hello.role} {hello.name} shows no pass of job {hello.job_id}")
        proof = hashlib.sha256(hello.secret).digest()
        run = self._runs.get(hello.job_id)
        if run is not None and proof == run.proof:
            return
        if run is not None and proof in run.former:
            raise HandshakeError(f"job {hello.job_id} was put back, and runs again on {run.host}")
        if hello.role != "supervisor":
            raise HandshakeError(f"{hello.role} {hello.name} does not have the pass of job {hello.job_id}")
        if start is None:
            raise CommClosedError(f"the head has seen no start ticket of job {hello.job_id}")
        if run is not None and start == run.start:
            raise CommClosedError(
                f"another process speaks for job {hello.job_id}, from {run.host}, and the job has left no other "
                "start ticket since"
            )
        new = self._runs[hello.job_id] = _Run(proof, start, hello.host)
        if run is not None:
            new.former = run.former | {run.proof}
