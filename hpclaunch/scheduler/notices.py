"""What all clients of a cluster are told at once: what they should know, and that it can't work."""

from __future__ import annotations

import logging

from hpclaunch.comm import messages as m
from hpclaunch.comm.reports import to_report
from hpclaunch.errors import HPCLaunchError
from hpclaunch.scheduler.peers import Peer, Peers

log = logging.getLogger("hpclaunch.scheduler")


class Notices:
    """Tells clients."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._failure: HPCLaunchError | None = None

    def greet(self, peer: Peer) -> None:
        """Tell a client that has come why the cluster can't work, if that is so."""
        if self._failure is not None:
            peer.comm.send(m.Notice("failure", to_report(self._failure)))

    def warn(self, text: str) -> None:
        """Tell all users something that they should know and can live with."""
        log.warning("%s", text)
        for peer in self._peers.clients.values():
            if peer.hello.role == "client":
                peer.comm.send(m.Notice("warning", m.ErrorReport("HPCLaunchError", text)))

    def complain(self, error: HPCLaunchError) -> None:
        """Tell all clients that are here now that the cluster can't work, and why."""
        self._say("failure", error)

    def notify(self, error: HPCLaunchError) -> None:
        """Tell all clients, now and later until :meth:`forgive`, that the cluster can't work, and why."""
        self._failure = error
        self._say("failure", error)

    def forgive(self) -> None:
        """Forget the failure that clients were told of, and tell them: the cluster works, or tries again."""
        if self._failure is not None:
            self._failure = None
            self._say("recovered", HPCLaunchError("the cluster works, or tries again"))

    def _say(self, kind: str, error: HPCLaunchError) -> None:
        for peer in self._peers.clients.values():
            peer.comm.send(m.Notice(kind, to_report(error)))
