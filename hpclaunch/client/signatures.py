"""What type checkers know of a client's calls whose results depend on their arguments.

A future among the arguments stands for its result, at any depth, which no signature can say. So where the
arguments are just what the function takes, editors show its own parameters; any others are accepted, if only the
options are right. Results have their types either way: ``submit(f, x)`` is a ``Future`` of what ``f`` returns,
also where ``f`` is an ``async def``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, cast, overload

from hpclaunch.client.calls.actors import Actor
from hpclaunch.client.futures.future import Future
from hpclaunch.comm.keys import Key

P = ParamSpec("P")
T = TypeVar("T")
K = TypeVar("K")
Signature = TypeVar("Signature")


def typed_as(signature: type[Signature]) -> Callable[[Callable[..., Any]], Signature]:
    """Have type checkers take a method for one with this signature."""
    return lambda method: cast("Signature", method)


# That an exact call matches before one with options is what the first two are for; mypy holds the rest for idle.


class Submit(Protocol):
    """:meth:`hpclaunch.Client.submit`."""

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]: ...

    @overload
    def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...

    @overload
    def __call__(  # type: ignore[overload-cannot-match]
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        /,
        *args: Any,
        key: Key | None = None,
        retries: int = 0,
        priority: int = 0,
        resources: Mapping[str, float] | None = None,
        workers: str | Iterable[str] | None = None,
        allow_other_workers: bool = False,
        duration: str | float | None = None,
        timeout: str | float | None = None,
        actor: Literal[False] = False,
        actors: Literal[False] = False,
        pure: bool = False,
        fifo_timeout: Any = None,
        **kwargs: Any,
    ) -> Future[T]: ...

    @overload
    def __call__(  # type: ignore[overload-cannot-match]
        self,
        function: Callable[..., T],
        /,
        *args: Any,
        key: Key | None = None,
        retries: int = 0,
        priority: int = 0,
        resources: Mapping[str, float] | None = None,
        workers: str | Iterable[str] | None = None,
        allow_other_workers: bool = False,
        duration: str | float | None = None,
        timeout: str | float | None = None,
        actor: Literal[False] = False,
        actors: Literal[False] = False,
        pure: bool = False,
        fifo_timeout: Any = None,
        **kwargs: Any,
    ) -> Future[T]: ...

    @overload
    def __call__(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        key: Key | None = None,
        retries: int = 0,
        priority: int = 0,
        resources: Mapping[str, float] | None = None,
        workers: str | Iterable[str] | None = None,
        allow_other_workers: bool = False,
        duration: str | float | None = None,
        timeout: str | float | None = None,
        actor: bool = False,
        actors: bool = False,
        restarts: int = 0,
        **kwargs: Any,
    ) -> Future[Actor]: ...


class Map(Protocol):
    """:meth:`hpclaunch.Client.map`."""

    @overload
    def __call__(
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        *iterables: Iterable[Any],
        key: str | Sequence[Key] | None = None,
        retries: int = 0,
        priority: int = 0,
        resources: Mapping[str, float] | None = None,
        workers: str | Iterable[str] | None = None,
        allow_other_workers: bool = False,
        duration: str | float | None = None,
        timeout: str | float | None = None,
        actor: Literal[False] = False,
        actors: Literal[False] = False,
        pure: bool = False,
        fifo_timeout: Any = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[Future[T]]: ...

    @overload
    def __call__(
        self,
        function: Callable[..., T],
        *iterables: Iterable[Any],
        key: str | Sequence[Key] | None = None,
        retries: int = 0,
        priority: int = 0,
        resources: Mapping[str, float] | None = None,
        workers: str | Iterable[str] | None = None,
        allow_other_workers: bool = False,
        duration: str | float | None = None,
        timeout: str | float | None = None,
        actor: Literal[False] = False,
        actors: Literal[False] = False,
        pure: bool = False,
        fifo_timeout: Any = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[Future[T]]: ...

    @overload
    def __call__(
        self,
        function: Callable[..., Any],
        *iterables: Iterable[Any],
        key: str | Sequence[Key] | None = None,
        retries: int = 0,
        priority: int = 0,
        resources: Mapping[str, float] | None = None,
        workers: str | Iterable[str] | None = None,
        allow_other_workers: bool = False,
        duration: str | float | None = None,
        timeout: str | float | None = None,
        actor: bool = False,
        actors: bool = False,
        restarts: int = 0,
        **kwargs: Any,
    ) -> list[Future[Actor]]: ...


class Gather(Protocol):
    """:meth:`hpclaunch.Client.gather`."""

    @overload
    def __call__(self, futures: Future[T], errors: str = ..., direct: bool | None = ...) -> T: ...

    @overload
    def __call__(self, futures: list[Future[T]], errors: str = ..., direct: bool | None = ...) -> list[T]: ...

    @overload
    def __call__(
        self, futures: tuple[Future[T], ...], errors: str = ..., direct: bool | None = ...
    ) -> tuple[T, ...]: ...

    @overload
    def __call__(self, futures: set[Future[T]], errors: str = ..., direct: bool | None = ...) -> set[T]: ...

    @overload
    def __call__(
        self, futures: dict[K, Future[T]], errors: str = ..., direct: bool | None = ...
    ) -> dict[K, T]: ...

    @overload
    def __call__(self, futures: Any, errors: str = ..., direct: bool | None = ...) -> Any: ...


class Scatter(Protocol):
    """:meth:`hpclaunch.Client.scatter`."""

    @overload
    def __call__(
        self,
        data: list[T],
        workers: str | Iterable[str] | None = ...,
        broadcast: bool = ...,
        direct: bool | None = ...,
        hash: bool = ...,
        timeout: str | float | None = ...,
    ) -> list[Future[T]]: ...

    @overload
    def __call__(
        self,
        data: dict[K, T],
        workers: str | Iterable[str] | None = ...,
        broadcast: bool = ...,
        direct: bool | None = ...,
        hash: bool = ...,
        timeout: str | float | None = ...,
    ) -> dict[K, Future[T]]: ...

    @overload
    def __call__(
        self,
        data: Any,
        workers: str | Iterable[str] | None = ...,
        broadcast: bool = ...,
        direct: bool | None = ...,
        hash: bool = ...,
        timeout: str | float | None = ...,
    ) -> Any: ...
