"""Workers of which nothing is heard: those that are stopped, and those whose whole job is silent.

A supervisor heartbeats for the workers of its job, and says which of them the kernel has stopped (SIGSTOP, a
debugger). Both are said to be silent within seconds, to a client that asks why a task does not end; when it has
lasted too long they are taken as lost, and their tasks go to others.
"""

from __future__ import annotations

import logging
import time

from hpclaunch.scheduler.peers import Peer, Peers

log = logging.getLogger("hpclaunch.scheduler")

#: Seconds between two heartbeats of a supervisor.
HEARTBEAT_SECONDS = 2.0
#: Seconds without one after which its workers are said to be silent.
QUIET_SECONDS = 2.5 * HEARTBEAT_SECONDS
#: Seconds without one after which its job is taken as lost: a dead node closes no connection.
SILENCE_SECONDS = 20.0


class Heartbeats:
    """Watches over workers by what their supervisors say."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def on_heartbeat(self, supervisor: Peer) -> None:
        """Take workers as lost that were stopped for as long as a job may be silent.

        What one of them says when it runs again comes on a connection that is over: it makes way for another.
        """
        now = time.monotonic()
        frozen = {name for name, vitals in supervisor.vitals.items() if vitals.stopped}
        supervisor.frozen = {name: supervisor.frozen.get(name, now) for name in frozen}
        for name, since in supervisor.frozen.items():
            peer = self._peers.workers.get(name)
            if peer is not None and now - since > SILENCE_SECONDS:
                reason = f"its process has been stopped (SIGSTOP?) for {now - since:.0f} s"
                log.warning("worker %s: %s", name, reason)
                peer.comm.abort(reason)  # type: ignore[attr-defined]

    def on_timer(self, now: float) -> None:
        """Take jobs as lost that have been silent for too long."""
        for job_id, supervisor in list(self._peers.supervisors.items()):
            if now - supervisor.last_seen > SILENCE_SECONDS and supervisor.hello.pid:
                self._drop_job(job_id)

    def _drop_job(self, job_id: str) -> None:
        reason = f"nothing was heard of it for {SILENCE_SECONDS:g} s"
        log.warning("job %s: %s", job_id, reason)
        for peer in [self._peers.supervisors[job_id], *self._peers.workers.values()]:
            if peer.hello.job_id == job_id:
                peer.comm.abort(reason)  # type: ignore[attr-defined]

    def silent(self) -> dict[str, str]:
        """Return the workers of which nothing is heard at this moment, by name, and why that is so."""
        now = time.monotonic()
        silent: dict[str, str] = {}
        for name, peer in self._peers.workers.items():
            supervisor = self._peers.supervisors.get(peer.hello.job_id)
            if supervisor is None or not supervisor.hello.pid:
                continue
            if (seconds := now - supervisor.last_seen) > QUIET_SECONDS:
                silent[name] = f"nothing has been heard of its job for {seconds:.0f} s: its host may be frozen"
            elif name in supervisor.frozen:
                seconds = now - supervisor.frozen[name]
                silent[name] = (
                    f"its process has been stopped (SIGSTOP, or a debugger) for {seconds:.0f} s, and is taken as "
                    f"lost after {SILENCE_SECONDS:.0f} s"
                )
        return silent
