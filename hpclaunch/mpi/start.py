"""The start of a cluster on the ranks of one launch: who is where, the head, the workers, and what went wrong.

Every rank calls :func:`start`, and all go through the same three exchanges, whatever fails on one of them:

1. each says where it is and what it runs;
2. the root (the head's rank) starts the head, and tells all its address, the credentials and each rank's role;
3. each says whether its workers have reached the head.

So an error on any rank is known to all before any of them goes on. Credentials travel in the second exchange only.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hpclaunch import __version__, rundir, trusted
from hpclaunch.errors import HPCLaunchError, SiteError
from hpclaunch.marks import PREFIX, mark
from hpclaunch.mpi.gang import Gang, RanksMissingError
from hpclaunch.mpi.part import Part, failed_to_start
from hpclaunch.mpi.roles import Role, TooFewRanksError, assign, rank_of
from hpclaunch.mpi.signals import EndSignals

if TYPE_CHECKING:
    from hpclaunch.link.session import HeadSession

#: Seconds in which all ranks must have come. The root's configuration has its own word on what follows.
START_SECONDS = 300.0

#: Seconds that ranks wait for one another at the end: more than one that was sent a signal takes to end its part.
PART_SECONDS = 20.0
#: Seconds that a rank which may end with another code than 0 lets the others end first: mpirun then kills those
#: that are still there.
_LAST_SECONDS = 0.2

#: The files that a rank gets of the head's.
_FILES = ("ca.pem", "client.pem", "worker.pem")


class Wish(NamedTuple):
    """What is to be started; the same on all ranks."""

    overrides: Mapping[str, Any]  # configuration keys, as arguments
    section: str = "mpi"
    name: str | None = None
    head_rank: int | None = None
    client_rank: int | None = None
    has_client: bool = True
    inclusive: bool | None = None  # None: as configured
    join: str | None = None  # an existing cluster: no head is started
    is_public: bool = False  # others find the cluster by its name
    cluster_file: Path | None = None  # where the root writes how to find it
    start_timeout: float = START_SECONDS
    error: HPCLaunchError | None = None  # what is wrong with the wish itself


class Started(NamedTuple):
    """What this rank is after the start."""

    gang: Gang
    role: Role
    part: Part
    facts: dict[str, Any]  # what the head says of itself
    directory: Path  # this rank's own files
    workers: int  # how many worker processes there are in all
    session: HeadSession | None  # the script's own connection to the head, whose end is the head's end
    has_head: bool  # the head was started with the ranks, and ends with them
    has_script: bool  # one of the ranks goes on with the script, whose exit code is that of all


def take_leave(started: Started, *, is_early: bool = False) -> None:
    """Go to the end together with the other ranks; this rank's part has ended.

    :param is_early: by itself, and the script may go on for long.
    """
    _take_leave(started.gang, started.role.client, math.inf if is_early else PART_SECONDS, started.part.signals)


def _take_leave(
    gang: Gang, is_last: bool, patience: float = PART_SECONDS, signals: EndSignals | None = None
) -> None:
    is_there = gang.part(patience, lambda: signals is not None and bool(signals.number))
    if not is_there:  # some were killed, and MPI's own end would never stop waiting for them
        print(f"hpclaunch: rank {gang.rank}: other ranks are missing at the end", file=sys.stderr, flush=True)
        gang.abort(1)
    if is_last and gang.size > 1:
        time.sleep(_LAST_SECONDS)


class ReportedElsewhere(Exception):  # it is no error of this rank
    """The start has failed, and another rank reports why. ``code`` is for this rank to end with."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the start failed; another rank says why (exit code {code})")
        self.code = code


def prepare(seat: tuple[int, int], wish: Wish) -> Part:
    """Start what this rank will most probably need, and import what it will, while MPI itself starts.

    :param seat: this rank and how many there are, as the environment tells.
    """
    part = Part(seat[0])
    likely = _likely_role(seat, wish)
    part.start_early(likely)
    if likely.head:
        import hpclaunch.config.layers
        import hpclaunch.head.launch
    if likely.client:
        import hpclaunch.client.client  # noqa: F401
    return part


def start(gang: Gang, wish: Wish, part: Part) -> Started:
    """Start this rank's part of a cluster.

    :param part: what :func:`prepare` has started.
    :raises HPCLaunchError: the start failed, and this rank is the one to say so.
    :raises ReportedElsewhere: it failed, and another one is.
    """
    try:
        return _start(gang, wish, part)
    except RanksMissingError as error:
        part.stop()
        gang.close()
        print(f"hpclaunch: {error}", file=sys.stderr, flush=True)
        gang.abort(1)
        raise
    except (ReportedElsewhere, HPCLaunchError) as error:
        part.stop()
        gang.close()
        _take_leave(gang, not (isinstance(error, ReportedElsewhere) and error.code == 0))
        raise
    except BaseException:
        part.stop()
        gang.abort(1)
        raise


