"""Calls that are noted now and run later, all at once: ``delayed``. Dask is not needed for it.

A :class:`Delayed` names a call and what it needs. Computing one submits every call that it needs as a task of its
own, each once, in an order in which a task comes after its inputs. Tasks promise not to change their arguments:
large ones are shared between the tasks of a worker.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import operator
import secrets
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, overload

from hpclaunch.client.current import current_client
from hpclaunch.client.futures.future import Future
from hpclaunch.client.futures.parts import Part
from hpclaunch.client.graphs.drawing import DrawnTask, draw
from hpclaunch.client.submission.options import make_options
from hpclaunch.client.submission.submit import Submission
from hpclaunch.comm import serialize
from hpclaunch.comm.texts import escaped
from hpclaunch.errors import SerializationError

_numbers = itertools.count()
_tag = secrets.token_hex(3)
_submitting: ContextVar[dict[str, str] | None] = ContextVar("submitting", default=None)  # key -> its task's key


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


def _forward(function: Callable[..., Any]) -> Callable[..., Delayed[Any]]:
    """Return the method for an operator."""
    return lambda *args: Delayed(function, args)


def _backward(function: Callable[..., Any]) -> Callable[..., Delayed[Any]]:
    """Return the method for an operator whose second operand is the delayed one."""
    return lambda self, other: Delayed(function, (other, self))


class Delayed(Generic[T_co]):
    """A value that is not there yet. Made by :func:`delayed`.

    Calling it, its methods, attributes, items and operators all give more of the kind.
    """

    __slots__ = ("_args", "_call", "_kwargs", "_nout", "_part", "key")

    def __init__(
        self,
        call: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        key: str = "",
        nout: int | None = None,
        part: Part | None = None,
    ) -> None:
        self._call = call
        self._args = args
        self._kwargs = kwargs or {}
        self._nout = nout
        self._part = part  # of a persisted one
        self.key = key or f"{serialize.function_name(call)}-{_tag}-{next(_numbers)}"

    @classmethod
    def of(cls, future: Future[Any]) -> Delayed[Any]:
        """Return the delayed value of a future."""
        return cls(_same, key=future._key, part=Part(future))

    def _persisted_future(self) -> Future[Any] | None:
        """Return the future of a persisted value."""
        return self._part.future() if self._part is not None else None

    def compute(self, client: Any = None, **options: Any) -> T_co:
        """Run all that this needs on a cluster, and return the value.

        :param client: None: the current one (:func:`hpclaunch.get_client`).
        :param options: such as ``retries`` and ``priority``, as for ``submit``.
        :raises ValueError: there is no current client.
        """
        return cast("T_co", submit_delayed(_submission_of(client), [self], **options)[0].result())

    def persist(self, client: Any = None, **options: Any) -> Delayed[T_co]:
        """Begin to run all that this needs, and return the same value with its result kept on the cluster."""
        return Delayed.of(submit_delayed(_submission_of(client), [self], **options)[0])

    def visualize(self, filename: str | Path | None = "graph", format: str | None = None) -> Any:
        """Draw the graph: see :func:`hpclaunch.client.graphs.drawing.draw`."""
        return draw([one._drawn(is_wanted=one is self) for one in in_order([self])], filename, format)

    def _drawn(self, *, is_wanted: bool) -> DrawnTask:
        return DrawnTask(self.key, self.name, [one.key for one in self.inputs()], is_wanted)

    # --- more of the kind

    def __call__(self, *args: Any, pure: bool = False, dask_key_name: str = "", **kwargs: Any) -> Delayed[Any]:
        key = f"apply-{_token(self, args, kwargs)}" if pure else ""
        return Delayed(_apply, (self, args, kwargs), key=dask_key_name or key)

    def __getattr__(self, name: str) -> Delayed[Any]:
        if name.startswith("_"):
            raise AttributeError(f"a delayed value has no {name!r} before it is computed")
        return _Attribute(getattr, (self, name))

    def __getitem__(self, item: Any) -> Delayed[Any]:
        return Delayed(operator.getitem, (self, item))

    def __iter__(self) -> Iterator[Delayed[Any]]:
        if self._nout is None:
            raise TypeError("a delayed value of unknown length is not iterable: give delayed(..., nout=N)")
        return iter([self[i] for i in range(self._nout)])

    def __len__(self) -> int:
        if self._nout is None:
            raise TypeError("the length of a delayed value is not known: give delayed(..., nout=N)")
        return self._nout

    def __bool__(self) -> bool:
        raise TypeError("whether a delayed value is true is not known before it is computed")

    def __setitem__(self, item: Any, value: Any) -> None:
        raise TypeError("a delayed value can't be changed: other calls may share it")

    # --- operators

    __add__ = _forward(operator.add)
    __radd__ = _backward(operator.add)
    __sub__ = _forward(operator.sub)
    __rsub__ = _backward(operator.sub)
    __mul__ = _forward(operator.mul)
    __rmul__ = _backward(operator.mul)
    __matmul__ = _forward(operator.matmul)
    __rmatmul__ = _backward(operator.matmul)
    __truediv__ = _forward(operator.truediv)
    __rtruediv__ = _backward(operator.truediv)
    __floordiv__ = _forward(operator.floordiv)
    __rfloordiv__ = _backward(operator.floordiv)
    __mod__ = _forward(operator.mod)
    __rmod__ = _backward(operator.mod)
    __pow__ = _forward(operator.pow)
    __rpow__ = _backward(operator.pow)
    __lshift__ = _forward(operator.lshift)
    __rlshift__ = _backward(operator.lshift)
    __rshift__ = _forward(operator.rshift)
    __rrshift__ = _backward(operator.rshift)
    __and__ = _forward(operator.and_)
    __rand__ = _backward(operator.and_)
    __or__ = _forward(operator.or_)
    __ror__ = _backward(operator.or_)
    __xor__ = _forward(operator.xor)
    __rxor__ = _backward(operator.xor)
    __neg__ = _forward(operator.neg)
    __pos__ = _forward(operator.pos)
    __abs__ = _forward(operator.abs)
    __invert__ = _forward(operator.invert)
    __lt__ = _forward(operator.lt)
    __le__ = _forward(operator.le)
    __eq__ = _forward(operator.eq)  # type: ignore[assignment]
    __ne__ = _forward(operator.ne)  # type: ignore[assignment]
    __gt__ = _forward(operator.gt)
    __ge__ = _forward(operator.ge)

    def __hash__(self) -> int:
        return hash(self.key)

    def __reduce__(self) -> Any:
        names = _submitting.get()
        if names is None:
            return _made, (self._call, self._args, self._kwargs, self.key, self._nout, self._part)
        if self.key not in names:
            raise SerializationError(
                f"the delayed value {self.key} is inside an object, where it is not looked for: "
                "pass it as an argument, or in a list, tuple, set or dict"
            )
        return serialize.reduce_future(names[self.key], is_shared=True)

    def __repr__(self) -> str:
        return f"Delayed({self.key!r})"

    def inputs(self) -> list[Delayed[Any]]:
        """Return the delayed values that this call needs itself, each once."""
        return list({one.key: one for one in _find([self._call, self._args, self._kwargs])}.values())

    @property
    def name(self) -> str:
        """What is called, for a person."""
        if self._call in (getattr, _call_method):
            return f".{self._args[1]}{'()' if self._call is _call_method else ''}"
        return serialize.function_name(self._call)


class _Attribute(Delayed[Any]):
    """An attribute, which may turn out to be a method: calling it is one task and not two."""

    __slots__ = ()

    def __call__(self, *args: Any, pure: bool = False, dask_key_name: str = "", **kwargs: Any) -> Delayed[Any]:
        thing, name = self._args
        key = dask_key_name or (f"{name}-{_token(thing, name, args, kwargs)}" if pure else "")
        return Delayed(_call_method, (thing, name, args, kwargs), key=key or f"{name}-{_tag}-{next(_numbers)}")


class DelayedFunction(Generic[T_co]):
    """A function whose calls are delayed. Made by :func:`delayed`."""

    def __init__(self, function: Callable[..., Any], *, pure: bool, nout: int | None, name: str | None) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._pure = pure
        self._nout = nout
        self._name = name

    def __call__(
        self, *args: Any, pure: bool | None = None, dask_key_name: str = "", **kwargs: Any
    ) -> Delayed[T_co]:
        key = dask_key_name
        if not key and (self._pure if pure is None else pure):
            key = f"{self._stem}-{_token(self._function, args, kwargs)}"
        if not key and self._name:
            key = f"{self._name}-{_tag}-{next(_numbers)}"
        return Delayed(self._function, args, kwargs, key=key, nout=self._nout)

    @property
    def _stem(self) -> str:
        return self._name or serialize.function_name(self._function)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __repr__(self) -> str:
        return f"<delayed {self._stem}>"


@overload
def delayed(  # type: ignore[overload-overlap]  # what can be called is a function, not a value
    value: Callable[..., Coroutine[Any, Any, T]],
    *,
    name: str | None = ...,
    pure: bool = ...,
    nout: int | None = ...,
) -> DelayedFunction[T]: ...


@overload
def delayed(  # type: ignore[overload-overlap]  # (as above)
    value: Callable[..., T], *, name: str | None = ..., pure: bool = ..., nout: int | None = ...
) -> DelayedFunction[T]: ...


@overload
def delayed(
    value: None = ..., *, name: str | None = ..., pure: bool = ..., nout: int | None = ...
) -> Callable[[Callable[..., T]], DelayedFunction[T]]: ...


@overload
def delayed(value: T, *, name: str | None = ..., pure: bool = ..., nout: int | None = ...) -> Delayed[T]: ...


def delayed(value: Any = None, *, name: str | None = None, pure: bool = False, nout: int | None = None) -> Any:
    """Make a function lazy (also as a decorator), or make a value a part of a graph.

    :param name: the calls' name in keys and pictures.
    :param pure: calls with equal arguments are one call.
    :param nout: the call returns so many values: it can be unpacked.
    """
    if value is None:
        return functools.partial(delayed, name=name, pure=pure, nout=nout)
    if isinstance(value, Delayed | DelayedFunction):
        return value
    if callable(value):
        return DelayedFunction(value, pure=pure, nout=nout, name=name)
    key = f"{name or type(value).__name__}-{_token(value)}" if pure else name or ""
    return Delayed(_same, (value,), key=key or f"{type(value).__name__}-{_tag}-{next(_numbers)}", nout=nout)


def submit_delayed(submission: Submission, some: list[Delayed[Any]], **options: Any) -> list[Future[Any]]:
    """Submit delayed values and all that they need; return the futures of these values."""
    core, task_options = submission.core, make_options(**options)
    run = core.link.new_suffix()
    names: dict[str, str] = {}
    futures: dict[str, Future[Any]] = {}  # of all of them, until all are submitted
    is_foreign = False
    token = _submitting.set(names)
    try:
        for one in in_order(some):
            if one._part is not None:
                future = one._part.future(core.table.client)
                is_foreign = is_foreign or not one._part.is_of(core.table.client)
            else:
                key = _task_key(one.key, run)
                future = submission.submit(one._call, one._args, one._kwargs, key, task_options)
            futures[one.key] = future
            names[one.key] = future._key
    finally:
        _submitting.reset(token)
    if is_foreign:
        core.table.synchronize()  # other clients may release their futures from now on
    return [futures[one.key] for one in some]


def in_order(some: list[Delayed[Any]]) -> list[Delayed[Any]]:
    """Return delayed values and all that they need, each once and after what it needs."""
    done: dict[str, Delayed[Any]] = {}
    todo = list(reversed(some))
    while todo:
        one = todo[-1]
        missing = [each for each in one.inputs() if each.key not in done] if one.key not in done else []
        if missing:
            todo += reversed(missing)
        else:
            done.setdefault(todo.pop().key, one)
    return list(done.values())


def _find(values: list[Any]) -> Iterator[Delayed[Any]]:
    """Give the delayed values in nested lists, tuples, sets and dicts."""
    todo = list(reversed(values))
    while todo:
        one = todo.pop()
        if isinstance(one, Delayed):
            yield one
        elif type(one) in (list, tuple, set, frozenset):
            todo += reversed(list(one))
        elif type(one) is dict:
            todo += [*one.values(), *one]


def _task_key(key: str, run: str) -> str:
    text = f"{key}-{run}"
    data = text.encode(errors="surrogatepass")
    is_plain = len(data) <= 300 and escaped(text) == text
    return text if is_plain else hashlib.blake2b(data, digest_size=16).hexdigest()


def _submission_of(client: Any) -> Submission:
    submission: Submission = (current_client() if client is None else client)._submission
    return submission


def _token(*values: Any) -> str:
    """Return a text that is the same for equal values."""

    class Names(dict[str, str]):
        def __contains__(self, key: object) -> bool:
            return True

        def __missing__(self, key: str) -> str:
            return key

    token = _submitting.set(Names())
    try:
        data, _ = serialize.dump_call(values, None)
    finally:
        _submitting.reset(token)
    return hashlib.blake2b(data, digest_size=12).hexdigest()


def _made(
    call: Any, args: tuple[Any, ...], kwargs: dict[str, Any], key: str, nout: int | None, part: Part | None
) -> Delayed[Any]:
    return Delayed(call, args, kwargs, key=key, nout=nout, part=part)


def _same(value: Any) -> Any:
    return value


def _apply(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(*args, **kwargs)


def _call_method(thing: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return getattr(thing, name)(*args, **kwargs)
