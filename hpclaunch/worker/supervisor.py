"""The one process per job that starts workers, speaks for them, and says how they ended.

Single-threaded and without an event loop, because it forks: imports are paid once per job, and every worker is a
fork of a process that has them all. It heartbeats for its workers (a task that holds the GIL is not a dead
worker), restarts those that crash and tells the head which task took them down.

Ends when the head says so, on SIGTERM, when its workers cannot live, or when the head has been gone for
``death-timeout`` seconds; then the job ends. Why it gave up goes to ``jobs/<job id>.fail`` in the run directory.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import secrets
import select
import signal
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from hpclaunch import trusted
from hpclaunch.cgroup import ControlGroup, oom_kills_of_machine
from hpclaunch.comm import messages as m, tls
from hpclaunch.comm.blocking import BlockingConnection, dial_blocking, was_refused
from hpclaunch.errors import CommClosedError, HandshakeError, PeerError, SiteError
from hpclaunch.worker import deaths, process, restarts
from hpclaunch.worker.arrivals import has_run_tasks, read_arrivals, shared_bytes
from hpclaunch.worker.deaths import Death
from hpclaunch.worker.executor import read_slots
from hpclaunch.worker.head_file import HeadFile
from hpclaunch.worker.interface import interface_address
from hpclaunch.worker.memory import limits_of, room_of
from hpclaunch.worker.preload import preload
from hpclaunch.worker.shortage import address_space
from hpclaunch.worker.spill import new_directory, remove_directory
from hpclaunch.worker.vitals import memory_of, output_size, output_tail, virtual_memory_of, vitals_of

#: A worker that lived for less, and ran nothing, counts as one that can't live (:mod:`hpclaunch.worker.restarts`).
_YOUNG_SECONDS = 5.0
#: Seconds that one of the head's addresses may take to answer before the next is tried.
_DIAL_SECONDS = 5.0

#: Seconds without a word from the head after which it is taken as gone: a dead host closes no connection.
SILENCE_SECONDS = 20.0

#: Seconds for which the head's host refuses connections before a rank takes the head as gone: it is not restarted.
_REFUSED_SECONDS = 2.0

#: Seconds between two looks at the memory of workers that are to be ended when they have too much.
_LOOK_SECONDS = 0.2

#: What clients in tasks are told of the cluster.
_FACTS_FOR_TASKS = ("result_memory",)


class _Signal(BaseException):
    """A signal came that ends the job."""


class _HeadLostError(SiteError):
    """The head could not be reached for as long as a worker waits for it."""


class Options(NamedTuple):
    """What the job script says."""

    directory: Path
    job_id: str
    processes: int
    threads: int
    memory: int  # bytes for the job; 0 is no limit
    death_timeout: float
    interface: str | None
    rank_pid: int | None = None  # the rank of a parallel job that this belongs to: it hears the signals
    ready_fd: int | None = None  # gets the word "ready" or why not, once, and is closed
    resources: dict[str, float] = {}  # of each worker
    security: bool = True  # what the job script says: no file decides that
    ends: float = 0.0  # time.monotonic() at which the job ends; 0 if no end is known
    secret: bytes = b""  # the job's pass, if it is to outlive this process
    preload: tuple[str, ...] = ()  # modules that workers have from the start, by name or path


class _Child:
    """One worker process."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.name = ""
        self.pid = 0
        self.started = 0.0
        self.lives = 0
        self.young_deaths = 0
        self.own_deaths = 0  # those of them in which it was not killed from outside
        self.restart_at = 0.0  # when another one is to be started in its stead; 0: none is
        self.is_given_up = False  # none is started in its stead any more
        self.replaced = ""  # why this supervisor has killed it
        self.slots = mmap.mmap(-1, 2)
        self.spill_directory = Path()
        self.printed = 0  # bytes of the job's output when it was started
        self.too_large = 0  # bytes that it had when it was ended for that
        self.overdraft = 0  # bytes that all processes of the job had when it was ended for that
        self.oom_kills: int | None = None  # of the whole machine, when it was started


