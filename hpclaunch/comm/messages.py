"""Every message that crosses a connection, in one place.

Rules: a message is a flat struct of msgpack types; user data inside it is opaque bytes that only clients and
workers open. What comes in thousands comes in columns (``keys[i]`` belongs to ``args[i]``), so that a
message costs the same for one task as for a thousand. Bulk data does not go through msgpack at all: it follows
as raw buffers behind the frame's body (:mod:`hpclaunch.comm.framing`).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

PROTOCOL_VERSION = 1

#: Bytes of a result, a scattered value or an actor's answer up to which it travels inside messages, by the head.
INLINE_BYTES = 1 << 16

#: Bytes of all files and plugins for workers that the head keeps.
MAX_SETUP_BYTES = 512 << 20
#: Bytes of a job's pass; what is shorter could be guessed.
PASS_BYTES = 16


class _Message(msgspec.Struct, array_like=True, gc=False):
    """Base of all messages: encoded as a msgpack array that begins with the tag."""


def check_columns(*columns: Sequence[object]) -> None:
    """Raise ValueError if the columns of a message differ in length: before anything is done about it."""
    count = len(columns[0])
    for column in columns:
        if len(column) != count:
            raise ValueError("the columns of a message differ in length")


# --- opening a connection -----------------------------------------------------------------------------------


class Hello(_Message, tag=1):
    """The dialling side's first message. ``role`` must be the one in its certificate."""

    version: int
    role: str  # "client", "task", "worker", "supervisor", "peer"
    name: str
    cluster_id: str
    host: str = ""
    pid: int = 0
    job_id: str = ""
    threads: int = 0
    memory_limit: int = 0  # bytes; 0 is no limit
    addresses: list[str] = []  # where this worker can be asked for results
    head_address: str = ""  # which of the head's addresses was reached
    seconds_left: float = 0.0  # until its job ends; 0 if no end is known
    lifetime: float = 0.0  # such seconds when the job was new, if this is a later process of it
    resources: dict[str, float] = {}  # of each worker, by name: what tasks can ask for
    time: float = 0.0  # unix time by its clock; 0 is not told
    room: int = 0  # bytes of its memory that are free for what tasks are given; 0 is not known, or no limit
    secret: bytes = b""  # its job's pass (:mod:`hpclaunch.scheduler.passes`)


class Welcome(_Message, tag=2):
    """The accepting side's answer to a good Hello."""

    version: int
    name: str
    python_path: list[bytes] = []  # as the file system has them, which may be no UTF-8
    heartbeat_seconds: float = 2.0
    inline_limit: int = INLINE_BYTES  # results up to this many bytes travel to the head


class Goodbye(_Message, tag=3):
    """The sender is about to close the connection, and why."""

    reason: str
    final: bool = True  # do not come back; else, try again in a moment


# --- tasks: client -> head -> worker ------------------------------------------------------------------------


class DefineFunction(_Message, tag=10):
    """A function's bytes, sent before the first task that calls it, and not again until it is forgotten."""

    function: bytes  # its id: a hash of the rest
    name: str
    data: bytes
    buffers: list[bytes] = []  # large ones that the pickle in ``data`` refers to
    is_shared: bool = False  # all calls on a worker may share one copy; else each unpickles its own

    @property
    def size(self) -> int:
        """Bytes in all."""
        return len(self.data) + sum(map(len, self.buffers))


class ForgetFunctions(_Message, tag=28):
    """Functions that the sender will define again if it needs them again. Tasks that are there keep theirs."""

    functions: list[bytes]


class Terms(_Message):
    """What tasks ask of their worker; see :class:`hpclaunch.scheduler.requirements.Terms`."""

    resources: dict[str, float] = {}
    workers: list[str] = []
    allow_others: bool = False
    seconds: float = 0.0
    timeout: float = 0.0