def _start(gang: Gang, wish: Wish, part: Part) -> Started:
    patience = wish.start_timeout + (gang.rank > 0)  # so that one says first what is wrong
    hellos = [json.loads(said) for said in gang.allgather(_hello(), patience)]
    root = wish.head_rank if wish.head_rank is not None and 0 <= wish.head_rank < gang.size else 0
    error: HPCLaunchError | None = None
    word = b""
    if gang.rank == root:
        try:
            word = json.dumps(_begin(wish, hellos, part)).encode()
        except HPCLaunchError as caught:
            error = caught
        except BaseException as caught:
            gang.broadcast(b"", root, wish.start_timeout)
            raise caught from None
    plan = gang.broadcast(word, root, patience)
    if error is not None:
        raise error
    if not plan:
        raise ReportedElsewhere(0)
    return _join(gang, json.loads(plan), part, hellos)


def _likely_role(seat: tuple[int, int], wish: Wish) -> Role:
    """Return what this rank will be, as far as that can be told before the configuration is read."""
    rank, size = seat
    if wish.error is not None:
        return Role()
    try:
        return assign(
            size,
            head_rank=wish.head_rank,
            client_rank=wish.client_rank,
            has_head=wish.join is None,
            has_client=wish.has_client,
            inclusive=bool(wish.inclusive),
        )[rank]
    except TooFewRanksError:  # the root will say so
        return Role()


def _hello() -> bytes:
    python = "{}.{}".format(*sys.version_info)
    return json.dumps({"host": socket.gethostname(), "hpclaunch": __version__, "Python": python}).encode()


# --- the root -----------------------------------------------------------------------------------------------


def _begin(wish: Wish, hellos: list[dict[str, str]], part: Part) -> dict[str, Any]:
    """Start the head, or find the one to join; return all that the others need."""
    import secrets

    from hpclaunch.config.layers import load

    if wish.error is not None:
        raise wish.error
    _check_alike(hellos)
    loaded = load(wish.section, dict(wish.overrides))
    config = loaded.job
    inclusive = not config.exclusive_workers if wish.inclusive is None else wish.inclusive
    roles = assign(
        len(hellos),
        head_rank=wish.head_rank,
        client_rank=wish.client_rank,
        has_head=wish.join is None,
        has_client=wish.has_client,
        inclusive=inclusive,
    )
    hosts = [(rank, hellos[rank]["host"]) for rank, role in enumerate(roles) if role.worker]
    script_client = f"script-{secrets.token_hex(4)}" if wish.has_client and wish.join is None else ""
    if wish.join is not None:
        directory = rundir.find_cluster(wish.join)
    else:
        directory = _start_head(wish, config, hellos, hosts, script_client, part)
    facts = rundir.read_facts(directory)
    if wish.cluster_file is not None:
        _write_cluster_file(wish.cluster_file, directory, facts)
    return {
        "roles": roles,
        "facts": facts,
        "files": {
            name: trusted.read_file(directory / name).decode() for name in _FILES if (directory / name).exists()
        },
        "launch": secrets.token_hex(3) if wish.join is not None else "",
        "script_client": script_client,
        "workers": len(hosts) * config.processes,
        "sharing": Counter(host for _, host in hosts),
        "memory": None if loaded.origin("memory").startswith("computed") else config.memory,
        "arguments": _arguments(config) + ([] if facts.get("security", True) else ["--no-security"]),
        "start_timeout": config.start_timeout,
    }


def _start_head(
    wish: Wish,
    config: Any,
    hellos: list[dict[str, str]],
    hosts: list[tuple[int, str]],
    script_client: str,
    part: Part,
) -> Path:
    import tempfile

    from hpclaunch.head.launch import HeadProcess, prepare_ranks
    from hpclaunch.safepath import user_python_path

    public = rundir.base_directory(config.shared_temp_directory)
    is_one_host = len({hello["host"] for hello in hellos}) == 1 and not wish.is_public
    chosen = config.interface or config.scheduler_options.get("interface") or config.scheduler_options.get("host")
    prepared = prepare_ranks(
        config,
        wish.name or config.name,
        public if wish.is_public else Path(tempfile.gettempdir()),
        python_path=user_python_path(),
        ranks=hosts,
        hosts=("127.0.0.1",) if is_one_host and not chosen else None,
        script_client=script_client,
        owner_pid=os.getpid(),
        is_listed=wish.is_public,
        prefix="" if wish.is_public else PREFIX,
    )
    try:
        mark(prepared.directory, os.getpid())
        waiting = part.take_waiting_head() if config.engine == "embedded" else None
        part.head = HeadProcess(prepared.command, prepared.directory, attached=True, waiting=waiting)
        mark(prepared.directory, part.head.pid)
    except BaseException:
        rundir.remove(prepared.directory)
        raise
    return prepared.directory