class Supervisor:
    """Runs one job's workers; see the module's text."""

    def __init__(self, options: Options) -> None:
        self.options = options
        secure = options.security
        self._head_file = HeadFile(options.directory, options.job_id, security=secure)
        self._listen = tls.server_context(options.directory, "worker") if secure else None
        self._dial: ssl.SSLContext | None = tls.client_context(options.directory, "worker") if secure else None
        self._secret = options.secret or secrets.token_bytes(m.PASS_BYTES)  # never in a file, argv or environment
        self._children = [_Child(i) for i in range(options.processes)]
        self._head: BlockingConnection | None = None
        self._address = ""
        self._listen_host = ""
        self._heartbeat_seconds = 2.0
        self._heard = 0.0  # when the head last said anything
        self._is_connecting = False
        self._draining = ""
        self._end_reason = ""
        self._warned_by = ""  # the signal by which the batch system announced the end
        self._has_told = False  # the head knows of that
        self._exit_code = 0
        self._next_beat = 0.0
        self._next_look = 0.0
        self._memory: dict[str, Any] = self.facts.get("memory") or {}
        self._limits = limits_of(options.memory // options.processes, self._memory)
        self._group = ControlGroup()
        self._oom_kills = self._group.oom_kills()
        self._ready_fd = options.ready_fd
        self._lifetime = max(0.001, options.ends - time.monotonic()) if options.ends else 0.0
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def run(self) -> int:
        """Serve until the end; return the job's exit code."""
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._on_signal)
        if self.options.rank_pid is not None:
            for number in (signal.SIGUSR1, signal.SIGUSR2):
                signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        try:
            self._connect()
            if self._head is not None:
                preload(self.options.preload)
            gc.collect()
            gc.freeze()  # so that collections in the children leave shared pages alone
            while not self._end_reason:
                self._serve_connection()
            self._say_goodbye()
        except _HeadLostError as error:
            self._kill_children()
            code = self._fail(str(error))
            if self.options.rank_pid is None:  # a rank's directory is its own
                self._head_file.clean_up()
            return code
        except SiteError as error:
            return self._fail(str(error))
        finally:
            self._kill_children()
        self._remark(f"ends: {self._end_reason}")
        return self._exit_code

    # --- the head

    @property
    def facts(self) -> dict[str, Any]:
        """What the head says of itself."""
        return self._head_file.facts

    def _connect(self) -> None:
        """Reach the head at one of its addresses, trying for ``death-timeout`` seconds; a signal ends that.

        :raises SiteError: no address answered in that time, or the head sent us away for good.
        """
        try:
            self._is_connecting = True
            if not self._end_reason:
                self._find_head()
        except _Signal:
            pass
        finally:
            self._is_connecting = False

    def _find_head(self) -> None:
        hello = m.Hello(
            m.PROTOCOL_VERSION,
            "supervisor",
            f"supervisor-{self.options.job_id}",
            self.facts["id"],
            host=socket.gethostname(),
            pid=os.getpid(),
            job_id=self.options.job_id,
            secret=self._secret,
        )
        until = time.monotonic() + self.options.death_timeout
        pause = 0.1
        is_rank, refused_since = self.options.rank_pid is not None, 0.0
        while True:
            self._head_file.look()
            tried: list[str] = []
            refused: set[str] = set()
            for address in self.facts["addresses"]:
                try:
                    self._head, welcome = dial_blocking(address, hello, self._dial, timeout=_DIAL_SECONDS)
                except HandshakeError as error:
                    if "sent us away" in str(error):
                        raise SiteError(str(error)) from None
                    tried.append(f"{address}: {error}")
                except PeerError as error:
                    tried.append(f"{address}: {error}")
                    refused |= {address} if was_refused(error) else set()
                else:
                    self._on_connected(address, welcome)
                    return
            is_refused = is_rank and refused >= ({self._address} if self._address else {*self.facts["addresses"]})
            refused_since = (refused_since or time.monotonic()) if is_refused else 0.0
            if is_refused and time.monotonic() - refused_since > _REFUSED_SECONDS:
                raise SiteError(
                    f"the head is gone: nothing listens at {', '.join(sorted(refused))} any more, so the cluster "
                    "has ended; the head's rank says why"
                )
            if time.monotonic() >= until:
                raise _HeadLostError(
                    f"the worker could not reach the head from {socket.gethostname()} within "
                    f"{self.options.death_timeout:g} s (tried {'; '.join(tried)})"
                )
            time.sleep(max(0.0, min(pause, until - time.monotonic())))
            pause = min(2.0, pause * 2)

    def _on_connected(self, address: str, welcome: m.Welcome) -> None:
        assert self._head is not None
        self._address = address
        self._heard = time.monotonic()
        self._heartbeat_seconds = welcome.heartbeat_seconds
        self._listen_host = interface_address(self.options.interface) or self._head.local_host()
        sys.path += [path for path in map(os.fsdecode, welcome.python_path) if path not in sys.path]
        self._remark(f"reached the head at {address}")
        self._tell_parent("ready")

    def _serve_connection(self) -> None:
        """Start what is to run; then heartbeat, listen, and look after the children until something ends."""
        try:
            for child in self._children:
                if not child.pid and not child.is_given_up:
                    self._start(child)
            while not self._end_reason:
                self._serve_once()
        except CommClosedError as error:
            self._kill_children()
            if self._head is not None:
                self._head.close()
                self._head = None
            if self._draining:
                self._end(self._draining, 0)
            if not self._end_reason:
                self._say(f"{error}; trying to reach the head again")
                self._connect()

    def _serve_once(self) -> None:
        self._listen_to_head()
        if self._end_reason:  # workers that have heard of it too, and have ended, are no news
            return
        self._reap()
        self._start_due(time.monotonic())
        if self._warned_by and not self._has_told:
            self._on_warned()
        now = time.monotonic()
        if now >= self._next_beat:
            self._tell(m.Heartbeat([vitals_of(c.name, c.pid) for c in self._children if c.pid]))
            self._next_beat = now + self._heartbeat_seconds
        if now - self._heard > max(SILENCE_SECONDS, 3 * self._heartbeat_seconds):
            raise CommClosedError(f"nothing was heard of the head for {now - self._heard:.0f} s")
        if self._limits.terminate:
            self._look_at_memory(now)
        if not self._end_reason:
            assert self._head is not None
            until = min(self._next_beat, self._next_look) if self._limits.terminate else self._next_beat
            until = min([until, *(child.restart_at for child in self._children if child.restart_at)])
            select.select([self._head.fileno(), self._wake_read], [], [], max(0.0, until - now))
        self._drain_wakeups()

    def _on_warned(self) -> None:
        """The batch system has announced the end of this job.

        :raises SiteError: it ends the job for its memory; the worker that has most of it is gone.
        """
        self._has_told = True
        self._say(f"the batch system announces the end of the job ({self._warned_by})")
        own, limit = address_space()
        sizes = {child.index: virtual_memory_of(child.pid) for child in self._children if child.pid}
        together = own + sum(sizes.values())
        if self._warned_by != "SIGUSR2" or not sizes or not limit or together < limit:
            self._tell(m.JobEnding(self._warned_by))
            return
        guilty = self._children[max(sizes, key=lambda index: sizes[index])]
        guilty.overdraft = together
        os.kill(guilty.pid, signal.SIGKILL)
        os.waitid(os.P_PID, guilty.pid, os.WEXITED | os.WNOWAIT)
        self._reap()
        raise SiteError(deaths.overdraft(together, limit))

    def _look_at_memory(self, now: float) -> None:
        """End workers that have too much; they may not be able to see that themselves."""
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        for child in self._children:
            if child.pid and not child.too_large and (memory := memory_of(child.pid)) > self._limits.terminate:
                child.too_large = memory
                os.kill(child.pid, signal.SIGKILL)  # it is ours, and not waited for: its number is no other's

    def _listen_to_head(self) -> None:
        assert self._head is not None
        for message in self._head.receive():
            self._heard = time.monotonic()
            if type(message) is m.StopWorkers and message.drain:
                self._draining = self._draining or message.reason  # the head asks each worker; wait for them
            elif type(message) is m.ReplaceWorkers:
                self._replace(message)
            elif type(message) in (m.StopWorkers, m.Goodbye):
                self._end(message.reason, 0)  # type: ignore[union-attr]

    def _tell(self, message: m.Message) -> None:
        assert self._head is not None
        self._head.send([message])

    # --- children

    def _start(self, child: _Child) -> None:
        options = self.options
        child.lives += 1
        child.restart_at = 0.0
        child.name = f"{options.job_id}-{child.index}" + (f".{child.lives}" if child.lives > 1 else "")
        child.slots = mmap.mmap(-1, shared_bytes(options.threads))
        child.started = time.monotonic()
        child.spill_directory = new_directory()
        child.printed = output_size()
        child.too_large = 0
        child.oom_kills = oom_kills_of_machine()
        sys.stdout.flush()
        sys.stderr.flush()
        supervisor = os.getpid()
        child.pid = os.fork()
        if child.pid:
            return
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self._wake_read)
            os.close(self._wake_write)
            if self._head is not None:
                self._head.abandon()
            process.serve(
                name=child.name,
                cluster_id=self.facts["id"],
                head_address=self._address,
                listen_host=self._listen_host,
                contexts=(self._listen, self._dial),
                slots=child.slots,
                facts={
                    "job_id": options.job_id,
                    "secret": self._secret,
                    "threads": options.threads,
                    "memory_limit": self._limits.memory,
                    "room": room_of(self._limits, memory_of()),
                    "resources": options.resources,
                    "seconds_left": max(0.001, options.ends - time.monotonic()) if options.ends else 0.0,
                    "lifetime": self._lifetime if child.lives > 1 else 0.0,
                },
                parent=supervisor,
                memory=self._memory,
                spill_directory=child.spill_directory,
                is_part_of_rank=options.rank_pid is not None,
                cluster_facts={key: self.facts[key] for key in _FACTS_FOR_TASKS if key in self.facts},
            )
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _replace(self, message: m.ReplaceWorkers) -> None:
        """Kill children that run one of these tasks, or all of those meant; :meth:`_reap` starts others."""
        for child in self._children:
            if not child.pid or child.name not in message.workers or child.replaced:
                continue
            running = read_slots(bytes(child.slots), self.options.threads)
            if not message.keys or not set(running).isdisjoint(message.keys):
                child.replaced = message.reason
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)

    def _reap(self) -> None:
        """Take note of children that have ended."""
        for child in self._children:
            if not child.pid:
                continue
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                child.pid = 0
                remove_directory(child.spill_directory)
                self._on_child_ended(child, os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024)

    def _on_child_ended(self, child: _Child, code: int, peak: int) -> None:
        end = child.slots[-1]
        is_crash = end in deaths.CRASHES
        printed = output_tail(child.printed) if is_crash else ""
        slots, threads = bytes(child.slots), self.options.threads
        running = read_slots(slots, threads) if is_crash else []
        receiving = read_arrivals(slots, threads) if is_crash else []
        death = self._examine(child, Death(end, code, peak, running, child.too_large, receiving=receiving))
        receiving = receiving if death.is_by_arrivals and not child.replaced else []
        how = deaths.how(death, self._limits)
        advice = deaths.advice(death, memory=self.options.memory, processes=self.options.processes)
        if child.replaced:
            running, how, end = [], child.replaced, deaths.CRASHED
        if end != deaths.TOLD_TO_END:
            self._say(f"worker {child.name}: {how}")
        is_young = time.monotonic() - child.started < _YOUNG_SECONDS and end != deaths.TOLD_TO_END
        is_futile = is_young and not (running or receiving or child.replaced or has_run_tasks(slots, threads))
        child.young_deaths = child.young_deaths + 1 if is_futile else 0
        child.replaced = ""
        was_killed = bool(child.slots[-2]) and code == -signal.SIGKILL and not death.is_about_memory
        child.own_deaths = child.own_deaths + 1 if child.young_deaths and not was_killed else 0
        is_rank = self.options.rank_pid is not None
        hopeless = restarts.is_hopeless(child.young_deaths, child.own_deaths, is_rank=is_rank)
        is_last = hopeless or bool(self._draining or self._end_reason or child.overdraft)
        restart = end != deaths.TOLD_TO_END and not is_last
        self._tell(
            m.WorkerDied(
                child.name,
                exit_code=code if code >= 0 else None,
                signal=-code if code < 0 else None,
                peak_rss=peak,
                running=running,
                receiving=receiving,
                is_by_others=death.is_by_others,
                restarted=restart,
                detail=how,
                log=printed,
                advice=advice,
            )
        )
        if hopeless:
            self._give_up(child, f"{child.young_deaths} workers in a row ended right after their start; {how}")
        elif restart:
            child.restart_at = time.monotonic() + restarts.pause(child.young_deaths)
        elif not self._has_children():
            self._end_or_stay(self._draining or "all its workers were told to end")

    def _start_due(self, now: float) -> None:
        """Start the workers whose pause is over; none if the job is to end."""
        for child in self._children:
            if child.restart_at and self._draining:
                child.restart_at = 0.0
                if not self._has_children():
                    self._end_or_stay(self._draining)
            elif child.restart_at and now >= child.restart_at:
                self._start(child)

    def _has_children(self) -> bool:
        return any(child.pid or child.restart_at for child in self._children)

    def _give_up(self, child: _Child, reason: str) -> None:
        """A worker can't live here, so no others are started in its stead.

        :raises SiteError: that ends this job.
        """
        if self.options.rank_pid is None:
            raise SiteError(reason)
        child.is_given_up = True
        self._say(f"no more workers are started on this rank: {reason}")
        if not self._has_children():
            self._end_or_stay(reason)

    def _end_or_stay(self, reason: str) -> None:
        """No more workers will be started. A rank stays until the cluster ends; others wait for it."""
        if self.options.rank_pid is None:
            self._end(reason, 0)
            return
        self._tell(m.Goodbye(reason))

    def _examine(self, child: _Child, death: Death) -> Death:
        """Add what the kernel says of memory."""
        death = death._replace(address_limit=address_space()[1], overdraft=child.overdraft)
        if death.code != -signal.SIGKILL or death.too_large or death.overdraft or child.replaced:
            return death
        if self._group.oom_kills() <= self._oom_kills:
            is_small = death.peak < self._limits.memory / 2
            kills = oom_kills_of_machine()
            return death._replace(is_by_others=is_small and kills is not None and kills == child.oom_kills)
        self._oom_kills += 1  # this one; others may have ended with it
        return death._replace(killed_for_memory=True, group_limit=self._group.limit())

    def _kill_children(self) -> None:
        """End all children at once; nothing they could still say would be heard."""
        for child in self._children:
            if child.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
                child.pid = 0
                remove_directory(child.spill_directory)

    # --- the end

    def _on_signal(self, number: int, frame: Any) -> None:
        if number in (signal.SIGUSR1, signal.SIGUSR2):
            self._warned_by = self._warned_by or signal.Signals(number).name
            if self._is_connecting:  # there is no worker to which anything could be moved
                self._end(f"the batch system announced the end of the job ({self._warned_by})", 0)
                raise _Signal
        if number == signal.SIGTERM and self.options.rank_pid == os.getppid():
            return  # batch systems tell all processes of a job; our rank has heard it too, and decides
        if number in (signal.SIGTERM, signal.SIGINT):
            name = signal.Signals(number).name
            self._end(f"the batch system or the user ended the job ({name})", 128 + number)
            if self._is_connecting:  # nothing that waits there wakes up by itself
                raise _Signal

    def _say_goodbye(self) -> None:
        """Tell the head why this job ends, so that nothing else is blamed for it."""
        if self._head is not None:
            with contextlib.suppress(PeerError):
                self._head.send([m.Goodbye(self._end_reason)], timeout=1.0)

    def _end(self, reason: str, code: int) -> None:
        if not self._end_reason:
            self._end_reason, self._exit_code = reason, code

    def _drain_wakeups(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 512):
                pass

    def _fail(self, reason: str) -> int:
        """Note why this job gives up, where the head and the user find it."""
        self._tell_parent(reason)
        self._say(reason)
        with contextlib.suppress(OSError):
            path = self.options.directory / "jobs" / f"{self.options.job_id}.fail"
            trusted.write_file(path, (reason + "\n").encode())
        return 1

    def _tell_parent(self, word: str) -> None:
        """Say once, to who wants to know, how the start went: "ready", or the reason why not."""
        fd, self._ready_fd = self._ready_fd, None
        if fd is not None:
            with contextlib.suppress(OSError):  # no process waits for it any more
                os.write(fd, word.encode())
            os.close(fd)

    def _remark(self, text: str) -> None:
        """Say what is as it should be."""
        if self.options.rank_pid is None:
            self._say(text)

    def _say(self, text: str) -> None:
        print(f"hpclaunch worker, job {self.options.job_id}: {text}", file=sys.stderr, flush=True)