class SubmitTasks(_Message, tag=11):
    """Tasks that call one function, in columns. ``inputs`` is empty or has a list of keys per task."""

    function: bytes
    keys: list[str]
    args: list[bytes]
    inputs: list[list[str]] = []
    retries: int = 0
    priority: int = 0
    terms: Terms | None = None
    actor: int = -1  # the results are actors, to be re-created so often when they are lost


class ReleaseKeys(_Message, tag=12):
    """The client holds no future of these tasks any more."""

    keys: list[str]


class CancelKeys(_Message, tag=13):
    """These tasks are cancelled; those that run are left to end, or not."""

    keys: list[str]
    force: bool = False  # those that run are ended with their worker's process


class LocateKeys(_Message, tag=14):
    """The client could not fetch these results where it was told; run them again if they are lost."""

    keys: list[str]
    asked: list[list[str]] = []  # the addresses that did not give them, per task


class RunTasks(_Message, tag=15):
    """Tasks without inputs that call one function, in columns."""

    function: bytes
    keys: list[str]
    args: list[bytes]


class Input(_Message):
    """One input of a task: its value if it is small, else who holds it."""

    key: str
    data: bytes | None
    holders: list[str] = []  # addresses
    order: int = 0  # of its task, which tells it from later and earlier tasks of this key


class RunTask(_Message, tag=16):
    """One task with inputs."""

    function: bytes
    key: str
    args: bytes
    inputs: list[Input]


class ExpectTask(_Message, tag=77):
    """From the head to a worker, in a frame before it: a task with large arguments comes now.

    So the worker can note what it was about to receive, should its process end meanwhile.
    """

    key: str


class RecallTasks(_Message, tag=17):
    """Give back up to ``count`` tasks that have not started, the last received first."""

    count: int


class DropTasks(_Message, tag=18):
    """Do not start these tasks if they have not started."""

    keys: list[str]


class WantKeys(_Message, tag=61):
    """The client has made futures of these tasks, which others have submitted."""

    keys: list[str]


class Fence(_Message, tag=68):
    """From a client, and back: all that the head says of this client's tasks behind it, it says knowing all that
    the client said before it."""

    number: int


class Taken(_Message, tag=69):
    """The client has made futures of what it was given for this ticket, and said before which it wants."""

    ticket: int


class ResultNames(_Message, tag=70):
    """From a client in a task: that task's result has futures of these keys in it."""

    key: str
    keys: list[str]


class SeeThrough(_Message, tag=65):
    """Run these tasks to their ends, also when all clients release them meanwhile."""

    keys: list[str]


class RetryKeys(_Message, tag=62):
    """Run these tasks, which have failed, and what they need once more."""

    keys: list[str]


class Put(_Message, tag=63):
    """A value that a client has made itself, for a worker to keep. Its pickle and buffers follow as raw buffers.

    From the client to the head and, when it is large, on to one of ``workers`` (all will do if there are none).
    """

    key: str
    size: int
    workers: list[str] = []


class Bring(_Message, tag=75):
    """From a client to a worker: I have a large value for you to keep, of pieces of these lengths.

    First with the client's ``node``. The answer is a Data: with buffers -1 the worker does not take it; with the
    ``place`` "share" it is on that node, and is asked again with where it can open the value; with another place
    the value is to be brought there (:mod:`hpclaunch.comm.bulk`); with no place it is there.
    On such a bulk connection the key is the ticket.
    """

    request: int
    key: str
    order: int  # what tells it from results of tasks of this key; from the head
    lengths: list[int]
    node: str = ""
    place: str = ""
    inode: int = 0


class Brought(_Message, tag=76):
    """From a worker to the head: a client has brought a value of so many bytes, and it is kept here."""

    key: str
    order: int
    size: int
    client: str


class ReplaceWorkers(_Message, tag=64):
    """From the head to a supervisor: replace the processes of these workers that run one of these tasks.

    Without tasks: replace all of them. What else they run is not to blame for it.
    """

    workers: list[str]
    keys: list[str]
    reason: str


