"""User data to bytes and back: functions, arguments, results, exceptions.

Only clients and workers call this; the head moves what it makes without looking inside. The pickle module's C code
goes first and cloudpickle takes what it can't do (lambdas, closures, anything that is defined in ``__main__``).

A Future inside arguments, however deep, is pickled as a reference to its key and is unpickled as its result:
:func:`collecting` notes the keys while pickling, :func:`load_call` resolves them. Each task gets a copy of its
own, which it may change; only graphs in Dask's sense, whose tasks promise not to, share large inputs.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from types import FunctionType
from typing import Any, NamedTuple

from hpclaunch import errors
from hpclaunch.comm import registry, unpickling
from hpclaunch.comm.buffers import Buffer, copy_of
from hpclaunch.comm.messages import Failure
from hpclaunch.comm.texts import clipped, escaped
from hpclaunch.errors import SerializationError

_collector: ContextVar[dict[str, None] | None] = ContextVar("collector", default=None)
_referring: ContextVar[dict[str, None] | None] = ContextVar("referring", default=None)
_resolver: ContextVar[Callable[[str, bool], Any] | None] = ContextVar("resolver", default=None)

#: Bytes of a pickled exception that travel to the client; of a larger one its text does.
_MAX_EXCEPTION = 64 << 20
#: Characters of its text and of its traceback.
_MAX_TEXT = 1 << 20

#: Bytes from which a buffer travels beside the pickle, and how many of them may: a frame holds no more than 65536.
_MIN_BUFFER = 1 << 14
_MAX_BUFFERS = 1 << 15

_dumps = pickle.dumps
_registered = registry.table
_loads = unpickling.loads


class Payload(NamedTuple):
    """A pickled value: the pickle, and the raw buffers that it refers to (arrays, without a copy)."""

    pickle: Buffer
    buffers: list[Buffer]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return memoryview(self.pickle).nbytes + sum(memoryview(b).nbytes for b in self.buffers)


class PrivatePayload(Payload):
    """One whose buffers belong to the code that loads it, and may be changed: they are read back from disk."""

    __slots__ = ()


# --- values -------------------------------------------------------------------------------------------------


def dump_value(value: Any) -> Payload:
    """Pickle a value with its large buffers out of band.

    :raises SerializationError: neither pickle nor cloudpickle can.
    """
    buffers: list[Any] = []

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _MIN_BUFFER or len(buffers) >= _MAX_BUFFERS:
            return True
        buffers.append(raw)
        return False

    try:
        dumps = registry.dumps if _registered else _dumps
        data = dumps(value, 5, buffer_callback=keep_in_band)
        if b"__main__" not in data:
            return Payload(data, buffers)
    except BaseException as error:  # pickle raises anything; cloudpickle has the last word
        _pass_on_interrupt(error)
    buffers.clear()
    data = _cloudpickle(value, keep_in_band)
    return Payload(data, buffers)


def dump_inline(value: Any) -> bytes:
    """Pickle a value into one piece of bytes.

    :raises SerializationError: neither pickle nor cloudpickle can.
    """
    try:
        data = registry.dumps(value, 5) if _registered else _dumps(value, 5)
        if b"__main__" not in data:
            return data
    except BaseException as error:  # pickle raises anything; cloudpickle has the last word
        _pass_on_interrupt(error)
    return _cloudpickle(value, None)


def load_value(data: Buffer, buffers: list[Buffer] | None = None, what: str = "the value") -> Any:
    """Unpickle what :func:`dump_value` or :func:`dump_inline` made. Arrays are writable.

    :param what: what it is, for the error.
    :raises SerializationError: a class or module that it needs is not here, or its code raised.
    """
    try:
        if not buffers:
            return _loads(data)
        return _loads(data, [copy_of(b) if memoryview(b).readonly else b for b in buffers])
    except (SerializationError, MemoryError):  # of something in it, which it names; or there is no room for it
        raise
    except BaseException as error:  # SystemExit of a user's __setstate__ is an error like any other
        _pass_on_interrupt(error)
        raise SerializationError(_why_not("unpickled", what, error)) from error


def _pass_on_interrupt(error: BaseException) -> None:
    """Raise what may be the user's Ctrl-C, which comes in the main thread only."""
    if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
        raise error


def _cloudpickle(value: Any, callback: Callable[[Any], Any] | None) -> bytes:
    import cloudpickle

    dumps = registry.cloudpickle_dumps if _registered else cloudpickle.dumps
    try:
        return bytes(dumps(value, protocol=5, buffer_callback=callback))
    except BaseException as error:
        _pass_on_interrupt(error)
        raise SerializationError(_why_not("pickled", _culprit(value, dumps), error)) from error


