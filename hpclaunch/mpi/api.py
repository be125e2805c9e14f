"""``initialize()``, ``execute()`` and ``cluster()``: a cluster on the ranks that run this very script.

The arguments are those of dask-mpi's functions; the defaults are those of section ``mpi`` in the configuration.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from hpclaunch import rundir
from hpclaunch.errors import HPCLaunchError, SiteError, UserError
from hpclaunch.mpi.arguments import inclusive, overrides, patience
from hpclaunch.mpi.gang import Alone, FileGang, Gang, MPIGang, time_limit
from hpclaunch.mpi.launch import Launch, detect
from hpclaunch.mpi.signals import END_SIGNALS, EndSignals
from hpclaunch.mpi.start import START_SECONDS, ReportedElsewhere, Started, Wish, prepare, start, take_leave

if TYPE_CHECKING:
    from hpclaunch.client.client import Client
    from hpclaunch.mpi.handle import MPICluster

_running: MPICluster | None = None


def initialize(
    interface: str | None = None,
    nthreads: int | None = None,
    local_directory: str | None = None,
    memory_limit: str | int | None = None,
    nanny: bool | None = None,
    dashboard: bool | None = None,
    dashboard_address: str | None = None,
    protocol: str | None = None,
    worker_class: str | None = None,
    worker_options: Mapping[str, Any] | None = None,
    comm: Any = None,
    exit: bool = True,
    **options: Any,
) -> bool:
    """Make the ranks of this job a cluster: rank 0 the head, rank 1 goes on with the script, the rest are workers.

    Of two ranks the first is head and goes on; a single process, without mpirun too, is everything. On the rank
    that goes on, ``Client()`` then needs no argument; the cluster ends with the script.

    :param interface: network interface to use, such as ``ib0``.
    :param nthreads: threads of each worker.
    :param local_directory: scratch directory on the nodes.
    :param memory_limit: memory of each rank's workers; None or "auto" is the node's, shared by its ranks.
    :param nanny: accepted; workers are always watched over. So are the usual values of ``worker_class``.
    :param dashboard: accepted, as ``dashboard_address`` is; there is no dashboard in this version.
    :param protocol: "tls" or "tcp"; others are refused.
    :param worker_options: those of Dask's that have a meaning here, such as ``nthreads``.
    :param comm: communicator of mpi4py; None is all ranks of the launch.
    :param exit: the other ranks end here; False: they return once the cluster has ended.
    :param options: ``name``; ``exclusive_workers=False`` (workers also on the ranks of head and script); any
        configuration key.
    :return: True on the rank that goes on with the script.
    :raises HPCLaunchError: the cluster can't be started; on one rank, which says why. The others end.
    """
    if _running is not None and _running.status == "running":
        return True
    options |= {"interface": interface, "nthreads": nthreads, "local_directory": local_directory}
    options |= {"memory_limit": memory_limit, "nanny": nanny, "dashboard": dashboard, "protocol": protocol}
    options |= {"dashboard_address": dashboard_address, "worker_class": worker_class}
    started, code = _take_part(comm, lambda: wish_of({**options, "worker_options": worker_options}))
    if started is not None:
        go_on(started)
        return True
    if exit:
        sys.exit(code)
    return False


def execute(
    client_function: Callable[..., Any] | None = None,
    client_args: Sequence[Any] = (),
    client_kwargs: Mapping[str, Any] | None = None,
    client_rank: int | None = None,
    scheduler: bool = True,
    scheduler_rank: int | None = None,
    scheduler_address: str | None = None,
    scheduler_port: int | None = None,
    scheduler_file: str | os.PathLike[str] | None = None,
    *,
    comm: Any = None,
    **options: Any,
) -> Any:
    """Run a function on one rank, with the others as its cluster; every rank calls this and goes on after it.

    :param client_function: called on the client's rank, where ``Client()`` finds the cluster. None: there is only
        the cluster, until a client closes it.
    :param client_rank: that rank; None is 1 of three or more, else 0.
    :param scheduler: False: the workers join the cluster that ``scheduler_address`` or ``scheduler_file`` names.
    :param scheduler_rank: the head's rank; None is 0.
    :param scheduler_address: name, directory or address of an existing cluster of yours.
    :param scheduler_port: the head's port; None or 0 is any.
    :param scheduler_file: written by the head, or read where ``scheduler`` is False.
    :param options: as for :func:`initialize`.
    :return: what the function returned, on the client's rank; None on the others.
    :raises HPCLaunchError: the cluster can't be started; on one rank. The others end.

    What the function raises is raised on its rank, after the cluster has ended.
    """

    def wish() -> Wish:
        return wish_of({**options, "scheduler_port": scheduler_port or None})._replace(
            head_rank=scheduler_rank,
            client_rank=client_rank,
            has_client=client_function is not None,
            **_where(scheduler, scheduler_address, scheduler_file, has_script=client_function is not None),
        )

    started, code = _take_part(comm, wish)
    if started is None:
        if code:
            sys.exit(code)
        return None
    assert client_function is not None
    running = go_on(started)
    try:
        return client_function(*client_args, **(client_kwargs or {}))
    finally:
        _end(running)


@contextlib.contextmanager
def cluster(**arguments: Any) -> Iterator[Client]:
    """Run the block on one rank, with a client of the cluster that the others are; they end here.

    ``with hpclaunch.mpi.cluster() as client: ...`` takes the arguments of :func:`initialize`.
    """
    from hpclaunch.client.client import Client

    initialize(**arguments)
    running = _running
    assert running is not None
    try:
        with Client(running) as client:
            yield client
    finally:
        _end(running)


# --- this rank ----------------------------------------------------------------------------------------------


def _take_part(comm: Any, wish: Callable[[], Wish]) -> tuple[Started | None, int]:
    if comm is not None:
        seat = comm.Get_rank(), comm.Get_size()
    else:
        launch = detect(os.environ)
        seat = (0, 1) if launch is None else (launch.rank, launch.size)
    return take_part(seat, lambda timeout: find_gang(comm, timeout), wish)


def take_part(
    seat: tuple[int, int], find: Callable[[float], Gang], wish: Callable[[], Wish]
) -> tuple[Started | None, int]:
    """Start this rank's part; ranks that do not go on with the script serve to the end.

    :param seat: this rank and how many there are.
    :param find: returns the ranks, given the seconds that this may take.
    :param wish: returns what is wanted.
    :return: what was started, for :func:`go_on`; or None, and the exit code of a rank that is done.
    :raises HPCLaunchError: the start failed, and this rank is the one to say so.
    """
    try:
        wanted = wish()
    except UserError as error:  # all ranks have it, and one is to say so
        wanted = Wish({}, error=error)
    part = prepare(seat, wanted)
    try:
        gang = find(wanted.start_timeout)
    except BaseException:
        part.stop()
        raise
    try:
        started = start(gang, wanted, part)
    except ReportedElsewhere as elsewhere:
        return None, elsewhere.code
    if started.role.client:
        return started, 0
    code = started.part.serve()
    is_early = bool(code) and started.has_script and not started.part.signals.number
    if is_early:  # it has told why; whether the job has failed is for the script to say
        code = 0
    if not code:
        take_leave(started, is_early=is_early)
    started.part.signals.release()
    return None, code


def find_gang(comm: Any, timeout: float, environment: Mapping[str, str] = os.environ) -> Gang:
    """Return the ranks of this launch.

    :param comm: a communicator of mpi4py to use, whatever the environment says.
    :param timeout: seconds that MPI may take to start.
    :raises SiteError: there are several, and no way for them to talk.
    """
    if comm is not None:
        return MPIGang(comm)
    launch = detect(environment)
    if launch is None or launch.size == 1:
        return Alone()
    if launch.by == "hpclaunch":
        return meet_by_files(launch)
    try:
        with time_limit(timeout, f"MPI has not started on all of the {launch.size} ranks within {timeout:g} s"):
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        if launch.key:
            return meet_by_files(launch)
        why = str(error).partition("\n")[0]
        raise SiteError(
            f"{launch.by} has started {launch.size} ranks, but mpi4py can't be used: {why}. Install "
            "it for this MPI (pip install mpi4py), or start the script by `hpclaunch run`"
        ) from None
    size = MPI.COMM_WORLD.Get_size()
    if size == launch.size:
        return MPIGang(MPI.COMM_WORLD)
    if launch.key:
        return meet_by_files(launch)
    library = " ".join(MPI.Get_library_version().split())[:60]
    raise SiteError(
        f"{launch.by} has started {launch.size} ranks, but mpi4py sees {size}: it uses another MPI ({library}). "
        "Load the MPI that mpi4py was made for, or install mpi4py with the one that is loaded"
    )


def meet_by_files(launch: Launch) -> FileGang:
    """Return the ranks of a launch that meet in a private directory below the user's run directories.

    :raises SiteError: nothing tells this launch from others of this user.
    """
    if not launch.key:
        raise SiteError(
            f"the {launch.size} ranks that {launch.by} has started can't find one another without MPI: give them "
            "all one HPCLAUNCH_LAUNCH=NAME that no other launch has, or install mpi4py"
        )
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", launch.key)[:100]
    return FileGang(rundir.base_directory().parent / "launches" / name, launch.rank, launch.size)


# --- the script's rank --------------------------------------------------------------------------------------


def go_on(started: Started) -> MPICluster:
    """Go on with the script on this rank: have Client() find the cluster, and end it when Python ends."""
    global _running
    from hpclaunch.mpi.handle import MPICluster

    _running = MPICluster(started)
    atexit.register(_end, _running)
    _end_on_signals(started.part.signals)
    return _running


def _end(running: MPICluster) -> None:
    global _running
    atexit.unregister(_end)
    if _running is running:
        _running = None
    try:
        running.close()
    except HPCLaunchError as error:
        print(f"hpclaunch: {error}", file=sys.stderr)


def _end_on_signals(heard: EndSignals) -> None:
    """Have signals to end the job end the script as sys.exit() does, so that its ``finally`` blocks are run.

    :param heard: one that came during the start is answered now.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    heard.release()
    for number in END_SIGNALS:
        if number != signal.SIGINT and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _on_signal)
    if heard.number:
        signal.raise_signal(heard.number)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _on_signal(number: int, frame: FrameType | None) -> None:
    for one in END_SIGNALS:  # once is enough; the end takes a moment
        signal.signal(one, signal.SIG_IGN)
    print(f"hpclaunch: ending: this rank was sent {signal.Signals(number).name}", file=sys.stderr, flush=True)
    sys.exit(128 + number)


# --- arguments ----------------------------------------------------------------------------------------------


def wish_of(options: dict[str, Any]) -> Wish:
    """Return what the arguments of :func:`initialize` ask for.

    :raises ConfigError: one of them has no meaning here.
    """
    name, exclusive = options.pop("name", None), options.pop("exclusive_workers", None)
    given = overrides(options)
    return Wish(given, name=name, inclusive=inclusive(exclusive), start_timeout=patience(given, START_SECONDS))


def _where(
    has_head: bool, address: str | None, file: str | os.PathLike[str] | None, *, has_script: bool
) -> dict[str, Any]:
    """Return the parts of a wish that say whose head it is."""
    if not has_head:
        if address is None and file is None:
            raise UserError("scheduler=False needs scheduler_address or scheduler_file: which cluster is meant?")
        return {"join": str(address if address is not None else file)}
    if address is not None:
        raise UserError(
            "scheduler_address is for scheduler=False: a head that is started here has its own address"
        )
    return {
        "is_public": file is not None or not has_script,  # others are to find it
        "cluster_file": None if file is None else Path(file),
    }