class SayWhenBegun(_Message, tag=66):
    """From the head to a worker, before these tasks: they have a time limit, so say when each begins."""

    keys: list[str]


class TaskBegun(_Message, tag=67):
    """A worker is about to run a task of which the head wants to know that."""

    key: str


class TaskSeceded(_Message, tag=60):
    """A task has stepped aside to wait for others, and its thread runs other tasks; or it is back."""

    key: str
    away: bool


class FreeResults(_Message, tag=19):
    """The results of these tasks are not needed any more; or just copies of those of certain tasks."""

    keys: list[str]
    orders: list[int] = []  # the copies' tasks; empty: whatever there is


# --- outcomes: worker -> head -> client ---------------------------------------------------------------------


class Failure(_Message):
    """Why a task has no result. Either the user's exception, opaque, or an error of ours by its name."""

    kind: str  # class name in hpclaunch.errors, or "" when ``exception`` is the user's own
    text: str  # one line for a person
    traceback: str = ""
    exception: bytes = b""  # pickled; may be empty when it can't be pickled


class TasksDone(_Message, tag=20):
    """Small results, in columns. ``seconds`` is each task's run time (empty on its way to a client)."""

    keys: list[str]
    results: list[bytes]
    seconds: list[float] = []


class TasksStored(_Message, tag=21):
    """Large results that stay where they are. ``holders`` has addresses per task (empty from the worker)."""

    keys: list[str]
    sizes: list[int]
    seconds: list[float] = []
    holders: list[list[str]] = []


class TasksFailed(_Message, tag=22):
    """Tasks that failed, in columns."""

    keys: list[str]
    failures: list[Failure]
    seconds: list[float] = []


class TasksCancelled(_Message, tag=23):
    """Tasks that were cancelled."""

    keys: list[str]


class TasksRetried(_Message, tag=27):
    """Tasks that had failed are run once more."""

    keys: list[str]


class TasksReturned(_Message, tag=24):
    """A worker gives these tasks back unstarted (recalled, dropped, or it is about to end)."""

    keys: list[str]


class InputMissing(_Message, tag=25):
    """A worker could not get an input of a task from any holder; the task is given back."""

    key: str
    missing: list[str]  # keys of inputs
    asked: list[str]  # the addresses that did not give them


class CopiesHeld(_Message, tag=26):
    """A worker has fetched these results and keeps a copy."""

    keys: list[str]
    orders: list[int]  # of their tasks


# --- bulk data ----------------------------------------------------------------------------------------------


class Fetch(_Message, tag=30):
    """Send the results of these tasks; answered by one Data per key, in any order."""

    request: int
    keys: list[str]
    via: str = ""  # to the head: relay the question to this worker address
    node: str = ""  # of who asks: large results can be shared with processes of the same host
    takes_offers: bool = False  # and can be had on a connection of their own (hpclaunch.comm.bulk)


class Data(_Message, tag=31):
    """One result. Its pickle and buffers follow the frame as raw buffers, ``buffers`` of them; -1: not here."""

    request: int
    key: str
    buffers: int
    place: str = ""  # or it is in this file of the same host (hpclaunch.comm.sharing), or offered (comm.bulk)
    inode: int = 0
    lengths: list[int] = []


# --- actors -------------------------------------------------------------------------------------------------


class ActorCall(_Message, tag=32):
    """Call a method of an actor with these pickled arguments, or send its attribute (None)."""

    request: int
    key: str
    name: str
    args: bytes | None
    via: str = ""  # to the head: relay the call to this worker address


class ActorReply(_Message, tag=33):
    """The answer to a call: pickled in ``data``; as raw buffers behind the frame, so many; or a failure."""

    request: int
    data: bytes = b""
    buffers: int = 0
    failure: Failure | None = None
    is_gone: bool = False  # the actor is not there, and the call was not carried out
    is_lost: bool = False  # its worker has gone; whether the call was carried out is not known
    waits: int = 0  # bytes of an answer that waits at the worker until the head has room for it