def _culprit(value: Any, dumps: Callable[..., Any]) -> str:
    """Say what it is that can't be pickled: of a call, which argument."""
    if is_collecting() and type(value) is tuple and len(value) == 2 and type(value[0]) is tuple:
        args, kwargs = value
        named = [(f"argument {i}", one) for i, one in enumerate(args)]
        named += [(f"argument {name}=", one) for name, one in (kwargs or {}).items()]
        for name, one in named:
            try:
                dumps(one, protocol=5)
            except BaseException:
                return f"{name}, {_kind(one)},"
    return _kind(value)


def _kind(value: Any) -> str:
    if isinstance(value, FunctionType):
        return f"function {value.__qualname__}, or something that it uses,"
    return f"a {type(value).__module__}.{type(value).__qualname__}"


def _why_not(done: str, what: str, error: BaseException) -> str:
    try:
        said = str(error)
    except BaseException:  # a user's __str__
        said = "its __str__ raises"
    text = clipped(f"{what} can't be {done}: {type(error).__name__}: {said}", _MAX_TEXT)
    if isinstance(error, ModuleNotFoundError):
        text += ". The module must be installed, or lie beside your script, where the job's python finds it"
    return text


# --- functions and calls ------------------------------------------------------------------------------------


class FunctionBytes(NamedTuple):
    """A function ready to travel: its id is a hash of its bytes, and of how calls use it."""

    id: bytes
    name: str
    data: bytes
    buffers: list[bytes] = []  # large ones that the pickle refers to: arrays that it holds
    is_shared: bool = False  # all calls on a worker may share one copy; else each unpickles its own

    @property
    def size(self) -> int:
        """Bytes in all."""
        return len(self.data) + sum(map(len, self.buffers))


def dump_function(function: Callable[..., Any], *, is_shared: bool = False) -> FunctionBytes:
    """Pickle a function: by name if its module can be imported, by value if it is in ``__main__`` or local.

    Its buffers are copies: what the client does to an array later does not change it.

    :param is_shared: nothing in it can change, see :mod:`hpclaunch.client.submission.shareable`.
    :raises SerializationError: it refers to something that can't be pickled.
    """
    data, views = dump_value(function)
    buffers = [bytes(view) for view in views]
    digest = hashlib.blake2b(b"shared" if is_shared else b"", digest_size=16)
    for piece in (data, *buffers):
        digest.update(piece)
    return FunctionBytes(digest.digest(), function_name(function), bytes(data), buffers, is_shared)


def function_name(function: Callable[..., Any]) -> str:
    """Return a short name for a function, also for partials and callable objects."""
    inner = getattr(function, "func", function)
    name = getattr(inner, "__name__", None) or type(inner).__name__
    return escaped(str(name)[:100])