def _check_alike(hellos: list[dict[str, str]]) -> None:
    """Raise SiteError unless all ranks run one version of hpclaunch and of Python."""
    for rank, hello in enumerate(hellos):
        for what in ("hpclaunch", "Python"):
            if hello[what] != hellos[0][what]:
                raise SiteError(
                    f"rank {rank} on {hello['host']} has {what} {hello[what]}, but rank 0 on {hellos[0]['host']} "
                    f"has {hellos[0][what]}: start all ranks with the same Python environment"
                )


def _arguments(config: Any) -> list[str]:
    """Return the worker's command line, but for what depends on the node."""
    words = ["--processes", str(config.processes), "--threads", str(config.threads)]
    words += ["--death-timeout", f"{config.death_timeout:g}"]
    if config.interface is not None:
        words += ["--interface", config.interface]
    if config.local_directory is not None:
        words += ["--local-directory", config.local_directory]
    if config.resources:
        words += ["--resources", ",".join(f"{name}={amount:g}" for name, amount in config.resources.items())]
    return [*words, *(word for line in config.worker_extra_args for word in shlex.split(line))]


def _write_cluster_file(path: Path, directory: Path, facts: Mapping[str, Any]) -> None:
    """Write where a cluster is to be found; there is nothing secret in it."""
    told = {key: facts[key] for key in ("id", "name", "addresses")}
    try:
        rundir.write_file(path, json.dumps({**told, "directory": str(directory)}, indent=1).encode())
    except OSError as error:
        raise SiteError(f"the scheduler file {path} can't be written: {error.strerror}") from None


# --- every rank ---------------------------------------------------------------------------------------------


def _join(gang: Gang, plan: dict[str, Any], part: Part, hellos: list[dict[str, str]]) -> Started:
    """Start this rank's workers, hear how it went everywhere, and return what this rank is."""
    roles = [Role(*role) for role in plan["roles"]]
    role = roles[gang.rank]
    failure, directory = "", Path()
    session: HeadSession | None = None
    try:
        if role.worker or role.client:
            directory = part.keep(f"{plan['facts']['name']}-rank{gang.rank}", _files(plan, role))
        if role.worker:
            failure = _start_workers(gang, plan, part, directory)
        if not failure and part.head is not None and part.head.exit_code() is not None:
            failure = f"the head ended with exit code {part.head.exit_code()}"
        if role.client and not failure:
            session = _connect(directory, plan["script_client"] or f"script-{os.getpid()}")
    except (HPCLaunchError, OSError) as error:
        failure = str(error)
    part.signals.hear()  # a rank that hears the last of them goes on, so no other may end by a signal now
    said = _last_exchange(gang, failure, plan["start_timeout"] + 60, part.signals)
    reasons = {rank: (hellos[rank]["host"], text.decode()) for rank, text in enumerate(said) if text}
    gang.close()
    if reasons:
        reporter = rank_of(roles, "client")
        if reporter is None:
            reporter = rank_of(roles, "head") or 0
        if gang.rank == reporter:
            raise failed_to_start(reasons, len(roles))
        raise ReportedElsewhere(1 if failure else 0)
    part.dismiss()
    has_head = rank_of(roles, "head") is not None
    has_script = rank_of(roles, "client") is not None
    return Started(gang, role, part, plan["facts"], directory, plan["workers"], session, has_head, has_script)


def _last_exchange(gang: Gang, failure: str, timeout: float, signals: EndSignals) -> list[bytes]:
    """Return what all ranks say of their start; a signal to end leaves them little time for it."""
    try:
        return gang.allgather(failure.encode(), timeout, lambda: bool(signals.number))
    except RanksMissingError:
        if signals.number:
            raise SystemExit(128 + signals.number) from None
        raise


def _connect(directory: Path, name: str) -> HeadSession:
    from hpclaunch.link.loop import loop_thread
    from hpclaunch.link.session import HeadSession

    return loop_thread().run(HeadSession.open(directory, name=name))


def _files(plan: dict[str, Any], role: Role) -> dict[str, bytes]:
    """Return what this rank needs of the head's files: the keys of its own roles alone."""
    unused = {name for name, has in (("client.pem", role.client), ("worker.pem", role.worker)) if not has}
    files = {name: text.encode() for name, text in plan["files"].items() if name not in unused}
    return {**files, "cluster.json": json.dumps(plan["facts"]).encode()}


def _start_workers(gang: Gang, plan: dict[str, Any], part: Part, directory: Path) -> str:
    from hpclaunch.head.ranks import job_id

    memory = plan["memory"]
    if memory is None:
        from hpclaunch.config.machine import this_machine

        memory = this_machine().memory // plan["sharing"][socket.gethostname()]
    words = [os.path.expandvars(os.path.expanduser(word)) for word in plan["arguments"]]
    arguments = [*words, "--memory", str(memory)]
    return part.start_supervisor(directory, job_id(gang.rank, plan["launch"]), arguments, plan["start_timeout"])