class SendAnswer(_Message, tag=34):
    """The head has room for an answer that waits at a worker; or it is not wanted any more."""

    request: int
    is_wanted: bool = True


# --- life of workers ----------------------------------------------------------------------------------------


class WorkerVitals(_Message):
    """One worker process as its supervisor sees it."""

    name: str
    pid: int
    rss: int  # bytes
    cpu_seconds: float
    stopped: bool = False  # frozen by SIGSTOP or a debugger


class Heartbeat(_Message, tag=40):
    """From a supervisor, for all its workers, also those whose task holds the GIL; and the head's echo."""

    workers: list[WorkerVitals] = []


class WorkerDied(_Message, tag=41):
    """A worker process ended. ``running`` are the tasks that it ran at that moment."""

    name: str
    exit_code: int | None
    signal: int | None
    peak_rss: int  # bytes
    running: list[str]
    restarted: bool
    detail: str = ""
    log: str = ""  # the last lines of the job's output, and where it is
    advice: str = ""  # what to do about it
    is_by_others: bool = False  # it was killed from outside; its tasks are hardly to blame
    receiving: list[str] = []  # tasks whose arguments or inputs it received, which may have ended it


class WorkerPaused(_Message, tag=44):
    """A worker takes no new tasks because its memory is full, or takes them again. ``why`` is for a person."""

    paused: bool
    why: str = ""


class JobEnding(_Message, tag=46):
    """From a supervisor: the batch system has told its job to end, and by which signal."""

    signal: str


class KeepCopies(_Message, tag=47):
    """From the head to a worker: fetch these results and keep copies, for their holders are about to end."""

    keys: list[str]
    holders: list[list[str]]  # addresses, per key
    orders: list[int]  # of their tasks


class StopWorkers(_Message, tag=42):
    """End: the job is over. From the head to a supervisor or worker."""

    reason: str
    drain: bool = False  # finish running tasks first


# --- control: questions with answers ------------------------------------------------------------------------


class Request(_Message, tag=50):
    """A question to the head, or from the head to a worker; ``body`` is msgpack."""

    request: int
    method: str
    body: bytes


class ErrorReport(_Message):
    """An error of ours as plain data: rebuilt by the asker as the same class (:mod:`hpclaunch.comm.reports`)."""

    kind: str
    text: str
    attributes: bytes = b"\x80"  # msgpack map


class Reply(_Message, tag=51):
    """The answer to a Request: a body, or an error."""

    request: int
    body: bytes = b"\xc0"
    error: ErrorReport | None = None


class Notice(_Message, tag=52):
    """News from the head to a client: the cluster failed, a job ended, ..."""

    kind: str
    error: ErrorReport


Message = (
    Hello
    | Welcome
    | Goodbye
    | DefineFunction
    | ForgetFunctions
    | SubmitTasks
    | ReleaseKeys
    | CancelKeys
    | LocateKeys
    | RunTasks
    | RunTask
    | RecallTasks
    | DropTasks
    | FreeResults
    | TasksDone
    | TasksStored
    | TasksFailed
    | TasksCancelled
    | TasksRetried
    | TasksReturned
    | InputMissing
    | CopiesHeld
    | SayWhenBegun
    | ExpectTask
    | TaskBegun
    | TaskSeceded
    | WantKeys
    | SeeThrough
    | Fence
    | Taken
    | ResultNames
    | RetryKeys
    | Put
    | Bring
    | Brought
    | ReplaceWorkers
    | Fetch
    | Data
    | ActorCall
    | ActorReply
    | SendAnswer
    | Heartbeat
    | WorkerDied
    | JobEnding
    | KeepCopies
    | WorkerPaused
    | StopWorkers
    | Request
    | Reply
    | Notice
)