def dump_call(args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> tuple[bytes, list[str]]:
    """Pickle arguments; return the bytes and the keys of the Futures in them.

    :raises SerializationError: an argument can't be pickled.
    """
    keys: dict[str, None] = {}
    token = _collector.set(keys)
    try:
        return dump_inline((args, kwargs)), list(keys)
    finally:
        _collector.reset(token)


def dump_referring(value: Any) -> tuple[bytes, list[str]]:
    """Pickle a value in which Futures stay futures; return the bytes and the keys of these.

    :raises SerializationError: it can't be pickled.
    """
    keys: dict[str, None] = {}
    token = _referring.set(keys)
    try:
        return dump_inline(value), list(keys)
    finally:
        _referring.reset(token)


def note_reference(key: str) -> bool:
    """Note that a Future was pickled to stay a future; False: it need not be known."""
    keys = _referring.get()
    if keys is None:
        return False
    keys[key] = None
    return True


@contextlib.contextmanager
def collecting() -> Iterator[dict[str, None]]:
    """Note the keys of Futures that are pickled inside this block; for many calls of :func:`dump_inline`."""
    keys: dict[str, None] = {}
    token = _collector.set(keys)
    try:
        yield keys
    finally:
        _collector.reset(token)


def load_call(data: bytes, inputs: Mapping[str, Any] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Unpickle arguments; references become the values in ``inputs`` (keys to Payloads or bytes).

    :raises SerializationError: a class or module that they need is not here.
    """
    if inputs is None:
        args, kwargs = load_value(data, None, "an argument")
        return args, kwargs or {}
    loaded: dict[str, Any] = {}

    def resolve(key: str, is_shared: bool) -> Any:
        if key not in loaded:
            value = inputs[key]
            if isinstance(value, Payload):
                buffers: list[Buffer] = value.buffers
                if not is_shared and not isinstance(value, PrivatePayload):
                    buffers = [copy_of(b) for b in buffers]
                loaded[key] = load_value(value.pickle, buffers, f"the result of task {key}")
            else:
                loaded[key] = load_value(value, None, f"the result of task {key}")
        return loaded[key]

    token = _resolver.set(resolve)
    try:
        args, kwargs = load_value(data, None, "an argument")
        return args, kwargs or {}
    finally:
        _resolver.reset(token)


def is_collecting() -> bool:
    """Say whether a task's arguments are being pickled, in which futures stand for their results."""
    return _collector.get() is not None


def reduce_future(key: str, *, is_shared: bool = False) -> tuple[Callable[[str, bool], Any], tuple[str, bool]]:
    """What a Future's ``__reduce__`` returns.

    :param is_shared: the task will not change this input, and needs no copy of its own.
    :raises SerializationError: it is pickled for something else than a task's arguments.
    """
    keys = _collector.get()
    if keys is None:
        raise SerializationError(
            f"the future {key} can be passed to a task, but not be pickled or copied otherwise: "
            "use its result, or pass it as an argument of submit or map"
        )
    keys[key] = None
    return resolve_input, (key, is_shared)


def resolve_input(key: str, is_shared: bool) -> Any:
    """Return the result that stands for a Future in the arguments that are being unpickled."""
    resolve = _resolver.get()
    if resolve is None:
        raise SerializationError(f"a reference to task {key} outside of a task's arguments")
    return resolve(key, is_shared)


# --- exceptions ---------------------------------------------------------------------------------------------


def dump_failure(error: BaseException, *, skip_frames: int = 0) -> Failure:
    """Turn a task's exception into a Failure: itself if it survives pickling, else its text.

    What is no Exception (``SystemExit``, ``KeyboardInterrupt``) goes as text: raised where the result is asked
    for, it would end that program.
    """
    frames = error.__traceback__
    for _ in range(skip_frames):
        if frames is not None and frames.tb_next is not None:
            frames = frames.tb_next
    text = clipped("".join(traceback.format_exception(type(error), error, frames)), _MAX_TEXT)
    summary = clipped("".join(traceback.format_exception_only(type(error), error)).strip(), _MAX_TEXT)
    if not isinstance(error, Exception):
        return Failure("TaskError", f"the task was ended by {summary}", text)
    if getattr(errors, type(error).__name__, None) is type(error):
        return Failure(type(error).__name__, clipped(str(error), _MAX_TEXT), text)
    try:
        with _unchained(error):
            data = dump_inline(error)
        # An exception with odd constructor arguments pickles, but does not come back, or as something else.
        if len(data) > _MAX_EXCEPTION or type(load_value(data)).__name__ != type(error).__name__:
            data = b""
    except (SerializationError, RecursionError):
        data = b""
    return Failure("", summary, text, data)


@contextlib.contextmanager
def _unchained(error: BaseException) -> Iterator[None]:
    """Have an exception stand alone inside this block, without its traceback and those that it came of.

    Pickle leaves them out anyway, unless a package has it do otherwise: importing dask.distributed is enough. They
    may be large, or not to be pickled, and the client may not have that package.
    """
    cause, context, is_quiet = error.__cause__, error.__context__, error.__suppress_context__
    frames = error.__traceback__
    error.__cause__ = error.__context__ = error.__traceback__ = None
    try:
        yield
    finally:
        error.__cause__, error.__context__, error.__traceback__ = cause, context, frames
        error.__suppress_context__ = is_quiet


def failure_of(error: BaseException) -> Failure:
    """As :func:`dump_failure`, for the innermost call of ours; never raises."""
    try:
        return dump_failure(error, skip_frames=1)
    except MemoryError:
        return Failure("TaskError", "it raised an exception, and there was no memory left to say which")
    except BaseException as worse:  # an exception whose __str__ raises
        text = f"it raised a {type(error).__name__}, and turning that into text raised a {type(worse).__name__}"
        return Failure("TaskError", text)


class RemoteTraceback(Exception):
    """The traceback on the worker, as text; the ``__cause__`` of an exception that a task raised."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}" if self.args else ""


def load_failure(failure: Failure) -> BaseException:
    """Return the exception that a Failure describes, chained to its remote traceback."""
    error: BaseException
    if failure.kind:
        cls = getattr(errors, failure.kind, None)
        if not (isinstance(cls, type) and issubclass(cls, errors.HPCLaunchError)):
            cls = errors.TaskError
        error = cls.__new__(cls)
        error.args = (failure.text,)
    else:
        error = errors.TaskError(f"the task raised an exception that could not be sent back: {failure.text}")
        if failure.exception:
            with contextlib.suppress(SerializationError):
                loaded = load_value(failure.exception)
                if isinstance(loaded, Exception):  # no other goes through the program that asks
                    error = loaded
    if failure.traceback:
        error.__cause__ = RemoteTraceback(failure.traceback)
    return error
